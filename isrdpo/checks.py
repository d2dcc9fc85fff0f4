"""Look at rows, bad rows by cause, the model's files, memory and disk before a long run: `isrdpo check`.

No model is loaded.
"""

import math
import shutil
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from isrdpo.core import prompts, readiness, records
from isrdpo.core.errors import RunError, VideoError
from isrdpo.core.folders import checkpoint_path, nearest_folder, require_free_folder, resolve
from isrdpo.core.judges import JUDGES
from isrdpo.core.params import Params
from isrdpo.core.progress import format_size, progress_bar
from isrdpo.core.records import Sample
from isrdpo.formats import video
from isrdpo.models import sizes
from isrdpo.scoring import scorers
from isrdpo.stages import data, train

SAMPLED = 4000  # distinct clips whose headers are read, at most
THREADS = 8  # that read headers
CHARACTERS = 4  # per token, where there is no tokenizer: English under common vocabularies
OPTIMIZER = 4  # a full trainer checkpoint, in policies: weights, and two moments in float32
MARGIN = 8  # bytes for begin, end and the prefixes of pieces, in the quick look at a row's length


class Findings(NamedTuple):
    """Two lists: what was found, and what is wrong. One line each."""

    lines: list[str]
    problems: list[str]


def inspect(params: Params) -> Findings:
    """Check the data, the model, the scorer and the disk of a run. Writes nothing."""
    lines, problems = _check_data(params)
    weights = sizes.find_weights(params)
    lines.append(f"model: {weights.origin}, {format_size(weights.size)} of weights")
    if params.iterations:
        lines.append(sizes.training_memory(params, weights.size))
    problems += readiness.obstacles(params) + sizes.check_adapter(params)
    problems += [problem for problem in (weights.problem, scorers.missing_setting(params.score)) if problem]
    needed, detail = disk_space(params, weights.size)
    folder = resolve(params.run)
    if not (folder / "params.yaml").exists():
        try:
            require_free_folder(folder)
        except RunError as error:
            problems.append(str(error))
    free = shutil.disk_usage(nearest_folder(folder)).free
    lines.append(f"space: about {format_size(needed)} ({detail}); {format_size(free)} free")
    if needed > free:
        problems.append(
            f"{params.run}: the run needs about {format_size(needed)}, {format_size(free)} are free; "
            f"see keep_policies, or choose another run=..."
        )
    return Findings(lines, problems)


def _check_data(params: Params) -> Findings:
    """Count the rows, the bad ones by the causes that the stages count them under, and measure the clips."""
    overview = data.inspect(params)
    bad = {cause: list(details) for cause, details in overview.bad.items()}
    total = sum(overview.counts.values())
    lines = [f"source: {overview.source}"]
    lines += [f"{name}: {count}" for name, count in overview.counts.items()]
    if overview.clips:
        line, broken = check_durations(overview.clips, video.decode_limits(params))
        lines.append(line)
        if broken:
            bad["broken video"] = broken
    lines += [_bad_line(cause, details) for cause, details in bad.items()]
    problems = [f"{name}: none" for name, count in overview.counts.items() if count == 0]
    if overview.train:
        try:
            data.rows_of_iteration(params, 1, len(overview.train))
        except RunError as error:
            problems.append(str(error))
    bad_count = sum(map(len, bad.values()))
    if bad_count > params.max_bad_share * total:
        problems.append(
            f"{bad_count} of {total} rows are bad, above max_bad_share={params.max_bad_share}; "
            f"mend them, or raise max_bad_share"
        )
    pairs = check_pairs(params, overview.train)
    lengths = check_lengths(params, overview.train)
    return Findings(
        lines + pairs.lines + lengths.lines,
        problems + pairs.problems + lengths.problems,
    )


def _bad_line(cause: str, details: Sequence[str]) -> str:
    return f"bad: {len(details)} {cause}; first: {details[0]}"


