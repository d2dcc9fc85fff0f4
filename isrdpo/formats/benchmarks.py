"""Video hallucination benchmarks in their published files, as evaluation questions.

They are VideoHallucer, EventHallusion and VidHalluc. `data.benchmark` names one; its folder is `data.test`
inside `data.path`, laid out as its authors publish it. An answer's id says what its score needs
(`scoring.benchmark_metrics` reads nothing else): it begins with the subset, and what is scored together
shares all of it but the last part. Questions end with the words that the authors append.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from isrdpo.core.errors import RunError
from isrdpo.core.records import BadRow, Sample
from isrdpo.core.text_files import read_text
from isrdpo.formats.rows import refuse_unwritable_text, row_id
from isrdpo.formats.turns import is_absent, parse_json, scalar_text

HALLUCER = (  # the five of VideoHallucer's leaderboard
    "object_relation",
    "temporal",
    "semantic_detail",
    "external_factual",
    "external_nonfactual",
)
HALLUCER_ALSO = ("interaction", "fact_detect")  # published beside them, in no published mean
EVENTS = {  # subset: names of its questions' file and of its videos' folder
    "entire": ("entire",),
    "mix": ("mix", "interleave"),
    "misleading": ("misleading",),
}
EVENT_PLACES = ("", "videos/", "videos/videos/")  # above the folders of EventHallusion's videos
VIDHALLUC = {  # file without .json: folder of videos
    "ach_binaryqa": "ACH",
    "ach_mcq": "ACH",
    "tsh": "TSH",
    "sth": "STH",
}
VIDHALLUC_PLACES = (  # where an unpacked VidHalluc may hold the videos of a folder
    "data/{folder}/",
    "{folder}/",
    "data/{folder}/{folder}/",
    "data/VidHalluc/data/{folder}/",
    "{folder}_videos/",
)
SCENE = (
    "Watch the given video and determine if a scene change occurs. "
    "If no change occurs, respond: 'Scene change: No, Locations: None'. "
    "If there is a scene change, respond in the format: "
    "'Scene change: Yes, Locations: from [location1] to [location2].'"
)
SampleOrBad = Sample | BadRow
Parts = Iterator[tuple[str, str, str, str]]  # id without the subset, clip, question, answer
ROW_ERRORS = (KeyError, TypeError, AttributeError, ValueError)  # of a row that has another form


def read_benchmark(name: str, folder: Path) -> Iterator[SampleOrBad]:
    """Yield every question of a benchmark, or what is wrong with it; `Sample.video` counts from `folder`.

    Raises RunError where a whole file cannot be read.
    """
    readers: dict[str, Callable[[Path], Iterator[SampleOrBad]]] = {
        "videohallucer": _videohallucer,
        "eventhallusion": _eventhallusion,
        "vidhalluc": _vidhalluc,
    }
    ids: set[str] = set()
    for row in readers[name](folder):
        if row.id in ids:
            yield BadRow(row.id, "duplicate id", f"{folder}: {row.id}")
        else:
            yield row
        ids.add(row.id)


def question_group(identity: str) -> str:
    """Return the part of a question's id that all questions share that are scored together.

    Together are VideoHallucer's pairs and the clips of one VidHalluc question; any other question is alone.
    """
    subset = identity.split("/", 1)[0]
    is_grouped = subset in (*HALLUCER, *HALLUCER_ALSO, "ach_binaryqa")
    return identity.rpartition("/")[0] if is_grouped else identity


def draw_questions(rows: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """Return about `count` questions in their order, none without the others it is scored with.

    0 means all.
    """
    if not count:
        return list(rows)
    sizes: dict[str, int] = {}
    for row in rows:
        group = question_group(row.id)
        sizes[group] = sizes.get(group, 0) + 1
    groups = list(sizes)
    random.Random(f"{seed}-subset").shuffle(groups)
    sample = set()
    size = 0
    for group in groups:
        if size >= count:
            break
        sample.add(group)
        size += sizes[group]
    return [row for row in rows if question_group(row.id) in sample]


def _videohallucer(folder: Path) -> Iterator[SampleOrBad]:
    """VideoHallucer: `<subset>/<subset>.json`, with videos in `<subset>/videos`.

    A file is [{basic: {video, question, answer}, hallucination: {...}, type}]. The layout is that of
    github.com/patrick-tssn/VideoHallucer (README.md), the words at a question's end those of
    evaluations/evaluation_utils.py (evaluate). Ids are `<subset>/<number>/basic` and
    `<subset>/<number>/hallucination`.
    """
    files = {name: (f"{name}/{name}.json",) for name in (*HALLUCER, *HALLUCER_ALSO)}
    for subset, rows in _subsets(folder, files):
        for number, row in enumerate(_list_of_rows(rows)):
            for part in ("basic", "hallucination"):
                yield _parse(_hallucer_sample, f"{subset}/{number}/{part}", subset, row, part)


def _hallucer_sample(identity: str, subset: str, row: Any, part: str) -> Sample:
    question = _text(row[part], "question")
    answer = _text(row[part], "answer").strip().lower()
    _check_answer(answer, ("yes", "no"))
    return Sample(
        id=identity,
        video=f"{subset}/videos/{_text(row[part], 'video')}",
        question=f"{question}\nAnswer the question using 'yes' or 'no'.",
        answer=answer,
        kind=subset,
    )


def _eventhallusion(folder: Path) -> Iterator[SampleOrBad]:
    """EventHallusion: `questions/<subset>_questions.json`, with videos `<subset>/<id>.mp4`.

    The videos are here or in `videos`. A file is [{id, questions: [{question, answer: "Yes." or "No."}]}]
    (github.com/Stevetich/EventHallusion: run_gpt4o.py, also the words at a question's end). Only the binary
    questions are read: descriptions matched by GPT-4o (gpt4o_judge.py) are left out. Since December 2024
    `interleave` is published as `mix` with other questions; that the videos of `mix_001` are still
    `interleave/interleave_001.mp4` is not said there, it is how others' scripts read it. Ids are
    `<subset>/<id>/<number>`; `mix` and `interleave` are not comparable, so `interleave` keeps its name.
    """
    files: dict[str, list[str]] = {}
    for subset, names in EVENTS.items():
        files[subset] = []
        for name in names:
            files[subset] += [f"questions/{name}_questions.json", f"{name}_questions.json"]
    for subset, rows in _subsets(folder, files):
        for row in _list_of_rows(rows):
            yield from _event_samples(folder, subset, row)


def _event_samples(folder: Path, subset: str, row: Any) -> Iterator[SampleOrBad]:
    """The questions about one video of EventHallusion."""
    identity = row_id(row)
    questions = row.get("questions") if isinstance(row, dict) else None
    if not identity or not isinstance(questions, list) or not questions:
        detail = f"{subset}: no id or no questions: {str(row)[:80]}"
        yield BadRow(f"{subset}/{identity or 'no id'}", "unreadable row", detail)
        return
    kind = "interleave" if identity.startswith("interleave") else subset
    video = _event_video(folder, subset, identity)
    for number, question in enumerate(questions):
        yield _parse(_event_sample, f"{kind}/{identity}/{number}", kind, video, question)


def _event_video(folder: Path, subset: str, identity: str) -> str:
    names = []
    for name in reversed(EVENTS[subset]):
        file = identity.replace("mix", name, 1) if subset == "mix" else identity
        names.append(f"{name}/{file}.mp4")
    return _first_file(folder, [place + name for place, name in product(EVENT_PLACES, names)])


def _event_sample(identity: str, kind: str, video: str, row: Any) -> Sample:
    answer = _text(row, "answer")
    _check_answer(answer, ("Yes.", "No."))
    question = f"{_text(row, 'question')}\nPlease answer yes or no:"
    return Sample(id=identity, video=video, question=question, answer=answer, kind=kind)


def _vidhalluc(folder: Path) -> Iterator[SampleOrBad]:
    """VidHalluc: four JSON objects (huggingface.co/datasets/chaoyuli/VidHalluc), here or in `data`.

    - ach_binaryqa: {key: [{q, a: {clip: "Yes"}}]}
    - ach_mcq: {key: {clip: {Question, Choices: {A: ...}, Correct Answer: "A"}}}
    - tsh: {key: {video, Question, Correct Answer: "AB"}}
    - sth: {clip: {Scene change: "Yes", Locations}}

    Fields and prompts are as eval/inference/video_hallu_*.py of github.com/CyL97/VidHalluc reads them. The
    files were not at hand: their names and the folders `data/ACH`, `data/TSH`, `data/STH` are those that
    others' readers use.

    Ids are `<subset>/<key>/<clip>`, and for ach_binaryqa `<subset>/<key>/<number>/<clips>/<clip>`, where
    <clips> is how many clips the question has, so that a missing one is noticed.
    """
    parsers: dict[str, Callable[[str, Any], Parts]] = {
        "ach_binaryqa": _binary_questions,
        "ach_mcq": _choices,
        "tsh": _order_of_actions,
        "sth": _scene_change,
    }
    files = {name: (f"{name}.json", f"data/{name}.json") for name in VIDHALLUC}
    for subset, rows in _subsets(folder, files):
        if not isinstance(rows, dict):
            what = "not an object of questions, as VidHalluc publishes it"
            raise RunError(f"{folder}/{subset}.json: {what}; fetch it anew")
        places = [place.format(folder=VIDHALLUC[subset]) for place in VIDHALLUC_PLACES]
        for key, value in rows.items():
            try:
                parts = list(parsers[subset](key, value))
            except ROW_ERRORS as error:
                detail = f"{subset}.json, {key}: {type(error).__name__}: {error}"
                yield BadRow(f"{subset}/{key}", "unreadable row", detail)
                continue
            for identity, clip, question, answer in parts:
                video = _first_file(folder, [f"{place}{clip}.mp4" for place in places])
                yield _parse(Sample, f"{subset}/{identity}", video, question, answer, subset)


def _binary_questions(key: str, value: Any) -> Parts:
    for number, row in enumerate(value):
        for clip, answer in row["a"].items():
            _check_answer(answer.strip().upper(), ("YES", "NO"))
            question = f"{_text(row, 'q')} Only answer with a single word 'Yes' or 'No'."
            yield f"{key}/{number}/{len(row['a'])}/{clip}", clip, question, answer.strip()


def _choices(key: str, value: Any) -> Parts:
    for clip, row in value.items():
        choices = "".join(f"{letter}. {text}\n" for letter, text in row["Choices"].items())
        question = (
            f"{_text(row, 'Question')} Please select the correct answer (one or more options), "
            f"only return your answer(s). (e.g., ABCD)\nChoices:\n{choices}"
        )
        answer = _text(row, "Correct Answer").strip()
        if not set(answer.upper()) & set("ABCD"):
            raise ValueError(f"Correct Answer is {answer!r}")
        yield f"{key}/{clip}", clip, question, answer


def _order_of_actions(key: str, value: Any) -> Parts:
    question = (
        f"{_text(value, 'Question')}Sort these two actions in the order they occur in the video, "
        "and return which action happen before which one. "
        "If you only detect one action, return that action."
    )
    video = _text(value, "video")
    yield f"{key}/{video}", video, question, _text(value, "Correct Answer")


def _scene_change(key: str, value: Any) -> Parts:
    answer = _text(value, "Scene change").strip()
    _check_answer(answer.lower(), ("yes", "no"))
    yield key, key, SCENE, answer


def _subsets(folder: Path, files: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Any]]:
    """(subset, its file's JSON) of each subset of which one of the `files` exists.

    Raises RunError where there is none at all, or where one is damaged.
    """
    paths: dict[str, Path] = {}
    for subset, names in files.items():
        present = [folder / name for name in names if (folder / name).is_file()]
        if present:
            paths[subset] = present[0]
    if not paths:
        names = ", ".join(names[0] for names in files.values())
        what = "data.test is the folder of the benchmark that data.benchmark names"
        raise RunError(f"{folder}: none of {names}; {what}")
    for subset, path in paths.items():
        try:
            content = parse_json(read_text(path))
        except (ValueError, RecursionError, OSError) as error:
            raise RunError(f"{path}: not readable as JSON ({error}); fetch it anew") from None
        yield subset, content


def _list_of_rows(content: Any) -> list[Any]:
    """A file's rows. Raises RunError for an object of them, as EventHallusion's predictions are."""
    if not isinstance(content, list):
        what = "the benchmark's file is not a list of questions, as it is published"
        raise RunError(f"{what}; fetch it anew")
    return content


def _parse(parser: Callable[..., Sample], identity: str, *arguments: Any) -> SampleOrBad:
    """The Sample that `parser` makes of an id and its arguments, or the row that keeps it from being one."""
    try:
        sample = parser(identity, *arguments)
        refuse_unwritable_text(sample)
    except ROW_ERRORS as error:
        detail = f"{type(error).__name__}: {error}"
        return BadRow(identity.encode(errors="backslashreplace").decode(), "unreadable row", detail)
    return sample


def _text(row: Any, name: str) -> str:
    if is_absent(row[name]):
        raise ValueError(f"no {name}")
    return scalar_text(row[name])


def _check_answer(answer: str, allowed: Sequence[str]) -> None:
    """Raise ValueError for an answer that the benchmark does not have."""
    if answer not in allowed:
        raise ValueError(f"the answer is {answer[:40]!r}, not {' or '.join(allowed)}")


def _first_file(folder: Path, names: Sequence[str]) -> str:
    """The first of `names` that is a file in `folder`, else the first of all."""
    for name in names:
        try:
            if (folder / name).is_file():
                return name
        except (OSError, ValueError):  # too long, a null byte
            break
    return names[0]
