"""Stage 1, data: python -m isrdpo.stages.data --run outputs/toybox --iteration 1

Dataset files -> samples.jsonl, rows whose videos decode. Iteration 0 holds the evaluation questions (and
the fixed pairs). Every iteration t >= 1 has the same videos and questions by default, so that c_{t-1}
exists; what is new each time is the draws. With `data.reuse: false` each iteration has questions of its
own.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from isrdpo.core import inputs, records
from isrdpo.core.clips import find_clip, link_boundary, videos_folder
from isrdpo.core.errors import RunError, VideoError
from isrdpo.core.folders import resolve
from isrdpo.core.params import Params
from isrdpo.core.progress import progress_bar
from isrdpo.core.records import BadRow, FixedPair, Sample
from isrdpo.core.rules import TEST_SETS
from isrdpo.core.runs import Run, stage_main
from isrdpo.core.stage import Stage
from isrdpo.formats import benchmarks, predictions, video
from isrdpo.formats.files import dataset_rows
from isrdpo.formats.rows import row_id, sample_from_row
from isrdpo.formats.turns import RowError

if TYPE_CHECKING:
    from isrdpo.toybox.world import Difficulty

FRAMES = 8  # decoded as a test; as many as the released checkpoints take, so damage in the middle is seen
TOYBOX_SAMPLES = 384  # where data.samples is 0
TOYBOX_QUESTIONS = 256  # where data.questions is 0


@dataclass(frozen=True)
class Source:
    """A dataset file.

    `kind` is that of rows that name none. `prefix` stands before the ids of its rows, where several files
    are read together. `benchmark` is the benchmark whose folder this is, if it is one.
    """

    path: Path
    kind: str = ""
    prefix: str = ""
    benchmark: str = ""


@dataclass(frozen=True)
class Overview:
    """A data set before a run.

    `counts` are rows by use, `train` the training rows that can be read, `clips` the ids of the rows of
    each distinct video that is there, `bad` the details of bad rows by cause.
    """

    source: str
    counts: dict[str, int]
    train: list[Sample] = field(default_factory=list)
    clips: dict[Path, list[str]] = field(default_factory=dict)
    bad: dict[str, list[str]] = field(default_factory=dict)


def run(run: Run, iteration: int) -> None:
    """Prepare the samples of iteration t; the evaluation set (iteration 0) first, where it is not there."""
    if iteration > 0 and not run.done("data", 0):
        prepare(run, 0)
    prepare(run, iteration)


def prepare(run: Run, iteration: int) -> None:
    """Write the samples of one iteration. Raises RunError where none is usable."""
    with run.stage("data", iteration) as stage:
        if stage is None:
            return
        if run.params.data.is_toybox:
            samples = toybox_samples(run, iteration)
        else:
            samples = folder_samples(stage)
        records.write_jsonl(stage.path("samples.jsonl"), samples)
        stage.count("samples", len(samples))
        if iteration == 0:
            pairs = toybox_fixed_pairs(run)
            records.write_jsonl(stage.path("fixed_pairs.jsonl"), pairs)
            stage.count("fixed_pairs", len(pairs))
        if not samples:
            raise RunError(
                f"{stage.path('samples.jsonl')}: no usable sample; "
                f"bad ones are listed in bad_data.jsonl beside it"
            )


def toybox_difficulty(params: Params) -> "Difficulty":
    """The world's difficulty, as the section `toybox` of the parameters has it."""
    from isrdpo.toybox import world

    return world.Difficulty(**params.toybox.model_dump())


def toybox_samples(run: Run, iteration: int) -> list[Sample]:
    """Toybox's questions for iteration t, their clips written where they are not there yet."""
    from isrdpo.toybox import world

    data = run.params.data
    seed = run.params.seed
    difficulty = toybox_difficulty(run.params)
    if iteration == 0:
        count = data.questions or TOYBOX_QUESTIONS
        return world.samples("evaluate", count, seed, difficulty, run.videos_folder(), 0)
    count = data.samples or TOYBOX_SAMPLES
    start = 0 if data.reuse else (iteration - 1) * count
    return world.samples("loop", count, seed, difficulty, run.videos_folder(), start)


