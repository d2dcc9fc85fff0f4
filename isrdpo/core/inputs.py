"""What a stage reads from outside its run (dataset files, clips, a model's folder), recorded with its content
and compared before more work is done.

The record lies beside the stage's rows, in `iter_NN/.<stage>.inputs`: a line for each file. It stands apart
from the stage's key, which holds parameters only, so that keys stay what they were.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from isrdpo.core import records
from isrdpo.core.clips import PICTURES, SUFFIXES, frame_files
from isrdpo.core.errors import RunError, VideoError
from isrdpo.core.folders import checkpoint_path, display_path, resolve
from isrdpo.core.pipeline import ORDER, TABLE, ancestors

if TYPE_CHECKING:
    from isrdpo.core.runs import Run

SAMPLED_ABOVE = 256 * 2**20  # bytes; larger clips and weights are compared by samples of their content
SAMPLES = 64
SAMPLE_SIZE = 64 * 1024
MODEL_FILES = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")
DATA_FILES = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv", ".txt")
ABSENT = -1  # the size of a file that was not there

Key = tuple[str, str, str]
Step = tuple[str, int]  # stage and iteration


@dataclass(frozen=True)
class InputFile:
    """A file outside the run as a stage read it.

    `root` says what `name` counts from: `data` (data.path), `clips` or `held out` (the folders of videos), or
    the parameter that names a model's folder. `kind` is `file` (a clip may be a folder of frames), or `names`
    for the names of all files in a folder. `size` is in bytes (of `names` their number, ABSENT for what was
    not there), times are in nanoseconds.
    """

    root: str
    name: str
    kind: Literal["file", "names"]
    size: int
    mtime: int
    ctime: int
    digest: str

    @property
    def key(self) -> Key:
        """The name of the record among those of a run."""
        return self.root, self.name, self.kind


def record_path(run: "Run", stage: str, t: int) -> Path:
    """The file that lists what a stage read from outside."""
    return run.file(t, f".{stage}.inputs")


def read_record(run: "Run", stage: str, t: int) -> dict[Key, InputFile]:
    """What a stage read from outside, by key; nothing where no record is. Raises RecordError."""
    path = record_path(run, stage, t)
    rows = records.read_jsonl(path, InputFile) if path.exists() else []
    return {row.key: row for row in rows}


def fingerprint(run: "Run", root: str, name: str, earlier: InputFile | None = None) -> InputFile:
    """A file or a folder of frames as it is now; ABSENT where it is not there.

    `earlier` is a record of the same file: while size and times are the same, its digest holds.
    """
    path = locate(run, root, name)
    state = _state(path) if path else None
    if path is None or state is None:
        return InputFile(root, name, "file", ABSENT, 0, 0, "")
    if earlier and state == (earlier.size, earlier.mtime, earlier.ctime):
        return earlier
    return InputFile(root, name, "file", *state, _content_digest(path, is_whole=root == "data"))


def listing(run: "Run", root: str, name: str = ".") -> InputFile:
    """The names of all files of a folder that a stage would read."""
    names = sorted(file_names(run, root, name))
    digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
    return InputFile(root, name, "names", len(names), 0, 0, digest)


def file_names(run: "Run", root: str, name: str = ".") -> Iterator[str]:
    """The files below a folder that a stage would read, by their names from `root`.

    Of a model those of the folder itself.
    """
    folder = locate(run, root, name)
    if folder is None or not folder.is_dir():
        return
    top = locate(run, root, ".") or folder
    suffixes = {"data": DATA_FILES, "clips": SUFFIXES + PICTURES, "held out": SUFFIXES + PICTURES}
    wanted = suffixes.get(root, MODEL_FILES)
    for here, below, files in os.walk(folder):
        below[:] = [one for one in below if root in suffixes and not one.startswith(".")]
        for file in files:
            if file.lower().endswith(wanted) and not file.startswith("."):
                path = Path(here, file)
                yield (path.relative_to(top) if path.is_relative_to(top) else path).as_posix()


def model_inputs(run: "Run", root: str, earlier: dict[Key, InputFile]) -> list[InputFile]:
    """The files of the model that the parameter `root` names; none of a model that is not on this machine."""
    names = sorted(file_names(run, root))
    if not names:
        return []
    files = [fingerprint(run, root, name, earlier.get((root, name, "file"))) for name in names]
    return [listing(run, root), *files]


def require_unchanged(run: "Run", stage: str, t: int, read: dict[Key, InputFile] | None = None) -> None:
    """Raise RunError where a file changed from which a stage's rows come, by itself or through others.

    `read` is what the stage has read until now, where that is not on disk yet.
    """
    steps = [*sorted(ancestors(run.params, stage, t), key=lambda step: (step[1], ORDER.index(step[0])))]
    changed = changed_inputs(run, [*steps, (stage, t)], {(stage, t): read} if read else {})
    if changed:
        raise RunError(change_message(run, changed))


def changed_inputs(
    run: "Run", steps: Iterable[Step], read: dict[Step, dict[Key, InputFile]] | None = None
) -> dict[Step, list[str]]:
    """The files that changed since these stages read them, by stage, as a message names them.

    What is gone has not changed, since a run may travel without its data. A stage that begins again anyway
    reads today's files, unless others have gone on from its rows.
    """
    look = lru_cache(maxsize=None)(lambda row: _has_changed(run, row))  # stages share most of their files
    changed = {}
    for stage, t in steps:
        recorded = (read or {}).get((stage, t), {})
        if not recorded and _counts(run, stage, t):
            recorded = read_record(run, stage, t)
        names = [_display_name(run, row) for row in recorded.values() if look(row)]
        if names:
            changed[stage, t] = names
    return changed


def _counts(run: "Run", stage: str, t: int) -> bool:
    """Whether there are rows that were made from what a stage has read before."""
    if TABLE[stage].resumes or run.marker_path(stage, t).exists():
        return True
    return any((stage, t) in ancestors(run.params, *step) for step in run.started())


def change_message(run: "Run", changed: dict[Step, list[str]]) -> str:
    """Say which files changed, since when, and what to do."""
    names = list(dict.fromkeys(name for files in changed.values() for name in files))
    others = f" and {len(names) - 3} more" if len(names) > 3 else ""
    stage, t = next(iter(changed))
    where = display_path(run.folder)
    return (
        f"{where}: {', '.join(names[:3])}{others} changed since stage {stage} of iteration {t} read it; "
        f"have it read anew, and what was made from it done again, with `isrdpo run PARAMS --redo`, "
        f"or choose another run=..."
    )


def has_unrecorded(run: "Run") -> bool:
    """Whether a finished stage lacks a record: the run is older than the records."""
    return any(not record_path(run, stage, t).exists() for stage, t in run.finished())


def locate(run: "Run", root: str, name: str) -> Path | None:
    """The path of an input today; None where it is not there."""
    if root in ("clips", "held out"):
        if name == ".":
            return run.videos_folder(held_out=root == "held out")
        try:
            return run.clip(name, held_out=root == "held out")
        except VideoError:
            return None
    folder = resolve(run.params.data.path) if root == "data" else _model_folder(run, root)
    return folder / name if folder else None


def _model_folder(run: "Run", parameter: str) -> Path | None:
    """The folder that a parameter names: of a hub id the snapshot in the hub's cache, if there is one."""
    section, _, key = parameter.partition(".")
    name = getattr(getattr(run.params, section), key)
    if not name:
        return None
    folder = Path(checkpoint_path(name))
    if folder.is_dir():
        return folder
    import huggingface_hub

    try:
        config = huggingface_hub.try_to_load_from_cache(name, "config.json")
    except ValueError:  # no hub id
        return None
    return Path(config).parent if isinstance(config, str) else None


