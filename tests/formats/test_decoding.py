"""The frame that is read is the frame that was asked for, at its time: containers, codecs, B-frames and
uneven rates.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isrdpo.core.errors import VideoError
from isrdpo.formats import decoding
from isrdpo.formats.sampling import Timeline
from isrdpo.formats.video import read_clip
from tests.video_files import RATE, STEP, Kind, write_video

B_FRAMES = {"bf": "3", "g": "12"}
HIDDEN = {"lag-in-frames": "25", "auto-alt-ref": "1", "g": "60", "cpu-used": "8", "deadline": "realtime"}
EVEN = [
    Kind("mp4", "libx264", B_FRAMES),
    Kind("mp4", "mpeg4", {"bf": "2", "qscale": "2"}),
    Kind("mov", "prores", pixels="yuv422p10le"),
    Kind("matroska", "libx264", B_FRAMES),
    Kind("matroska", "ffv1"),
    Kind("webm", "libvpx", HIDDEN),
    Kind("webm", "libvpx-vp9", HIDDEN),
    Kind("avi", "mpeg4", {"bf": "2", "qscale": "2"}),
    Kind("avi", "libx264", B_FRAMES),
    Kind("avi", "mjpeg", pixels="yuvj420p"),
    Kind("mpegts", "libx264", B_FRAMES),
    Kind("mpegts", "mpeg2video", {"bf": "2"}),
    Kind("mpeg", "mpeg1video", {"bf": "2"}),
    Kind("flv", "libx264", B_FRAMES),
    Kind("gif", "gif", pixels="rgb8"),
]
SLOW = [
    Kind("mp4", "libx265", {"x265-params": "log-level=none"}),
    Kind("mp4", "libsvtav1", {"preset": "12", "g": "20"}),
    Kind("mp4", "libvpx-vp9", HIDDEN),
    Kind("matroska", "libx265", {"x265-params": "log-level=none"}),
    Kind("matroska", "mpeg4", {"bf": "2"}),
    Kind("matroska", "libsvtav1", {"preset": "12"}),
    Kind("mov", "mjpeg", pixels="yuvj420p"),
    Kind("mpegts", "libx265", {"x265-params": "log-level=none"}),
    Kind("mpeg", "mpeg2video", {"bf": "2"}),
    Kind("flv", "flv"),
    Kind("avi", "ffv1"),
    Kind("avi", "rawvideo"),
]
UNEVEN = [
    replace(kind, is_uneven=True)
    for kind in (EVEN[0], EVEN[3], EVEN[5], EVEN[9], EVEN[10], EVEN[13], EVEN[14])
]
MATRIX = [
    *(pytest.param(kind, id=str(kind)) for kind in EVEN + UNEVEN),
    *(pytest.param(kind, id=str(kind), marks=pytest.mark.slow) for kind in SLOW),
]


@pytest.mark.parametrize("kind", MATRIX)
def test_frames_are_those_asked_for(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip"
    times = write_video(path, kind)
    clip = read_clip(path, 8)
    assert clip.indices.tolist() == np.linspace(0, 99, 8, dtype=int).tolist()
    np.testing.assert_allclose(clip.frames.mean(axis=(1, 2, 3)), clip.indices * STEP, atol=6)
    np.testing.assert_allclose(clip.times, times[clip.indices], atol=1e-3)
    assert clip.rate == pytest.approx(20 if kind.is_uneven else RATE, rel=0.02)
    monkeypatch.setattr(decoding, "INDEXED", ())  # without jumps
    in_order = read_clip(path, 8, limits=None)
    assert np.array_equal(in_order.frames, clip.frames) and np.array_equal(in_order.times, clip.times)


@pytest.mark.parametrize("kind", [EVEN[0], replace(EVEN[0], pixels="yuv420p10le")], ids=["8 bit", "10 bit"])
def test_frames_are_those_of_llava_hounds_reader(tmp_path: Path, kind: Kind) -> None:
    decord = pytest.importorskip("decord")
    path = tmp_path / "clip.mp4"
    write_video(path, kind)
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    indices = np.linspace(0, len(reader) - 1, 8, dtype=int)
    clip = read_clip(path, 8)
    assert clip.indices.tolist() == indices.tolist() and clip.rate == reader.get_avg_fps()
    difference = reader.get_batch(indices).asnumpy().astype(int) - clip.frames
    assert np.abs(difference).max() <= (0 if kind.pixels == "yuv420p" else 2)


@pytest.mark.parametrize("kind", [EVEN[0], EVEN[3], EVEN[10], UNEVEN[0]], ids=str)
def test_a_clip_that_starts_late_is_timed_from_its_first_frame(tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "late"
    times = write_video(path, kind, start=50)
    np.testing.assert_allclose(read_clip(path, 8).times, times[read_clip(path, 8).indices], atol=2e-3)


@pytest.mark.parametrize("kind", [EVEN[0], EVEN[7], EVEN[10]], ids=str)
def test_the_first_ten_seconds_are_the_references_where_the_rate_is_constant(
    tmp_path: Path, kind: Kind
) -> None:
    path = tmp_path / "long"
    write_video(path, kind, count=300)
    clip = read_clip(path, 4, "first_10s")
    assert clip.count == 250 and clip.indices.tolist() == [0, 83, 166, 249]


@pytest.mark.parametrize("kind", [UNEVEN[0], UNEVEN[1], UNEVEN[4]], ids=str)
def test_the_first_ten_seconds_go_by_time_where_the_rate_varies(tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "long"
    times = write_video(path, kind, count=300)
    count = int(np.count_nonzero(times < 10))
    clip = read_clip(path, 4, "first_10s")
    assert clip.count == count == 200
    assert clip.indices.tolist() == np.linspace(0, count - 1, 4, dtype=int).tolist()
    assert clip.times[-1] == pytest.approx(times[count - 1], abs=1e-3) and clip.times[-1] < 10


def test_key_frames_that_are_none_are_not_believed(tmp_path: Path) -> None:
    """An mp4 file that says that every frame is a key frame: a jump to one would show gray."""
    path = tmp_path / "clip.mp4"
    write_video(path, Kind("mp4", "mpeg4", {"g": "60", "qscale": "2"}))
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    clip = read_clip(path, 8)
    np.testing.assert_allclose(clip.frames.mean(axis=(1, 2, 3)), clip.indices * STEP, atol=6)


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_a_torn_file_is_refused(tmp_path: Path, container: str) -> None:
    path = tmp_path / "clip"
    options = {"movflags": "faststart"} if container == "mp4" else {}
    write_video(path, Kind(container, "mpeg4", {"g": "10"} | options))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(VideoError, match=r"clip: (damaged|not a readable video)"):
        read_clip(path, 8)


def test_timeline() -> None:
    even = Timeline(np.arange(400) / 29.97, 29.97)
    assert (even.count("whole"), even.count("first_10s"), even.rate) == (400, 299, 29.97)
    uneven = Timeline(np.array([0, 1, 2, 9.9, 10, 11, 30]), 25.0)
    assert (uneven.count("whole"), uneven.count("first_10s"), uneven.rate) == (7, 4, 0.2)
    assert Timeline(np.zeros(1), 25.0).count("first_10s") == 1
    assert Timeline(np.zeros(1), 0.0).rate == 0
