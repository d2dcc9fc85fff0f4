"""Video hallucination benchmarks in their published files, as evaluation questions: VideoHallucer, EventHallusion, VidHalluc.

`data.benchmark` names one; its folder is `data.test` inside `data.path`, laid out as its authors publish it. An answer's id says what its score needs
(`scores` reads nothing else): `<subset>/...`, what belongs together shares all of it but the last part. Questions end with the words that the authors append.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isrdpo.core import records
from isrdpo.core.errors import RunError

Found = records.Sample | records.BadRow
HALLUCER = ("object_relation", "temporal", "semantic_detail", "external_factual", "external_nonfactual")  # the five of the leaderboard
HALLUCER_ALSO = ("interaction", "fact_detect")  # published beside them, in no published mean
EVENTS = {"entire": ("entire",), "mix": ("mix", "interleave"), "misleading": ("misleading",)}  # subset: names of its questions' file and of its videos' folder
VIDHALLUC = {"ach_binaryqa": "ACH", "ach_mcq": "ACH", "tsh": "TSH", "sth": "STH"}  # file without .json: folder of videos
SCENE = (
    "Watch the given video and determine if a scene change occurs. If no change occurs, respond: 'Scene change: No, Locations: None'. "
    "If there is a scene change, respond in the format: 'Scene change: Yes, Locations: from [location1] to [location2].'"
)


def read(name: str, folder: Path) -> Iterator[Found]:
    """Every question of a benchmark, or what is wrong with it; `Sample.video` counts from `folder`. Raises RunError where a whole file cannot be read."""
    subsets: Callable[[Path], Iterator[Found]] = {"videohallucer": videohallucer, "eventhallusion": eventhallusion, "vidhalluc": vidhalluc}[name]
    seen: set[str] = set()
    for found in subsets(folder):
        again = found.id in seen
        seen.add(found.id)
        yield records.BadRow(found.id, "duplicate id", f"{folder}: {found.id}") if again else found


def group(identity: str) -> str:
    """What a question is scored with: the pair of VideoHallucer, the clips of one VidHalluc question; else the question alone."""
    subset = identity.split("/", 1)[0]
    return identity.rpartition("/")[0] if subset in (*HALLUCER, *HALLUCER_ALSO, "ach_binaryqa") else identity


def some(rows: list[records.Sample], wanted: int, seed: int) -> list[records.Sample]:
    """About `wanted` questions in their order, none without the others it is scored with; 0: all."""
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[group(row.id)] = sizes.get(group(row.id), 0) + 1
    names, taken, count = list(sizes), set(), 0
    random.Random(f"{seed}-subset").shuffle(names)
    for name in names:
        if not wanted or count < wanted:
            taken.add(name)
            count += sizes[name]
    return [row for row in rows if group(row.id) in taken]


def videohallucer(folder: Path) -> Iterator[Found]:
    """`<subset>/<subset>.json`: [{basic: {video, question, answer}, hallucination: {...}, type}], videos in `<subset>/videos` (github.com/patrick-tssn/VideoHallucer:
    README.md; the suffix: evaluations/evaluation_utils.py, evaluate). Ids `<subset>/<number>/basic` and `.../hallucination`."""
    for subset, rows in _present(folder, {name: (f"{name}/{name}.json",) for name in (*HALLUCER, *HALLUCER_ALSO)}):
        for number, row in enumerate(_list(rows)):
            for part in ("basic", "hallucination"):
                def made(row: Any = row, part: str = part, subset: str = subset) -> tuple[str, str, str]:
                    asked, answer = _text(row[part], "question"), _text(row[part], "answer").strip().lower()
                    _one_of(answer, ("yes", "no"))
                    return f"{subset}/videos/{_text(row[part], 'video')}", f"{asked}\nAnswer the question using 'yes' or 'no'.", answer
                yield _row(f"{subset}/{number}/{part}", subset, made)


def eventhallusion(folder: Path) -> Iterator[Found]:
    """`questions/<subset>_questions.json`: [{id, questions: [{question, answer: "Yes." or "No."}]}], videos `<subset>/<id>.mp4` (github.com/Stevetich/EventHallusion:
    run_gpt4o.py, also the suffix), here or in `videos`. The binary questions only: descriptions matched by GPT-4o (gpt4o_judge.py) are left out. Since December
    2024 `interleave` is published as `mix` with other questions; that the videos of `mix_001` are still `interleave/interleave_001.mp4` is not said there, it is how
    others' scripts read it. Ids `<subset>/<id>/<number>`; `mix` and `interleave` are not comparable, so `interleave` keeps its name."""
    files = {subset: tuple(f"{place}{name}_questions.json" for name in names for place in ("questions/", "")) for subset, names in EVENTS.items()}
    for subset, rows in _present(folder, files):
        for row in _list(rows):
            identity = str(row.get("id", "")) if isinstance(row, dict) else ""
            kind = "interleave" if identity.startswith("interleave") else subset
            asked = row.get("questions") if isinstance(row, dict) else None
            if not identity or not isinstance(asked, list) or not asked:
                yield records.BadRow(f"{subset}/{identity or 'no id'}", "unreadable row", f"{subset}: no id or no questions: {str(row)[:80]}")
                continue
            names = [f"{place}/{identity.replace('mix', place, 1) if subset == 'mix' else identity}.mp4" for place in EVENTS[subset]]
            video = _place(folder, [f"{above}{name}" for above in ("", "videos/", "videos/videos/") for name in names[::-1]])
            for number, question in enumerate(asked):
                def made(question: Any = question, video: str = video) -> tuple[str, str, str]:
                    _one_of(_text(question, "answer"), ("Yes.", "No."))
                    return video, f"{_text(question, 'question')}\nPlease answer yes or no:", question["answer"]
                yield _row(f"{kind}/{identity}/{number}", kind, made)


