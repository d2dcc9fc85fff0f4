"""Stage 1, data: python -m isrdpo.data --run outputs/toybox --iteration 1

Dataset files -> validated samples.jsonl. Iteration 0 holds the evaluation questions (and the fixed pairs); every iteration t >= 1 has
the same videos and questions by default, so that c_{t-1} exists; what is new each time is the draws.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isrdpo import records, video
from isrdpo.params import Params
from isrdpo.runs import Run, RunError, Stage, progress, resolve, stage_main

FRAMES = 8  # decoded to see that a video can be: as many as the released checkpoints take, so damage in its middle is found here


class RowError(ValueError):
    """A dataset row that cannot be used; its text is the cause, as it is counted."""


@dataclass(frozen=True)
class BadRow:
    """A row that is left out: its id (or `line N`, where it has none), the cause it is counted under, and where it stands."""

    id: str
    cause: str
    detail: str


def run(run: Run, iteration: int) -> None:
    """Makes the evaluation set (iteration 0) first, where it is not there."""
    if iteration > 0 and not run.done("data", 0):
        _prepare(run, 0)
    _prepare(run, iteration)


def _prepare(run: Run, iteration: int) -> None:
    with run.stage("data", iteration) as stage:
        if stage is None:
            return
        rows = toybox(run, iteration) if run.params.data.path == "toybox" else from_folder(run, stage)
        records.write(stage.path("samples.jsonl"), rows)
        stage.count("samples", len(rows))
        if iteration == 0:
            pairs = fixed_pairs(run)
            records.write(stage.path("fixed_pairs.jsonl"), pairs)
            stage.count("fixed_pairs", len(pairs))
        if not rows:
            raise RunError(f"{stage.path('samples.jsonl')}: no usable sample; bad ones are listed in bad_data.jsonl beside it")


def difficulty(params: Params) -> Any:
    from isrdpo.toybox import world

    return world.Difficulty(**params.toybox.__dict__)


def toybox(run: Run, iteration: int) -> list[records.Sample]:
    from isrdpo.toybox import world

    data = run.params.data
    split, count = ("evaluate", data.questions or 256) if iteration == 0 else ("loop", data.samples or 384)
    return world.samples(split, count, run.params.seed, difficulty(run.params), run.video_root())


def fixed_pairs(run: Run) -> list[records.FixedPair]:
    if run.params.data.path != "toybox" or not run.params.data.fixed_pairs:
        return []
    from isrdpo.toybox import world

    return world.fixed_pairs(run.params.data.fixed_pairs, run.params.seed, difficulty(run.params), run.video_root())


def from_folder(run: Run, stage: Stage) -> list[records.Sample]:
    """The rows of train.jsonl (or test.qa.jsonl for iteration 0) whose videos can be read; the others are bad samples."""
    data = run.params.data
    path = resolve(data.path) / (data.test if stage.t == 0 else data.train)
    found = list(read_rows(path))
    rows, bad = [row for row in found if isinstance(row, records.Sample)], [row for row in found if isinstance(row, BadRow)]
    wanted = data.questions if stage.t == 0 else data.samples
    if wanted and wanted < len(rows):
        order = sorted(random.Random(f"{run.params.seed}-subset").sample(range(len(rows)), wanted))
        rows = [rows[i] for i in order]
    stage.total = len(rows) + len(bad)
    for row in bad:
        stage.bad(row.id, row.cause, row.detail)
    return readable(rows, run.video_root(), stage)


def readable(rows: list[records.Sample], root: Path, stage: Stage) -> list[records.Sample]:
    """The samples whose video decodes; each distinct video is tried once, and goes by one name whatever its spelling in the rows."""
    broken: dict[str, tuple[str, str]] = {}
    known: dict[str, Path] = {}
    decoded: set[Path] = set()
    for name in progress(list(dict.fromkeys(row.video for row in rows)), len({row.video for row in rows}), f"iteration {stage.t}: videos"):
        try:
            path = video.resolve(root, name)
        except video.VideoError as error:
            broken[name] = ("missing video", str(error))
            continue
        try:
            if path not in decoded:
                video.read(path, FRAMES, stage.params.video.span)
                decoded.add(path)
            known[name] = path
        except video.VideoError as error:
            broken[name] = ("broken video", str(error))
    for row in rows:
        if row.video in broken:
            stage.bad(row.id, *broken[row.video])
    return [replace(row, video=known[row.video].relative_to(root).as_posix()) for row in rows if row.video in known]


def read_rows(path: Path) -> Iterator[records.Sample | BadRow]:
    """A Sample for each line of a dataset file in any of LLaVA-Hound's spellings, or what is wrong with it."""
    if not path.is_file():
        raise RunError(f"{path}: no such dataset file; data.path is a folder with the files that data.train and data.test name")
    seen: set[str] = set()
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            row, where = None, f"{path}, line {number}"
            try:
                row = json.loads(text)
                found = sample(row)
            except (ValueError, TypeError, AttributeError) as error:
                cause = str(error) if isinstance(error, RowError) else "unreadable row"
                yield BadRow(identity(row) or f"line {number}", cause, f"{where}: {error}")
                continue
            yield BadRow(found.id, "duplicate id", where) if found.id in seen else found
            seen.add(found.id)


