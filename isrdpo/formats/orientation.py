"""Frames turned upright, as the display matrix of a video says (libavutil/display.h)."""

import math
import struct
from typing import TYPE_CHECKING

import numpy as np

from isrdpo.formats.containers import Unreadable

if TYPE_CHECKING:
    from av import VideoFrame

UPRIGHT = (1, 0, 0, 1)
TOLERANCE = 1e-3  # of a matrix's largest entry; what is smaller is rounding


class UprightPictures:
    """Frames of one video as pictures; what converts their colors is set up once."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def of(self, frame: "VideoFrame") -> np.ndarray:
        """A frame as it is to be shown, uint8 [H, W, 3]. Raises Unreadable as `turn_upright` does."""
        picture = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return turn_upright(picture, display_matrix(frame))


def display_matrix(frame: "VideoFrame") -> tuple[int, int, int, int]:
    """(a, b, c, d) of a frame's display matrix, which shows pixel (x, y) at (a x + c y, b x + d y).

    Only their ratios and signs matter. Without a matrix, or with one of zeros, a frame is upright.
    """
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return UPRIGHT
    entries = struct.unpack("=9i", bytes(data)[:36])
    matrix = (entries[0], entries[1], entries[3], entries[4])
    return matrix if any(matrix) else UPRIGHT


def turn_upright(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Turn and mirror a picture [H, W, 3] as its display matrix says.

    Raises Unreadable for a matrix that is no quarter turn, mirrored or not.
    """
    small = TOLERANCE * max(map(abs, matrix))
    a, b, c, d = (0 if abs(entry) <= small else entry for entry in matrix)
    if a and d and not b and not c:
        across, down = a, d
    elif b and c and not a and not d:
        picture = picture.transpose(1, 0, 2)
        across, down = c, b
    else:
        angle = math.degrees(math.atan2(b, a))
        raise Unreadable(f"to be shown turned by {angle:.0f} degrees; only quarter turns are read")
    if across < 0:
        picture = picture[:, ::-1]
    if down < 0:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)
