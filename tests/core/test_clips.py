"""From the names of videos in rows to files: suffixes, folders of frames, links, and ways out."""

from pathlib import Path

import pytest

from isrdpo.core import params as parameters
from isrdpo.core.clips import find_clip, videos_folder
from isrdpo.core.errors import RunError, VideoError
from isrdpo.core.runs import Run

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"


def write_frames(folder: Path, count: int) -> Path:
    """A folder of files that are named like frames."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        (folder / f"c01_{number:04}.png").write_bytes(b"")
    return folder


def test_resolve(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    write_frames(root / "test" / "webvid" / "10003718", 2)
    (root / "plain.mp4").write_bytes(b"")
    (root / "two.dots.webm").write_bytes(b"")
    assert find_clip(root, "test/webvid/10003718") == root / "test/webvid/10003718"
    assert find_clip(root, "test/webvid/10003718.mp4") == root / "test/webvid/10003718"
    assert find_clip(root, "plain") == find_clip(root, "plain.mp4") == root / "plain.mp4"
    assert find_clip(root, "two.dots") == root / "two.dots.webm"
    assert find_clip(root, "test/../plain.mp4").resolve() == root / "plain.mp4"
    for missing in ("gone", "test", "test/webvid", "", ".", "x" * 300, "a\0b"):
        with pytest.raises(VideoError):
            find_clip(root, missing)
    with pytest.raises(VideoError, match=r"gone: no such video \(nor with .mp4"):
        find_clip(root, "gone")


def test_resolve_never_leaves_the_root(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    outside = write_frames(tmp_path / "outside", 2)
    write_frames(root / "mixed", 2)
    (outside / "secret.mp4").write_bytes(b"")
    (root / "link.mp4").symlink_to(outside / "secret.mp4")
    (root / "hidden.webm").symlink_to(outside / "secret.mp4")
    (root / "folder").symlink_to(outside)
    (root / "mixed" / "c01_0003.png").symlink_to(outside / "c01_0001.png")
    (root / "loop").symlink_to(root / "loop")
    escapes = [
        "../outside",
        "../outside/secret",
        str(outside / "secret.mp4"),
        "link.mp4",
        "link",
        "hidden",
        "folder",
    ]
    for name in [*escapes, "folder/secret.mp4", "mixed"]:
        with pytest.raises(VideoError, match=r"out of the video folder"):
            find_clip(root, name)
    with pytest.raises(VideoError):
        find_clip(root, "loop")
    (tmp_path / "alias").symlink_to(root)  # a root that is a link itself is fine
    (root / "inside.mp4").symlink_to("real.mp4")
    (root / "real.mp4").write_bytes(b"")
    assert find_clip(tmp_path / "alias", "inside").name == "inside.mp4"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Clips on another disk: a file, and a folder of frames."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "v1.mp4").write_bytes(b"")
    write_frames(tmp_path / "disk" / "v2", 2)
    return tmp_path / "disk"


def settings(data: Path, *overrides: str) -> parameters.Params:
    run = f"run={data.parent / 'run'}"
    return parameters.load(PRESET, [run, f"data={data}", "judge.method=score", *overrides])


def test_an_absolute_name_may_lead_into_the_folder_through_links(tmp_path: Path, disk: Path) -> None:
    (tmp_path / "home").symlink_to(disk)
    (tmp_path / "file").symlink_to(disk / "v1.mp4")
    for root in (disk, tmp_path / "home"):
        for name in (disk / "v1.mp4", tmp_path / "home" / "v1.mp4", tmp_path / "file", disk / "v2"):
            clip = find_clip(root, str(name))
            assert clip == root / clip.relative_to(root) and clip.name in ("v1.mp4", "v2")
        with pytest.raises(VideoError, match="leads out of the video folder"):
            find_clip(root, str(tmp_path / "v1.mp4"))
        with pytest.raises(VideoError, match="leads out of the video folder"):
            find_clip(root, "/etc/passwd")


def test_names_of_the_folder_itself_are_no_clip(tmp_path: Path, disk: Path) -> None:
    (tmp_path / "disk.mp4").write_bytes(b"")  # beside it, and no part of it
    for name in ("", ".", "./", "v2/..", str(disk)):
        with pytest.raises(VideoError, match="no such video"):
            find_clip(disk, name, boundary=tmp_path)


def test_a_link_to_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "v1.mp4").symlink_to("gone.mp4")
    with pytest.raises(VideoError, match=r"v1\.mp4: a link to gone\.mp4, where nothing is"):
        find_clip(tmp_path, "v1.mp4")


def test_the_hubs_cache_is_read_as_it_is(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--owner--name"
    clips = repository / "snapshots" / "abc" / "clips"
    for folder in (clips / "v2", repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "blobs" / "5f3c9e").write_bytes(b"")
    (repository / "refs" / "main").write_bytes(b"")
    (clips / "v1.mp4").symlink_to("../../../blobs/5f3c9e")
    (clips / "v2" / "1.png").symlink_to("../../../../blobs/5f3c9e")
    (clips / "v3.mp4").symlink_to("../../../refs/main")
    run = Run.create(settings(clips.parent))
    assert run.clip("v1") == clips / "v1.mp4" and run.clip("v2") == clips / "v2"
    with pytest.raises(VideoError, match="out of the video folder"):
        run.clip("v3.mp4")
    (repository / "blobs").rename(tmp_path / "blobs")
    (repository / "blobs").symlink_to(tmp_path / "blobs")
    with pytest.raises(VideoError, match="out of the video folder"):
        run.clip("v1.mp4")


def test_links_of_ones_own_are_followed_when_asked(tmp_path: Path, disk: Path) -> None:
    data = tmp_path / "data"
    (data / "clips").mkdir(parents=True)
    (data / "more").mkdir()
    (data / "more" / "v3.mp4").write_bytes(b"")
    (data / "clips" / "v1.mp4").symlink_to(disk / "v1.mp4")
    (data / "clips" / "v2").symlink_to(disk / "v2")
    (data / "clips" / "v3.mp4").symlink_to("../more/v3.mp4")
    run = Run.create(settings(data))
    assert run.clip("v3") == data / "clips" / "v3.mp4"  # it stays within data.path
    for name in ("v1.mp4", "v2"):
        with pytest.raises(VideoError, match=r"a link to .*/disk/v.*; .* set data\.follow_links=true"):
            run.clip(name)
    run.update(settings(data, "data.follow_links=true"))
    assert [run.clip(name).name for name in ("v1", "v2", "v3")] == ["v1.mp4", "v2", "v3.mp4"]
    with pytest.raises(VideoError, match="leads out of the video folder"):
        run.clip(str(disk / "v1.mp4"))  # rows are not trusted, links or no links


def test_a_folder_of_videos_that_is_a_link(tmp_path: Path, disk: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "clips").symlink_to(disk)
    with pytest.raises(
        RunError, match=r"data\.videos leads out of data\.path, to .*disk; .*follow_links=true"
    ):
        videos_folder(settings(data).data)
    run = Run.create(settings(data, "data.follow_links=true"))
    assert run.videos_folder() == disk and run.clip("v1") == disk / "v1.mp4"
