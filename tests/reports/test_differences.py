"""Differences of arms: paired by question and seed, with intervals that cover."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from isrdpo.core import metrics
from isrdpo.reports import differences
from tests.reports.answer_rows import answer_rows


def test_the_interval_over_seeds_is_students() -> None:
    mean = metrics.over_seeds([0.1, 0.2, 0.3])
    half = 4.302653 * 0.1 / 3**0.5
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-5)
    assert metrics.over_seeds([0.4]) == metrics.Interval(0.4, None, None)
    assert np.isnan(metrics.over_seeds([]).value)


def test_the_nested_interval_covers() -> None:
    """Ten seeds around a mean, a hundred questions each: about 95 of a hundred intervals hold the mean.

    With few seeds fewer do: it is a bootstrap.
    """
    rng = np.random.default_rng(1)
    covering = 0
    for _ in range(100):
        seeds = []
        for _ in range(10):
            right = rng.random(100) < np.clip(0.6 + 0.1 * rng.normal(), 0, 1)
            seeds.append((right.astype(float), np.ones(100)))
        interval = metrics.nested_bootstrap(seeds)
        covering += interval.low <= 0.6 <= interval.high
    assert 82 <= covering <= 99


def test_a_difference_is_paired_and_has_its_sign() -> None:
    rng = np.random.default_rng(0)
    base = [rng.random(200) < 0.5 for _ in range(3)]
    nine_of_ten = np.arange(200) % 10 > 0
    table = pd.concat(
        [
            *(answer_rows("isr", seed, right) for seed, right in enumerate(base)),
            *(answer_rows("same", seed, right) for seed, right in enumerate(base)),
            *(answer_rows("worse", seed, right & nine_of_ten, words=9) for seed, right in enumerate(base)),
        ]
    )
    result = differences.differences(table, "isr")
    rows = result.set_index(["arm", "measure"])
    same = rows.loc[("same", "accuracy")]
    worse = rows.loc[("worse", "accuracy")]
    assert same["difference"] == same["difference_low"] == same["difference_high"] == 0, (
        "the same answers differ by nothing, whatever questions are drawn"
    )
    assert worse["difference_low"] < worse["difference"] < 0
    assert worse["difference_high"] < 0
    assert rows.loc[("worse", "response_words"), "difference"] == 4
    assert rows.loc[("worse", "hallucination"), "difference"] == pytest.approx(-worse["difference"] / 2)
    assert pd.isna(rows.loc[("isr", "accuracy"), "difference"])
    assert rows.loc[("isr", "accuracy"), "seeds"] == 3
    sentence = differences.outcome(result, "isr", "worse")
    assert sentence.startswith("isr against worse after 1 iterations, 3 seeds: accuracy")
    assert "not distinguishable" in differences.outcome(result, "isr", "same")


def test_a_sentence_tells_each_measure_with_its_own_digits() -> None:
    table = pd.concat(
        [answer_rows("isr", 0, np.ones(4), words=7), answer_rows("other", 0, np.zeros(4), words=5)]
    )
    assert differences.outcome(differences.differences(table, "isr"), "isr", "other") == (
        "isr against other after 1 iterations, 1 seed: "
        "accuracy 1.000 against 0.000 (difference +1.000 [+1.000, +1.000]); "
        "false claims among all 0.000 against 0.500 (difference -0.500 [-0.500, -0.500]); "
        "words per answer 7.0 against 5.0 (difference +2.0 [+2.0, +2.0])."
    )
    assert (
        differences.outcome(differences.differences(table, "isr"), "isr", "x")
        == "isr and x are not both here."
    )


def test_each_arm_is_compared_at_the_last_iteration_that_the_baseline_has_too() -> None:
    """A study's length controls run for fewer iterations and seeds; the others are compared later."""
    right = np.ones(10, bool)
    few = np.arange(10) < 4
    table = pd.concat(
        [
            *(answer_rows("isr", s, right, iteration=t) for s, t in product((0, 1), range(3))),
            *(answer_rows("isr", s, few, iteration=3) for s in (0, 1)),
            *(answer_rows("other", s, ~right, iteration=t) for s, t in product((0, 1), range(4))),
            *(answer_rows("isr_rdpo", 0, ~few, iteration=t) for t in range(3)),
            *(answer_rows("other_ld", 0, few, iteration=t) for t in range(3)),
        ]
    )
    result = differences.differences(table, "isr")
    rows = result.set_index(["arm", "measure"])
    last = rows["iteration"].groupby("arm").first().to_dict()
    assert last == {"isr": 3, "other": 3, "isr_rdpo": 2, "other_ld": 2}
    short = rows.loc[("isr_rdpo", "accuracy")]
    numbers = (short["value"], short["baseline_value"], short["difference"], short["seeds"])
    assert numbers == pytest.approx((0.6, 1.0, -0.4, 1))
    assert rows.loc[("other", "accuracy"), "baseline_value"] == pytest.approx(0.4)
    sentence = differences.outcome(result, "isr", "isr_rdpo")
    assert "accuracy 1.000 against 0.600 (difference +0.400" in sentence


def test_a_control_is_compared_with_the_same_arm_without_it() -> None:
    few = np.arange(10) < 4
    table = pd.concat(
        [
            answer_rows("isr", 0, np.ones(10, bool)),
            answer_rows("isr_rdpo", 0, ~few),
            answer_rows("other", 0, np.zeros(10, bool)),
            answer_rows("other_ld", 0, few),
        ]
    )
    rows = differences.controls(table).set_index(["arm", "measure"])
    assert set(rows.index.get_level_values("arm")) == {"isr_rdpo", "other_ld"}
    assert set(rows["baseline"]) == {"isr", "other"}
    assert rows.loc[("other_ld", "accuracy"), "difference"] == pytest.approx(0.4)
    assert differences.controls(table[table["arm"] == "isr_rdpo"]).empty


def test_arms_of_different_seeds_have_no_difference() -> None:
    right = np.ones(10, bool)
    table = pd.concat([answer_rows("isr", 0, right), answer_rows("other", 1, right)])
    result = differences.differences(table, "isr")
    assert "were not asked the same questions" in differences.outcome(result, "isr", "other")


def test_where_truth_is_not_known_words_remain() -> None:
    table = answer_rows("isr", 0, np.ones(5)).assign(correct=np.nan, false=np.nan, claims=np.nan)
    assert differences.differences(table, "isr")["measure"].tolist() == ["response_words"]


def test_a_table_for_a_reader_holds_values_with_their_intervals() -> None:
    table = pd.concat(
        [answer_rows("isr", 0, np.ones(4), words=7), answer_rows("other", 0, np.zeros(4), words=8)]
    )
    result = differences.differences(table, "isr")
    values = differences.as_text(result).set_index("arm")
    assert values.loc["isr", "accuracy"] == "1.000 [1.000, 1.000]"
    rows = differences.as_text(result, "difference")
    assert rows["arm"].tolist() == ["other - isr"]
    assert rows.loc[0, "response_words"] == "+1.0 [+1.0, +1.0]"
