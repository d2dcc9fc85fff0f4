"""Archives from strangers, unpacked so that nothing lands outside, nothing overwrites through a link, and no disk fills up.

An archive is read once, in a stream, into a fresh folder beside its place; a finished folder is then renamed into place (`merge`).
Python's own `filter="data"` (PEP 706) stands behind the checks made here.
"""

import io
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path
from isrdpo.core.progress import progress_bar

NAME = re.compile(r"(?P<whole>(?P<stem>.+)\.(?P<kind>tar\.gz|tgz|tar|zip))(?:\.(?:part)?[-_.]?(?P<number>[a-z]{2}|\d{1,4}))?")
RESERVE = 2**30  # bytes of disk that unpacking leaves free
ENTRY = 4096  # bytes that an entry takes beside its content


class ArchiveError(RunError):
    """An archive that is not unpacked, and why."""


class Joined(io.RawIOBase):
    """The parts of a split archive, read one after the other."""

    def __init__(self, parts: list[Path]) -> None:
        self.left, self.file = list(parts), None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while self.file or self.left:
            self.file = self.file or self.left.pop(0).open("rb")
            count = self.file.readinto(buffer)
            if count:
                return count
            self.file.close()
            self.file = None
        return 0


def unpack(parts: list[Path], into: Path, allowed: int | None = None) -> None:
    """`parts` (one file, or the parts of a split .tar in order) into the fresh folder `into`.

    allowed: bytes it may unpack to; None: what the disk has, but for RESERVE. Raises ArchiveError; `into` is then gone again.
    """
    whole = NAME.fullmatch(parts[0].name)
    if not whole:
        raise ArchiveError(f"{display_path(parts[0])}: not an archive's name (.tar, .tar.gz, .tgz, .zip, or a split .tar)")
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    budget = shutil.disk_usage(into).free - RESERVE if allowed is None else allowed
    try:
        (_zip if whole["kind"] == "zip" else _tar)(parts, into, budget)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError) as error:
        shutil.rmtree(into)
        raise ArchiveError(f"{display_path(parts[0])}: damaged ({(str(error).splitlines() or [type(error).__name__])[0]}); delete it and fetch it again") from error
    except BaseException:
        shutil.rmtree(into)
        raise


def _tar(parts: list[Path], into: Path, budget: int) -> None:
    spend = _purse(parts[0], budget)
    with io.BufferedReader(Joined(parts), 1 << 20) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in _counted(archive, parts[0]):
            _inside(parts[0], member.name)
            if member.islnk():
                _inside(parts[0], member.linkname)
            elif not (member.isfile() or member.isdir()):
                raise ArchiveError(f"{display_path(parts[0])}: holds {member.name!r}, which is a {'link' if member.issym() else 'device'}; nothing of it was unpacked")
            spend(member.size)
            archive.extract(member, into, set_attrs=False, filter="data")


def _zip(parts: list[Path], into: Path, budget: int) -> None:
    if len(parts) > 1:
        raise ArchiveError(f"{display_path(parts[0])}: a split .zip is not supported; join its parts by hand")
    spend = _purse(parts[0], budget)
    with zipfile.ZipFile(parts[0]) as archive:
        for entry in _counted(archive.infolist(), parts[0]):
            _inside(parts[0], entry.filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or entry.flag_bits & 1:
                what = "a link" if kind == stat.S_IFLNK else "encrypted" if entry.flag_bits & 1 else "a device"
                raise ArchiveError(f"{display_path(parts[0])}: holds {entry.filename!r}, which is {what}; nothing of it was unpacked")
            place = into / entry.filename
            if entry.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            spend(0)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, place.open("wb") as out:
                while block := source.read(1 << 20):
                    spend(len(block), entry=0)
                    out.write(block)


def _counted(entries: Iterable, archive: Path) -> Iterable:
    return progress_bar(entries, None, archive.name)


def _inside(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ArchiveError(f"{display_path(archive)}: holds {name!r}, which leads out of its folder; nothing of it was unpacked")


def _purse(archive: Path, budget: int) -> Callable[..., None]:
    left = budget

    def spend(count: int, entry: int = ENTRY) -> None:
        nonlocal left
        left -= count + entry
        if left < 0:
            raise ArchiveError(f"{display_path(archive)}: unpacks to more than the {budget / 1e9:.1f} GB that may be used; free some space, and run the same command again")

    return spend


def merge(fresh: Path, target: Path) -> None:
    """Renames what is in `fresh` into `target`, folders into folders that are there. Raises ArchiveError at a link, before it is followed."""
    if target.is_symlink():
        raise ArchiveError(f"{display_path(target)}: a link; nothing is written through it, remove it or choose another folder")
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(fresh.iterdir()):
        place = target / entry.name
        if place.is_symlink():
            raise ArchiveError(f"{display_path(place)}: a link; nothing is written through it, remove it or choose another folder")
        if entry.is_dir() and place.is_dir():
            merge(entry, place)
        elif entry.is_dir() == place.is_dir() or not place.exists():
            os.replace(entry, place)
        else:
            raise ArchiveError(f"{display_path(place)}: a {'folder' if place.is_dir() else 'file'} stands where the archive has the other; remove it")
    shutil.rmtree(fresh)
