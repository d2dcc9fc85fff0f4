"""Answers scored by a language model: the protocols, who is asked, and the figures made of the replies. It
imports `core` and `formats`, and knows no run.
"""