def identity(row: Any) -> str:
    """A row's `id`, or its `idx`; empty where it has neither."""
    found = [row[name] for name in ("id", "idx") if row.get(name) not in (None, "")] if isinstance(row, dict) else []
    return str(found[0]) if found else ""


def sample(row: dict[str, Any]) -> records.Sample:
    """One row: `prompt` or `conversations`, text or {from, value}, `id` or `idx`, the <video> tag anywhere. RowError says what lacks."""
    turns = row.get("conversations") or []
    human = [said(t) for t in turns if speaker(t) in ("human", "user")]
    gpt = [said(t) for t in turns if speaker(t) in ("gpt", "assistant")]
    question = said(row.get("prompt") or (human[0] if human else "")).replace("<video>", "").replace("<image>", "").strip()
    name = row.get("video") or ""
    if not question:
        raise RowError("empty question")
    if not isinstance(name, str) or not name.strip():
        raise RowError("no video named")
    if not identity(row):
        raise RowError("no id")
    return records.Sample(
        id=identity(row), video=name, question=question, answer=said(row.get("answer") or (gpt[0] if gpt else "")),
        caption=said(row.get("caption") or ""), chosen=said(row.get("chosen") or ""), rejected=said(row.get("rejected") or ""),
    )  # fmt: skip


def speaker(turn: Any) -> str:
    return str(turn.get("from") or turn.get("role") or "")


def said(value: Any) -> str:
    """Text, or the text of {from, value} / {role, content}, or of the last turn of a list of them."""
    if isinstance(value, list):
        value = value[-1] if value else ""
    if isinstance(value, dict):
        value = value.get("value", value.get("content", ""))
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:60]!r} is not text")
    return value


def inspect(params: Params) -> dict[str, Any]:
    """What `isrdpo check` says of the data, without a model: rows, and bad ones by cause. Opens no video, looks that each is there."""
    if params.data.path == "toybox":
        return {"source": "toybox", "train rows": params.data.samples or 384, "evaluation rows": params.data.questions or 256, "bad": {}}
    folder, bad, report = resolve(params.data.path), {}, {}
    for kind, name in (("train rows", params.data.train), ("evaluation rows", params.data.test)):
        rows, known = 0, {}
        for found in read_rows(folder / name):
            rows += 1
            if isinstance(found, BadRow):
                bad.setdefault(found.cause, []).append(f"{found.id}: {found.detail}")
            elif found.video not in known:
                try:
                    known[found.video] = video.resolve(folder / params.data.videos, found.video)
                except video.VideoError as error:
                    known[found.video] = str(error)
            if isinstance(found, records.Sample) and isinstance(known[found.video], str):
                bad.setdefault("missing video", []).append(f"{found.id}: {known[found.video]}")
        report[kind] = rows
    return {"source": str(folder), **report, "bad": bad}


if __name__ == "__main__":
    stage_main("data")
