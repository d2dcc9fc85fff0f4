"""From the name of a video in a row to its file or folder of frames, which never lies outside the folder of
videos.
"""

import os
import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from isrdpo.core.errors import RunError, VideoError
from isrdpo.core.folders import resolve

if TYPE_CHECKING:
    from isrdpo.core.schema import Data

SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".gif")
PICTURES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
COUNT = re.compile(r"([0-9]+)")
DECIMAL = re.compile(r"[0-9]\.[0-9]")
COUNT_OR_DECIMAL = re.compile(r"([0-9]+(?:\.[0-9]+)?)")
FOLLOW = "if the links are your own, set data.follow_links=true"


def videos_folder(data: "Data", held_out: bool = False) -> Path:
    """The folder that a row's `video` counts from, links in its path resolved.

    `held_out` asks for the evaluation questions' folder, which is the benchmark's own where there is a
    benchmark. Raises RunError where the folder leads out of data.path by a link that is not to be followed.
    """
    key = "test" if held_out and data.benchmark != "none" else "videos"
    root = resolve(data.path)
    named = root / getattr(data, key)
    folder = named.resolve()
    if not _is_below_one(folder, _reach(root, link_boundary(data))):
        raise RunError(f"{named}: data.{key} leads out of data.path, to {folder}; {FOLLOW}")
    return folder


def link_boundary(data: "Data") -> Path:
    """The folder that links of a data set may not leave: data.path, or none with data.follow_links."""
    root = resolve(data.path)
    return Path(root.anchor) if data.follow_links else root


def find_clip(root: Path, name: str, boundary: Path | None = None) -> Path:
    """The file or folder of frames that `name` stands for under `root`, with or without the extension it
    should have; always `root` and a path below it.

    Rows come from anywhere, and are not trusted: a name that leads out of `root` by `..` or by an absolute
    path is refused. An absolute name is taken where it leads into `root`, also through links. Links below
    `root` may be part of a data set from anywhere, as of a git repository, and could show its rows any
    video of this machine: they are followed to what lies below `boundary` (None: `root`) and no further.
    In the hub's cache they may lead to its blobs, where it keeps the content of all files.

    Raises VideoError where there is no such video, and where the name or a link leads out.
    """
    try:
        relative = _relative_name(root, name)
        reach = _reach(root.resolve(), boundary or root)
        for candidate in _candidates(root, relative):
            if _is_clip(candidate, reach):
                return candidate
    except VideoError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a loop of links
        raise VideoError(f"{name[:80]!r} is not a usable path ({error})") from error
    tried = f"nor with {', '.join(SUFFIXES)}, nor a folder of frames"
    raise VideoError(f"{root / relative}: no such video ({tried})")


def _relative_name(root: Path, name: str) -> Path:
    """A row's name as a path below `root`. Raises VideoError where it leads out."""
    path = Path(os.path.normpath(name)) if name else Path()
    if path.is_absolute():
        path = _below(root, path, name)
    if ".." in path.parts:
        raise VideoError(f"{name!r} leads out of the video folder {root}")
    return path


def _below(root: Path, path: Path, name: str) -> Path:
    """What of an absolute path lies below `root`, however many links its beginning goes through."""
    top = root.resolve()
    for folder in (path, *path.parents):
        if folder.resolve() == top:
            return path.relative_to(folder)
    if path.resolve().is_relative_to(top):
        return path.resolve().relative_to(top)
    raise VideoError(f"{name!r} leads out of the video folder {root}")


def _candidates(root: Path, relative: Path) -> Iterator[Path]:
    """The paths that a name may stand for: itself, without a video's suffix, and with one."""
    if relative == Path():
        return
    exact = root / relative
    yield exact
    if exact.suffix.lower() in SUFFIXES:  # only a video's suffix is one: AO8RW_0.5 is no clip of AO8RW_0
        yield exact.with_suffix("")
    for suffix in SUFFIXES:
        yield exact.with_name(exact.name + suffix)


def _reach(root: Path, boundary: Path) -> list[Path]:
    """The folders that links below `root` may lead into: `boundary`, and the blobs of the hub's cache where
    `root` is part of a snapshot there (<repository>/snapshots/<commit>/... and <repository>/blobs).
    """
    folders = [boundary.resolve()]
    for folder in root.parents:
        if folder.name == "snapshots":
            folders.append(folder.parent / "blobs")
    return folders


def _is_below_one(path: Path, folders: list[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _is_clip(path: Path, reach: list[Path]) -> bool:
    """Whether a path is a file or a folder of frames. Raises VideoError for links that are not followed."""
    if path.is_symlink() or path.exists():
        _refuse_foreign_link(path, reach)
    if path.is_file():
        return True
    pictures = _pictures(path)
    for picture in pictures:
        if picture.is_symlink():
            _refuse_foreign_link(Path(picture.path), reach)
    return bool(pictures)


def _refuse_foreign_link(path: Path, reach: list[Path]) -> None:
    """Raise VideoError where a link in a path leads to nothing, or out of `reach`."""
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError:
        raise VideoError(f"{path}: a link to {os.readlink(path)}, where nothing is") from None
    if not _is_below_one(target, reach):
        raise VideoError(f"{path}: a link to {target}, out of the video folder; {FOLLOW}")


def frame_files(folder: Path) -> list[Path]:
    """A folder's frames in the order of the numbers in their names, however many zeros stand before them;
    none where it is no folder.

    Raises VideoError where the names do not say the order: two have the same numbers, or it would be
    another one if they were decimals (0.25 and 0.5).
    """
    names = [picture.name for picture in _pictures(folder)]
    by_count = {name: _numbers(name, COUNT, int) for name in names}
    order = sorted(names, key=by_count.__getitem__)
    for first, second in pairwise(order):
        if by_count[first] == by_count[second]:
            raise VideoError(f"{folder}: {first} and {second} have the same number; remove one of them")
    if any(DECIMAL.search(name) for name in names):
        _refuse_other_order(folder, order)
    return [folder / name for name in order]


def _refuse_other_order(folder: Path, order: list[str]) -> None:
    """Raise VideoError where names would be in another order if their numbers were decimals.

    They are none where two would be the same decimal, such as 2.1 and 2.10.
    """
    by_decimal = {name: _numbers(name, COUNT_OR_DECIMAL, Decimal) for name in order}
    if len(set(by_decimal.values())) == len(order) and sorted(order, key=by_decimal.__getitem__) != order:
        example = next(name for name in order if DECIMAL.search(name))
        advice = "give all of them as many digits behind the point"
        raise VideoError(f"{folder}: the order of frames such as {example} is not clear; {advice}")


def _pictures(folder: Path) -> list[os.DirEntry]:
    """A folder's pictures, in no order; none where it is no folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [file for file in entries if file.name.lower().endswith(PICTURES) and file.name[0] != "."]


def _numbers(name: str, number: re.Pattern, kind: type[int | Decimal]) -> tuple[str | int | Decimal, ...]:
    """The texts and the numbers that a file's name without its suffix holds, in turn, a text first."""
    parts = number.split(os.path.splitext(name)[0])
    parts[1::2] = map(kind, parts[1::2])
    return tuple(parts)
