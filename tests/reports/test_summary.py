"""A run's summary for readers: figures turned, and samples left out by reason."""

import pandas as pd

from isrdpo.reports import summary


def test_a_figure_is_a_row_with_its_interval_and_one_of_no_iteration_is_left_out() -> None:
    table = pd.DataFrame(
        {
            "iteration": [0, 1],
            "accuracy": [0.5, None],
            "accuracy_low": [0.4, None],
            "accuracy_high": [0.6, None],
            "hallucination": None,
            "seconds": [None, 61.7],
        }
    )
    rows = summary.figures(table, ["accuracy", "hallucination", "seconds"])
    assert rows.to_numpy().tolist() == [["accuracy", "0.50 [0.40, 0.60]", ""], ["seconds", "", "62"]]


def test_what_was_left_out_is_counted_by_iteration_and_reason() -> None:
    judge = {
        "iteration": 1,
        "stage": "judge",
        "total": 10,
        "counts": {"kept": 4, "ties": 1, "too_long": 0, "other": 9},
        "bad": {"unparsed verdict": 2, "no video": 3},
    }
    data = {"iteration": 0, "stage": "data", "total": 5, "counts": {}, "bad": {}}
    table = summary.exclusions([data, judge])
    assert table.to_dict("records") == [
        {"iteration": 1, "judged": 10, "kept": 4, "ties": 1, "too long": 0, "no video (judge)": 3}
    ]
    assert summary.exclusions([data]).empty
