"""Folders of pictures: their order, and pictures that are none."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isrdpo.core.errors import VideoError
from isrdpo.formats.video import read_clip


def write_frames(folder: Path, names: list[str]) -> Path:
    """Pictures of which the first in time has the gray 10, the next 20, and so on."""
    folder.mkdir()
    for number, name in enumerate(names, 1):
        Image.new("RGB", (16, 8), (number * 10,) * 3).save(folder / name, quality=100)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        [f"frame_{i}.{'png' if i % 2 else 'jpg'}" for i in range(1, 13)],
        [f"{i:03}.png" for i in range(12)],
        [f"{i}.PNG" for i in range(8, 20)],
        ["f08.png", "f9.png", "f010.png", "f0011.png"],
        [f"shot1_frame{i}.bmp" for i in range(95, 105)],
        [f"v2.{i}.png" for i in range(1, 12)],
        ["0.00.png", "0.50.png", "1.00.png", "10.50.png"],
        [f"{1_718_900_000_000_000_000 + i}.png" for i in range(4)],
        ["clip 1 (2).png", "clip 1 (10).png", "clip 2 (1).png"],
    ],
    ids=lambda names: names[-1],
)
def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path, names: list[str]) -> None:
    clip = read_clip(write_frames(tmp_path / "v", names), len(names))
    np.testing.assert_allclose(clip.frames.mean(axis=(1, 2, 3)), np.arange(1, len(names) + 1) * 10, atol=2)


def test_an_order_that_names_do_not_say_is_refused(tmp_path: Path) -> None:
    same = write_frames(tmp_path / "same", ["frame_1.jpg", "frame_01.png", "frame_2.png"])
    with pytest.raises(VideoError, match=r"same: frame_(01|1)\.\w+ and frame_\w+\.\w+ have the same number"):
        read_clip(same, 8)
    decimals = write_frames(tmp_path / "decimals", ["0.25.png", "0.5.png", "1.0.png"])
    with pytest.raises(VideoError, match="the order of frames such as 0.5?2?5?.png is not clear"):
        read_clip(decimals, 8)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that would fill width x height pixels with black."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(4096))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8193, 8193), (12000, 12000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "frame_1.png").write_bytes(png_of_size(*size))
    with pytest.raises(VideoError, match=r"frame_1\.png: not a readable picture"):
        read_clip(tmp_path, 8)


@pytest.mark.parametrize(
    "content", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", b"#EXTM3U\n", b"BM" + bytes(60)]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "frame_1.png").write_bytes(content)
    with pytest.raises(VideoError, match=r"frame_1\.png: not a readable picture"):
        read_clip(tmp_path, 8)


def test_pictures_of_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 16), 40_000, np.uint16)).save(tmp_path / "frame_1.png")
    with pytest.raises(VideoError, match="more than 8 bits a color"):
        read_clip(tmp_path, 8)


def test_a_picture_is_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 8), (0, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "frame_1.jpg", exif=exif)
    assert read_clip(tmp_path, 1).frames.shape == (1, 16, 8, 3)


def test_only_the_frames_that_are_taken_are_read(tmp_path: Path) -> None:
    write_frames(tmp_path / "v", ["frame_1.png", "frame_2000.png"])
    for number in range(2, 2000):
        (tmp_path / "v" / f"frame_{number}.png").touch()
    clip = read_clip(tmp_path / "v", 2)
    assert clip.count == 2000 and clip.times.tolist() == [0, 999.5]