def check_durations(
    clips: dict[Path, list[str]], limits: video.DecodeLimits | None = video.DEFAULT_LIMITS
) -> tuple[str, list[str]]:
    """Read the durations of distinct clips from their headers.

    `clips` maps each clip to the ids of its rows. Of more than SAMPLED clips, so many evenly spaced ones are
    read, and then the line says so. Returns the line, and a detail for each row whose clip cannot be opened.
    """
    paths = sorted(clips)
    sample = paths
    scope = f"{len(paths)} distinct videos"
    if len(paths) > SAMPLED:
        sample = [paths[n * len(paths) // SAMPLED] for n in range(SAMPLED)]
        scope = f"{len(sample)} of {scope}, evenly spaced by name"
    durations = _read_durations(sample, limits)
    broken = []
    for path, duration in durations.items():
        if isinstance(duration, VideoError):
            broken += [f"{name}: {duration}" for name in clips[path]]
    return f"durations of {scope}: {_spread(list(durations.values()))}", broken


def _read_durations(
    paths: Sequence[Path], limits: video.DecodeLimits | None
) -> dict[Path, float | VideoError | None]:
    """The seconds of each clip; None where its header does not say, the error where it cannot be opened."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        durations = progress_bar(
            pool.map(_read_duration, paths, repeat(limits)), len(paths), "check: durations"
        )
        return dict(zip(paths, durations, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for the rest


def _read_duration(path: Path, limits: video.DecodeLimits | None) -> float | VideoError | None:
    try:
        return video.clip_seconds(path, limits)
    except VideoError as error:
        return error


def _spread(durations: Sequence[float | VideoError | None]) -> str:
    """Shortest, median and longest of the durations, and how many clips do not say theirs."""
    seconds = [duration for duration in durations if isinstance(duration, float)]
    text = "not known"
    if seconds:
        three = (min(seconds), statistics.median(seconds), max(seconds))
        text = " / ".join(f"{value:.1f}" for value in three)
        text += " s (shortest / median / longest, by their headers)"
    silent = sum(duration is None for duration in durations)
    return f"{text}; {silent} do not say" if silent else text


def check_pairs(params: Params, samples: Sequence[Sample]) -> Findings:
    """Count the rows that are no pair, where pairs are the data set's own; too many of them are a problem."""
    if JUDGES[params.judge.method].needs_responses:
        return Findings([], [])
    unpaired: dict[str, list[str]] = {}
    for sample in samples:
        if cause := records.why_no_pair(sample.chosen, sample.rejected):
            unpaired.setdefault(cause, []).append(sample.id)
    problems = []
    count = sum(map(len, unpaired.values()))
    if count > params.max_bad_share * len(samples):
        problems.append(
            f"judge.method: {params.judge.method}, but {count} of {len(samples)} training rows are no pair, "
            f"above max_bad_share={params.max_bad_share}; mend or drop them"
        )
    return Findings([_bad_line(cause, ids) for cause, ids in unpaired.items()], problems)


@dataclass(frozen=True)
class TrainingText:
    """The text of a training row: its prompt, and the answers of which the longer one decides."""

    prompt: str
    answers: tuple[str, ...]

    def length(self, measure: Callable[[str], int]) -> int:
        """The prompt and the longer answer, measured by `measure`."""
        return measure(self.prompt) + max(map(measure, self.answers))


def check_lengths(params: Params, samples: Sequence[Sample]) -> Findings:
    """Count the rows that are longer than `train.max_length` lets a pair be; a line, or none without answers.
    It is a problem where all of them are.

    A row counts with the longer of its pair, else with its answer. Judges other than `given` train on answers
    of the policy's own, which are not known yet.
    """
    texts = [text for sample in samples if (text := _training_text(sample))]
    if not texts:
        return Findings([], [])
    limit = params.train.max_length
    # a token is at least a byte, so most rows need no tokenizer
    long_texts = [text for text in texts if text.length(_byte_count) + MARGIN > limit]
    over = 0
    method = "none has as many bytes"
    if long_texts:
        count, method = token_counter(params)
        over = sum(text.length(count) + 2 > limit for text in long_texts)  # begin and end are a token each
    line = f"longer than train.max_length={limit} with their answers: {over} of {len(texts)} ({method})"
    problem = f"train.max_length: {limit} leaves no row to train on, all {len(texts)} are longer; raise it"
    return Findings([line], [problem] if over == len(texts) and params.iterations else [])


def _training_text(sample: Sample) -> TrainingText | None:
    prompt = prompts.conversation(sample.question)
    if sample.chosen and sample.rejected:
        return TrainingText(prompt, (sample.chosen, sample.rejected))
    return TrainingText(prompt, (sample.answer,)) if sample.answer else None


def _byte_count(text: str) -> int:
    return len(text.encode())


def token_counter(params: Params) -> tuple[Callable[[str], int], str]:
    """Return a function from text to its number of tokens, and how it counts.

    It uses sentencepiece or transformers where the model's folder has a tokenizer, else an estimate.
    """
    folder = resolve(checkpoint_path(params.model.path))
    try:
        if (folder / "tokenizer.model").is_file():
            return _sentencepiece_counter(folder), "tokens of its tokenizer.model"
        if (folder / "tokenizer_config.json").is_file():
            return _transformers_counter(folder), "tokens of its tokenizer"
        reason = f"{params.model.path} has no tokenizer here"
    except Exception as error:  # a foreign tokenizer fails in its own ways, and an estimate does
        reason = f"the tokenizer in {params.model.path} cannot be read: {type(error).__name__}"
    return _estimated_tokens, f"estimated, {CHARACTERS} characters a token; {reason}"


def _sentencepiece_counter(folder: Path) -> Callable[[str], int]:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    # the two sides of a prompt are tokenized apart, as for a LLaVA-Hound checkpoint
    return lambda text: sum(len(ids) for ids in pieces.encode(text.split("<video>")))


def _transformers_counter(folder: Path) -> Callable[[str], int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _estimated_tokens(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS)


def disk_space(params: Params, weights: float) -> tuple[float, str]:
    """Return the bytes that a run takes on disk, and what they are.

    They are the policies that stay, one that is being written, and two trainer checkpoints. `weights` is in
    bytes.
    """
    if not params.iterations:
        return 0, "nothing is trained"
    policies = min(train.kept_policies(params) + 1, params.iterations)
    checkpoint = weights * OPTIMIZER if params.train.method == "full" else weights // 10
    return policies * weights + weights + 2 * checkpoint, f"{policies} policies and trainer checkpoints"
