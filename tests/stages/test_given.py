"""The arm `given`: DPO on a data set's own chosen and rejected (LLaVA-Hound-DPO's way).

It goes through every stage and through the notebooks that show it.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo.core import params, pipeline, records, runs
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
SMALL = (
    "judge.method=given",
    "judge.keep_surest=1.0",
    "iterations=2",
    "max_bad_share=0.6",
    "train.batch_size=2",
    "train.epochs=1",
    "train.gradient_accumulation=1",
    "evaluate.max_new_tokens=4",
)


@pytest.fixture
def make_pairs_run(own_data: Callable, random_base: Path, tmp_path: Path) -> Callable:
    """`make_pairs_run(rows, "key=value", ...)`: a run on a user's own pairs, of the random base."""

    def make(rows: list[dict], *overrides: str) -> runs.Run:
        folder, _ = own_data(rows)
        places = (f"run={tmp_path / 'given'}", f"data={folder}", f"model.path={random_base}")
        return runs.Run.create(params.load(PRESET, [*places, *SMALL, *overrides]))

    return make


def execute_notebook(name: str, run: runs.Run, iteration: int) -> None:
    """Execute a committed notebook's code cells in this process, with these parameters; its checks raise."""
    namespace: dict = {}
    for cell in json.loads((NOTEBOOKS / name).read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        exec("".join(cell["source"]), namespace)  # noqa: S102 - our own file
        if cell["metadata"].get("tags") == ["parameters"]:
            namespace |= {"run_dir": str(run.folder), "iteration": iteration}


def read_preferences(run: runs.Run, iteration: int = 1) -> list[records.Preference]:
    return records.read_jsonl(run.file(iteration, "preferences.jsonl"), records.Preference)


@pytest.mark.filterwarnings("ignore")
def test_two_iterations_train_on_the_data_sets_own_pairs_and_every_page_has_something_to_say(
    make_pairs_run: Callable,
) -> None:
    run = make_pairs_run(PAIRS)
    for t in (1, 2):
        data.run(run, t)
        execute_notebook("02_retrospection.ipynb", run, t)
        execute_notebook("03_judging.ipynb", run, t)
        train.run(run, t)
    evaluate.run(run, 0)
    execute_notebook("05_evaluation.ipynb", run, 2)
    expected = [(row["chosen"], row["rejected"], None) for row in PAIRS]
    for t in (1, 2):
        assert [(p.chosen, p.rejected, p.margin) for p in read_preferences(run, t)] == expected
        assert run.file(t, "responses.jsonl").read_text() == ""
        assert run.file(t, "contexts.jsonl").read_text() == ""
        assert "judge.method: given" in run.done("respond", t)["warnings"][0]
        assert run.done("look", t)["total"] == 0
        assert run.done("train", t)["counts"]["pairs"] == 4
    shares = judged_pairs.judge_shares(judged_pairs.judged_by_condition(run, 1)).set_index("measure")
    assert set(shares.index) == {"the longer is chosen"}, "nothing was shown to a judge, so there is no order"
    assert summary.table(run)["kept_share"].dropna().tolist() == [1.0, 1.0]


def test_a_row_without_a_pair_or_with_an_equal_one_is_bad_by_cause(make_pairs_run: Callable) -> None:
    without_rejected = {name: value for name, value in PAIRS[1].items() if name != "rejected"}
    equal = PAIRS[2] | {"rejected": f"{PAIRS[2]['chosen']} "}
    run = make_pairs_run([PAIRS[0], without_rejected, equal, PAIRS[3]])
    for stage in (data, respond, judge, look):
        stage.run(run, 1)
    marker = run.done("judge", 1)
    assert marker["warnings"] == []
    assert marker["bad"] == {"no chosen or no rejected": 1, "chosen equals rejected": 1}
    assert marker["total"] == 4
    assert marker["counts"]["kept"] == 2
    assert [row["id"] for row in records.read_jsonl(run.file(1, "bad_judge.jsonl"), dict)] == ["p1", "p2"]
    assert judged_pairs.judged_table(run, 1).query("kept")["id"].tolist() == ["p0", "p3"]


def test_without_margins_the_first_are_kept_and_it_is_said(make_pairs_run: Callable) -> None:
    run = make_pairs_run(PAIRS, "judge.keep_surest=0.5")
    for stage in (data, respond, judge):
        stage.run(run, 1)
    assert [pair.id for pair in read_preferences(run)] == ["p0", "p1"]
    assert run.done("judge", 1)["warnings"] == [
        "judge.keep_surest=0.5: given pairs have no margin, so the first 50% of them are kept"
    ]


def test_toybox_has_no_given_pairs() -> None:
    message = (
        "^judge.method: given needs a data set's own chosen and rejected, "
        "which data.path=toybox has not; give data="
    )
    with pytest.raises(params.ParamsError, match=message):
        params.load(PRESET, ["judge.method=given"])


def load_given(*overrides: str) -> params.Params:
    return params.load(PRESET, ["data=somewhere", "judge.method=given", *overrides])


def second_key(stage: str, *overrides: str) -> str:
    """Return the key of iteration 2's stage."""
    return pipeline.stage_key(load_given(*overrides), stage, 2)


@pytest.mark.parametrize(
    "override",
    [
        "respond.temperature=0.1",
        "respond.context=none",
        "prompts.context=Look.",
        "judge.orders=1",
        "prompts.judge_without_context={question} {first} {second}",
    ],
)
def test_what_is_not_done_does_not_count(override: str) -> None:
    assert second_key("train", override) == second_key("train")
    assert second_key("judge", override) == second_key("judge")


@pytest.mark.parametrize(
    "override",
    [
        "seed=3",
        "model.path=other",
        "data.train=x.jsonl",
        "train.beta=0.2",
        "judge.balance_lengths=true",
        "judge.method=score",
    ],
)
def test_what_training_rests_on_counts(override: str) -> None:
    assert second_key("train", override) != second_key("train")


def test_responding_rests_on_the_policy_but_not_on_the_responses_before() -> None:
    upstream = pipeline.upstream(load_given(), "respond", 2)
    assert ("respond", 1) not in upstream
    assert ("train", 1) in upstream
