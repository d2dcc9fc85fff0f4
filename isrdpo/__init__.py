"""Iterative self-retrospective DPO for video language models: notebooks over a thin library."""

import warnings

__version__ = "0.1.0"
warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, in a kernel without ipywidgets: our bars are plain text
