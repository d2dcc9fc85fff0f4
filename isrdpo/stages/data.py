"""Stage 1, data: python -m isrdpo.stages.data --run outputs/toybox --iteration 1

Dataset files -> validated samples.jsonl. Iteration 0 holds the evaluation questions (and the fixed pairs); every iteration t >= 1 has
the same videos and questions by default, so that c_{t-1} exists; what is new each time is the draws. With `data.reuse: false` each has its own.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isrdpo.core import records
from isrdpo.core.clips import find_clip
from isrdpo.core.errors import RunError
from isrdpo.core.folders import resolve
from isrdpo.core.params import Params
from isrdpo.core.progress import progress_bar
from isrdpo.core.records import BadRow
from isrdpo.core.runs import Run, Stage, stage_main
from isrdpo.formats import benchmarks, predictions, video
from isrdpo.formats import files as formats
from isrdpo.formats import rows as spellings

FRAMES = 8  # decoded to see that a video can be: as many as the released checkpoints take, so damage in its middle is found here


SETS = ("msvd", "msrvtt", "tgif", "ssv2", "actnet", "vidal", "webvid")  # LLaVA-Hound's test sets, some also as `official`


@dataclass(frozen=True)
class Source:
    """A dataset file. `kind`: of its rows that name none; `prefix`: of its rows' ids, where several files are read together; `benchmark`: which, where it is
    such a one's folder."""

    path: Path
    kind: str = ""
    prefix: str = ""
    benchmark: str = ""


@dataclass(frozen=True)
class Overview:
    """What a data set is before a run. `counts`: rows by use; `train`: the training rows that can be read; `clips`: each distinct video that is there, with the
    ids of its rows; `bad`: details of bad rows by cause."""

    source: str
    counts: dict[str, int]
    train: list[records.Sample]
    clips: dict[Path, list[str]]
    bad: dict[str, list[str]]


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
        records.write_jsonl(stage.path("samples.jsonl"), rows)
        stage.count("samples", len(rows))
        if iteration == 0:
            pairs = fixed_pairs(run)
            records.write_jsonl(stage.path("fixed_pairs.jsonl"), pairs)
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
    start = 0 if iteration == 0 or data.reuse else (iteration - 1) * count
    return world.samples(split, count, run.params.seed, difficulty(run.params), run.videos_folder(), start)


def fixed_pairs(run: Run) -> list[records.FixedPair]:
    if run.params.data.path != "toybox" or not run.params.data.fixed_pairs:
        return []
    from isrdpo.toybox import world

    return world.fixed_pairs(run.params.data.fixed_pairs, run.params.seed, difficulty(run.params), run.videos_folder())


def from_folder(run: Run, stage: Stage) -> list[records.Sample]:
    """The rows of data.train (or of each of data.test's files for iteration 0) whose videos can be read; the others are bad samples."""
    data, taken, root = run.params.data, [], run.videos_folder(held_out=stage.t == 0)
    for source in sources(run.params, stage.t):
        found = list(read_rows(source, root))
        rows, bad = [row for row in found if isinstance(row, records.Sample)], [row for row in found if isinstance(row, BadRow)]
        if source.benchmark:
            rows = benchmarks.some(rows, data.questions, run.params.seed)
        else:
            rows = [rows[i] for i in taken_in(run.params, stage.t, len(rows))]
        taken += rows
        stage.total += len(rows) + len(bad)
        for row in bad:
            stage.bad(row.id, row.cause, row.detail)
    return readable(taken, root, stage)


def taken_in(params: Params, t: int, count: int) -> list[int]:
    """Which of `count` rows iteration t takes, in their order: all, so many drawn by the seed, or (data.reuse: false) its own part of them, which no other
    iteration takes. Raises RunError where there are too few for that."""
    data = params.data
    if t and not data.reuse:
        size, order = data.samples or count // params.iterations, list(range(count))
        if size == 0 or size * params.iterations > count:
            each = f"data.samples={data.samples} in each of " if data.samples else "one question in each of "
            raise RunError(f"data.reuse=false: {each}{params.iterations} iterations is more than the {count} rows there are; lower them, or set data.reuse=true")
        random.Random(f"{params.seed}-parts").shuffle(order)
        return sorted(order[(t - 1) * size : t * size])
    wanted = data.samples if t else data.questions
    return sorted(random.Random(f"{params.seed}-subset").sample(range(count), wanted)) if 0 < wanted < count else list(range(count))


