"""A video language model behind one interface, and what trains it: LLaVA-Hound, other families of
transformers, DPO, verdicts. It imports `core` and `formats`, and knows no run.
"""
