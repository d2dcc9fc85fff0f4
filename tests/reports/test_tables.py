"""A run's files as tables: what was gained and lost, what is false, and what training did."""

from collections.abc import Callable

import pandas as pd
import pytest

from isrdpo.core import errors
from isrdpo.reports import answer_tables, tables, truth
from isrdpo.reports.truth import DescriptionSays
from isrdpo.stages import data

SCENE = {
    "background": "black",
    "objects": [{"shape": "circle", "color": "red", "size": "small", "motion": "still"}],
}
FACTS = {"scene": SCENE, "asked": {"kind": "color", "object": 0}}


def policy(correct: list[bool | None], **by_kind: list[int]) -> pd.DataFrame:
    """Return the answers of one policy; `by_kind`: the true and the false claims of each answer."""
    count = len(correct)
    return pd.DataFrame(
        {
            "id": [str(number) for number in range(count)],
            "kind": "color",
            "words": 3,
            "correct": pd.Series(correct, dtype=object),
            "truth": [{"by_kind": by_kind} if by_kind else None] * count,
        }
    )


def test_gained_and_lost_are_counted_where_both_truths_are_known() -> None:
    base = policy([True, False, False, None])
    now = policy([False, True, True, True])
    assert answer_tables.answer_changes(base, now).tolist() == [-1, 1, 1]
    row = answer_tables.gained_lost({"base": base, "now": now}).iloc[0]
    assert row[["against", "questions", "gained", "lost"]].tolist() == ["base", 3, 2, 1]
    assert row["change"] == pytest.approx(1 / 3)
    assert answer_tables.gained_lost({"base": base}).empty


def test_claims_are_pooled_by_kind_and_absent_objects_counted_apart() -> None:
    answers = {"base": policy([True, True], color=[1, 1], object=[0, 2]), "now": policy([True])}
    rows = answer_tables.claim_kinds(answers)
    assert rows[["measure", "what", "n", "share"]].to_numpy().tolist() == [["color", "base", 4, 0.5]]
    assert answer_tables.absent_objects(answers) == "base 2.00"
    accuracy = answer_tables.accuracy_by_kind(answers)
    assert accuracy[["what", "n", "share"]].to_numpy().tolist() == [["base", 2, 1.0], ["now", 1, 1.0]]


def test_a_stage_that_is_not_done_is_named(make_run: Callable) -> None:
    run = make_run("one")
    with pytest.raises(errors.MissingStage, match="stage judge of iteration 1 is not done"):
        tables.stage_marker(run, "judge", 1)
    data.run(run, 1)
    assert tables.stage_marker(run, "data", 1)["counts"]["samples"] == 10
    assert tables.rows_of(run, 1, "contexts.jsonl").empty
    assert tables.contexts(run, 1).columns.tolist() == tables.CONTEXT_COLUMNS
    assert tables.context_truths(run, 1) == []


@pytest.mark.parametrize(
    ("context", "says"),
    [
        ("The circle is red.", DescriptionSays.RIGHT),
        ("The circle is blue.", DescriptionSays.WRONG),
        ("The background is black.", DescriptionSays.NOTHING),
        (None, DescriptionSays.ABSENT),
    ],
)
def test_what_a_description_says_of_the_asked_fact(context: str | None, says: DescriptionSays) -> None:
    assert truth.description_says(context, FACTS) == says
    assert truth.description_says(context, None) == DescriptionSays.ABSENT


def test_a_pairs_truth_is_that_of_its_main_claim() -> None:
    assert truth.count_pair(["The circle is red.", "The circle is blue."], FACTS) == [True, False]
    assert truth.count_pair(["a", "b"], None) is None
    assert truth.false_claims("The circle is blue.", FACTS) == {("color", 0, "blue")}


def test_what_training_did_is_told_by_the_ends_of_the_steps() -> None:
    assert tables.training_outcome(pd.DataFrame()) == "No pair was kept: the policy stays as it is."
    steps = pd.DataFrame(
        {"rewards_chosen": [0.0, -0.1], "rewards_rejected": [0.0, -0.3], "margins": [0.0, 0.2]},
    )
    sentence = tables.training_outcome(steps)
    assert sentence.startswith("In 2 steps the reward of the chosen")
    assert "fell by 0.100 nats, that of the rejected fell by 0.300; the margin ended at 0.200." in sentence
    assert sentence.endswith("DPO lowers the chosen too, only less than the rejected.")
    steps["rewards_chosen"] = [0.0, 0.1]
    assert "rose by 0.100 nats" in tables.training_outcome(steps)
    assert "DPO lowers" not in tables.training_outcome(steps)
