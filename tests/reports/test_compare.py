"""Runs side by side: tables true to the rows, means over seeds, and pages that keep many arms apart."""

import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isrdpo import study
from isrdpo.core import errors, records
from isrdpo.core.runs import Run
from isrdpo.reports import arm_plots, arms, compare, differences, html, plots
from isrdpo.stages import data, evaluate, judge, respond, train
from tests.reports.answer_rows import answer_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two_arms(make_run: Callable) -> list[Run]:
    """Return one finished iteration of isr and of self_reward."""
    finished = []
    for arm, context in (("isr", "retrospective"), ("self_reward", "none")):
        run = make_run(f"{arm}-0", f"respond.context={context}", "iterations=1", "judge.orders=1")
        for stage in (data, respond, judge, train, evaluate):
            stage.run(run, 1)
        finished.append(run)
    return finished


def test_where_truth_is_not_known_there_is_nothing_to_gain() -> None:
    table = answer_rows("isr", 0, np.ones(5)).assign(correct=np.nan, false=np.nan, claims=np.nan)
    assert compare.equal_length(table).empty
    assert compare.gained_lost(table).empty
    assert compare.gained_lost_text(table).empty


def test_questions_must_be_the_same() -> None:
    one = answer_rows("isr", 0, np.ones(5))
    two = answer_rows("fresh", 0, np.ones(5))
    assert compare.same_questions(pd.concat([one, two]))
    assert not compare.same_questions(pd.concat([one, two.assign(id="x")]))


def test_tables_of_real_runs(two_arms: list[Run]) -> None:
    runs = compare.open_runs(str(two_arms[0].folder.parent))
    assert [arms.arm_of(run) for run in runs] == ["isr", "self_reward"]
    results = compare.results(runs)
    assert results[["arm", "iteration"]].to_numpy().tolist() == [
        ["isr", 0],
        ["isr", 1],
        ["self_reward", 0],
        ["self_reward", 1],
    ]
    questions = compare.questions(runs)
    accuracy = questions[(questions["arm"] == "isr") & (questions["iteration"] == 1)]["correct"].mean()
    assert accuracy == pytest.approx(results.loc[1, "accuracy"])
    verdicts = compare.verdicts(runs)
    longer = verdicts[verdicts["arm"] == "isr"]["longer"].dropna()
    assert longer.mean() == pytest.approx(results.loc[1, "prefers_longer"])
    assert set(verdicts[verdicts["arm"] == "self_reward"]["says"]) == {"no description"}
    fixed = compare.fixed_pairs(runs)
    own_description = fixed[(fixed["arm"] == "isr") & (fixed["iteration"] == 1) & fixed["with_context"]]
    assert own_description["right"].mean() == pytest.approx(results.loc[1, "fixed_judge_accuracy"])
    curve = compare.curves(results, "accuracy")
    assert curve["n"].tolist() == [1] * 4
    assert curve.loc[0, "accuracy_low"] == pytest.approx(results.loc[0, "accuracy_low"])
    figures = [
        arm_plots.arm_curves(curve, "accuracy", "x", 1.0),
        plots.shares(compare.judge_split(verdicts)),
        plots.shares(compare.fixed_split(fixed)),
        plots.length_truth(compare.equal_length(questions)),
        arm_plots.arm_differences(differences.differences(questions, "isr"), "x"),
    ]
    for figure in figures:
        assert html.svg(figure, "x", "y").startswith("<svg")


def test_agreement_between_orders_counts_every_pair_that_was_asked_twice(make_run: Callable) -> None:
    run = make_run("isr-0", "iterations=1")
    for stage in (data, respond, judge):
        stage.run(run, 1)
    counts = records.read_json(run.marker_path("judge", 1))["counts"]
    table = compare.verdicts([run])
    assert (table["agree"] == 0).sum() == counts["disagreement"] > 0
    assert table["agree"].notna().all()
    disagreeing = table.loc[table["agree"] == 0, ["longer", "right"]]
    assert disagreeing.isna().all(axis=None), "what the orders do not agree on is no verdict"
    row = compare.judge_split(table).set_index("measure").loc["the two orders agree"]
    assert row["n"] == len(table)
    assert row["share"] == pytest.approx(1 - counts["disagreement"] / len(table))