def vidhalluc(folder: Path) -> Iterator[Found]:
    """Four files (huggingface.co/datasets/chaoyuli/VidHalluc; their fields and prompts as eval/inference/video_hallu_*.py of github.com/CyL97/VidHalluc reads them; the
    files were not at hand, their names and the folders `data/ACH`, `data/TSH`, `data/STH` are those that others' readers use):
    ach_binaryqa {key: [{q, a: {clip: "Yes"}}]}, ach_mcq {key: {clip: {Question, Choices: {A: ...}, Correct Answer: "A"}}}, tsh {key: {video, Question,
    Correct Answer: "AB"}}, sth {clip: {Scene change: "Yes", Locations}}. Ids `ach_binaryqa/<key>/<number>/<clips>/<clip>` (how many clips a question has, so that a
    missing one is seen), `<subset>/<key>/<clip>`."""
    for subset, rows in _present(folder, {name: (f"{name}.json", f"data/{name}.json") for name in VIDHALLUC}):
        if not isinstance(rows, dict):
            raise RunError(f"{folder}/{subset}.json: not an object of questions, as VidHalluc publishes it; fetch it anew")
        for key, value in rows.items():
            try:
                parts = list({"ach_binaryqa": _binary, "ach_mcq": _choices, "tsh": _order, "sth": _scene}[subset](key, value))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                yield records.BadRow(f"{subset}/{key}", "unreadable row", f"{subset}.json, {key}: {type(error).__name__}: {error}")
                continue
            top, inner = VIDHALLUC[subset], VIDHALLUC[subset] + "/"
            for identity, clip, question, answer in parts:
                video = _place(folder, [f"{above}{clip}.mp4" for above in (f"data/{inner}", inner, f"data/{inner}{inner}", f"data/VidHalluc/data/{inner}", f"{top}_videos/")])
                yield _row(f"{subset}/{identity}", subset, lambda video=video, question=question, answer=answer: (video, question, answer))


