"""Fetch what a preset or a benchmark needs from the hub: isrdpo fetch test --to data/hound

The layout of the two repositories, from github.com/RifleZhang/LLaVA-Hound-DPO at ec2381f6:
- ShareGPTVideo/test_video_and_instruction is downloaded whole into $DATA_DIR (setup/setup_test_data.sh, .py).
  Archives: $DATA_DIR/video_data/test/{msrvtt,msvd,tgif,ssv2,actnet,vidal,webvid}.tar.gz, unpacked in place.
  Rows: $DATA_DIR/video_instruction/test/<set>.qa.jsonl and <set>.qa.official.jsonl (setup/set_path.sh,
  test/pipeline/*.sh). Their `video` ("test/webvid/10003718") counts from $DATA_DIR/video_data.
- ShareGPTVideo/train_video_and_instruction (setup/setup_train_data.sh):
  Archives: train_300k/chunk_0.tar.gz to chunk_15.tar.gz, with the frame folders at the top.
  Rows: video_instruction/train/dpo/sft_dpo_17k.jsonl. Their `video` counts from the folder of all frames
  (dpo_scripts/train_dpo.sh: --video_folder $DATA_DIR/video_data/train).
Not verified: the repositories could not be opened from here. So files are listed at run time and matched by
name in any folder, and what an archive has at its top decides where it goes. Archives split into parts are
not supported: none is documented. Training frames go into video_data/ itself, beside test/, so that one
`data.videos=video_data` serves both kinds of rows.
"""

import hashlib
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from isrdpo.core import folders, records
from isrdpo.core.errors import RunError
from isrdpo.core.hub_ids import is_hub_id
from isrdpo.core.params import Params
from isrdpo.core.progress import format_size
from isrdpo.core.rules import OFFICIAL_SETS, SOURCES, TEST_SETS
from isrdpo.formats import archives, hub

TEST = "ShareGPTVideo/test_video_and_instruction"
TRAIN = "ShareGPTVideo/train_video_and_instruction"
VIDEOS = "video_data"  # below the folder: what data.videos is to be
STATE = ".fetch"  # below the folder: downloads, marks of what is done, the lock
TRAIN_ROWS = "sft_dpo_17k.jsonl"
WRAPPERS = (["video_data"], ["test"], ["train"])  # folders that an archive may have around its videos
MODEL_FILES = (
    "*.json",
    "*.model",
    "*.txt",
    "*.jinja",
)  # beside the weights: configs, tokenizer, chat template


@dataclass(frozen=True)
class Archive:
    """An archive of a data set's videos."""

    file: hub.File
    data_set: str

    @property
    def mark(self) -> str:
        """The name of its mark in the folder of marks; another content has another."""
        return hashlib.sha256(self.file.digest.encode()).hexdigest()[:32]


@dataclass
class Plan:
    """Files to fetch: rows, archives (unpacked into video_data), and models (into the hub's cache)."""

    rows: list[hub.File] = field(default_factory=list)
    archives: list[Archive] = field(default_factory=list)
    models: list[hub.File] = field(default_factory=list)

    def files(self) -> list[hub.File]:
        """Return every file of the plan."""
        return [*self.rows, *(archive.file for archive in self.archives), *self.models]


def sets(names: list[str]) -> list[str]:
    """Return the names of data sets in order, each once; `test` is every test set. Raises RunError."""
    unknown = [name for name in names if name not in SOURCES]
    if unknown:
        raise RunError(f"{unknown[0]}: not a preset (a .yaml file) nor one of {', '.join(SOURCES)}")
    expanded: list[str] = []
    for name in names:
        expanded += TEST_SETS if name == "test" else [name]
    return list(dict.fromkeys(expanded))


def needs(params: Params) -> tuple[list[str], list[str]]:
    """Return the data sets and the model repositories that a preset needs.

    These are those of data.source, and every hub id among model.path and the towers that is no folder here.
    """
    names = dict.fromkeys([params.model.path, params.model.image_tower, params.model.video_tower])
    hub_ids = [name for name in names if name and is_hub_id(name)]
    sources = [name.strip() for name in params.data.source.split(",")]
    return sets([name for name in sources if name]), [
        name for name in hub_ids if folders.checkpoint_path(name) == name
    ]


