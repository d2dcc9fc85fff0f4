"""Hostile archives: nothing lands outside, nothing is left behind, and each is refused in one line."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from isrdpo.formats import archives
from isrdpo.formats.archives import ArchiveError


def write_tar(path: Path, entries: list[tuple[str, bytes | tuple[bytes, str]]], mode: str = "w:gz") -> Path:
    """Write name -> content, or (tar type, link target)."""
    with tarfile.open(path, mode) as archive:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                member.type, member.linkname = content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, entries: dict[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


HOSTILE = {
    "up": [("msvd/a.jpeg", b"1"), ("../evil", b"2")],
    "inside up": [("msvd/../../evil", b"2")],
    "up and back": [("msvd/../evil", b"2")],
    "absolute": [("/tmp/isrdpo-evil", b"2")],  # noqa: S108
    "symlink out": [("link", (tarfile.SYMTYPE, "../..")), ("link/evil", b"2")],
    "symlink absolute": [("link", (tarfile.SYMTYPE, "/etc/passwd"))],
    "symlink inside": [("a", b"1"), ("link", (tarfile.SYMTYPE, "a"))],
    "hardlink out": [("link", (tarfile.LNKTYPE, "../secret"))],
    "hardlink absolute": [("link", (tarfile.LNKTYPE, "/etc/passwd"))],
    "device": [("null", (tarfile.CHRTYPE, ""))],
    "block device": [("sda", (tarfile.BLKTYPE, ""))],
    "pipe": [("pipe", (tarfile.FIFOTYPE, ""))],
    "deep": [("/".join(["d"] * 1500) + "/f", b"2")],
}


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar_writes_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"kept")
    path = write_tar(tmp_path / "x.tar.gz", HOSTILE[name])
    before = contents(tmp_path)
    with pytest.raises(ArchiveError, match=r"x\.tar\.gz: holds '.*nothing of it was unpacked") as error:
        archives.unpack(path, tmp_path / "work" / "fresh")
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before
    assert not (tmp_path / "work" / "fresh").exists()
    assert not Path("/tmp/isrdpo-evil").exists()  # noqa: S108


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a/../evil"])
def test_a_hostile_zip_writes_nothing(name: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"fine": b"1", name: b"2"})
    with pytest.raises(ArchiveError, match="leads out of its folder"):
        archives.unpack(path, tmp_path / "work" / "fresh")
    assert list(contents(tmp_path)) == ["x.zip"]


@pytest.mark.parametrize("kind, what", [(0o120777, "a link"), (0o020666, "a device"), (0o010666, "a device")])
def test_a_link_and_a_device_in_a_zip_are_refused(kind: int, what: str, tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("link")
    entry.create_system = 3
    entry.external_attr = kind << 16
    path = write_zip(tmp_path / "x.zip", {entry: b"/etc/passwd"})
    with pytest.raises(ArchiveError, match=f"'link', which is {what}"):
        archives.unpack(path, tmp_path / "fresh")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"secret": b"1"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted entry, in the list at the end
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="'secret', which is encrypted"):
        archives.unpack(path, tmp_path / "fresh")


def test_a_bomb_stops_before_the_disk_is_full(tmp_path: Path) -> None:
    tar_bomb = write_tar(tmp_path / "bomb.tar.gz", [(f"f{n}", bytes(2**20)) for n in range(20)])
    zip_bomb = write_zip(tmp_path / "bomb.zip", {"f": bytes(20 * 2**20)})
    assert tar_bomb.stat().st_size < 2**18
    for path in (tar_bomb, zip_bomb):
        with pytest.raises(ArchiveError, match=r"unpacks to more than the 0\.0 GB that may be used"):
            archives.unpack(path, tmp_path / "fresh", allowed=5 * 2**20)
        assert not (tmp_path / "fresh").exists()


def test_many_empty_entries_are_a_bomb_too(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "bomb.tar.gz", [(f"f{n}", b"") for n in range(1000)])
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        archives.unpack(path, tmp_path / "fresh", allowed=2**20)


def test_a_zip_that_understates_a_size_writes_no_more_than_it_says(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"f": bytes(20 * 2**20)})
    size = (20 * 2**20).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(ArchiveError, match=r"x\.zip: damaged"):
        archives.unpack(path, tmp_path / "fresh", allowed=10_000)
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("cut", [100, -60])
def test_a_damaged_archive_is_one_line(cut: int, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar.gz", [("a", bytes(range(256)) * 400)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ArchiveError, match=r"x\.tar\.gz: damaged \(.+\); delete it"):
        archives.unpack(path, tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


def test_what_the_readers_stumble_over_is_one_line_too(tmp_path: Path) -> None:
    nameless = write_zip(tmp_path / "nameless.zip", {zipfile.ZipInfo(""): b"1"})
    not_utf8 = write_zip(tmp_path / "utf8.zip", {"a\u00e9": b"1"})
    not_utf8.write_bytes(not_utf8.read_bytes().replace("\u00e9".encode(), b"\xff\xfe"))
    dangling = write_tar(tmp_path / "dangling.tar", [("link", (tarfile.LNKTYPE, "nothing"))], "w")
    empty = tmp_path / "empty.tar.gz"
    empty.write_bytes(b"")
    for path in (nameless, not_utf8, dangling, empty):
        with pytest.raises(ArchiveError, match=path.name) as error:
            archives.unpack(path, tmp_path / "fresh", allowed=10**7)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("mode, name", [("w:gz", "x.tar.gz"), ("w:gz", "x.tgz"), ("w", "x.tar")])
def test_a_good_tar_comes_out_whole(mode: str, name: str, tmp_path: Path) -> None:
    two = b"two" * 5000
    hard_link = (tarfile.LNKTYPE, "v2/c01_0001.jpeg")
    entries = [("./v1/c01_0001.jpeg", b"one"), ("v2/c01_0001.jpeg", two), ("v3/same", hard_link)]
    archives.unpack(write_tar(tmp_path / name, entries, mode), tmp_path / "whole")
    expected = {"v1/c01_0001.jpeg": b"one", "v2/c01_0001.jpeg": two, "v3/same": two}
    assert contents(tmp_path / "whole") == expected


def test_a_good_zip_comes_out_whole(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"v1/": b"", "./v1/a": b"one", "v2/b": b"two" * 5000})
    archives.unpack(path, tmp_path / "whole")
    assert contents(tmp_path / "whole") == {"v1/a": b"one", "v2/b": b"two" * 5000}


def test_unpacking_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "left by a kill").write_bytes(b"1")
    archives.unpack(write_tar(tmp_path / "x.tar", [("v1/a", b"1")], "w"), tmp_path / "fresh")
    assert contents(tmp_path / "fresh") == {"v1/a": b"1"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_notes_that_would_fill_up_the_memory_are_refused(kind: bytes, tmp_path: Path) -> None:
    """The header alone announces a terabyte; nothing of it is read."""
    header = tarfile.TarInfo("notes")
    header.type = kind
    header.size = 2**40
    path = tmp_path / "x.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ArchiveError, match=r"x\.tar: damaged \(notes of 1099511627776 bytes on one entry\)"):
        archives.unpack(path, tmp_path / "fresh")


def test_merging_never_writes_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    target = tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "v1").symlink_to(outside)
    archives.unpack(write_tar(tmp_path / "x.tar", [("v1/a", b"1")], "w"), tmp_path / "fresh")
    with pytest.raises(ArchiveError, match="v1: a link; nothing is written through it"):
        archives.merge(tmp_path / "fresh", target)
    assert not list(outside.iterdir())


def test_merging_twice_is_the_same_as_once(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("v1/a", b"1"), ("v2/b", b"2")], "w")
    for _ in range(2):
        archives.unpack(path, tmp_path / "fresh")
        archives.merge(tmp_path / "fresh", tmp_path / "target")
    assert contents(tmp_path / "target") == {"v1/a": b"1", "v2/b": b"2"}
    assert not (tmp_path / "fresh").exists()


def test_a_file_and_a_folder_do_not_merge(tmp_path: Path) -> None:
    (tmp_path / "target" / "v1").mkdir(parents=True)
    archives.unpack(write_tar(tmp_path / "x.tar", [("v1", b"1")], "w"), tmp_path / "fresh")
    with pytest.raises(ArchiveError, match="v1: a folder stands where the archive has the other"):
        archives.merge(tmp_path / "fresh", tmp_path / "target")
