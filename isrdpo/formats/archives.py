"""Archives from strangers, unpacked so that nothing lands outside, goes through a link, or fills up the disk.

`tarfile` (with its filter `data`, PEP 706) and `zipfile` unpack into a new folder, which `merge` renames into
place. Where they would repair a name silently (an absolute path, a `..`) or make a link, it is refused.
"""

import os
import shutil
import stat
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path
from isrdpo.core.progress import progress_bar

SUFFIX = r"\.(tar\.gz|tgz|tar|zip)"  # of the archives that can be unpacked
RESERVE = 2**30  # bytes of disk that unpacking leaves free
ENTRY_BYTES = 4096  # of disk that an entry takes beside its content
MAX_NOTES = 2**20  # bytes of a long name or of other notes on an entry, which tarfile reads into memory
_NOTES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
MAX_DEPTH = 100  # of folders in each other, over which Python's own functions recurse


class ArchiveError(RunError):
    """An archive cannot be unpacked, or does not fit what is there."""


@dataclass
class _Guard:
    """Admits the entries of an archive while they are safe and take no more than `allowed` bytes."""

    archive: Path
    allowed: int
    used: int = 0

    def admit(self, name: str, size: int, fault: str = "") -> None:
        """Count an entry. Raises ArchiveError where it has a fault, leads out, or is too much."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            fault = "leads out of its folder"
        if not name or len(path.parts) > MAX_DEPTH:
            fault = "is not a usable path"
        title = display_path(self.archive)
        if fault:
            raise ArchiveError(f"{title}: holds {name[:200]!r}, which {fault}; nothing of it was unpacked")
        self.used += size + ENTRY_BYTES
        if self.used > self.allowed:
            limit = f"the {self.allowed / 1e9:.1f} GB that may be used"
            advice = "free some space, and run the same command again"
            raise ArchiveError(f"{title}: unpacks to more than {limit}; {advice}")


class _BoundedHeader(tarfile.TarInfo):
    """A header of a tar, refused where its notes on the next entry would fill up the memory."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        """Return the header in a block. Raises ValueError where it announces long notes."""
        header = super().frombuf(buf, encoding, errors)
        if header.type in _NOTES and header.size > MAX_NOTES:
            raise ValueError(f"notes of {header.size} bytes on one entry")
        return header


def unpack(archive: Path, folder: Path, allowed: int | None = None) -> None:
    """Unpack a .tar, .tar.gz, .tgz or .zip into `folder`, which is made anew: whole, or not at all.

    allowed: bytes that it may take; None: what the disk has, but for RESERVE. Raises ArchiveError.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if allowed is None:
        allowed = shutil.disk_usage(folder).free - RESERVE
    extract = _extract_zip if archive.suffix == ".zip" else _extract_tar
    try:
        extract(archive, folder, _Guard(archive, allowed))
    except BaseException as error:
        shutil.rmtree(folder)
        if (
            isinstance(error, ArchiveError)
            or getattr(error, "errno", None)
            or not isinstance(error, Exception)
        ):
            raise
        # Hostile bytes make the readers raise nearly anything: UnicodeDecodeError, KeyError, zlib.error.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArchiveError(
            f"{display_path(archive)}: damaged ({reason}); delete it and fetch it again"
        ) from error


def _extract_tar(archive: Path, folder: Path, guard: _Guard) -> None:
    def admit(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo:
        """tarfile's filter of each member."""
        fault = ""
        if member.issym():
            fault = "is a link"
        elif not (member.isfile() or member.isdir() or member.islnk()):
            fault = "is a device"
        guard.admit(member.name, member.size, fault)
        if member.islnk():
            guard.admit(member.linkname, 0)
        return tarfile.data_filter(member, target).replace(mode=None, mtime=None, deep=False)

    with tarfile.open(archive, "r|*", tarinfo=_BoundedHeader) as members:
        members.extractall(folder, progress_bar(members, None, archive.name), filter=admit)


def _extract_zip(archive: Path, folder: Path, guard: _Guard) -> None:
    with zipfile.ZipFile(archive) as content:
        for entry in progress_bar(content.infolist(), None, archive.name):
            kind = stat.S_IFMT(entry.external_attr >> 16)
            fault = "is encrypted" if entry.flag_bits & 1 else ""
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                fault = "is a link" if kind == stat.S_IFLNK else "is a device"
            guard.admit(entry.filename, entry.file_size, fault)  # zipfile writes no more than this size
            content.extract(entry, folder)


def merge(source: Path, target: Path) -> None:
    """Rename `source` to `target`, folders into folders that are there, so that `source` is gone.

    Raises ArchiveError at a link in the way, which is not followed, and where a file meets a folder.
    """
    if target.is_symlink():
        advice = "nothing is written through it, remove it or choose another folder"
        raise ArchiveError(f"{display_path(target)}: a link; {advice}")
    if source.is_dir() and target.is_dir():
        for entry in sorted(source.iterdir()):
            merge(entry, target / entry.name)
        source.rmdir()
    elif target.exists() and source.is_dir() != target.is_dir():
        kind = "folder" if target.is_dir() else "file"
        raise ArchiveError(
            f"{display_path(target)}: a {kind} stands where the archive has the other; remove it"
        )
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
