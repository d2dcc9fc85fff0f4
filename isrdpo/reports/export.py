"""One iteration's preferences for other tools, or its policy: isrdpo export outputs/toybox --iteration 3
--format hf --to exported

What each format holds, and where its schema is from, stands in `preference_formats`.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from isrdpo.core import records
from isrdpo.core.errors import MissingStage, RunError
from isrdpo.core.folders import atomic_folder, display_path
from isrdpo.core.hub_ids import is_hub_id
from isrdpo.core.progress import progress_bar
from isrdpo.core.records import Preference
from isrdpo.core.runs import Run
from isrdpo.formats import hub
from isrdpo.reports.original_layout import write_original_layout
from isrdpo.reports.preference_formats import FORMATS, Export, holds_media_tag
from isrdpo.reports.repository_card import policy_card


def export_preferences(run: Run, t: int, target: Path, form: str, copy_videos: bool = False) -> str:
    """Write iteration t's kept pairs into the new folder `target`, whole or not at all, and return a
    sentence about it.

    `form` is a name of FORMATS. Raises MissingStage where nothing is judged yet, RunError where there is no
    pair to export or `target` holds something, VideoError where a clip to copy is missing.
    """
    where = display_path(run.folder)
    if not run.done("judge", t):
        raise MissingStage(
            f"{where}: iteration {t} has no finished preferences; "
            f"run `isrdpo stage judge --run {where} --iteration {t}`"
        )
    file = run.file(t, "preferences.jsonl")
    preferences = records.read_jsonl(file, Preference)
    pairs = preferences
    if FORMATS[form].counts_tags:
        pairs = [pair for pair in preferences if not holds_media_tag(pair)]
    if not pairs:
        raise RunError(f"{display_path(file)}: no pair to export ({len(preferences)} in all)")
    videos = run.videos_folder()
    _require_new_folder(target)
    with atomic_folder(target) as folder:
        if copy_videos:
            _copy_videos((pair.video for pair in pairs), run, folder / "videos")
        FORMATS[form].write(Export(run, t, pairs, folder, videos, copy_videos))
    paths = "copied into videos/" if copy_videos else f"named as below {videos}"
    note = ""
    if len(pairs) < len(preferences):
        note = f"; {len(preferences) - len(pairs)} left out, their text holds a media tag"
    return f"{display_path(target)}: {len(pairs)} pairs of iteration {t} as {form}, videos {paths}{note}"


def _require_new_folder(target: Path) -> None:
    """Raise RunError where something is there already, which the export would replace."""
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        where = display_path(target)
        raise RunError(f"{where}: something is there already; give a new or empty folder as --to")


def _copy_videos(names: Iterable[str], run: Run, target: Path) -> None:
    """Copy each clip once, under the name that rows have for it."""
    unique_names = list(dict.fromkeys(names))
    for name in progress_bar(unique_names, len(unique_names), "videos"):
        clip = run.clip(name)
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if clip.is_dir():
            shutil.copytree(clip, place)
        else:
            shutil.copyfile(clip, place)


def export_policy(run: Run, t: int, target: Path) -> str:
    """Write pi_{t+1} in LLaVA-Hound's original layout into the new folder `target`, and return a sentence
    about it.

    It has its towers' configs and its tokenizer, and the precision that it was saved in. Raises
    MissingStage where the policy is not there, RunError where it is of another family or `target` holds
    something.
    """
    source = run.file(t, "policy")
    where = display_path(run.folder)
    if not run.done("train", t) or not source.is_dir():
        why = "was not kept (see keep_policies)" if run.done("train", t) else "is not trained"
        raise MissingStage(
            f"{where}: the policy of iteration {t} {why}; "
            f"run `isrdpo stage train --run {where} --iteration {t}`"
        )
    _require_new_folder(target)
    model = run.params.model
    with atomic_folder(target) as folder:
        dtype = write_original_layout(source, folder, model.image_tower, model.video_tower)
        records.write_text(folder / "README.md", policy_card(run, t))
    return f"{display_path(target)}: the policy after iteration {t} in LLaVA-Hound's layout, {dtype}"


def check_push(repository: str) -> None:
    """Raise RunError where a push cannot succeed: before the work, not after it."""
    if not is_hub_id(repository):
        raise RunError(f"--push {repository}: not a repository's name; give OWNER/NAME")
    if not hub.token():
        raise RunError(f"--push {repository}: no token; set HF_TOKEN in the environment (one that may write)")


def push_folder(
    folder: Path, repository: str, kind: str, public: bool = False, endpoint: str | None = None
) -> str:
    """Upload a folder in one commit, and return a sentence about it. A repository that is not there is
    made, private by default.

    `kind` is dataset or model. Raises RunError.
    """
    check_push(repository)
    with hub.readable_errors(repository):
        api = hub.api(endpoint)
        api.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            repo_type=kind,
            folder_path=folder,
            commit_message=f"isrdpo export: {folder.name}",
        )
    return f"{repository}: uploaded, {commit.commit_url}"
