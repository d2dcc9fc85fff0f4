"""The arm `given`: DPO on a data set's own chosen and rejected (LLaVA-Hound-DPO's way), through every stage and the notebooks that show it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo.core import params, records, runs
from isrdpo.core import pipeline as keys
from isrdpo.reports import judged_pairs, summary
from isrdpo.stages import data, evaluate, judge, look, respond, train

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PAIRS = [
    {
        "id": f"p{n}",
        "video": f"{{{n % 3}}}",
        "prompt": f"What is {n}?",
        "chosen": f"The red circle moves {n} times to the left.",
        "rejected": "blue" * (n % 2 + 1),
    }
    for n in range(4)
]


@pytest.fixture
def given_run(own_data: Callable, random_base: Path, tmp_path: Path) -> Callable:
    """`given_run(rows, "key=value", ...)`: a run on a user's own pairs, of the random base."""

    def made(rows: list[dict], *overrides: str) -> runs.Run:
        folder, _ = own_data(rows)
        small = [f"run={tmp_path / 'given'}", f"data={folder}", f"model.path={random_base}", "judge.method=given", "judge.keep_surest=1.0", "iterations=2",
                 "max_bad_share=0.6", "train.batch_size=2", "train.epochs=1", "train.gradient_accumulation=1", "evaluate.max_new_tokens=4"]  # fmt: skip
        return runs.Run.create(params.load(PRESET, [*small, *overrides]))

    return made


def executed(name: str, run: runs.Run, iteration: int) -> None:
    """A committed notebook's code cells in this process, with these parameters; its checks raise."""
    known: dict = {}
    for cell in json.loads((NOTEBOOKS / name).read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), known)  # noqa: S102 - our own file
            if cell["metadata"].get("tags") == ["parameters"]:
                known |= {"run_dir": str(run.folder), "iteration": iteration}


@pytest.mark.filterwarnings("ignore")
def test_two_iterations_train_on_the_data_sets_own_pairs_and_every_page_has_something_to_say(
    given_run: Callable,
) -> None:
    run = given_run(PAIRS)
    for t in (1, 2):
        data.run(run, t)
        executed("02_retrospection.ipynb", run, t)
        executed("03_judging.ipynb", run, t)
        train.run(run, t)
    evaluate.run(run, 0)
    executed("05_evaluation.ipynb", run, 2)
    for t in (1, 2):
        pairs = records.read_jsonl(run.file(t, "preferences.jsonl"), records.Preference)
        assert [(p.chosen, p.rejected, p.margin) for p in pairs] == [
            (row["chosen"], row["rejected"], None) for row in PAIRS
        ]
        assert run.file(t, "responses.jsonl").read_text() == "" == run.file(t, "contexts.jsonl").read_text()
        assert (
            "judge.method: given" in run.done("respond", t)["warnings"][0]
            and run.done("look", t)["total"] == 0
        )
        assert run.done("train", t)["counts"]["pairs"] == 4
    shares = judged_pairs.judge_shares(judged_pairs.judged_by_condition(run, 1)).set_index("measure")
    assert set(shares.index) == {"the longer is chosen"}, "nothing was shown to a judge, so there is no order"
    assert summary.table(run)["kept_share"].dropna().tolist() == [1.0, 1.0]


def test_a_row_without_a_pair_or_with_an_equal_one_is_bad_by_cause(given_run: Callable) -> None:
    without = {name: value for name, value in PAIRS[1].items() if name != "rejected"}
    run = given_run([PAIRS[0], without, PAIRS[2] | {"rejected": f"{PAIRS[2]['chosen']} "}, PAIRS[3]])
    for stage in (data, respond, judge, look):
        stage.run(run, 1)
    marker = run.done("judge", 1)
    assert marker["warnings"] == []
    assert (
        marker["bad"] == {"no chosen or no rejected": 1, "chosen equals rejected": 1} and marker["total"] == 4
    )
    assert marker["counts"]["kept"] == 2
    assert [row["id"] for row in records.read_jsonl(run.file(1, "bad_judge.jsonl"), dict)] == ["p1", "p2"]
    assert [row["id"] for row in judged_pairs.judged_table(run, 1).query("kept").to_dict("records")] == [
        "p0",
        "p3",
    ]


def test_without_margins_the_first_are_kept_and_it_is_said(given_run: Callable) -> None:
    run = given_run(PAIRS, "judge.keep_surest=0.5")
    for stage in (data, respond, judge):
        stage.run(run, 1)
    assert [p.id for p in records.read_jsonl(run.file(1, "preferences.jsonl"), records.Preference)] == [
        "p0",
        "p1",
    ]
    assert run.done("judge", 1)["warnings"] == [
        "judge.keep_surest=0.5: given pairs have no margin, so the first 50% of them are kept"
    ]


def test_toybox_has_no_given_pairs() -> None:
    with pytest.raises(
        params.ParamsError,
        match="^judge.method: given needs a data set's own chosen and rejected, which data.path=toybox has not; give data=",
    ):
        params.load(PRESET, ["judge.method=given"])


def test_what_is_not_done_does_not_count_and_what_training_rests_on_does(tmp_path: Path) -> None:
    base = ["data=somewhere", "judge.method=given"]

    def key(stage: str, *more: str, t: int = 2) -> str:
        return keys.stage_key(params.load(PRESET, [*base, *more]), stage, t)

    for idle in (
        "respond.temperature=0.1",
        "respond.context=none",
        "prompts.context=Look.",
        "judge.orders=1",
        "prompts.judge_without_context={question} {first} {second}",
    ):
        assert key("train", idle) == key("train") and key("judge", idle) == key("judge"), idle
    for matters in (
        "seed=3",
        "model.path=other",
        "data.train=x.jsonl",
        "train.beta=0.2",
        "judge.balance_lengths=true",
        "judge.method=score",
    ):
        assert key("train", matters) != key("train"), matters
    assert ("respond", 1) not in keys.upstream(params.load(PRESET, base), "respond", 2) and (
        "train",
        1,
    ) in keys.upstream(params.load(PRESET, base), "respond", 2)