def sources(params: Params, t: int) -> list[Source]:
    """The dataset files of an iteration. Raises RunError where two test files would go by one name, and where one that is to be had from the hub is not there."""
    made = _sources(params, t)
    if params.data.source and (absent := [source.path for source in made if not source.path.exists()]):
        raise RunError(f"{absent[0]}: no such dataset file; fetch it first (`isrdpo fetch PARAMS`, as for this run), or give data=FOLDER")
    return made


def _sources(params: Params, t: int) -> list[Source]:
    data, folder = params.data, resolve(params.data.path)
    if t:
        return [Source(folder / data.train)]
    if data.benchmark != "none":
        return [Source(folder / data.test, benchmark=data.benchmark)]
    names = [name.strip() for name in data.test.split(",") if name.strip()]
    sets = [predictions.set_name(name) for name in names]
    if twice := [name for name in sets if sets.count(name) > 1]:
        raise RunError(f"data.test: two of its files are the set {twice[0]!r}; rename one, or leave it out")
    if len(names) == 1:
        known = sets[0].removesuffix(".official") in SETS
        return [Source(folder / names[0], kind=sets[0] if known else "")]
    return [Source(folder / name, kind=found, prefix=f"{found}/") for name, found in zip(names, sets, strict=True)]


def readable(rows: list[records.Sample], root: Path, stage: Stage) -> list[records.Sample]:
    """The samples whose video decodes; each distinct video is tried once, and goes by one name whatever its spelling in the rows."""
    broken: dict[str, tuple[str, str]] = {}
    known: dict[str, Path] = {}
    decoded: set[Path] = set()
    for name in progress_bar(list(dict.fromkeys(row.video for row in rows)), len({row.video for row in rows}), f"iteration {stage.t}: videos"):
        try:
            path = find_clip(root, name)
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


def read_rows(source: Source, clips: Path) -> Iterator[records.Sample | BadRow]:
    """A Sample for each row of a dataset file in any of the formats and spellings, or what is wrong with it. `clips`: the folder of videos."""
    if source.benchmark:
        yield from benchmarks.read(source.benchmark, source.path)
        return
    seen: set[str] = set()
    for row in formats.rows(source.path, clips):
        try:
            if isinstance(row.values, ValueError):
                raise row.values
            found = spellings.sample(row.values, row.id)
        except (ValueError, TypeError, AttributeError) as error:
            cause = str(error) if isinstance(error, spellings.RowError) else "unreadable row"
            yield BadRow(source.prefix + (spellings.identity(row.values) or row.id or row.name), cause, f"{row.where}: {error}")
            continue
        found = replace(found, id=source.prefix + found.id, kind=found.kind or source.kind)
        yield BadRow(found.id, "duplicate id", row.where) if found.id in seen else found
        seen.add(found.id)


def inspect(params: Params) -> Overview:
    """What `isrdpo check` says of the data, without a model. Opens no video, looks that each is there."""
    if params.data.path == "toybox":
        counts = ({"train rows": params.data.samples or 384} if params.iterations else {}) | {"evaluation rows": params.data.questions or 256}
        return Overview("toybox", counts, [], {}, {})
    folder = resolve(params.data.path)
    bad, train, clips, counts = {}, [], {}, {}
    uses = ((1, "train rows"), (0, "evaluation rows")) if params.iterations else ((0, "evaluation rows"),)
    for t, kind in uses:
        root, known, counts[kind] = folder / (params.data.test if t == 0 and params.data.benchmark != "none" else params.data.videos), {}, 0
        for found in (found for source in sources(params, t) for found in progress_bar(read_rows(source, root), None, f"check: {kind}")):
            counts[kind] += 1
            if isinstance(found, BadRow):
                bad.setdefault(found.cause, []).append(f"{found.id}: {found.detail}")
                continue
            if found.video not in known:
                try:
                    known[found.video] = find_clip(root, found.video)
                except video.VideoError as error:
                    known[found.video] = error
            path = known[found.video]
            if isinstance(path, video.VideoError):
                bad.setdefault("missing video", []).append(f"{found.id}: {path}")
            else:
                clips.setdefault(path, []).append(found.id)
            train += [found] if t else []
    return Overview(str(folder), counts, train, clips, bad)


if __name__ == "__main__":
    stage_main("data", run)
