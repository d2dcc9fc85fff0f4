"""What `isrdpo check` looks at before a long run: rows, bad rows by cause, the model's place, the space a run needs. Loads no model."""

import math
import re
import shutil
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from isrdpo.core import prompts, records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import resolve
from isrdpo.core.params import Params
from isrdpo.core.records import Sample
from isrdpo.scoring import scorers
from isrdpo.stages import train

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SEVEN_B = 7_000_000_000  # weights assumed of a hub id, whose files are not at hand
SAMPLED = 4000  # distinct clips whose headers are read, at most
THREADS = 8  # reading headers
CHARACTERS = 4  # a token, where there is no tokenizer: English under common vocabularies
OPTIMIZER = 4  # a full trainer checkpoint beside the policy: weights, two moments in float32


def inspect(params: Params) -> tuple[list[str], list[str]]:
    """(what was found, what is wrong)."""
    lines, problems = _data(params)
    weights, origin, wrong = _model(params)
    lines.append(f"model: {origin}, {_size(weights)} of weights")
    lines += [memory(params, weights)] if params.iterations else []
    wrong += [problem] if (problem := scorers.missing(params.score)) else []
    needed, detail = space(params, weights)
    free = shutil.disk_usage(_existing(resolve(params.run))).free
    lines.append(f"space: about {_size(needed)} ({detail}); {_size(free)} free")
    if needed > free:
        wrong.append(f"{params.run}: the run needs about {_size(needed)}, {_size(free)} are free; see keep_policies, or choose another run=...")
    return lines, problems + wrong


def _data(params: Params) -> tuple[list[str], list[str]]:
    from isrdpo.stages import data

    found = data.inspect(params)
    bad, total = {cause: list(details) for cause, details in found.bad.items()}, sum(found.counts.values())
    lines = [f"source: {found.source}", *(f"{name}: {count}" for name, count in found.counts.items())]
    if found.clips:
        line, broken = lengths(found.clips)
        lines.append(line)
        bad |= {"broken video": broken} if broken else {}
    lines += [f"bad: {len(details)} {cause}; first: {details[0]}" for cause, details in bad.items()]
    problems = [f"{name}: none" for name, count in found.counts.items() if count == 0]
    if found.train:
        try:
            data.taken_in(params, 1, len(found.train))
        except RunError as error:
            problems.append(str(error))
    missed = sum(map(len, bad.values()))
    if missed > params.max_bad_share * total:
        problems.append(f"{missed} of {total} rows are bad, above max_bad_share={params.max_bad_share}; mend them, or raise max_bad_share")
    return lines + _pairs(params, found.train, problems) + long_answers(params, found.train), problems