def _has_changed(run: "Run", row: InputFile) -> bool:
    if row.kind == "names":
        now = listing(run, row.root, row.name)
        return now.size >= row.size and now.digest != row.digest  # fewer files: some are gone
    path = locate(run, row.root, row.name)
    state = _state(path) if path else None
    if path is None or state is None or state == (row.size, row.mtime, row.ctime):
        return False
    # Times alone say nothing: a copied data set has new ones.
    return state[0] != row.size or _content_digest(path, is_whole=row.root == "data") != row.digest


def _display_name(run: "Run", row: InputFile) -> str:
    path = locate(run, row.root, row.name)
    name = display_path(path) if path else row.name
    return f"{name} (a file is new)" if row.kind == "names" else name


def _state(path: Path) -> tuple[int, int, int] | None:
    """(bytes, mtime, ctime) of a file; of a folder of frames all bytes and the last times; None where there
    is nothing.
    """
    try:
        states = [path.stat(), *(frame.stat() for frame in frame_files(path))]
    except OSError:
        return None
    sizes = states[1:] or states
    return (
        sum(state.st_size for state in sizes),
        max(state.st_mtime_ns for state in states),
        max(state.st_ctime_ns for state in states),
    )


def _content_digest(path: Path, is_whole: bool) -> str:
    """The SHA-256 of a file's content, or of a folder's frames with their names.

    Unless `is_whole`, SAMPLES pieces of a file above SAMPLED_ABOVE stand for all of it: weights of many
    gigabytes are not read twice.
    """
    if not path.is_dir():
        return _file_digest(path, is_whole)
    digest = hashlib.sha256()
    for frame in frame_files(path):
        digest.update(f"{frame.name} {_file_digest(frame, is_whole)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _file_digest(path: Path, is_whole: bool) -> str:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if is_whole or size <= SAMPLED_ABOVE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for number in range(SAMPLES):
            file.seek(number * (size - SAMPLE_SIZE) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_SIZE))
    return digest.hexdigest()
