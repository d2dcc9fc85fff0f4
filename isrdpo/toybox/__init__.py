"""Toybox: a small world of real video files in which every fact is known, and the tiny base model that
lives in it. It imports `core`, `formats` and `models`.
"""
