"""Stage 4, DPO: python -m isrdpo.stages.train --run outputs/toybox --iteration 1

preferences.jsonl -> policy/ (pi_{t+1}) and train.csv (one row for each step). Policy and reference both
start at pi_t, so the first loss is ln 2, or the stage fails. A killed training goes on from its last whole
checkpoint.
"""

import csv
import hashlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isrdpo.core import records
from isrdpo.core.errors import RunError, VideoError
from isrdpo.core.folders import atomic_folder, name_disk_errors
from isrdpo.core.left_out import BROKEN_VIDEO, TOO_LONG
from isrdpo.core.params import Params
from isrdpo.core.pipeline import needs_previous_contexts
from isrdpo.core.readiness import missing_tracker
from isrdpo.core.records import Preference
from isrdpo.core.runs import Run, draw_seed, stage_main
from isrdpo.core.stage import Stage
from isrdpo.models.loss_checks import check_weights
from isrdpo.models.resources import one_line_errors
from isrdpo.stages.policies import open_policy, require_policy

if TYPE_CHECKING:
    from isrdpo.models.interface import EncodedVideo
    from isrdpo.models.local import LocalPolicy

# The columns of train.csv, and TRL's names for them. num_tokens is left out: it starts again after a resume.
COLUMNS = {
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
FEATURE_MEMORY = 8 * 2**30  # bytes of encoded videos held at once: 500 clips of a 7B model
LESS_MEMORY = (
    "train.batch_size (and raise train.gradient_accumulation) or video.max_pixels, choose a smaller "
    "model.dtype, or set train.gradient_checkpointing=true or train.method=lora"
)


def run(run: Run, iteration: int) -> None:
    """Train iteration t; then drop policies that are no longer wanted, also where the training was done
    before.
    """
    with run.lock():
        with run.stage("train", iteration) as stage, one_line_errors("train", LESS_MEMORY):
            if stage is not None:
                train(stage)
        drop_old_policies(run, iteration)


def train(stage: Stage) -> None:
    """Optimise pi_t on the preferences, and write pi_{t+1}. Without a pair the policy stays as it is."""
    if problem := missing_tracker(stage.params.train.report_to):
        raise RunError(problem)
    path = require_policy(stage.run, stage.t, "be trained")
    policy = open_policy(stage, path)
    dtype = policy.model.dtype
    preferences = records.read_jsonl(stage.path("preferences.jsonl"), Preference)
    stage.total = len(preferences)
    videos = clip_features(stage.run.clip, policy.encode, [pair.video for pair in preferences])
    rows = training_rows(stage, policy, preferences, videos)
    model = policy.model
    log: list[dict[str, Any]] = []
    if rows:
        model, log = optimise(stage, policy, rows, videos, path)
        model = model.to(dtype)
        check_weights(model, stage.params.train.learning_rate)
    else:
        stage.warn(nothing_trained(stage))
    write_log(stage.path("train.csv"), log)
    save_policy(model, policy, stage.path("policy"))
    shutil.rmtree(stage.path("checkpoints"), ignore_errors=True)


def nothing_trained(stage: Stage) -> str:
    """Say why there is no pair to train on."""
    reasons = []
    if stage.counts["too_long"]:
        reasons.append(
            f"{stage.counts['too_long']} longer than train.max_length={stage.params.train.max_length}"
        )
    if stage.bad_samples:
        reasons.append(f"{len(stage.bad_samples)} bad")
    left_out = f" (of {stage.total}, {' and '.join(reasons)})" if reasons else ""
    return f"no pair to train on{left_out}: the policy stays as it is"


def training_rows(
    stage: Stage,
    policy: "LocalPolicy",
    preferences: list[Preference],
    videos: "Callable[[str], EncodedVideo]",
) -> list[dict[str, Any]]:
    """The pairs as the trainer takes them, without those that are longer than train.max_length, which are
    counted, and without bad ones: their clip cannot be used, they are longer than the model's positions, or
    both answers are the same tokens.
    """
    from isrdpo.models import dpo

    limit = stage.params.train.max_length
    fitting = []
    too_long = 0
    for pair in preferences:
        try:
            row = dpo.training_row(pair, policy.processor, videos(pair.video))
        except VideoError as error:
            stage.bad(pair.id, BROKEN_VIDEO, str(error))
            continue
        if dpo.text_tokens(row, policy.processor) > limit:
            too_long += 1
        elif problem := why_not_trained_on(row, policy.positions):
            stage.bad(pair.id, *problem)
        else:
            fitting.append(row)
    stage.count("pairs", len(fitting))
    stage.count("too_long", too_long)
    return fitting


def why_not_trained_on(row: dict[str, Any], positions: int) -> tuple[str, str] | None:
    """The cause and the detail of a bad pair; None where it is none."""
    chosen = row["chosen_ids"]
    rejected = row["rejected_ids"]
    if chosen == rejected:
        return "chosen equals rejected", "both are the same tokens"
    tokens = len(row["prompt_ids"]) + max(len(chosen), len(rejected))
    if tokens > positions:
        return TOO_LONG, f"prompt with video and answer: {tokens} tokens, the model has {positions} positions"
    return None


def optimise(
    stage: Stage,
    policy: "LocalPolicy",
    rows: list[dict[str, Any]],
    videos: "Callable[[str], EncodedVideo]",
    path: str,
) -> tuple[Any, list[dict[str, Any]]]:
    """Run DPO from pi_t at `path`.

    Returns the trained model, its adapter merged, and the log, one entry for each step.
    """
    from isrdpo.models import dpo, local

    params = stage.params
    seed = draw_seed(params.seed, stage.t, "train", "order") % 2**32
    trainer = dpo.make_trainer(
        policy.model, policy.processor, rows, videos, params.train, stage.path("checkpoints"), seed
    )
    idle = dpo.idle_gpus(policy.model.device)
    if idle:
        stage.warn(f"{idle} more GPUs are visible; one process trains on one")
    with name_disk_errors(stage.path("checkpoints")):
        log = dpo.fit(trainer, f"{stage.key} {pairs_digest(stage)}")
    unquantized = params.override("model", {"quantize": "none", "device": "cpu"})
    return dpo.trained_policy(trainer, lambda: local.open_policy(unquantized, path).model), log


def pairs_digest(stage: Stage) -> str:
    """A digest of the pairs that are trained on: a checkpoint of other pairs is not gone on from."""
    digest = hashlib.sha256(stage.path("preferences.jsonl").read_bytes())
    for bad in stage.bad_samples:
        digest.update(bad["id"].encode())
    return digest.hexdigest()


def clip_features(
    clip: Callable[[str], Path],
    encode: "Callable[[list[Path]], list[EncodedVideo]]",
    names: list[str],
) -> "Callable[[str], EncodedVideo]":
    """A function from a video's name to the video as the language model takes it, on the CPU.

    Each distinct clip is encoded once, ahead of training. What does not fit into FEATURE_MEMORY is asked of
    `encode` (which has a cache on disk) when its turn comes. The function raises VideoError for a clip that
    cannot be encoded.
    """
    features: dict[str, EncodedVideo] = {}
    errors: dict[str, VideoError] = {}
    room = FEATURE_MEMORY

    def features_of(name: str) -> "EncodedVideo":
        if name in errors:
            raise errors[name]
        return features[name] if name in features else encode([clip(name)])[0]

    for name in dict.fromkeys(names):
        if room <= 0:
            break
        try:
            features[name] = features_of(name)
            room -= features[name].nbytes
        except VideoError as error:
            errors[name] = error
    return features_of


def write_log(path: Path, log: list[dict[str, Any]]) -> None:
    """Write train.csv: a header and one row for each logged step; numbers in full precision, no times."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in log:
        writer.writerow([entry[name] for name in COLUMNS.values()])
    records.write_text(path, text.getvalue())


def save_policy(model: Any, policy: "LocalPolicy", folder: Path) -> None:
    """Write the policy so that `folder` is whole or not there."""
    from isrdpo.models import local

    with atomic_folder(folder) as part:
        local.save_policy(model, policy.processor, part)


def kept_policies(params: Params) -> int:
    """The number of the newest policies that stay on disk.

    At least two where iterations have videos of their own: the last but one is to describe the new ones.
    """
    number = {"all": params.iterations, "last": 1}.get(params.keep_policies, params.keep_policies)
    return max(number, 2 if needs_previous_contexts(params, 2) else 1)


def drop_old_policies(run: Run, iteration: int) -> None:
    """Remove older policies as `keep_policies` says, once iteration t is trained.

    Its own policy always stays, and so does one whose evaluation has not run yet.
    """
    if not run.done("train", iteration):
        return
    for older in range(1, iteration - kept_policies(run.params) + 1):
        if run.done("evaluate", older):
            shutil.rmtree(run.file(older, "policy"), ignore_errors=True)


if __name__ == "__main__":
    stage_main("train", run)
