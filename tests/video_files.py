"""Video files for tests: gray frames that brighten, so that a frame's gray says which one it is."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, cycle, islice
from pathlib import Path

import av
import numpy as np

SIZE = (64, 48)  # width, height
RATE = 25
UNEVEN = (20, 40, 90, 50)  # milliseconds from frame to frame, again and again
STEP = 2  # of gray, from frame to frame


@dataclass(frozen=True)
class Kind:
    """A container, the codec in it, and how the frames are spaced."""

    container: str
    codec: str
    options: dict[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"
    is_uneven: bool = False

    def __str__(self) -> str:
        return f"{self.container}-{self.codec}{'-uneven' if self.is_uneven else ''}"


def write_video(path: Path, kind: Kind, count: int = 100, start: int = 0) -> np.ndarray:
    """Write `count` frames, and return their times in seconds from the first one.

    `start` is the time of the first one, in frames (even) or milliseconds (uneven).
    """
    unit = Fraction(1, 1000) if kind.is_uneven else Fraction(1, RATE)
    steps = UNEVEN if kind.is_uneven else (1,)
    ticks = list(islice(accumulate(cycle(steps), initial=0), count))
    with av.open(str(path), "w", format=kind.container) as container:
        stream = container.add_stream(kind.codec, rate=RATE, options=kind.options)
        stream.width, stream.height = SIZE
        stream.pix_fmt = kind.pixels
        if kind.is_uneven:
            stream.time_base = stream.codec_context.time_base = unit
        for tick, picture in zip(ticks, gray_pictures(count), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = tick + start
            frame.time_base = unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return np.array(ticks) * float(unit)


def gray_pictures(count: int) -> Iterator[np.ndarray]:
    """`count` pictures, uint8 [H, W, 3], of which number i has the gray STEP * i."""
    for number in range(count):
        yield np.full((SIZE[1], SIZE[0], 3), number * STEP % 256, np.uint8)


def patch_matrix(content: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An mp4 file with (a, b, c, d), whole numbers, as the display matrix of its first track."""
    a, b, c, d = (entry << 16 for entry in matrix)
    place = content.index(b"tkhd") + 44
    entries = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return content[:place] + entries + content[place + 36 :]
