"""Hallucination benchmarks in their published files, as evaluation questions."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo import checks
from isrdpo.core import params, records
from isrdpo.core.errors import RunError
from isrdpo.core.records import Answer, BadRow, Sample
from isrdpo.formats.benchmarks import draw_questions, question_group, read_benchmark
from isrdpo.reports import answer_tables
from isrdpo.scoring.benchmark_metrics import benchmark_rows
from isrdpo.stages import data, evaluate

QUESTIONS = {"videohallucer": 6, "eventhallusion": 3, "vidhalluc": 5}
PAIR = {
    "basic": {"video": "v0.mp4", "question": "Is it red?", "answer": "yes"},
    "hallucination": {"video": "v0.mp4", "question": "Is it blue?", "answer": "no"},
    "type": "t",
}
ENTIRE = {
    "id": "entire_001",
    "questions": [
        {"type": "h", "question": "Does it stop?", "answer": "No."},
        {"question": "Red?", "answer": "Yes."},
    ],
}
INTERLEAVE = {
    "id": "interleave_001",
    "questions": [{"question": "Anything unexpected?", "answer": "Yes."}],
}
CHOICE = {"Question": "What?", "Choices": {"A": "run", "B": "sit"}, "Correct Answer": "A"}
ORDER = {"video": "c3", "Question": "Action A: run. Action B: sit. ", "Correct Answer": "AB"}
SCENE = {"Scene change": "Yes", "Locations": "from a room to a street."}
FILES: dict[str, dict[str, object]] = {
    "videohallucer": {
        "temporal/temporal.json": [PAIR, PAIR],
        "object_relation/object_relation.json": [PAIR],
    },
    "eventhallusion": {
        "questions/entire_questions.json": [ENTIRE],
        "questions/interleave_questions.json": [INTERLEAVE],
    },
    "vidhalluc": {
        "ach_binaryqa.json": {"k": [{"q": "Does it run?", "a": {"c1": "Yes", "c2": "No"}}]},
        "ach_mcq.json": {"k": {"c1": CHOICE}},
        "tsh.json": {"k": ORDER},
        "sth.json": {"c4": SCENE},
    },
}
CLIPS = {
    "videohallucer": ["temporal/videos/v0.mp4", "object_relation/videos/v0.mp4"],
    "eventhallusion": ["entire/entire_001.mp4", "videos/interleave/interleave_001.mp4"],
    "vidhalluc": ["data/ACH/c1.mp4", "data/ACH/c2.mp4", "data/TSH/c3.mp4", "data/STH/c4.mp4"],
}


@pytest.fixture
def published(own_data: Callable) -> Callable:
    """`published("videohallucer")`: a folder with train.jsonl and that benchmark's files as its authors lay
    them out.

    Its clips are real.
    """

    def create(name: str) -> Path:
        row = {"id": "t0", "video": "{0}", "prompt": "What moves?", "chosen": "A", "rejected": "B"}
        folder, clips = own_data([row])
        for file, content in FILES[name].items():
            path = folder / "bench" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
        for clip in CLIPS[name]:
            path = folder / "bench" / clip
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "clips" / f"{clips[0]}.mp4", path)
        return folder

    return create


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_benchmark_is_asked_and_scored_from_its_published_files(
    name: str, published: Callable, make_run: Callable
) -> None:
    folder = published(name)
    rows = list(read_benchmark(name, folder / "bench"))
    assert len(rows) == QUESTIONS[name]
    assert all(isinstance(row, Sample) for row in rows)
    assert all((folder / "bench" / row.video).is_file() for row in rows)

    run = make_run(
        name,
        f"data={folder}",
        f"data.benchmark={name}",
        "data.test=bench",
        "data.samples=0",
        "data.questions=0",
        "data.fixed_pairs=0",
        "judge.method=score",
        "max_bad_share=0.0",
    )
    lines, problems = checks.inspect(run.params)
    assert f"evaluation rows: {QUESTIONS[name]}" in lines and "train rows: 1" in lines and not problems
    data.run(run, 1)
    evaluate.run(run, 0)
    answers = records.read_jsonl(run.file(0, "answers.jsonl"), Answer)
    assert len(answers) == QUESTIONS[name]
    (caption, table), *more = answer_tables.benchmark_tables(run, 0).items()
    assert name in caption and not more
    assert len(table) == len(benchmark_rows(name, answers)) > 0


def test_a_benchmarks_own_folder_is_enough_for_an_evaluation(published: Callable, make_run: Callable) -> None:
    folder = published("videohallucer") / "bench"
    run = make_run(
        "alone",
        f"data={folder}",
        "iterations=0",
        "data.benchmark=videohallucer",
        "data.test=.",
        "data.questions=0",
        "data.fixed_pairs=0",
        "judge.method=score",
        "max_bad_share=0.0",
    )
    assert not checks.inspect(run.params)[1]
    data.run(run, 0)
    evaluate.run(run, 0)
    assert run.file(0, "benchmark.csv").exists()


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("videohallucer", "\nAnswer the question using 'yes' or 'no'."),
        ("eventhallusion", "\nPlease answer yes or no:"),
        ("vidhalluc", "Only answer with a single word 'Yes' or 'No'."),
    ],
)
def test_questions_end_as_the_authors_end_them(name: str, end: str, published: Callable) -> None:
    assert next(iter(read_benchmark(name, published(name) / "bench"))).question.endswith(end)


def test_a_draw_of_questions_keeps_what_is_scored_together(published: Callable) -> None:
    for name in ("videohallucer", "vidhalluc"):
        rows = list(read_benchmark(name, published(name) / "bench"))
        sizes = Counter(question_group(row.id) for row in rows)
        for count in range(1, len(rows) + 1):
            sample = draw_questions(rows, count, seed=count)
            assert len(sample) >= count
            sizes_of_sample = Counter(question_group(row.id) for row in sample)
            assert all(sizes_of_sample[group] in (0, size) for group, size in sizes.items())
        assert draw_questions(rows, 0, seed=1) == rows
        shutil.rmtree(published(name).parent / "mine")


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        (
            "videohallucer",
            "temporal/temporal.json",
            [{"basic": {"video": "v0.mp4", "question": "Q", "answer": "maybe"}, "hallucination": 3}],
        ),
        (
            "eventhallusion",
            "questions/entire_questions.json",
            [
                {"id": "entire_001", "questions": []},
                "x",
                {"id": "y", "questions": [{"question": "Q", "answer": "yes"}]},
            ],
        ),
        ("vidhalluc", "tsh.json", {"k": {"video": "c", "Question": "Q"}, "j": 3}),
        ("vidhalluc", "ach_mcq.json", {"k": {"c1": CHOICE | {"Correct Answer": "none"}}}),
    ],
)
def test_a_damaged_row_is_named_and_the_others_stay(
    name: str, path: str, content: object, published: Callable
) -> None:
    folder = published(name) / "bench"
    (folder / path).write_text(json.dumps(content))
    rows = list(read_benchmark(name, folder))
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert bad and {row.cause for row in bad} == {"unreadable row"}
    assert all(row.id and row.detail for row in bad)
    assert len(rows) > len(bad)


@pytest.mark.parametrize("content", ["{", "[1, 2", "3", '{"a": 1}'])
def test_a_damaged_file_is_one_line(content: str, published: Callable) -> None:
    folder = published("videohallucer") / "bench"
    (folder / "temporal/temporal.json").write_text(content)
    with pytest.raises(RunError, match="fetch it anew"):
        list(read_benchmark("videohallucer", folder))


def test_the_wrong_folder_and_toybox_are_refused(published: Callable, make_run: Callable) -> None:
    with pytest.raises(RunError, match=r"data\.test is the folder of the benchmark"):
        list(read_benchmark("vidhalluc", published("videohallucer") / "bench"))
    with pytest.raises(params.ParamsError, match=r"data\.benchmark: Toybox has questions of its own"):
        make_run("x", "data.benchmark=vidhalluc")


def test_a_video_out_of_the_folder_is_a_bad_sample(published: Callable, make_run: Callable) -> None:
    folder = published("videohallucer")
    part = {"question": "Q", "video": "../../../clips/x.mp4"}
    pair = {"basic": part | {"answer": "yes"}, "hallucination": part | {"answer": "no"}}
    (folder / "bench/temporal/temporal.json").write_text(json.dumps([pair]))
    run = make_run(
        "out",
        f"data={folder}",
        "data.benchmark=videohallucer",
        "data.test=bench",
        "data.samples=0",
        "data.questions=0",
        "data.fixed_pairs=0",
        "judge.method=score",
    )
    data.run(run, 0)
    marker = run.done("data", 0)
    assert marker["counts"]["samples"] == 2 and sum(marker["bad"].values()) == 2