def lengths(clips: dict[Path, list[str]]) -> tuple[str, list[str]]:
    """(durations over the distinct clips in a line, a detail for each row whose clip cannot be opened). Containers' headers only; of more than SAMPLED clips
    SAMPLED evenly spaced ones, and then the line says so."""
    from isrdpo.core.progress import progress_bar
    from isrdpo.formats import video

    paths = sorted(clips)
    taken = paths if len(paths) <= SAMPLED else [paths[n * len(paths) // SAMPLED] for n in range(SAMPLED)]

    def measured(path: Path) -> float | video.VideoError | None:
        try:
            return video.seconds(path)
        except video.VideoError as error:
            return error

    pool = ThreadPoolExecutor(THREADS)
    try:
        found = dict(zip(taken, progress_bar(pool.map(measured, taken), len(taken), "check: durations"), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for the rest
    known = [length for length in found.values() if isinstance(length, float)]
    broken = [f"{name}: {error}" for path, error in found.items() if isinstance(error, video.VideoError) for name in clips[path]]
    which = f"{len(taken)} of {len(paths)} distinct videos, evenly spaced by name" if len(taken) < len(paths) else f"{len(paths)} distinct videos"
    spread = f"{min(known):.1f} / {statistics.median(known):.1f} / {max(known):.1f} s (shortest / median / longest, by their headers)" if known else "not known"
    silent = sum(length is None for length in found.values())
    spread += f"; {silent} do not say" if silent else ""
    return f"durations of {which}: {spread}", broken


def _pairs(params: Params, train: list[Sample], problems: list[str]) -> list[str]:
    """What the arm `given` would leave out, by the cause that the stage counts it under; too much of it is a problem."""
    if params.judge.method != "given":
        return []
    left: dict[str, list[str]] = {}
    for sample in train:
        if cause := records.why_no_pair(sample.chosen, sample.rejected):
            left.setdefault(cause, []).append(sample.id)
    if (missed := sum(map(len, left.values()))) > params.max_bad_share * len(train):
        problems.append(
            f"judge.method: given, but {missed} of {len(train)} training rows are no pair, above max_bad_share={params.max_bad_share}; mend or drop them"
        )
    return [f"bad: {len(ids)} {cause}; first: {ids[0]}" for cause, ids in left.items()]


def long_answers(params: Params, train: list[Sample]) -> list[str]:
    """How many rows are longer, with the longer of their pair (else their answer), than `train.max_length` lets a pair be. Other arms than `given` train on answers of their own."""
    texts = [(s.question, (s.chosen, s.rejected) if s.chosen and s.rejected else (s.answer, "")) for s in train if s.answer or s.chosen and s.rejected]
    if not texts:
        return []
    limit, full = params.train.max_length, [(prompts.conversation(question), *pair) for question, pair in texts]
    # a token is a byte at least, so most rows need no counting; the margin is for begin, end and the pieces' prefixes
    long = [row for row in full if len(row[0].encode()) + max(len(answer.encode()) for answer in row[1:]) + 8 > limit]
    over, counted_by = 0, "none has as many bytes"
    if long:
        count, counted_by = _counter(params)
        counts = zip(*(count([row[n] for row in long]) for n in range(3)), strict=True)
        over = sum(asked + max(chosen, rejected) + 2 > limit for asked, chosen, rejected in counts)  # begin and end are a token each
    return [f"longer than train.max_length={limit} with their answers: {over} of {len(texts)} ({counted_by})"]


def _counter(params: Params) -> tuple[Callable[[list[str]], list[int]], str]:
    """(texts to tokens, how they are counted): sentencepiece or transformers where the model's folder has a tokenizer, else an estimate."""
    from isrdpo.core.folders import TOYBOX_BASE

    folder = TOYBOX_BASE if params.model.path == "toybox" else resolve(params.model.path)
    try:
        if (folder / "tokenizer.model").is_file():
            import sentencepiece

            pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
            # a prompt's two sides are tokenized apart, as in `hound`
            return lambda texts: [sum(len(ids) for ids in pieces.encode(text.split("<video>"))) for text in texts], "tokens of its tokenizer.model"
        if (folder / "tokenizer_config.json").is_file():
            from transformers import AutoTokenizer

            made = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            return lambda texts: [len(ids) for ids in made(texts, add_special_tokens=False)["input_ids"]], "tokens of its tokenizer"
    except Exception as error:  # noqa: BLE001 - a foreign tokenizer fails in its own ways, and an estimate does
        return _estimate, f"estimated, {CHARACTERS} characters a token; the tokenizer in {params.model.path} cannot be read: {type(error).__name__}"
    return _estimate, f"estimated, {CHARACTERS} characters a token; {params.model.path} has no tokenizer here"


def _estimate(texts: list[str]) -> list[int]:
    return [math.ceil(len(text) / CHARACTERS) for text in texts]


def _model(params: Params) -> tuple[int, str, list[str]]:
    """(bytes of weights, where they come from, what is wrong)."""
    from isrdpo.core.folders import TOYBOX_BASE

    path = params.model.path
    folder = TOYBOX_BASE if path == "toybox" else resolve(path)
    if folder.is_dir():
        weights = sum(p.stat().st_size for pattern in ("*.safetensors", "pytorch_model*.bin") for p in folder.glob(pattern))
        return weights, path, [] if weights else [f"model.path: {path} holds no weights (*.safetensors or pytorch_model*.bin)"]
    if path == "toybox":
        return 0, path, [f"{TOYBOX_BASE}: the base model that ships with the package is missing; install the package anew"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        return SEVEN_B * BYTES[params.model.dtype], f"{path} from the hub, taken as 7 B", []
    return 0, path, [f"model.path: {path} is neither toybox, a folder, nor a hub id such as ShareGPTVideo/LLaVA-Hound-SFT"]


def space(params: Params, weights: int) -> tuple[int, str]:
    """(bytes a run takes on disk, of what): kept policies, one being written, a trainer checkpoint while training."""
    if not params.iterations:
        return 0, "nothing is trained"
    kept = min(train.kept(params) + 1, params.iterations)
    checkpoint = weights * OPTIMIZER if params.train.method == "full" else weights // 10
    return kept * weights + weights + 2 * checkpoint, f"{kept} policies and trainer checkpoints"


def memory(params: Params, weights: int) -> str:
    """What training holds on its one device, activations aside. Full: weights, gradients, AdamW's two moments and the reference, float32 each: 20 bytes
    a parameter. LoRA: the base, and the same for its adapter, which is small."""
    count = weights / BYTES[params.model.dtype]
    if params.train.method == "full":
        return f"training memory: about {_size(count * 20)} on one device (weights, gradients, two moments, reference in float32); activations on top"
    size = {"none": BYTES[params.model.dtype], "8bit": 1, "4bit": 0.5}[params.model.quantize]
    return f"training memory: about {_size(count * size)} on one device (the frozen base); its adapter and activations on top"


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return path if path.is_dir() else _existing(path.parent)


def _size(count: Any) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