def toybox_fixed_pairs(run: Run) -> list[FixedPair]:
    """Toybox's held-out pairs; none of other data, whose facts are not known."""
    data = run.params.data
    if not data.is_toybox or not data.fixed_pairs:
        return []
    from isrdpo.toybox import world

    difficulty = toybox_difficulty(run.params)
    return world.fixed_pairs(data.fixed_pairs, run.params.seed, difficulty, run.videos_folder())


def folder_samples(stage: Stage) -> list[Sample]:
    """The rows of data.train (iteration 0: of each file of data.test) whose videos decode; the others are
    bad samples.
    """
    run = stage.run
    data = stage.params.data
    root = run.videos_folder(held_out=stage.t == 0)
    samples: list[Sample] = []
    for source in iteration_sources(run.params, stage.t):
        record_source(stage, source)
        rows = list(read_source(source, root))
        good = [row for row in rows if isinstance(row, Sample)]
        bad = [row for row in rows if isinstance(row, BadRow)]
        if source.benchmark:
            chosen = benchmarks.draw_questions(good, data.questions, run.params.seed)
        else:
            chosen = [good[index] for index in rows_of_iteration(run.params, stage.t, len(good))]
        samples += chosen
        stage.total += len(chosen) + len(bad)
        for row in bad:
            stage.bad(row.id, row.cause, row.detail)
    return decodable_samples(stage, samples, root)


def record_source(stage: Stage, source: Source) -> None:
    """Record the dataset files of a source before they are read, so that a later change is noticed.

    Of a folder (a benchmark's, or of `save_to_disk`) all its dataset files; of a text file of questions about
    every clip also which clips there are.
    """
    folder = resolve(stage.params.data.path)
    path = source.path
    name = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
    if not path.is_dir():
        stage.read_input("data", name)
    else:
        stage.read_listing("data", name)
        for file in inputs.file_names(stage.run, "data", name):
            stage.read_input("data", file)
    if path.suffix.lower() == ".txt":
        stage.read_listing(clips_root(stage))


def clips_root(stage: Stage) -> str:
    """The folder of videos of an iteration, as records of inputs name it."""
    return "clips" if stage.t else "held out"


def rows_of_iteration(params: Params, t: int, count: int) -> list[int]:
    """The numbers of the rows, of `count`, that iteration t takes, in their order.

    All of them; or as many as asked for, drawn by the seed; or (data.reuse: false) a part that no other
    iteration takes. Raises RunError where there are too few for that.
    """
    data = params.data
    if t and not data.reuse:
        return _part_of_iteration(params, t, count)
    number = data.samples if t else data.questions
    if not 0 < number < count:
        return list(range(count))
    return sorted(random.Random(f"{params.seed}-subset").sample(range(count), number))


def _part_of_iteration(params: Params, t: int, count: int) -> list[int]:
    samples = params.data.samples
    iterations = params.iterations
    size = samples or count // iterations
    if size == 0 or size * iterations > count:
        demand = f"data.samples={samples}" if samples else "one question"
        raise RunError(
            f"data.reuse=false: {demand} in each of {iterations} iterations is more than "
            f"the {count} rows there are; lower them, or set data.reuse=true"
        )
    order = list(range(count))
    random.Random(f"{params.seed}-parts").shuffle(order)
    return sorted(order[(t - 1) * size : t * size])


def iteration_sources(params: Params, t: int) -> list[Source]:
    """The dataset files of an iteration.

    Raises RunError where two test files would have one name, and where a file that `isrdpo fetch` brings is
    not there.
    """
    sources = _sources(params, t)
    absent = [source.path for source in sources if not source.path.exists()]
    if params.data.source and absent:
        raise RunError(
            f"{absent[0]}: no such dataset file; fetch it first (`isrdpo fetch PARAMS`, as for this run), "
            f"or give data=FOLDER"
        )
    return sources


def _sources(params: Params, t: int) -> list[Source]:
    data = params.data
    folder = resolve(data.path)
    if t:
        return [Source(folder / data.train)]
    if data.benchmark != "none":
        return [Source(folder / data.test, benchmark=data.benchmark)]
    names = [name.strip() for name in data.test.split(",") if name.strip()]
    sets = [predictions.set_from_file(name) for name in names]
    duplicates = [name for name in sets if sets.count(name) > 1]
    if duplicates:
        raise RunError(
            f"data.test: two of its files are the set {duplicates[0]!r}; rename one, or leave it out"
        )
    if len(names) == 1:
        is_known = sets[0].removesuffix(".official") in TEST_SETS
        return [Source(folder / names[0], kind=sets[0] if is_known else "")]
    return [
        Source(folder / name, kind=set_name, prefix=f"{set_name}/")
        for name, set_name in zip(names, sets, strict=True)
    ]