def plan(names: list[str], models: list[str], endpoint: str | None = None) -> Plan:
    """List what is needed of the repositories. Raises RunError where rows or archives are missing."""
    result = Plan()
    test_names = [name for name in names if name in TEST_SETS]
    files = hub.list_files(TEST, "dataset", endpoint) if test_names else []
    for name in test_names:
        rows = _find(files, TEST, rf"{name}\.qa(\.official)?\.jsonl", f"rows of {name}")
        if name in OFFICIAL_SETS and not any(file.path.endswith(".official.jsonl") for file in rows):
            print(f"note: {TEST} has no {name}.qa.official.jsonl", file=sys.stderr)
        packed = _find(files, TEST, rf"{name}([._-]?\d+)?{archives.SUFFIX}", f"archive of {name}")
        result.rows += rows
        result.archives += [Archive(file, name) for file in packed]
    if "train" in names:
        files = hub.list_files(TRAIN, "dataset", endpoint)
        result.rows += _find(files, TRAIN, re.escape(TRAIN_ROWS), "rows of train")
        packed = _find(files, TRAIN, rf"train_300k/[^/]+{archives.SUFFIX}", "archive of train")
        result.archives += [Archive(file, "train") for file in packed]
    for repo in models:
        result.models += _model_files(hub.list_files(repo, "model", endpoint), repo)
    return result


def _find(files: list[hub.File], repo: str, pattern: str, what: str) -> list[hub.File]:
    """Return the files whose path ends in the pattern. Raises RunError where there are none."""
    matches = [file for file in files if re.fullmatch(rf"(.*/)?{pattern}", file.path)]
    if not matches:
        raise RunError(
            f"{repo}: no {what} among its {len(files)} files; its layout has changed, look at it on the hub"
        )
    return matches


def _model_files(files: list[hub.File], repo: str) -> list[hub.File]:
    """Return what loading a model takes: weights (safetensors where there are any), configs and tokenizer."""
    weights = [file for file in files if fnmatch(file.path, "*.safetensors")]
    weights = weights or [file for file in files if fnmatch(file.path, "pytorch_model*.bin")]
    if not weights:
        raise RunError(f"{repo}: no *.safetensors and no pytorch_model*.bin in it; it is not a model")
    return weights + [file for file in files if any(fnmatch(file.path, pattern) for pattern in MODEL_FILES)]


def fetch(
    downloads: Plan, folder: Path, yes: bool = False, keep: bool = False, endpoint: str | None = None
) -> None:
    """Fetch what is not there yet, after a question; after a kill, the same call goes on with the next file.

    yes: do not ask. keep: keep the archives, in `folder`/archives. Raises RunError.
    """
    state = folder / STATE
    rest = Plan(
        [file for file in downloads.rows if not _has_rows(file, folder)],
        [archive for archive in downloads.archives if not (state / f"{archive.mark}.json").exists()],
        [file for file in downloads.models if not hub.is_cached(file, endpoint)],
    )
    # a fetch that was killed at its very end has left an empty folder
    has_data = bool(rest.rows or rest.archives) or (state / "downloads").exists()
    if has_data and state.is_dir():
        with folders.hold_lock(state / "lock"):
            _remove_leftovers(state)
    _confirm(rest, folder, yes, keep)
    if has_data:
        state.mkdir(parents=True, exist_ok=True)
        with folders.hold_lock(state / "lock"):
            for file in rest.rows:
                _fetch_rows(file, folder, endpoint)
            for archive in rest.archives:
                _fetch_archive(archive, folder, keep, endpoint)
            shutil.rmtree(state / "downloads")
    for repo in dict.fromkeys(file.repo for file in rest.models):
        # All of its files are checked: after a kill, some may be in the cache unchecked.
        hub.download_model([file for file in downloads.models if file.repo == repo], endpoint)


def _has_rows(file: hub.File, folder: Path) -> bool:
    return (folder / STATE / f"{file.digest}.json").exists() and (folder / file.path).is_file()


def _remove_leftovers(state: Path) -> None:
    """Remove the file that a killed fetch was downloading and the archive that it was unpacking."""
    for path in state.glob("*.unpacking"):
        shutil.rmtree(path)
    for path in state.rglob("*.incomplete"):
        path.unlink()


