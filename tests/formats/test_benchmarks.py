"""Hallucination benchmarks in their published files, as questions and with their own metrics, worked out by hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo import checks
from isrdpo.core import errors, params, records
from isrdpo.core.records import Answer, BadRow, Sample
from isrdpo.formats import benchmarks
from isrdpo.reports import tables as report
from isrdpo.scoring import benchmark_metrics as benchmark_scores
from isrdpo.stages import data, evaluate


@pytest.fixture
def published(own_data: Callable) -> Callable:
    """`published("videohallucer")`: a folder with train.jsonl and that benchmark's files as its authors lay them out, with real clips."""

    def made(name: str) -> Path:
        folder, clips = own_data([{"id": "t0", "video": "{0}", "prompt": "What moves?", "chosen": "A", "rejected": "B"}])
        root = folder / "bench"

        def put(path: str, value: object) -> None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(json.dumps(value))

        def clip(path: str) -> None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "clips" / f"{clips[0]}.mp4", root / path)

        if name == "videohallucer":
            pair = {"basic": {"video": "v0.mp4", "question": "Is it red?", "answer": "yes"}, "hallucination": {"video": "v0.mp4", "question": "Is it blue?", "answer": "no"}, "type": "t"}
            put("temporal/temporal.json", [pair, pair])
            put("object_relation/object_relation.json", [pair])
            clip("temporal/videos/v0.mp4")
            clip("object_relation/videos/v0.mp4")
        elif name == "eventhallusion":
            put("questions/entire_questions.json", [{"id": "entire_001", "questions": [{"type": "h", "question": "Does it stop?", "answer": "No."}, {"question": "Red?", "answer": "Yes."}]}])
            put("questions/interleave_questions.json", [{"id": "interleave_001", "questions": [{"question": "Anything unexpected?", "answer": "Yes."}]}])
            clip("entire/entire_001.mp4")
            clip("videos/interleave/interleave_001.mp4")
        else:
            put("ach_binaryqa.json", {"k": [{"q": "Does it run?", "a": {"c1": "Yes", "c2": "No"}}]})
            put("ach_mcq.json", {"k": {"c1": {"Question": "What?", "Choices": {"A": "run", "B": "sit"}, "Correct Answer": "A"}}})
            put("tsh.json", {"k": {"video": "c3", "Question": "Action A: run. Action B: sit. ", "Correct Answer": "AB"}})
            put("sth.json", {"c4": {"Scene change": "Yes", "Locations": "from a room to a street."}})
            for path in ("data/ACH/c1.mp4", "data/ACH/c2.mp4", "data/TSH/c3.mp4", "data/STH/c4.mp4"):
                clip(path)
        return folder

    return made


QUESTIONS = {"videohallucer": 6, "eventhallusion": 3, "vidhalluc": 5}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_benchmark_is_asked_and_scored_from_its_published_files(name: str, published: Callable, make_run: Callable) -> None:
    folder = published(name)
    settings = ["data=" + str(folder), f"data.benchmark={name}", "data.test=bench", "data.samples=0", "data.questions=0", "data.fixed_pairs=0", "judge.method=score", "max_bad_share=0.0"]
    found = list(benchmarks.read(name, folder / "bench"))
    assert len(found) == QUESTIONS[name] and all(isinstance(row, Sample) for row in found)
    assert all((folder / "bench" / row.video).is_file() for row in found)
    run = make_run(name, *settings)
    lines, problems = checks.inspect(run.params)
    assert f"evaluation rows: {QUESTIONS[name]}" in lines and "train rows: 1" in lines and not problems
    data.run(run, 1)
    evaluate.run(run, 0)
    answers = records.read_jsonl(run.file(0, "answers.jsonl"), Answer)
    assert len(answers) == QUESTIONS[name]
    (caption, table), *more = report.benchmark_tables(run, 0).items()
    assert name in caption and not more and len(table) == len(benchmark_scores.table(name, answers)) > 0


