"""Iterative self-retrospective DPO for video language models: notebooks over a thin library."""

__version__ = "0.2.0"
