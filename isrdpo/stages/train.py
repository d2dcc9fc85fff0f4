"""Stage 4, DPO: python -m isrdpo.stages.train --run outputs/toybox --iteration 1

preferences.jsonl -> policy/ (pi_{t+1}) and train.csv (one row a step). Policy and reference both start at pi_t, so the
first loss is ln 2, or the stage fails. A killed run goes on from its last whole checkpoint in checkpoints/.
"""

import csv
import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isrdpo.core import records
from isrdpo.core.clips import find_clip
from isrdpo.core.errors import RunError
from isrdpo.core.params import Params
from isrdpo.core.pipeline import needs_previous_contexts
from isrdpo.core.runs import Run, Stage, draw_seed, stage_main

if TYPE_CHECKING:
    from isrdpo.models.local import Video

COLUMNS = {  # train.csv's columns, and what TRL calls them; its num_tokens starts again after a resume, so it is left out
    "step": "step",
    "epoch": "epoch",
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "margins": "rewards/margins",
    "accuracies": "rewards/accuracies",
    "logps_chosen": "logps/chosen",
    "logps_rejected": "logps/rejected",
    "rewards_chosen": "rewards/chosen",
    "rewards_rejected": "rewards/rejected",
    "chosen_words": "chosen_words",
    "rejected_words": "rejected_words",
}
FEATURE_MEMORY = 8 * 2**30  # bytes of encoded videos held at once: 500 clips of a 7B model, all of Toybox


def run(run: Run, iteration: int) -> None:
    """Trains iteration `iteration`; does nothing but drop policies that are no longer wanted where it is done."""
    with run.lock():
        with run.stage("train", iteration) as stage:
            if stage is not None:
                _train(run, iteration, stage)
        prune(run, iteration)


def _train(run: Run, iteration: int, stage: Stage) -> None:
    from isrdpo.models import dpo
    from isrdpo.models import local as vlmm

    params, policy = run.params, run.policy(iteration)
    if iteration > 1 and not Path(policy).is_dir():
        raise RunError(
            f"{policy}: the policy of iteration {iteration} is gone (keep_policies: {params.keep_policies}); "
            f"run the train stage of iteration {iteration - 1} again"
        )
    source = run.file(iteration, "preferences.jsonl")
    preferences = records.read_jsonl(source, records.Preference)
    stage.total = len(preferences)
    opened = vlmm.open_model(params, policy)
    root, dtype = run.videos_folder(), opened.model.dtype
    videos = clip_features(lambda name: find_clip(root, name), opened.encode, [preference.video for preference in preferences])
    rows = [dpo.row(preference, opened.processor, videos(preference.video)) for preference in preferences]
    kept = [row for row in rows if dpo.text_tokens(row, opened.processor) <= params.train.max_length]
    stage.count("pairs", len(kept))
    stage.count("too_long", len(rows) - len(kept))
    checkpoints, model, log = stage.path("checkpoints"), opened.model, []
    if kept:
        seed = draw_seed(params.seed, iteration, "train", "order") % 2**32
        trainer = dpo.trainer(model, opened.processor, kept, videos, params.train, checkpoints, seed)
        if spare := dpo.spare_gpus(model.device):
            stage.warn(f"{spare} more GPUs are visible; one process trains on one")
        log = dpo.fit(trainer, f"{stage.key} {hashlib.sha256(source.read_bytes()).hexdigest()}")
        plain = params.override("model", {"quantize": "none", "device": "cpu"})
        model = dpo.trained(trainer, lambda: vlmm.open_model(plain, policy).model).to(dtype)
    else:
        stage.warn("no pair to train on: the policy stays as it is")
    write_table(stage.path("train.csv"), log)
    save_policy(model, opened.processor, stage.path("policy"))
    shutil.rmtree(checkpoints, ignore_errors=True)


def clip_features(
    path: Callable[[str], Path], encode: Callable[[list[Path]], "list[Video]"], names: list[str]
) -> "Callable[[str], Video]":
    """A video's name -> the video as the LLM takes it, on the CPU. Each distinct clip is encoded once, ahead; what does
    not fit in FEATURE_MEMORY is asked of `encode` (which has a cache on disk) when its turn comes."""
    held: dict[str, Video] = {}
    room, waiting = FEATURE_MEMORY, list(dict.fromkeys(names))
    while waiting and room > 0:
        batch, waiting = waiting[:16], waiting[16:]
        for name, made in zip(batch, encode([path(name) for name in batch]), strict=True):
            held[name] = made
            room -= sum(tensor.nbytes for tensor in made.values())
    return lambda name: held[name] if name in held else encode([path(name)])[0]


def write_table(path: Path, log: list[dict[str, Any]]) -> None:
    """train.csv, whole: a header and one row a logged step; numbers in full precision, no times."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([entry[key] for key in COLUMNS.values()] for entry in log)
    records.write_text(path, text.getvalue())


def save_policy(model: Any, processor: Any, folder: Path) -> None:
    """Writes the policy beside its place, flushes it to disk, then renames it: `folder` is whole or not there."""
    from isrdpo.models import local as vlmm

    partial = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    vlmm.save(model, processor, partial)
    for path in [*partial.iterdir(), partial]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def kept(params: Params) -> int:
    """How many of the newest policies stay on disk. One more than the last where iterations have videos of their own: it is to describe them."""
    wanted = {"all": params.iterations, "last": 1}.get(params.keep_policies, params.keep_policies)
    return max(wanted, 2 if needs_previous_contexts(params, 2) else 1)


def prune(run: Run, iteration: int) -> None:
    """Drops older policies as `keep_policies` says, once train(iteration) is done. Its own policy always stays, and
    so does one whose evaluation has not run yet."""
    if not run.done("train", iteration):
        return
    for older in range(1, iteration - kept(run.params) + 1):
        if run.done("evaluate", older):
            shutil.rmtree(run.iteration(older) / "policy", ignore_errors=True)


if __name__ == "__main__":
    stage_main("train", run)