def test_a_benchmarks_own_folder_is_enough_for_an_evaluation(published: Callable, make_run: Callable) -> None:
    folder = published("videohallucer") / "bench"
    run = make_run("alone", f"data={folder}", "iterations=0", "data.benchmark=videohallucer", "data.test=.", "data.questions=0", "data.fixed_pairs=0", "judge.method=score", "max_bad_share=0.0")
    assert not checks.inspect(run.params)[1]
    data.run(run, 0)
    evaluate.run(run, 0)
    assert run.file(0, "benchmark.csv").exists()


@pytest.mark.parametrize(
    ("name", "ends"),
    [("videohallucer", "\nAnswer the question using 'yes' or 'no'."), ("eventhallusion", "\nPlease answer yes or no:"), ("vidhalluc", "Only answer with a single word 'Yes' or 'No'.")],
)
def test_questions_end_as_the_authors_end_them(name: str, ends: str, published: Callable) -> None:
    assert next(iter(benchmarks.read(name, published(name) / "bench"))).question.endswith(ends)


def test_a_draw_of_questions_keeps_what_is_scored_together(published: Callable) -> None:
    for name in ("videohallucer", "vidhalluc"):
        rows = [row for row in benchmarks.read(name, published(name) / "bench")]
        whole = {benchmarks.group(row.id): sum(benchmarks.group(r.id) == benchmarks.group(row.id) for r in rows) for row in rows}
        for wanted in range(1, len(rows) + 1):
            taken = benchmarks.some(rows, wanted, seed=wanted)
            assert len(taken) >= wanted
            assert all(sum(benchmarks.group(r.id) == group for r in taken) in (0, size) for group, size in whole.items())
        shutil.rmtree(published(name).parent / "mine")


BAD = [
    ("videohallucer", "temporal/temporal.json", [{"basic": {"video": "v0.mp4", "question": "Q", "answer": "maybe"}, "hallucination": 3}], "unreadable row"),
    ("eventhallusion", "questions/entire_questions.json", [{"id": "entire_001", "questions": []}, "x", {"id": "y", "questions": [{"question": "Q", "answer": "yes"}]}], "unreadable row"),
    ("vidhalluc", "tsh.json", {"k": {"video": "c", "Question": "Q"}, "j": 3}, "unreadable row"),
    ("vidhalluc", "ach_mcq.json", {"k": {"c1": {"Question": "Q", "Choices": {"A": "x"}, "Correct Answer": "none"}}}, "unreadable row"),
]


@pytest.mark.parametrize(("name", "path", "content", "cause"), BAD)
def test_a_damaged_row_is_named_and_the_others_stay(name: str, path: str, content: object, cause: str, published: Callable) -> None:
    folder = published(name) / "bench"
    (folder / path).write_text(json.dumps(content))
    found = list(benchmarks.read(name, folder))
    bad = [row for row in found if isinstance(row, BadRow)]
    assert bad and {row.cause for row in bad} == {cause} and all(row.id and row.detail for row in bad) and len(found) > len(bad)


@pytest.mark.parametrize("content", ["{", "[1, 2", "3", '{"a": 1}'])
def test_a_damaged_file_is_one_line(content: str, published: Callable) -> None:
    folder = published("videohallucer") / "bench"
    (folder / "temporal/temporal.json").write_text(content)
    with pytest.raises(errors.RunError, match="fetch it anew"):
        list(benchmarks.read("videohallucer", folder))


def test_the_wrong_folder_and_toybox_are_refused(published: Callable, make_run: Callable) -> None:
    with pytest.raises(errors.RunError, match=r"data\.test is the folder of the benchmark"):
        list(benchmarks.read("vidhalluc", published("videohallucer") / "bench"))
    with pytest.raises(params.ParamsError, match=r"data\.benchmark: Toybox has questions of its own"):
        make_run("x", "data.benchmark=vidhalluc")


def test_a_video_out_of_the_folder_is_a_bad_sample(published: Callable, make_run: Callable) -> None:
    folder = published("videohallucer")
    part = {"question": "Q", "video": "../../../clips/x.mp4"}
    (folder / "bench/temporal/temporal.json").write_text(json.dumps([{"basic": part | {"answer": "yes"}, "hallucination": part | {"answer": "no"}}]))
    run = make_run("out", "data=" + str(folder), "data.benchmark=videohallucer", "data.test=bench", "data.samples=0", "data.questions=0", "data.fixed_pairs=0", "judge.method=score")
    data.run(run, 0)
    assert run.done("data", 0)["counts"]["samples"] == 2 and sum(run.done("data", 0)["bad"].values()) == 2


