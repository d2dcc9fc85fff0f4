"""Tables and the outcome of a run: true to its rows."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from isrdpo.core import records
from isrdpo.core.runs import Run
from isrdpo.reports import answer_tables, judged_pairs, outcomes, pages, summary, tables
from isrdpo.stages import data


def test_tables_of_a_real_run_agree_with_its_rows(whole_run: Run) -> None:
    file = whole_run.file(1, "judgments.jsonl")
    rng = np.random.default_rng(0)
    judgments = []
    for call in records.read_jsonl(file, records.Judgment):  # an untrained judge never agrees with itself
        choice = int(rng.random() < 0.5)
        scores = [-1.0, -0.5] if choice else [-0.5, -1.0]
        judgments.append(records.Judgment(call.id, call.order, choice, "x", scores))
    records.write_jsonl(file, judgments)
    table = judged_pairs.judged_table(whole_run, 1)
    bias = judged_pairs.length_bias(table)
    assert set(bias["truer"]) <= {"the longer is truer", "the shorter is truer", "equally true"}
    assert (bias["difference"] > 0).all()
    shares = judged_pairs.judge_shares(judged_pairs.judged_by_condition(whole_run, 1)).set_index(
        ["measure", "what"]
    )["share"]
    assert shares["the longer is chosen", "with its description"] == pytest.approx(bias["longer"].mean())
    calls = records.read_jsonl(file, records.Judgment)
    first = [call.choice == call.order for call in calls if call.choice is not None]
    assert shares["the first shown is chosen", "with its description"] == pytest.approx(np.mean(first))
    choices: dict[str, set[int | None]] = {}
    for call in calls:
        choices.setdefault(call.id, set()).add(call.choice)
    agreement = np.mean([len(both) == 1 for both in choices.values()])
    assert shares["the two orders agree", "with its description"] == pytest.approx(agreement)
    counts = summary.exclusions(whole_run.done_markers()).set_index("iteration").loc[1]
    reasons = ["kept", "ties", "empty", "disagreement", "undecided", "weak", "unparsed"]
    assert counts["judged"] == counts[reasons].sum()
    policies = answer_tables.answers_by_policy(whole_run, 1)
    gained = answer_tables.gained_lost(policies).iloc[0]
    assert gained["change"] == pytest.approx((gained["gained"] - gained["lost"]) / gained["questions"])
    assert set(policies) == {"base", "now"}
    assert answer_tables.length_truth(policies)["what"].value_counts().to_dict() == {"base": 6, "now": 6}


def test_repaired_and_broken(make_run: Callable) -> None:
    run = make_run("one")
    data.run(run, 1)
    sample = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[0]
    thing = sample.facts["scene"]["objects"][0]
    wrong_size = "large" if thing["size"] == "small" else "small"
    wrong_color = next(color for color in ("red", "green") if color != thing["color"])
    before = f"The {thing['shape']} is {wrong_size}."
    now = f"The {thing['shape']} is {thing['size']}. The {thing['shape']} is {wrong_color}."
    context = {"video": sample.video, "context": now, "previous_context": before}
    records.write_jsonl(run.file(1, "contexts.jsonl"), [context])
    row = tables.contexts(run, 1).iloc[0]
    assert (row["repaired"], row["broken"], row["false"]) == (1, 1, 1)
    assert 0 < row["similarity"] < 1
    records.write_jsonl(run.file(1, "contexts.jsonl"), [context | {"previous_context": None}])
    assert tables.contexts(run, 1).iloc[0][["similarity", "repaired", "broken"]].isna().all()


@pytest.mark.parametrize(
    ("before", "now", "beginning"),
    [
        ((0.5, 5), (0.9, 5), "Truer, and as long as before"),
        ((0.5, 5), (0.9, 20), "Truer, but wordier"),
        ((0.5, 20), (0.9, 5), "Truer, and terser"),
        ((0.5, 5), (0.5, 20), "Not measurably truer, but wordier"),
        ((0.9, 5), (0.5, 20), "Less true, and wordier"),
        ((0.9, 20), (0.5, 5), "Less true, but terser"),
    ],
)
def test_the_outcome_follows_from_the_rows(
    make_run: Callable, before: tuple, now: tuple, beginning: str
) -> None:
    run = make_run("one")
    data.run(run, 1)
    rows = []
    for t, (share_right, words) in enumerate((before, now)):
        answers = []
        for n in range(100):
            right = n < share_right * 100
            truth = {"correct": right, "claims": 1, "false": 0, "uncheckable": 0, "by_kind": {}}
            answers.append(records.Answer(str(n), "q", "k", "r", "x " * words, words + n % 2, truth))
        records.write_jsonl(run.file(t, "answers.jsonl"), answers)
        figures = {
            "accuracy": share_right,
            "hallucination": 0.1,
            "false_claims": 0.2,
            "response_words": words,
        }
        rows.append({"iteration": t, "scorer": "facts"} | figures)
    outcome = outcomes.run_outcome(run, pd.DataFrame(rows))
    assert outcome.startswith(f"{beginning}, after 1 iteration: accuracy")
    base_alone = pd.DataFrame(rows[:1])
    assert outcomes.run_outcome(run, base_alone) == "No policy has been trained and evaluated yet."
    untrained = outcomes.run_outcome(make_run("none", "iterations=0"), base_alone)
    right = f"{before[0]:.0%} of its answers are right, as the facts say;"
    assert untrained.startswith(f"Nothing was trained: the model as it is. {right}")


def test_an_outcome_where_nothing_was_trained_says_so(make_run: Callable) -> None:
    """Two equal policies must not read as a result of training."""
    run = make_run("none", "iterations=1")
    data.run(run, 1)
    with run.stage("respond", 1) as stage:
        for name in ("contexts.jsonl", "responses.jsonl"):
            records.write_jsonl(stage.path(name), [])
    with run.stage("judge", 1) as stage:
        stage.count("kept", 0)
        for name in ("judgments.jsonl", "preferences.jsonl"):
            records.write_jsonl(stage.path(name), [])
    with run.stage("train", 1) as stage:
        stage.count("pairs", 0)
        stage.path("train.csv").write_text("loss\n")
        stage.warn("no pair to train on: <why>")
    rows = pd.DataFrame([{"iteration": t, "response_words": 3.0} for t in (0, 1)])
    assert outcomes.run_outcome(run, rows).startswith("Nothing was trained: no iteration had a pair")
    page = pages.write_index(run).read_text()
    assert "<strong>Warning.</strong> train, iteration 1: no pair to train on: &lt;why&gt;" in page


def test_an_outcome_without_truth_speaks_of_words_only(make_run: Callable) -> None:
    run = make_run("one")
    data.run(run, 1)
    for t, words in enumerate((5, 20)):
        answers = [records.Answer(str(n), "q", "k", "r", "x", words + n % 2, None) for n in range(50)]
        records.write_jsonl(run.file(t, "answers.jsonl"), answers)
    outcome = outcomes.run_outcome(
        run, pd.DataFrame([{"iteration": t, "response_words": 1.0} for t in (0, 1)])
    )
    assert outcome.startswith("Wordier after 1 iteration")
    assert outcome.endswith("is not known.")
    assert "accuracy" not in outcome
