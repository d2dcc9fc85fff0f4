"""Opening the policy of an iteration, for the stages that ask it."""

from pathlib import Path
from typing import TYPE_CHECKING

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path
from isrdpo.core.runs import Run
from isrdpo.core.stage import Stage

if TYPE_CHECKING:
    from isrdpo.models.local import LocalPolicy


def open_policy(stage: Stage, path: str) -> "LocalPolicy":
    """The policy at `path`, ready for inference. Raises CheckpointError.

    What its family cannot do is said in the stage's marker; what pages say of the model is noted in the run's
    model.json.
    """
    from isrdpo.models import local

    run = stage.run
    cache = run.cache / "features" if run.params.video.cache else None
    is_base = path == run.params.model.path
    if is_base:
        _record_base(stage)
    policy = local.open_policy(run.params, path, cache)
    if is_base:
        _record_base(stage)  # a hub repository may have come only now
    if policy.cannot_share and stage.name != "train":
        stage.warn(policy.cannot_share)
    note = run.folder / "model.json"
    if not note.exists():
        records.write_json(note, policy.summary())
    return policy


def _record_base(stage: Stage) -> None:
    """Record the files of the base and of the towers that it takes from elsewhere, so that a change is
    noticed.
    """
    for parameter in ("model.path", "model.image_tower", "model.video_tower"):
        stage.read_model(parameter)


def require_policy(run: Run, t: int, purpose: str) -> str:
    """The place of pi_t.

    Raises RunError where it was dropped (keep_policies); `purpose` says what it was needed for.
    """
    path = run.policy(t)
    if not run.has_policy(t):
        raise RunError(
            f"{display_path(Path(path))}: the policy that is to {purpose} is gone "
            f"(keep_policies: {run.params.keep_policies}); run the train stage of iteration {t - 1} again"
        )
    return path