def answer(identity: str, reference: str, response: str, question: str = "Q") -> Answer:
    return Answer(identity, question, "", reference, response, len(response.split()), None)


def values(name: str, answers: list[Answer]) -> dict[tuple[str, str], float]:
    rows = benchmark_scores.table(name, answers)
    assert all(set(row) == set(benchmark_scores.COLUMNS) for row in rows)
    assert all(row["value"] is None or row["value_low"] <= row["value"] <= row["value_high"] for row in rows)
    return {(row["subset"], row["measure"]): row["value"] for row in rows}


def test_videohallucer_by_hand() -> None:
    said = {"temporal": [("Yes.", "no"), ("yes", "Yes"), ("No", "No, it is not"), ("unclear", "???")], "object_relation": [("YES", "NO")]}
    answers = [
        answer(f"{subset}/{n}/{part}", right, reply)
        for subset, pairs in said.items() for n, pair in enumerate(pairs) for part, right, reply in zip(("basic", "hallucination"), ("yes", "no"), pair, strict=True)
    ]  # fmt: skip
    found = values("videohallucer", [*answers, answer("temporal/9/basic", "yes", "yes")])
    assert [found["temporal", m] for m in ("basic_accuracy", "halluc_accuracy", "accuracy")] == [0.5, 0.5, 0.25]
    assert found["all", "accuracy"] == (0.25 + 1) / 2, "the mean over subsets"
    assert found["all", "yes_difference"] == pytest.approx((3 + 1 - 5) / 10) and found["all", "false_positive_ratio"] == pytest.approx(1 / 4)
    row = benchmark_scores.table("videohallucer", [*answers, answer("temporal/9/basic", "yes", "yes")])[0]
    assert (row["questions"], row["unread"], row["incomplete"]) == (4, 2, 1)


def test_eventhallusion_by_hand() -> None:
    answers = [answer("entire/e/0", "Yes.", "Yes, it does"), answer("entire/e/1", "No.", "It does not"), answer("misleading/m/0", "No.", "no")]
    assert values("eventhallusion", answers) == {("entire", "accuracy"): 0.5, ("misleading", "accuracy"): 1.0, ("all", "accuracy"): pytest.approx(2 / 3)}
    assert [row["unread"] for row in benchmark_scores.table("eventhallusion", answers)] == [1, 0, 1]


def test_vidhalluc_by_hand() -> None:
    choices = "Q\nChoices:\nA. run\nB. sit down\n"
    answers = [
        answer("ach_binaryqa/k/0/2/c1", "Yes", "Yes. It runs"), answer("ach_binaryqa/k/0/2/c2", "No", "no, never"), answer("ach_binaryqa/k/1/2/c1", "Yes", "Yes"),
        answer("ach_mcq/k/c1", "AB", "B, A", choices), answer("ach_mcq/k/c2", "B", "They sit down.", choices), answer("ach_mcq/k/c3", "A", "A and B", choices),
        answer("tsh/k/c", "AB", "Action A happens before action B."), answer("tsh/l/c", "BA", "Action A after action B"), answer("tsh/m/c", "A", "nothing"),
        answer("sth/a", "Yes", "Scene change: Yes, Locations: from a to b."), answer("sth/b", "No", "Scene change: No, Locations: None"), answer("sth/c", "No", "I see no change"),
    ]  # fmt: skip
    found = values("vidhalluc", answers)
    assert found["ach_binaryqa", "accuracy"] == 0.5, "a question whose other clip is missing is not right"
    assert found["ach_mcq", "accuracy"] == pytest.approx(2 / 3) and found["tsh", "accuracy"] == pytest.approx(2 / 3) and found["sth", "classification_score"] == 1.0
    assert {row["subset"]: row["unread"] for row in benchmark_scores.table("vidhalluc", answers)} == {"ach_binaryqa": 0, "ach_mcq": 0, "tsh": 1, "sth": 1}


@pytest.mark.parametrize("name", QUESTIONS)
def test_nothing_answered_is_no_figure(name: str) -> None:
    assert benchmark_scores.table(name, []) == []
