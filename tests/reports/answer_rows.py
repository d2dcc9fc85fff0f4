"""Made-up answers of an arm, as `compare.questions` returns them."""

import numpy as np
import pandas as pd


def answer_rows(arm: str, seed: int, right: np.ndarray, words: int = 5, iteration: int = 1) -> pd.DataFrame:
    """Return an answer for each entry of `right`, each of `words` words and with two claims."""
    return pd.DataFrame(
        {
            "arm": arm,
            "seed": seed,
            "iteration": iteration,
            "id": [f"{seed}-{number}" for number in range(len(right))],
            "kind": "color",
            "words": words,
            "correct": right.astype(float),
            "false": 1.0 - right,
            "claims": 2.0,
        }
    )
