"""Opening the policy of an iteration, for the stages that ask it, and telling which items it can be asked."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isrdpo.core import records
from isrdpo.core.errors import RunError, VideoError
from isrdpo.core.folders import display_path
from isrdpo.core.left_out import TOO_LONG, UNREADABLE, BadItem, bad_clip
from isrdpo.core.runs import Run
from isrdpo.core.stage import Batches, Stage
from isrdpo.models.resources import concerns_everything, first_line

if TYPE_CHECKING:
    from isrdpo.models.interface import EncodedVideo, Policy
    from isrdpo.models.local import LocalPolicy


@dataclass(frozen=True)
class Request:
    """What is asked about a clip. `id` is the item's in its file; `video` is the clip's name in rows.

    `text` is None where only the clip has to be usable.
    """

    id: str
    video: str
    text: str | None = None


@dataclass(frozen=True)
class NewTokens:
    """The tokens that an answer may have, and the parameter that says so."""

    parameter: str
    limit: int


NONE = NewTokens("", 0)


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


def encode_usable(
    stage: Stage,
    policy: "Policy",
    batches: Batches[Any],
    requests: Iterable[Request],
    new_tokens: NewTokens = NONE,
    held_out: bool = False,
) -> "dict[str, EncodedVideo]":
    """Encode the clips of a batch; returns by id those that can be asked.

    A clip that cannot be read or encoded, and a request that leaves too few of the model's positions for its
    answer, are left out of the batch: nothing is asked about them. `held_out` as in `Run.clip`.
    """
    clips: dict[str, EncodedVideo] = {}  # a clip of several requests is one object, so that they share it
    videos = {}
    for request in requests:
        try:
            if request.video not in clips:
                clips[request.video] = encode_clip(stage.run, policy, request.video, held_out)
            video = clips[request.video]
            if request.text is not None:
                require_room(policy, request.text, video, new_tokens)
            videos[request.id] = video
        except BadItem as error:
            batches.leave_out(request.id, error)
    return videos


def encode_clip(run: Run, policy: "Policy", name: str, held_out: bool = False) -> "EncodedVideo":
    """Encode the clip that a row's `video` names. Raises BadItem."""
    path = run.videos_folder(held_out) / name
    try:
        path = run.clip(name, held_out)
        return policy.encode([path])[0]
    except VideoError as error:
        raise bad_clip(error, path) from error


def require_room(policy: "Policy", text: str, video: "EncodedVideo", new_tokens: NewTokens) -> None:
    """Raise BadItem where a request and its answer have more tokens than the model has positions."""
    try:
        room = policy.room(text, video)
    except Exception as error:  # a tokenizer or a chat template fails in its own ways
        if concerns_everything(error):
            raise
        raise BadItem(UNREADABLE, f"{type(error).__name__}: {first_line(error)}") from error
    over = new_tokens.limit - room
    if over > 0:
        raise BadItem(
            TOO_LONG,
            f"prompt with video and {new_tokens.limit} new tokens ({new_tokens.parameter}): "
            f"{policy.positions + over} tokens, the model has {policy.positions} positions",
        )
