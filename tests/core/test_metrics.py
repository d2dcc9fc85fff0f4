"""Figures and intervals: invariants, and values worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from isrdpo.core import metrics


def test_wilson_is_the_textbook_interval() -> None:
    assert metrics.wilson(0, 0) == metrics.NOTHING
    interval = metrics.wilson(8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert metrics.wilson(0, 10).low == 0
    assert metrics.wilson(10, 10).high == pytest.approx(1)


def test_intervals_cover_what_they_should() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        interval = metrics.ratio(rng.normal(3, 1, 60))
        inside += interval.low <= 3 <= interval.high
    assert 0.88 <= inside / 200 <= 0.99


def test_bootstrap_is_deterministic_and_brackets_the_value() -> None:
    values = list(range(50))
    interval = metrics.ratio(values)
    assert interval == metrics.ratio(values)
    assert interval.low < interval.value == 24.5 < interval.high


@pytest.mark.parametrize("count", [2, 60, 333])
def test_the_bootstrap_of_a_mean_is_scipy_s(count: int) -> None:
    values = np.random.default_rng(count).normal(3, 1, count)
    expected = stats.bootstrap(
        (values,),
        np.mean,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(0),
        vectorized=True,
    ).confidence_interval
    interval = metrics.bootstrap(count, lambda drawn: values[drawn].mean(1), float(values.mean()))
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    mean = metrics.ratio(values)
    assert (mean.low, mean.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_an_arm_differs_from_itself_by_nothing() -> None:
    """Both arms are drawn at the same rows: of unequal draws the interval would not be a point."""
    rng = np.random.default_rng(0)
    arm = [(rng.integers(0, 4, 30).astype(float), rng.integers(1, 6, 30).astype(float)) for _ in range(3)]
    assert metrics.paired_bootstrap(arm, arm) == metrics.Interval(0.0, 0.0, 0.0)
    alone = metrics.nested_bootstrap(arm)
    assert alone.low < alone.value < alone.high


def judged_row(words: list[int], correct: list[bool] | None, choice: int | None) -> dict:
    """One row of a judged sample, kept where it was decided."""
    return {
        "words": words,
        "correct": correct,
        "choice": choice,
        "kept": choice is not None,
        "calls": 2,
        "unparsed": 0,
    }


def test_prefers_longer_counts_decisive_verdicts_on_pairs_that_differ_in_length() -> None:
    rows = [
        judged_row([5, 9], None, 1),
        judged_row([5, 9], None, 0),
        judged_row([9, 5], None, 0),
        judged_row([7, 7], None, 0),
        judged_row([1, 2], None, None),
    ]
    figures = metrics.verdict_figures(rows)
    assert figures["prefers_longer"] == pytest.approx(2 / 3)
    assert figures["kept_share"] == 0.8
    assert figures["judge_accuracy"] is None


def test_what_was_decided_but_not_kept_counts_as_a_verdict_not_as_a_pair() -> None:
    rows = [judged_row([5, 9], None, 1), judged_row([2, 4], None, 1) | {"kept": False}]
    figures = metrics.verdict_figures(rows)
    assert figures["prefers_longer"] == 1.0
    assert figures["kept_share"] == 0.5
    assert figures["chosen_words"] == 9.0
    assert figures["rejected_words"] == 5.0


def test_judge_accuracy_counts_pairs_that_differ_in_truth() -> None:
    rows = [
        judged_row([5, 9], [True, False], 0),
        judged_row([5, 9], [True, False], 1),
        judged_row([5, 9], [True, True], 1),
    ]
    assert metrics.verdict_figures(rows)["judge_accuracy"] == 0.5


def answer_row(words: int, claims: int, false: int, correct: bool) -> dict:
    """One evaluation answer with its counted claims."""
    truth = {"claims": claims, "false": false, "correct": correct, "uncheckable": 0}
    return {"words": words, "truth": truth}


def test_hallucination_is_a_ratio_of_sums_and_silence_is_not_truth() -> None:
    rows = [answer_row(4, 1, 0, True), answer_row(20, 5, 3, False), answer_row(0, 0, 0, False)]
    figures = metrics.answer_figures(rows)
    assert figures["hallucination"] == 0.5
    assert figures["false_claims"] == 1
    assert figures["accuracy"] == pytest.approx(1 / 3)
    assert figures["response_words"] == 8
    assert figures["claims_per_answer"] == 2


def test_unknown_truth_leaves_lengths_only() -> None:
    figures = metrics.answer_figures([{"words": 3, "truth": None}])
    assert figures["accuracy"] is None
    assert figures["response_words"] == 3


def test_fixed_pairs_count_every_call_and_an_unreadable_one_is_wrong() -> None:
    pairs = [{"id": "a", "truer": 0}, {"id": "b", "truer": 1}]
    calls = [
        {"id": "a", "choice": 0, "with_context": True},
        {"id": "a", "choice": 0, "with_context": True},
        {"id": "b", "choice": 1, "with_context": True},
        {"id": "b", "choice": None, "with_context": True},
        {"id": "a", "choice": 1, "with_context": False},
        {"id": "b", "choice": 1, "with_context": False},
    ]
    figures = metrics.fixed_pair_figures(pairs, calls)
    assert figures["fixed_judge_accuracy"] == 0.75
    assert figures["fixed_judge_accuracy_no_context"] == 0.5


@pytest.mark.parametrize(
    ("interval", "text", "excludes_zero"),
    [
        (metrics.Interval(0.8124, 0.7611, 0.8529), "0.812 [0.761, 0.853]", True),
        (metrics.Interval(0.25), "0.250", False),
        (metrics.Interval(0.1, -0.1, 0.3), "0.100 [-0.100, 0.300]", False),
        (metrics.Interval(-0.2, -0.3, -0.1), "-0.200 [-0.300, -0.100]", True),
        (metrics.NOTHING, "", False),
    ],
)
def test_an_interval_as_text(interval: metrics.Interval, text: str, excludes_zero: bool) -> None:
    assert interval.text() == text
    assert interval.excludes_zero == excludes_zero
    assert metrics.interval_of(interval.columns("x"), "x") == interval


def test_summary_names_every_interval() -> None:
    columns = metrics.summary_columns()
    assert columns[0] == "iteration"
    assert "accuracy_low" in columns
    assert "seconds_low" not in columns
    assert len(columns) == len(set(columns))
