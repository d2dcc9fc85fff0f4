"""Prediction files: those that a run writes, and those of others that the command line scores."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from isrdpo.core import errors, params, records
from isrdpo.formats import predictions
from isrdpo.formats.captions import Captions
from isrdpo.formats.connection import Reply
from isrdpo.scoring import protocol, scores, sending
from isrdpo.stages import score
from tests.scored_runs import isrdpo, polite
from tests.scorer_server import Answer, Server, serving

pytestmark = pytest.mark.usefixtures("openai_key")

COLUMNS = (
    "id",
    "modal_path",
    "query",
    "answer",
    "modal_type",
    "video_decode_backend",
    "temperature",
    "top_p",
    "max_new_tokens",
    "model_prediction",
)
PREDICTION = {
    "id": "1",
    "modal_path": "/mnt/frames/v1.mp4",
    "query": "Q?",
    "answer": "A",
    "model_prediction": {"status": "success", "message": "P"},
}


def test_prediction_files_are_the_references_and_come_back_as_they_went(answered: Callable) -> None:
    run = answered("files")
    answers = records.read_jsonl(run.file(0, "answers.jsonl"), records.Answer)
    samples = records.read_jsonl(run.file(0, "samples.jsonl"), records.Sample)
    captions = {sample.id: sample.caption for sample in samples}
    rows: list[dict] = []
    for path in run.file(0, "predictions").iterdir():
        rows += records.read_jsonl(path, dict)
    assert {tuple(row) for row in rows} == {COLUMNS}

    written = {}
    for answer in answers:
        written[answer.id] = (answer.question, answer.reference, answer.response, captions[answer.id])
    read_back = {}
    for row in score.read_answers(run, 0).rows:
        read_back[row.id] = (row.question, row.answer, row.response, row.caption)
    assert read_back == written


def test_old_predictions_are_left_out_as_the_reference_leaves_them_out(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    elsewhere = PREDICTION | {"id": 2, "modal_path": "x/other"}
    failure = PREDICTION | {"id": "3", "model_prediction": {"status": "error", "message": "boom"}}
    thought = PREDICTION | {"id": "4", "model_prediction": {"status": "success", "message": "<think>A cat"}}
    spoken = {"status": "success", "message": "<think>A cat?</think>A dog."}
    records.write_jsonl(
        path, [PREDICTION, elsewhere, failure, thought, PREDICTION | {"id": 5, "model_prediction": spoken}]
    )

    captions = Captions([records.Sample("1", "test/msvd/v1", "Q?", caption="C")])
    answers = predictions.read_predictions(path, "msvd", captions)
    assert [(row.id, row.caption, row.response) for row in answers.rows] == [
        ("1", "C", "P"),
        ("5", "C", "A dog."),
    ]
    assert answers.by_name == ["1", "5"]
    causes = ["its video is not in the test file", "no success", "an unfinished thought"]
    assert answers.left_out == list(zip(["2", "3", "4"], causes, strict=True))
    answers = predictions.read_predictions(path, "msvd.official", Captions())
    assert [(row.id, row.caption) for row in answers.rows] == [("1", ""), ("2", ""), ("5", "")]
    assert [identity for identity, _ in answers.left_out] == ["3", "4"]


@pytest.mark.parametrize(
    ("bad_row", "reason"),
    [
        ({"id": "1"}, "no 'model_prediction'"),
        (PREDICTION | {"query": ["x"]}, "is not text"),
        (PREDICTION | {"model_prediction": "P"}, "not a prediction"),
    ],
)
def test_a_row_that_is_no_prediction_is_named(tmp_path: Path, bad_row: dict, reason: str) -> None:
    path = tmp_path / "bad.jsonl"
    records.write_jsonl(path, [PREDICTION, bad_row])
    with pytest.raises(records.RecordError, match=f"row 2: .*{reason}|row 2: not a prediction"):
        predictions.read_predictions(path, "msvd", Captions())


@pytest.mark.parametrize("kind", ["../../etc/passwd", "/abs", ".hidden", "a\0b", "", "x" * 300])
def test_a_sets_name_is_a_file_in_its_folder(kind: str, tmp_path: Path) -> None:
    answer = records.Answer("i", "q", kind, "r", "said", 1, None)
    predictions.write_predictions(tmp_path / "predictions", [answer], [records.Sample("i", "v.mp4", "q")], 8)
    assert [path.parent for path in tmp_path.rglob("*.jsonl")] == [tmp_path / "predictions"]


def write_old_predictions(folder: Path, response: str) -> None:
    """Write the predictions of four questions, as another program made them."""
    rows = []
    for number in range(4):
        row = {"id": str(number), "modal_path": f"/a/v{number}", "query": "What falls?", "answer": "A cube."}
        rows.append(row | {"model_prediction": {"status": "success", "message": response}})
    records.write_jsonl(folder / "predictions.jsonl", rows)


def write_questions(path: Path, **caption: str) -> None:
    """Write the test questions of the first three videos."""
    talk = [{"from": "human", "value": "<video>\nWhat falls?"}, {"from": "gpt", "value": "A cube."}]
    rows = []
    for number in range(3):
        rows.append({"id": str(number), "video": f"test/msvd/v{number}", "conversations": talk} | caption)
    records.write_jsonl(path, rows)


@pytest.fixture
def old_predictions(tmp_path: Path) -> Path:
    """A folder with predictions, and with the questions of our protocol and of the official one."""
    write_questions(tmp_path / "msvd.qa.jsonl", caption="A red cube falls.")
    write_questions(tmp_path / "msvd.qa.official.jsonl")
    write_old_predictions(tmp_path, "A red cube.")
    return tmp_path


def score_command(folder: Path, questions: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Score the predictions of `old_predictions` into its folder `out`."""
    paths = [
        str(folder / "predictions.jsonl"),
        "--test",
        str(folder / questions),
        "--to",
        str(folder / "out"),
    ]
    return isrdpo("score", *paths, *options)