def _binary(key: str, value: Any) -> Iterator[tuple[str, str, str, str]]:
    """(id without the subset, clip, question, answer) of a key of ach_binaryqa."""
    for number, question in enumerate(value):
        for clip, answer in question["a"].items():
            _one_of(answer.strip().upper(), ("YES", "NO"))
            asked = f"{_text(question, 'q')} Only answer with a single word 'Yes' or 'No'."
            yield f"{key}/{number}/{len(question['a'])}/{clip}", clip, asked, answer.strip()


def _choices(key: str, value: Any) -> Iterator[tuple[str, str, str, str]]:
    for clip, row in value.items():
        choices = "".join(f"{letter}. {text}\n" for letter, text in row["Choices"].items())
        asked = f"{_text(row, 'Question')} Please select the correct answer (one or more options), only return your answer(s). (e.g., ABCD)\nChoices:\n{choices}"
        if not set(_text(row, "Correct Answer").upper()) & set("ABCD"):
            raise ValueError(f"Correct Answer is {row['Correct Answer']!r}")
        yield f"{key}/{clip}", clip, asked, row["Correct Answer"].strip()


def _order(key: str, value: Any) -> Iterator[tuple[str, str, str, str]]:
    asked = (
        f"{_text(value, 'Question')}Sort these two actions in the order they occur in the video, and return which action happen before which one. "
        "If you only detect one action, return that action."
    )
    yield f"{key}/{_text(value, 'video')}", value["video"], asked, _text(value, "Correct Answer")


def _scene(key: str, value: Any) -> Iterator[tuple[str, str, str, str]]:
    _one_of(_text(value, "Scene change").strip().lower(), ("yes", "no"))
    yield key, key, SCENE, value["Scene change"].strip()


def _present(folder: Path, files: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, Any]]:
    """(subset, its file's JSON) of those that are there; RunError where none is, or one is damaged."""
    paths = {subset: next((folder / name for name in names if (folder / name).is_file()), None) for subset, names in files.items()}
    if not any(paths.values()):
        raise RunError(f"{folder}: none of {', '.join(names[0] for names in files.values())}; data.test is the folder of the benchmark that data.benchmark names")
    for subset, path in paths.items():
        if path is not None:
            try:
                yield subset, json.loads(path.read_text(encoding="utf-8-sig"))
            except (ValueError, RecursionError, OSError) as error:
                raise RunError(f"{path}: not readable as JSON ({error}); fetch it anew") from None


def _list(rows: Any) -> list[Any]:
    """A file's rows; an object of them, as EventHallusion's predictions are, is none of these benchmarks' files."""
    if not isinstance(rows, list):
        raise RunError("the benchmark's file is not a list of questions, as it is published; fetch it anew")
    return rows


def _row(identity: str, kind: str, made: Callable[[], tuple[str, str, str]]) -> Found:
    """A Sample of (video, question, answer), or the row that keeps it from being one."""
    try:
        video, question, answer = made()
        "".join((identity, video, question, answer)).encode()  # half a surrogate pair cannot be written
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return records.BadRow(identity.encode(errors="replace").decode(), "unreadable row", f"{type(error).__name__}: {error}")
    return records.Sample(id=identity, video=video, question=question, answer=answer, kind=kind)


def _text(row: Any, name: str) -> str:
    if not isinstance(row[name], str) or not row[name].strip():
        raise ValueError(f"no {name}")
    return row[name]


def _one_of(answer: str, allowed: tuple[str, ...]) -> None:
    if answer not in allowed:
        raise ValueError(f"the answer is {answer[:40]!r}, not {' or '.join(allowed)}")


def _place(folder: Path, names: list[str]) -> str:
    """The first of several places where a video is, else the first."""
    for name in names:
        try:
            if (folder / name).is_file():
                return name
        except (OSError, ValueError):  # too long, a null byte
            break
    return names[0]
