"""What a preset or a benchmark needs, from the hub: isrdpo fetch test --to data/hound

What is known of the two repositories, and from where (github.com/RifleZhang/LLaVA-Hound-DPO at ec2381f6):
- ShareGPTVideo/test_video_and_instruction is downloaded whole into $DATA_DIR (setup/setup_test_data.sh and .py). The archives are then
  $DATA_DIR/video_data/test/{msrvtt,msvd,tgif,ssv2,actnet,vidal,webvid}.tar.gz and are unpacked where they lie; the rows are
  $DATA_DIR/video_instruction/test/<set>.qa.jsonl and <set>.qa.official.jsonl (setup/set_path.sh, test/pipeline/*.sh), whose `video`
  ("test/webvid/10003718") counts from $DATA_DIR/video_data. It holds compile_test_result.tar.gz too (test/README.md), which is not fetched.
- ShareGPTVideo/train_video_and_instruction: video_instruction/train/dpo/sft_dpo_17k.jsonl and train_300k/chunk_0.tar.gz to chunk_15.tar.gz
  (setup/setup_train_data.sh); their frame folders lie at the archive's top, and rows count from where they are unpacked
  (dpo_scripts/train_dpo.sh: --video_folder $DATA_DIR/video_data/train).
Not verified: the repositories could not be opened from here. So their files are listed at run time and matched by name, in whatever folder, whole or
split, and what an archive has at its top decides where it goes. Here the training frames go into video_data/ itself, beside test/, so that one
`data.videos=video_data` serves both kinds of rows.
"""

import hashlib
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from isrdpo.core import folders, records
from isrdpo.core.errors import RunError
from isrdpo.core.params import OFFICIAL_SETS, SOURCES, TEST_SETS, Params
from isrdpo.formats import archives, hub

TEST, TRAIN = "ShareGPTVideo/test_video_and_instruction", "ShareGPTVideo/train_video_and_instruction"
VIDEOS = "video_data"  # below the folder: what data.videos is to be
STATE = ".fetch"  # below the folder: parts of downloads, marks of what is done, the lock
TRAIN_ROWS = "sft_dpo_17k.jsonl"
BESIDE = ("*.json", "*.model", "*.txt", "*.jinja")  # a model's configs, tokenizer, chat template


@dataclass(frozen=True)
class Archive:
    """An archive (`files`: its parts in order), and the folder below `video_data` that it belongs into."""

    files: list[hub.File]
    under: str
    owner: str  # the set's name: a folder of that name at the archive's top is the set itself

    @property
    def mark(self) -> str:
        return hashlib.sha256("".join(file.digest for file in self.files).encode()).hexdigest()[:32]


@dataclass
class Plan:
    """What is to be fetched: rows to where the repository has them, archives to video_data, model files to the hub's cache."""

    rows: list[hub.File]
    packed: list[Archive]
    models: list[hub.File]


def sets(names: list[str]) -> list[str]:
    """Set names in order, without repeats; `test` is every test set. Raises RunError."""
    unknown = [name for name in names if name not in SOURCES]
    if unknown:
        raise RunError(f"{unknown[0]}: not a preset (a .yaml file) nor one of {', '.join(SOURCES)}")
    return list(dict.fromkeys(s for name in names for s in (TEST_SETS if name == "test" else (name,))))


def plan(wanted: list[str], models: list[str], endpoint: str | None = None) -> Plan:
    """Lists the repositories that are needed. Raises RunError where a set's rows or archives are not among their files."""
    made = Plan([], [], [])
    tests = [name for name in wanted if name in TEST_SETS]
    listed = hub.files(TEST, "dataset", endpoint) if tests else []
    for name in tests:
        made.rows += _rows(listed, TEST, rf"{name}\.qa(\.official)?\.jsonl", name)
        if name in OFFICIAL_SETS and not any(file.path.endswith(f"{name}.qa.official.jsonl") for file in made.rows):
            print(f"note: {TEST} has no {name}.qa.official.jsonl", file=sys.stderr)
        made.packed += _archives(listed, TEST, rf"(.*/)?{name}([._-]?\d+)?", name, "test")
    if "train" in wanted:
        listed = hub.files(TRAIN, "dataset", endpoint)
        made.rows += _rows(listed, TRAIN, re.escape(TRAIN_ROWS), "train")
        made.packed += _archives(listed, TRAIN, r"(.*/)?train_300k/[^/]+", "train", "")
    for repo in models:
        made.models += _weights(hub.files(repo, "model", endpoint), repo)
    return made


