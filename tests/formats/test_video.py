"""Videos and frame folders to frames."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from isrdpo.core.errors import VideoError
from isrdpo.formats import video
from isrdpo.formats.video import clip_seconds, read_clip, shrink_clip


def make_clip(path: Path, count: int = 60, rate: int = 10, options: dict | None = None) -> Path:
    """Gray frames that brighten by 4 a frame, H.264."""
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width = 64
        stream.height = 48
        stream.pix_fmt = "yuv420p"
        for number in range(count):
            frame = np.full((48, 64, 3), number * 4 % 240, np.uint8) + rng.integers(
                0, 8, (48, 64, 3), dtype=np.uint8
            )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def make_frames(folder: Path, count: int, size: tuple[int, int] = (20, 10)) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (number * 10, 0, 0)).save(folder / f"c01_{number + 1:04}.png")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture(params=[video.DEFAULT_LIMITS, None], ids=["apart", "in this process"])
def limits(request: pytest.FixtureRequest) -> video.DecodeLimits | None:
    """In a process of its own, and in this one."""
    return request.param


def test_whole_clip(clip: Path, limits: video.DecodeLimits | None) -> None:
    sampled = read_clip(clip, 8, limits=limits)
    indices = np.linspace(0, 59, 8, dtype=int)
    assert sampled.decoder == "pyav"
    assert sampled.frames.shape == (8, 48, 64, 3) and sampled.frames.dtype == np.uint8
    np.testing.assert_allclose(sampled.times, indices / 10, atol=1e-6)
    np.testing.assert_allclose(sampled.frames.mean(axis=(1, 2, 3)), indices * 4 + 3.5, atol=4)


def test_first_ten_seconds(tmp_path: Path, limits: video.DecodeLimits | None) -> None:
    path = make_clip(tmp_path / "long.mp4", count=75, rate=5)
    assert read_clip(path, 4, "first_10s", limits).times.tolist() == pytest.approx([0, 3.2, 6.4, 9.8])
    assert read_clip(path, 4, "whole", limits).times[-1] == pytest.approx(14.8)
    with pytest.raises(ValueError, match="span 'middle' is not one of whole, first_10s"):
        read_clip(path, 4, "middle", limits)


def test_short_clips_repeat_frames(tmp_path: Path, limits: video.DecodeLimits | None) -> None:
    path = make_clip(tmp_path / "short.mp4", count=3)
    assert read_clip(path, 8, limits=limits).times.tolist() == pytest.approx([0, 0, 0, 0, 0.1, 0.1, 0.1, 0.2])
    assert read_clip(make_clip(tmp_path / "one.mp4", count=1), 4, limits=limits).times.tolist() == [
        0,
        0,
        0,
        0,
    ]


def test_a_container_that_states_no_length(tmp_path: Path, limits: video.DecodeLimits | None) -> None:
    path = make_clip(tmp_path / "clip.mkv")
    indices = np.linspace(0, 59, 8, dtype=int)
    np.testing.assert_allclose(read_clip(path, 8, limits=limits).times, indices / 10, atol=2e-3)


@pytest.mark.parametrize("kind", ["cut", "no index", "damaged", "text", "empty", "sound"])
def test_a_broken_file_is_one_clear_line(
    tmp_path: Path, limits: video.DecodeLimits | None, kind: str
) -> None:
    path = make_clip(tmp_path / "clip.mp4", options={"movflags": "faststart"} if kind != "no index" else None)
    content = bytearray(path.read_bytes())
    if kind in ("cut", "no index"):
        content = content[: len(content) * 6 // 10]
    elif kind == "damaged":
        content[len(content) // 2 : len(content) // 2 + 3000] = b"\x55" * 3000
    elif kind == "text":
        content = bytearray(b"not a video\n" * 100)
    elif kind == "empty":
        content = bytearray()
    path.write_bytes(content)
    if kind == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
    with pytest.raises(VideoError) as error:
        read_clip(path, 8, limits=limits)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and len(message) < len(str(path)) + 80


def test_frame_folders(tmp_path: Path) -> None:
    folder = make_frames(tmp_path / "frames", 20)
    (folder / ".DS_Store").write_bytes(b"x")
    clip = read_clip(folder, 8)
    indices = np.linspace(0, 19, 8, dtype=int)
    assert clip.decoder == "frames"
    assert clip.frames[:, 0, 0, 0].tolist() == (indices * 10).tolist()
    assert clip.times.tolist() == (indices / 2).tolist()
    five = read_clip(make_frames(tmp_path / "five", 5), 8)
    assert five.frames[:, 0, 0, 0].tolist() == [0, 0, 10, 10, 20, 20, 30, 40]


def test_frames_above_a_number_of_pixels_are_scaled_down(tmp_path: Path) -> None:
    clip = read_clip(make_frames(tmp_path / "frames", 4, size=(40, 20)), 3)
    small = shrink_clip(clip, 200)
    assert small.frames.shape == (3, 10, 20, 3) and small.frames.dtype == np.uint8
    assert small.times is clip.times
    assert shrink_clip(clip, 800) is clip and shrink_clip(clip, 0) is clip


def test_how_long_a_clip_is(tmp_path: Path, clip: Path) -> None:
    assert clip_seconds(clip) == pytest.approx(6.0, abs=0.1)
    assert clip_seconds(make_frames(tmp_path / "frames", 9)) == 4.5
    (tmp_path / "torn.mp4").write_bytes(b"not a video")
    with pytest.raises(VideoError, match=r"torn\.mp4: not a readable video"):
        clip_seconds(tmp_path / "torn.mp4")


def test_faulty_frame_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="empty: a folder without frames"):
        read_clip(tmp_path / "empty", 8)
    torn = make_frames(tmp_path / "torn", 2) / "c01_0002.png"
    torn.write_bytes(torn.read_bytes()[:40])
    with pytest.raises(VideoError, match=r"c01_0002.png: not a readable picture"):
        read_clip(tmp_path / "torn", 8)
    Image.new("RGB", (7, 7)).save(make_frames(tmp_path / "mixed", 2) / "c01_0003.png")
    with pytest.raises(VideoError, match="of another size than c01_0001.png"):
        read_clip(tmp_path / "mixed", 8)
    with pytest.raises(VideoError, match="gone.mp4: no such video"):
        read_clip(tmp_path / "gone.mp4", 8)