def test_a_coin_is_asked_once_so_its_orders_neither_agree_nor_disagree(make_run: Callable) -> None:
    run = make_run("random-0", "iterations=1", "judge.method=random")
    for stage in (data, respond, judge):
        stage.run(run, 1)
    table = compare.verdicts([run])
    assert table["agree"].isna().all()
    assert "the two orders agree" not in set(compare.judge_split(table)["measure"])


def test_a_page_of_many_arms_keeps_them_apart() -> None:
    names = [cell[0] for cell in study.load(ROOT / "params" / "study.yaml", seeds=1).cells]
    right = np.arange(40) % 3 > 0
    cells = product(enumerate(names), (0, 1))
    table = pd.concat([answer_rows(arm, 0, right, words=n, iteration=t) for (n, arm), t in cells])
    rows = differences.as_text(differences.differences(table, "isr"), "difference")
    assert len(rows) == len(names) - 1
    assert rows.iloc[0]["arm"] == "self_reward - isr"
    assert rows.iloc[0]["response_words"] == "+1.0 [+1.0, +1.0]"
    results = table.groupby(compare.KEYS, sort=False)["correct"].mean().rename("accuracy").reset_index()
    share = {"n": 9, "share": 0.5, "share_low": 0.4, "share_high": 0.6}
    split = pd.DataFrame({"measure": "the longer is chosen", "what": names} | share)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as a layout that has no room left
        figures = [
            arm_plots.arm_curves(compare.curves(results, "accuracy"), "accuracy", "x", 1.0),
            plots.shares(split),
            plots.length_truth(compare.equal_length(table)),
        ]
        for figure in figures:
            assert html.svg(figure, "x", "y").count(names[-1]) == 1


def test_curves_of_one_and_two_seeds_have_no_interval_over_seeds() -> None:
    columns = {"accuracy": [0.5, 0.7], "accuracy_low": 0.4, "accuracy_high": 0.9}
    table = pd.DataFrame({"arm": "isr", "seed": [0, 1], "iteration": 1} | columns)
    one = compare.curves(table[:1], "accuracy").iloc[0]
    two = compare.curves(table, "accuracy").iloc[0]
    assert (one["accuracy_low"], one["accuracy_high"]) == (0.4, 0.9)
    assert two[list(columns)].tolist() == pytest.approx([0.6, 0.5, 0.7])


def test_gained_and_lost_are_shares_of_the_questions_of_both_iterations() -> None:
    before = answer_rows("isr", 0, np.array([1, 1, 0, 0], bool), iteration=0)
    after = answer_rows("isr", 0, np.array([1, 0, 1, 1], bool), iteration=1)
    table = pd.concat([before, after])
    assert compare.gained_lost(table)[["gained", "lost"]].to_numpy().tolist() == [[0.5, 0.25]]
    assert compare.gained_lost_text(table).to_numpy().tolist() == [["isr", "+0.500 / -0.250"]]
    assert compare.gained_lost_text(table).columns.tolist() == ["arm", "iteration 1"]


def test_runs_are_named_by_arm_and_seed(make_run: Callable) -> None:
    runs = [make_run(f"isr-{seed}", f"seed={seed}") for seed in (0, 1)]
    runs.append(make_run("self_reward-1", "seed=1", "respond.context=none"))
    assert compare.arms_and_seeds(runs) == "isr (seeds 0, 1); self_reward (seed 1)"
    sorted_runs = compare.open_runs([str(run.folder) for run in reversed(runs)])
    assert [run.folder for run in sorted_runs] == [run.folder for run in runs]


def test_no_run_is_an_error_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(errors.RunError, match="no run here; give folders of runs"):
        compare.open_runs(str(tmp_path))
