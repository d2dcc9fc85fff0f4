"""What happens to finished work when its parameters or its input files change: a refusal that names them, or
(`--redo`) the stages that have to be done again.
"""

import sys
from typing import TYPE_CHECKING

from isrdpo.core import inputs
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path
from isrdpo.core.params import Params
from isrdpo.core.pipeline import ancestors, stage_key

if TYPE_CHECKING:
    from isrdpo.core.runs import Run

Step = tuple[str, int]  # stage and iteration


def take_over(run: "Run", params: Params, redo: bool) -> None:
    """Give a run changed parameters.

    Raises RunError for a change under which rows on disk were made, unless `redo`: then their stages are to
    be done again.
    """
    with run.lock():
        last = max((t for _, t in run.finished()), default=0)
        if params.iterations < last:
            raise RunError(
                f"{display_path(run.folder)}: iterations={params.iterations} is fewer than the {last} "
                f"that are there; choose another run=..."
            )
        stale = begun_otherwise(run, params)
        if stale and not redo:
            raise RunError(_stale_message(run, params, stale))
        run.take_parameters(params)
        for stage, t in stale:
            forget(run, stage, t)


def begun_otherwise(run: "Run", params: Params) -> list[Step]:
    """The stages that were begun under other parameters than these."""
    return [(s, t) for s, t in run.started() if run.key_on_disk(s, t) not in ("", stage_key(params, s, t))]


def follow_inputs(run: "Run", redo: bool) -> None:
    """Look whether files outside changed since the run's stages read them, or params.yaml was edited.

    Raises RunError where they did, unless `redo`: then the stages that read them are to be done again, with
    all that follows.
    """
    stale = begun_otherwise(run, run.params)
    if stale and not redo:
        raise RunError(_stale_message(run, run.params, stale))
    changed = inputs.changed_inputs(run, run.started())
    if changed and not redo:
        raise RunError(inputs.change_message(run, changed))
    if stale or changed:
        with run.lock():
            for stage, t in _followers(run, {*stale, *changed}):
                forget(run, stage, t)
    data = run.params.data
    is_shipped = data.is_toybox and run.params.model.path == "toybox"
    if not is_shipped and inputs.has_unrecorded(run):
        print(
            f"isrdpo: {display_path(run.folder)}: made before runs recorded what they read; "
            f"whether the data or the model changed since then is not checked",
            file=sys.stderr,
        )


def warn_of_changes(run: "Run") -> None:
    """Say on stderr, to somebody who only reads the run, which files outside it are not what it read."""
    changed = inputs.changed_inputs(run, run.started())
    if changed:
        print(f"isrdpo: warning: {inputs.change_message(run, changed)}", file=sys.stderr)


def _followers(run: "Run", steps: set[Step]) -> list[Step]:
    """The stages among those begun whose rows come from one of these, themselves included."""
    return [step for step in run.started() if step in steps or steps & ancestors(run.params, *step)]


def forget(run: "Run", stage: str, t: int) -> None:
    """Make a stage unfinished; its rows go when it starts."""
    run.marker_path(stage, t).unlink(missing_ok=True)
    run.file(t, f".{stage}.key").unlink(missing_ok=True)
    inputs.record_path(run, stage, t).unlink(missing_ok=True)
    if stage == "evaluate":
        _forget_dropped_policies(run, t)


def _forget_dropped_policies(run: "Run", t: int) -> None:
    """Evaluating iteration t again needs its policy; where `keep_policies` dropped it, training has to
    make it again.
    """
    if t and not run.file(t, "policy").exists():
        for earlier in range(1, t + 1):
            if not run.file(earlier, "policy").exists():
                run.marker_path("train", earlier).unlink(missing_ok=True)


def _stale_message(run: "Run", params: Params, stale: list[Step]) -> str:
    """Say which parameters changed; where params.yaml has them already, that it was edited."""
    names = ", ".join(_changed_names(run.params.to_dict(), params.to_dict()))
    stage, t = stale[0]
    others = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
    return (
        f"{display_path(run.folder)}: {names or 'params.yaml'} changed, and stage {stage} of iteration {t}"
        f"{others} made under the old value; choose another run=..., "
        f"or have it done again with `isrdpo run PARAMS --redo`"
    )


def _changed_names(old: dict, new: dict, prefix: str = "") -> list[str]:
    """The dotted names of the parameters that differ."""
    names = []
    for name in new:
        if isinstance(new[name], dict):
            names += _changed_names(old[name], new[name], f"{prefix}{name}.")
        elif old[name] != new[name]:
            names.append(f"{prefix}{name}")
    return names