def decodable_samples(stage: Stage, samples: list[Sample], root: Path) -> list[Sample]:
    """The samples whose video decodes; the others are bad.

    Each distinct video is tried once, and has one name afterwards, however the rows spell it.
    """
    params = stage.params
    boundary = link_boundary(params.data)
    names = list(dict.fromkeys(sample.video for sample in samples))
    paths: dict[str, Path] = {}
    causes: dict[str, tuple[str, str]] = {}
    decoded: set[Path] = set()
    for name in progress_bar(names, len(names), f"iteration {stage.t}: videos"):
        stage.read_input(clips_root(stage), name)
        try:
            path = find_clip(root, name, boundary)
        except VideoError as error:
            causes[name] = ("missing video", str(error))
            continue
        try:
            if path not in decoded:
                video.read_clip(path, FRAMES, params.video.span, video.decode_limits(params))
                decoded.add(path)
            paths[name] = path
        except VideoError as error:
            causes[name] = ("broken video", str(error))
    for sample in samples:
        if sample.video in causes:
            stage.bad(sample.id, *causes[sample.video])
    good = [sample for sample in samples if sample.video in paths]
    return [replace(row, video=paths[row.video].relative_to(root).as_posix()) for row in good]


def read_source(source: Source, clips: Path) -> Iterator[Sample | BadRow]:
    """A Sample for each row of a dataset file, in any format and spelling, or a BadRow that says what is
    wrong with it.

    `clips` is the folder of videos.
    """
    if source.benchmark:
        yield from benchmarks.read_benchmark(source.benchmark, source.path)
        return
    places: dict[str, str] = {}
    for row in dataset_rows(source.path, clips):
        try:
            if isinstance(row.values, ValueError):
                raise row.values
            sample = sample_from_row(row.values, clips)
        except ValueError as error:
            cause = str(error) if isinstance(error, RowError) else "unreadable row"
            name = row_id(row.values) or row.name
            yield BadRow(source.prefix + name, cause, f"{row.where}: {error}")
            continue
        sample = replace(sample, id=source.prefix + sample.id, kind=sample.kind or source.kind)
        if sample.id in places:
            yield BadRow(sample.id, "duplicate id", f"{row.where}: as {places[sample.id]}")
            continue
        places[sample.id] = row.name
        yield sample


def inspect(params: Params) -> Overview:
    """Look at the data before a run, without a model: open no video, but look whether each is there."""
    data = params.data
    if data.is_toybox:
        counts = {"train rows": data.samples or TOYBOX_SAMPLES} if params.iterations else {}
        return Overview("toybox", counts | {"evaluation rows": data.questions or TOYBOX_QUESTIONS})
    overview = Overview(str(resolve(data.path)), {})
    if params.iterations:
        _inspect_iteration(overview, params, 1, "train rows")
    _inspect_iteration(overview, params, 0, "evaluation rows")
    return overview


def _inspect_iteration(overview: Overview, params: Params, t: int, use: str) -> None:
    """Add the rows of one iteration to an overview, counted under `use`."""
    data = params.data
    root = videos_folder(data, held_out=t == 0)
    boundary = link_boundary(data)
    paths: dict[str, Path | VideoError] = {}
    overview.counts[use] = 0
    for source in iteration_sources(params, t):
        for row in progress_bar(read_source(source, root), None, f"check: {use}"):
            overview.counts[use] += 1
            if isinstance(row, BadRow):
                overview.bad.setdefault(row.cause, []).append(f"{row.id}: {row.detail}")
                continue
            if row.video not in paths:
                paths[row.video] = _clip_or_error(root, row.video, boundary)
            path = paths[row.video]
            if isinstance(path, VideoError):
                overview.bad.setdefault("missing video", []).append(f"{row.id}: {path}")
            else:
                overview.clips.setdefault(path, []).append(row.id)
            if t:
                overview.train.append(row)


def _clip_or_error(root: Path, name: str, boundary: Path) -> Path | VideoError:
    try:
        return find_clip(root, name, boundary)
    except VideoError as error:
        return error


if __name__ == "__main__":
    stage_main("data", run)
