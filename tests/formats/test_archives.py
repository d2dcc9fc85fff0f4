"""Hostile archives: nothing lands outside, nothing is left behind, and each is refused in one line."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from isrdpo.formats import archives
from isrdpo.formats.archives import ArchiveError


def tar(path: Path, entries: list[tuple[str, bytes | tuple[bytes, str]]], mode: str = "w:gz") -> Path:
    """name -> content, or (tar type, link target)."""
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


HOSTILE = {
    "up": [("msvd/a.jpeg", b"1"), ("../evil", b"2")],
    "inside up": [("msvd/../../evil", b"2")],
    "absolute": [("/tmp/isrdpo-evil", b"2")],  # noqa: S108
    "symlink out": [("link", (tarfile.SYMTYPE, "../..")), ("link/evil", b"2")],
    "symlink absolute": [("link", (tarfile.SYMTYPE, "/etc/passwd"))],
    "symlink inside": [("a", b"1"), ("link", (tarfile.SYMTYPE, "a"))],
    "hardlink out": [("link", (tarfile.LNKTYPE, "../secret"))],
    "hardlink absolute": [("link", (tarfile.LNKTYPE, "/etc/passwd"))],
    "device": [("null", (tarfile.CHRTYPE, ""))],
    "block device": [("sda", (tarfile.BLKTYPE, ""))],
    "pipe": [("pipe", (tarfile.FIFOTYPE, ""))],
}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar_writes_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"kept")
    made = tar(tmp_path / "x.tar.gz", HOSTILE[name])
    before = contents(tmp_path)
    with pytest.raises(ArchiveError, match=r"x\.tar\.gz: holds '.*nothing of it was unpacked") as error:
        archives.unpack([made], tmp_path / "work" / "fresh")
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before and not (tmp_path / "work" / "fresh").exists() and not Path("/tmp/isrdpo-evil").exists()  # noqa: S108


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_a_hostile_zip_writes_nothing(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("fine", "1")
        archive.writestr(name, "2")
    with pytest.raises(ArchiveError, match="leads out of its folder"):
        archives.unpack([tmp_path / "x.zip"], tmp_path / "work" / "fresh")
    assert list(contents(tmp_path)) == ["x.zip"]


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("link")
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(ArchiveError, match="'link', which is a link"):
        archives.unpack([tmp_path / "x.zip"], tmp_path / "fresh")


def test_a_bomb_stops_before_the_disk_is_full(tmp_path: Path) -> None:
    bomb = tar(tmp_path / "bomb.tar.gz", [(f"f{n}", bytes(2**20)) for n in range(20)])
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("f", bytes(20 * 2**20))
    assert bomb.stat().st_size < 2**18
    for path in (bomb, tmp_path / "bomb.zip"):
        with pytest.raises(ArchiveError, match=r"unpacks to more than the 0\.0 GB that may be used"):
            archives.unpack([path], tmp_path / "fresh", allowed=5 * 2**20)
        assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("cut", [100, -60])
def test_a_damaged_archive_is_one_line(cut: int, tmp_path: Path) -> None:
    made = tar(tmp_path / "x.tar.gz", [("a", bytes(range(256)) * 400)])
    made.write_bytes(made.read_bytes()[:cut])
    with pytest.raises(ArchiveError, match=r"x\.tar\.gz: damaged \(.+\); delete it"):
        archives.unpack([made], tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("mode, name", [("w:gz", "x.tar.gz"), ("w:gz", "x.tgz"), ("w", "x.tar")])
def test_good_archives_come_out_whole_also_split(mode: str, name: str, tmp_path: Path) -> None:
    made = tar(tmp_path / name, [("./v1/c01_0001.jpeg", b"one"), ("v2/c01_0001.jpeg", b"two" * 5000), ("v3/same", (tarfile.LNKTYPE, "v2/c01_0001.jpeg"))], mode)
    wanted = {"v1/c01_0001.jpeg": b"one", "v2/c01_0001.jpeg": b"two" * 5000, "v3/same": b"two" * 5000}
    archives.unpack([made], tmp_path / "whole")
    assert contents(tmp_path / "whole") == wanted
    content, third = made.read_bytes(), made.stat().st_size // 3
    parts = [tmp_path / f"{name}.{suffix}" for suffix in ("aa", "ab", "ac")]
    for n, part in enumerate(parts):
        part.write_bytes(content[n * third : (n + 1) * third if n < 2 else None])
    archives.unpack(parts, tmp_path / "joined")
    assert contents(tmp_path / "joined") == wanted


def test_merging_never_writes_through_a_link(tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "v1").symlink_to(outside)
    archives.unpack([tar(tmp_path / "x.tar", [("v1/a", b"1")], "w")], tmp_path / "fresh")
    with pytest.raises(ArchiveError, match="v1: a link; nothing is written through it"):
        archives.merge(tmp_path / "fresh", target)
    assert not list(outside.iterdir())


def test_merging_twice_is_the_same_as_once(tmp_path: Path) -> None:
    made = tar(tmp_path / "x.tar", [("v1/a", b"1"), ("v2/b", b"2")], "w")
    for _ in range(2):
        archives.unpack([made], tmp_path / "fresh")
        archives.merge(tmp_path / "fresh", tmp_path / "target")
    assert contents(tmp_path / "target") == {"v1/a": b"1", "v2/b": b"2"} and not (tmp_path / "fresh").exists()
