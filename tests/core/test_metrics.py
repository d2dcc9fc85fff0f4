"""Figures and intervals: invariants, and values worked out by hand."""

import numpy as np
import pytest

from isrdpo.core import metrics


def test_wilson_is_the_textbook_interval() -> None:
    assert metrics.wilson(0, 0) == metrics.NOTHING
    assert (metrics.wilson(8, 10).low, metrics.wilson(8, 10).high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert metrics.wilson(0, 10).low == 0 and metrics.wilson(10, 10).high == pytest.approx(1)


def test_intervals_cover_what_they_should() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        found = metrics.ratio(rng.normal(3, 1, 60)).columns("x")
        inside += found["x_low"] <= 3 <= found["x_high"]
    assert 0.88 <= inside / 200 <= 0.99


def test_bootstrap_is_deterministic_and_brackets_the_value() -> None:
    values = list(range(50))
    one = metrics.ratio(values).columns("x")
    assert one == metrics.ratio(values).columns("x") and one["x_low"] < one["x"] == 24.5 < one["x_high"]


def judged(words: list[int], correct: list[bool] | None, choice: int | None) -> dict:
    return {"words": words, "correct": correct, "choice": choice, "kept": choice is not None, "calls": 2, "unparsed": 0}


def test_prefers_longer_counts_decisive_verdicts_on_pairs_that_differ_in_length() -> None:
    rows = [judged([5, 9], None, 1), judged([5, 9], None, 0), judged([9, 5], None, 0), judged([7, 7], None, 0), judged([1, 2], None, None)]
    found = metrics.verdict_figures(rows)
    assert found["prefers_longer"] == pytest.approx(2 / 3) and found["kept_share"] == 0.8 and found["judge_accuracy"] is None


def test_what_was_decided_but_not_kept_counts_as_a_verdict_not_as_a_pair() -> None:
    rows = [judged([5, 9], None, 1), judged([2, 4], None, 1) | {"kept": False}]
    found = metrics.verdict_figures(rows)
    assert (found["prefers_longer"], found["kept_share"], found["chosen_words"], found["rejected_words"]) == (1.0, 0.5, 9.0, 5.0)


def test_judge_accuracy_counts_pairs_that_differ_in_truth() -> None:
    rows = [judged([5, 9], [True, False], 0), judged([5, 9], [True, False], 1), judged([5, 9], [True, True], 1)]
    assert metrics.verdict_figures(rows)["judge_accuracy"] == 0.5


def answer(words: int, claims: int, false: int, correct: bool, uncheckable: int = 0) -> dict:
    return {"words": words, "truth": {"claims": claims, "false": false, "correct": correct, "uncheckable": uncheckable}}


def test_hallucination_is_a_ratio_of_sums_and_silence_is_not_truth() -> None:
    found = metrics.answer_figures([answer(4, 1, 0, True), answer(20, 5, 3, False), answer(0, 0, 0, False)])
    assert found["hallucination"] == 0.5 and found["false_claims"] == 1 and found["accuracy"] == pytest.approx(1 / 3)
    assert found["response_words"] == 8 and found["claims_per_answer"] == 2


def test_unknown_truth_leaves_lengths_only() -> None:
    found = metrics.answer_figures([{"words": 3, "truth": None}])
    assert found["accuracy"] is None and found["response_words"] == 3


def test_fixed_pairs_count_every_call_and_an_unreadable_one_is_wrong() -> None:
    pairs = [{"id": "a", "truer": 0}, {"id": "b", "truer": 1}]
    calls = [{"id": i, "choice": c, "with_context": w} for i, c, w in
             [("a", 0, True), ("a", 0, True), ("b", 1, True), ("b", None, True), ("a", 1, False), ("b", 1, False)]]  # fmt: skip
    found = metrics.fixed_pair_figures(pairs, calls)
    assert found["fixed_judge_accuracy"] == 0.75 and found["fixed_judge_accuracy_no_context"] == 0.5


def test_summary_names_every_interval() -> None:
    columns = metrics.summary_columns()
    assert columns[0] == "iteration" and "accuracy_low" in columns and "seconds_low" not in columns and len(columns) == len(set(columns))
