"""Folders of pictures, the frames of a clip one file each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isrdpo.core.clips import PICTURES, frame_files
from isrdpo.core.errors import VideoError
from isrdpo.formats.containers import MOST_PIXELS, open_regular
from isrdpo.formats.sampling import FOLDER_RATE, Clip, frame_indices

KINDS = ("JPEG", "PNG", "WEBP", "BMP")  # Pillow reads many more, some through other programs
DEEP = ("I", "F")  # modes of more than 8 bits, which Pillow cuts off at 255 instead of scaling them


def read_folder(path: Path, frames: int) -> Clip:
    """Read `frames` frames of a folder of pictures, over all of them, in this process. Raises VideoError."""
    files = frame_files(path)
    if not files:
        raise VideoError(f"{path}: a folder without frames ({', '.join(PICTURES)})")
    indices = frame_indices(len(files), frames)
    pictures = _read_pictures(files, sorted(set(indices.tolist())))
    stacked = np.stack([pictures[i] for i in indices.tolist()])
    return Clip(stacked, indices / FOLDER_RATE, "frames", indices, len(files), FOLDER_RATE)


def _read_pictures(files: Sequence[Path], indices: Sequence[int]) -> dict[int, np.ndarray]:
    """The pictures at `indices`, uint8 [H, W, 3] each.

    Raises VideoError where one cannot be read, or is of another size than the first.
    """
    pictures: dict[int, np.ndarray] = {}
    for i in indices:
        pictures[i] = _read_picture(files[i])
        if pictures[i].shape != pictures[indices[0]].shape:
            raise VideoError(f"{files[i]}: of another size than {files[indices[0]].name}")
    return pictures


def _read_picture(path: Path) -> np.ndarray:
    """A picture, upright, uint8 [H, W, 3].

    Its size is known from its header, so that one that would fill the memory is refused before it does.
    """
    from PIL import Image, ImageOps

    try:
        with open_regular(path) as file, Image.open(file, formats=KINDS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                size = f"{picture.width} x {picture.height} pixels"
                raise VideoError(f"{path}: not a readable picture ({size}, more than {MOST_PIXELS})")
            if picture.mode.startswith(DEEP):
                raise VideoError(f"{path}: not a readable picture (more than 8 bits a color)")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (VideoError, MemoryError):
        raise
    except Exception as error:
        raise VideoError(f"{path}: not a readable picture ({type(error).__name__})") from error