def _confirm(rest: Plan, folder: Path, yes: bool, keep: bool) -> None:
    """Print the sizes and ask. Raises RunError where a disk lacks room, and without a yes."""
    files = rest.files()
    if not files:
        print("everything is there already")
        return
    for repo in dict.fromkeys(file.repo for file in files):
        sizes = [file.size for file in files if file.repo == repo]
        print(f"{repo}: {len(sizes)} files, {format_size(sum(sizes))}")
    _check_room(rest, folder, keep)
    total = format_size(sum(file.size for file in files))
    if yes:
        return
    if not sys.stdin.isatty():
        raise RunError(f"{total} are to be fetched; say --yes to fetch them without being asked")
    if input(f"fetch {total}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise RunError("nothing was fetched")


def _check_room(rest: Plan, folder: Path, keep: bool) -> None:
    """Print the room that is needed and free on each disk. Raises RunError where there is too little."""
    from huggingface_hub.constants import HF_HUB_CACHE

    # Frames are JPEG, which gzip hardly shrinks: an archive unpacks to its own size, and stays until then.
    packed = [archive.file.size for archive in rest.archives]
    waiting = sum(packed) if keep else max(packed, default=0)
    data_size = sum(file.size for file in rest.rows) + sum(packed) + waiting
    model_size = sum(file.size for file in rest.models)
    data_place = folders.nearest_folder(folder)
    model_place = folders.nearest_folder(Path(HF_HUB_CACHE))
    if data_size and data_place.stat().st_dev == model_place.stat().st_dev:  # one disk holds both
        data_size += model_size
        model_size = 0
    for place, size in ((data_place, data_size), (model_place, model_size)):
        needed = format_size(size)
        free = shutil.disk_usage(place).free
        if size:
            print(f"about {needed} of disk, {format_size(free)} are free at {place}")
        if size > free:
            shortage = f"about {needed} are needed, {format_size(free)} are free"
            raise RunError(f"{place}: {shortage}; free some space, or choose another folder")


def _fetch_rows(file: hub.File, folder: Path, endpoint: str | None) -> None:
    """Fetch a file of rows to its place and mark it as done."""
    place = _inside(folder, file.path)
    download = hub.download(file, folder / STATE / "downloads", endpoint)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(download, place)
    source = {"repo": file.repo, "commit": file.commit, "files": [file.path]}
    records.write_json(folder / STATE / f"{file.digest}.json", source)


def _fetch_archive(archive: Archive, folder: Path, keep: bool, endpoint: str | None) -> None:
    """Fetch an archive, unpack it, move what it holds to its place, mark it as done, and delete it."""
    file = archive.file
    download = hub.download(file, folder / STATE / "downloads", endpoint)
    # Not an atomic_folder, which would flush hundreds of thousands of frames to disk one by one.
    unpacked = folder / STATE / f"{archive.mark}.unpacking"
    with hub.readable_errors(file.repo):
        archives.unpack(download, unpacked)
        videos, place = _videos_in(unpacked, archive.data_set)
        archives.merge(videos, _inside(folder, place))
        shutil.rmtree(unpacked, ignore_errors=True)
    source = {"repo": file.repo, "commit": file.commit, "files": [file.path], "into": place}
    source["unpacked"] = time.strftime("%Y-%m-%d %H:%M:%S%z")
    records.write_json(folder / STATE / f"{archive.mark}.json", source)
    if keep:
        _inside(folder, "archives").mkdir(exist_ok=True)
        os.replace(download, folder / "archives" / download.name)
    else:
        download.unlink()


def _videos_in(folder: Path, data_set: str) -> tuple[Path, str]:
    """Return the folder that holds the videos in an unpacked archive, and its place below the target folder.

    In an archive of a test set, a folder of the set's name at the top is the set; without one, the top is.
    """
    names = sorted(path.name for path in folder.iterdir())
    while names in WRAPPERS and (folder / names[0]).is_dir():
        folder = folder / names[0]
        names = sorted(path.name for path in folder.iterdir())
    if data_set == "train":
        return folder, VIDEOS
    return folder, f"{VIDEOS}/test" if names == [data_set] else f"{VIDEOS}/test/{data_set}"


def _inside(folder: Path, path: str) -> Path:
    """Return a place below the folder. Raises RunError where a link leads out of it."""
    place = folder / path
    if not place.resolve().is_relative_to(folder.resolve()):
        raise RunError(f"{place}: a link leads out of {folder}; remove it or choose another folder")
    return place


def parameters(downloads: Plan) -> str:
    """Return the parameters of a run on the fetched data, as the command line takes them."""
    train = [file.path for file in downloads.rows if file.path.endswith(TRAIN_ROWS)]
    tests = [file.path for file in downloads.rows if file.path not in train]
    settings = [f"data.videos={VIDEOS}"]
    if train:
        settings.append(f"data.train={train[0]}")
    if tests:
        settings.append(f"data.test={','.join(tests)}")
    return " ".join(settings)