def _rows(listed: list[hub.File], repo: str, pattern: str, name: str) -> list[hub.File]:
    found = [file for file in listed if re.fullmatch(pattern, file.path.split("/")[-1])]
    if not found:
        raise RunError(f"{repo}: no rows of {name} among its {len(listed)} files; its layout has changed, look at it on the hub")
    return found


def _archives(listed: list[hub.File], repo: str, pattern: str, name: str, under: str) -> list[Archive]:
    """The archives whose path without its ending matches; the parts of a split one together, by number."""
    groups: dict[str, list[hub.File]] = {}
    for file in listed:
        match = archives.NAME.fullmatch(file.path)
        if match and re.fullmatch(pattern, match["stem"]):
            groups.setdefault(match["whole"], []).append(file)
    if not groups:
        raise RunError(f"{repo}: no archive of {name} among its {len(listed)} files; its layout has changed, look at it on the hub")
    order = sorted(groups, key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", path)])
    return [Archive(sorted(groups[path], key=lambda file: _number(file.path)), under, name) for path in order]


def _number(path: str) -> tuple[int, int, str]:
    number = archives.NAME.fullmatch(path)["number"] or ""  # matched before
    return (len(number) > 0, int(number) if number.isdigit() else 0, number)


def _weights(listed: list[hub.File], repo: str) -> list[hub.File]:
    """What loading takes: weights (safetensors where there are any, else pytorch_model*.bin), configs, tokenizer; matched as the loader's patterns are."""
    weights = [f for f in listed if f.path.endswith(".safetensors")] or [f for f in listed if fnmatch(f.path, "pytorch_model*.bin")]
    if not weights:
        raise RunError(f"{repo}: no *.safetensors and no pytorch_model*.bin in it; it is not a model")
    return weights + [file for file in listed if any(fnmatch(file.path, pattern) for pattern in BESIDE)]


def needs(params: Params) -> tuple[list[str], list[str]]:
    """(sets, model repositories) that a preset needs: data.source, and every hub id among model.path and the towers that is no folder."""
    named = [params.model.path, params.model.image_tower, params.model.video_tower]
    models = [name for name in named if name and name != "toybox" and not folders.resolve(name).exists() and hub.HUB_ID.fullmatch(name)]
    return sets([name.strip() for name in params.data.source.split(",") if name.strip()]), list(dict.fromkeys(models))


def fetch(made: Plan, folder: Path, yes: bool = False, keep: bool = False, endpoint: str | None = None) -> None:
    """Everything that is not there yet, after a question; killed anywhere, the same call goes on. Raises RunError."""
    state = folder / STATE
    rows = [file for file in made.rows if not _is_done(state, file.digest, folder / file.path)]
    packed = [archive for archive in made.packed if not (state / f"{archive.mark}.json").exists()]
    models = [file for file in made.models if not _blob(file).exists()]
    _agreed(rows, packed, models, folder, yes, keep)
    if rows or packed:
        state.mkdir(parents=True, exist_ok=True)
        with folders.hold_lock(state / "lock"):
            for file in rows:
                place = _within(folder, file.path)
                hub.download(file, place, state / f"{file.digest}.part", endpoint)
                records.write_json(state / f"{file.digest}.json", {"repo": file.repo, "commit": file.commit, "files": [file.path]})
            for archive in packed:
                _unpacked(archive, folder, keep, endpoint)
    for file in models:
        hub.download(file, _blob(file), _blob(file).with_name(f"{file.digest}.isrdpo.incomplete"), endpoint)
    for repo in dict.fromkeys(file.repo for file in made.models):
        with hub.one_line(repo):  # every blob is there: this only names them as huggingface_hub does
            hub.api(endpoint).snapshot_download(repo, allow_patterns=[file.path for file in made.models if file.repo == repo])


def _is_done(state: Path, digest: str, place: Path) -> bool:
    return (state / f"{digest}.json").exists() and place.is_file()


def _blob(file: hub.File) -> Path:
    """Where the hub's cache keeps a file's bytes (huggingface.co/docs/huggingface_hub/guides/manage-cache)."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=file.repo, repo_type=file.kind) / "blobs" / file.digest


def _within(folder: Path, path: str) -> Path:
    """A place below the folder, also when links are followed."""
    place = folder / path
    if not place.resolve().is_relative_to(folder.resolve()):
        raise RunError(f"{place}: a link leads out of {folder}; remove it or choose another folder")
    return place


def _unpacked(archive: Archive, folder: Path, keep: bool, endpoint: str | None) -> None:
    """One archive: fetched, unpacked beside its place, moved into it, marked, deleted."""
    state, parts = folder / STATE, []
    for file in archive.files:
        parts.append(state / f"{archive.mark}.files" / file.path.split("/")[-1])
        if not (parts[-1].is_file() and parts[-1].stat().st_size == file.size):  # checked before it was put there
            hub.download(file, parts[-1], state / f"{file.digest}.part", endpoint)
    fresh = state / f"{archive.mark}.unpacking"
    archives.unpack(parts, fresh)
    top, under = fresh, archive.under
    while (names := sorted(p.name for p in top.iterdir())) in (["video_data"], ["test"], ["train"]) and (top / names[0]).is_dir():
        top, under = top / names[0], "test" if names == ["test"] else ""
    if archive.under and names != [archive.owner]:
        under = f"test/{archive.owner}"  # the set's videos without their folder
    archives.merge(top, _within(folder, f"{VIDEOS}/{under}"))
    shutil.rmtree(fresh, ignore_errors=True)
    records.write_json(state / f"{archive.mark}.json", {
        "repo": archive.files[0].repo, "commit": archive.files[0].commit, "files": [file.path for file in archive.files], "into": f"{VIDEOS}/{under}",
        "unpacked": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    })  # fmt: skip
    if keep:
        for part in parts:
            _within(folder, "archives").mkdir(exist_ok=True)
            os.replace(part, folder / "archives" / part.name)
    shutil.rmtree(state / f"{archive.mark}.files")


def _agreed(rows: list[hub.File], packed: list[Archive], models: list[hub.File], folder: Path, yes: bool, keep: bool) -> None:
    """Says what is to come and asks. Raises RunError where the disk lacks room, nobody can be asked, or the answer is no."""
    everything = [*rows, *(file for archive in packed for file in archive.files), *models]
    for repo in dict.fromkeys(file.repo for file in everything):
        those = [file for file in everything if file.repo == repo]
        print(f"{repo}: {len(those)} files, {_size(sum(file.size for file in those))}")
    if not everything:
        return print("everything is there already")
    whole = [sum(file.size for file in archive.files) for archive in packed]
    # frames are JPEG, which gzip hardly shrinks: an archive takes its own size once more, itself included until it is unpacked
    needed = sum(file.size for file in rows) + sum(whole) * (2 if keep else 1) + (0 if keep else max(whole, default=0))
    fetched, cached = sum(file.size for file in everything), sum(file.size for file in models)
    places = ([(needed, _existing(folder))] if needed else []) + ([(cached, _existing(_blob(models[0])))] if models else [])
    if len(places) > 1 and places[0][1].stat().st_dev == places[1][1].stat().st_dev:
        places = [(needed + cached, places[0][1])]
    for count, place in places:
        free = shutil.disk_usage(place).free
        print(f"about {_size(count)} of disk, {_size(free)} are free at {place}")
        if count > free:
            raise RunError(f"{place}: about {_size(count)} are needed, {_size(free)} are free; free some space, or choose another folder")
    if yes:
        return None
    if not sys.stdin.isatty():
        raise RunError(f"{_size(fetched)} are to be fetched; say --yes to fetch them without being asked")
    if input(f"fetch {_size(fetched)}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise RunError("nothing was fetched")
    return None


def _existing(path: Path) -> Path:
    return path if path.is_dir() else _existing(path.parent)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def parameters(made: Plan) -> str:
    """What a run of the fetched data is told."""
    train = [file.path for file in made.rows if file.path.endswith(TRAIN_ROWS)]
    tests = [file.path for file in made.rows if file.path not in train]
    return " ".join([f"data.videos={VIDEOS}", *(f"data.train={path}" for path in train[:1]), *([f"data.test={','.join(tests)}"] if tests else [])])