def scorer_options(server: Server, model: str = "gpt-test") -> list[str]:
    return ["scorer=openai", f"model={model}", f"base_url={server.url}"]


def reply(body: dict) -> Answer:
    """Reply to the official request, which has two messages, or to one of ours."""
    if len(body["messages"]) == 2:
        return "{'pred': 'yes', 'score': 5}"
    return polite(body)


def test_old_predictions_need_a_scorer_and_a_dry_run_sends_nothing(old_predictions: Path) -> None:
    assert "by whom?" in score_command(old_predictions, "msvd.qa.jsonl").stderr
    with serving(reply) as server:
        options = [*scorer_options(server), "price_in=0.5", "price_out=1.5", "--dry-run"]
        command = score_command(old_predictions, "msvd.qa.jsonl", *options)
    estimate = r"6 requests to gpt-test: about 0\.00\d million tokens.*about 0\.00 US dollars"
    assert re.match(estimate, command.stdout)
    assert not server.asked
    assert not (old_predictions / "out").exists()


def test_old_predictions_from_the_command_line(old_predictions: Path) -> None:
    with serving(reply) as server:
        options = scorer_options(server)
        ours = score_command(old_predictions, "msvd.qa.jsonl", *options)
        assert ours.returncode == 0, ours.stderr
        assert "1 answers are not scored (3: its video is not in the test file)" in ours.stdout
        assert "3 captions were found by the bare name of the clip" in ours.stdout
        official = score_command(old_predictions, "msvd.qa.official.jsonl", *options)
        assert official.returncode == 0, official.stderr
        assert len(server.asked) == 6 + 4
        assert "A red cube falls." in server.prompts()[0]

        server.version = "scripted-2027"
        other_scorer = score_command(old_predictions, "msvd.qa.jsonl", *scorer_options(server, "other"))
        assert other_scorer.returncode == 1
        assert "scored by gpt-test already" in other_scorer.stderr
        assert len(server.asked) == 10

        write_old_predictions(old_predictions, "A blue cube.")
        other_answers = score_command(old_predictions, "msvd.qa.jsonl", *options)
        assert other_answers.returncode == 1
        assert "holds scores of other answers (first: msvd, 0)" in other_answers.stderr
        assert len(server.asked) == 10
    table = scores.read_scores(old_predictions / "out/scores.csv").set_index("set")
    assert list(table.index) == ["msvd", "msvd.official"]
    assert list(table["protocol"]) == [protocol.OWN, protocol.OFFICIAL]
    assert list(table["questions"]) == [3, 4]


def test_scores_of_answers_that_are_gone_from_a_file_are_not_counted(tmp_path: Path) -> None:
    settings = params.load(params.BASE, ["data=toybox"]).score
    rows = [predictions.Prediction(str(n), "msvd", "Q?", "A", "a cube", "A cube.") for n in range(3)]
    path = tmp_path / "scores.jsonl"
    requests = score.make_requests(rows, settings)
    yes = Reply("yes", "gpt")
    records.write_jsonl(path, [sending.score_row(request, yes, "gpt") for request in requests])
    assert sending.unsent(requests, path) == []
    without_claims = [request for request in requests if request.protocol != protocol.CLAIMS]
    assert sending.unsent(without_claims, path) == []
    others = [replace(row, set="tgif") for row in rows[:1]]
    assert len(sending.unsent(score.make_requests(others, settings), path)) == 2, "sets share a folder"
    with pytest.raises(errors.RunError, match=r"holds a score of msvd, 2, which is not to be scored"):
        sending.unsent(score.make_requests(rows[:2], settings), path)
