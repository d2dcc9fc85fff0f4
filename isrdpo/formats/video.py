"""From a path to frames and their times.

python -c "from pathlib import Path; from isrdpo.formats.video import read_clip;
print(read_clip(Path('CLIP.mp4'), 8).times)"

Files go through decord, or through PyAV where decord has no wheel or cannot decode; folders of frames go
through Pillow. The rule is LLaVA-Hound's: `np.linspace(0, n - 1, T, dtype=int)` over the whole clip, or
over its first 10 seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from isrdpo.core.clips import PICTURES, frame_files
from isrdpo.core.errors import VideoError

FOLDER_RATE = 2.0  # frames a second in LLaVA-Hound's frame folders (ffmpeg -vf fps=2)
SPANS = ("whole", "first_10s")
MOST_FRAMES = 0.95  # of those that a container declares; a file that decodes fewer is damaged


@dataclass(frozen=True)
class Clip:
    """T frames of a video.

    `frames` is uint8 [T, H, W, 3]; `times` is float [T], in seconds from the start. `decoder` is decord,
    pyav or frames. `indices` is int [T]: the places of the frames among the `count` frames that were
    sampled over. `rate` is the frames a second of the source.
    """

    frames: np.ndarray
    times: np.ndarray
    decoder: str
    indices: np.ndarray
    count: int
    rate: float


def read_clip(path: Path, frames: int, span: str = "whole") -> Clip:
    """Read `frames` frames of a video file, or of a folder of frames (of which `span` takes all).

    Raises VideoError.
    """
    if span not in SPANS:
        raise ValueError(f"span {span!r} is not one of {', '.join(SPANS)}")
    if path.is_dir():
        return _read_folder(path, frames)
    if not path.is_file():
        raise VideoError(f"{path}: no such video")
    try:
        import decord

        return _read_with_decord(decord, path, frames, span)
    except Exception:  # noqa: BLE001 (no decord here, or one of its bare Exceptions: PyAV has the last word)
        return _read_with_pyav(path, frames, span)


def shrink_clip(clip: Clip, max_pixels: int) -> Clip:
    """Scale a clip's frames down, in proportion, to at most `max_pixels` pixels each; 0 means no limit."""
    height, width = clip.frames.shape[1:3]
    if not max_pixels or height * width <= max_pixels:
        return clip
    from PIL import Image

    scale = (max_pixels / (height * width)) ** 0.5
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    pictures = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in clip.frames]
    return replace(clip, frames=np.stack([np.asarray(picture) for picture in pictures]))


def clip_seconds(path: Path) -> float | None:
    """Return how long a video is by its container's header, or a folder by its count of frames.

    None where the header does not say. Raises VideoError.
    """
    if path.is_dir():
        return len(frame_files(path)) / FOLDER_RATE
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if container.duration is not None:
                return container.duration / av.time_base
            return None if stream.duration is None else float(stream.duration * stream.time_base)
    except Exception as error:
        raise VideoError(f"{path}: not a readable video ({type(error).__name__})") from error


def _count_in_span(count: int, rate: float, span: str) -> int:
    """The number of frames to sample over, of a clip of `count` frames at `rate` a second."""
    if span == "first_10s":
        count = min(int(rate * 10), count)
    return max(count, 1)


def _frame_indices(count: int, rate: float, frames: int, span: str) -> np.ndarray:
    """Indices of the frames to take from a clip of `count` frames at `rate` a second."""
    return np.linspace(0, _count_in_span(count, rate, span) - 1, frames, dtype=int)


def _read_folder(path: Path, frames: int) -> Clip:
    files = frame_files(path)
    if not files:
        raise VideoError(f"{path}: a folder without frames ({', '.join(PICTURES)})")
    indices = _frame_indices(len(files), FOLDER_RATE, frames, "whole")
    pictures = _read_pictures(files, sorted(set(indices.tolist())))
    stacked = np.stack([pictures[i] for i in indices.tolist()])
    return Clip(stacked, indices / FOLDER_RATE, "frames", indices, len(files), FOLDER_RATE)


def _read_pictures(files: Sequence[Path], indices: Sequence[int]) -> dict[int, np.ndarray]:
    """The pictures at `indices`, uint8 [H, W, 3] each.

    Raises VideoError where one is torn or of another size than the first.
    """
    from PIL import Image

    pictures: dict[int, np.ndarray] = {}
    for i in indices:
        try:
            with Image.open(files[i]) as picture:
                pictures[i] = np.asarray(picture.convert("RGB"))
        except Exception as error:
            raise VideoError(f"{files[i]}: not a readable picture ({type(error).__name__})") from error
        if pictures[i].shape != pictures[indices[0]].shape:
            raise VideoError(f"{files[i]}: of another size than {files[indices[0]].name}")
    return pictures


def _read_with_decord(decord: ModuleType, path: Path, frames: int, span: str) -> Clip:
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    rate = reader.get_avg_fps()
    indices = _frame_indices(len(reader), rate, frames, span)
    times = reader.get_frame_timestamp(indices)[:, 0].astype(float)
    pictures = reader.get_batch(indices).asnumpy()
    return Clip(pictures, times, "decord", indices, _count_in_span(len(reader), rate, span), rate)


def _read_with_pyav(path: Path, frames: int, span: str) -> Clip:
    try:
        return _decode_clip(path, frames, span)
    except VideoError:
        raise
    except Exception as error:
        raise VideoError(f"{path}: not a readable video ({type(error).__name__})") from error


def _decode_clip(path: Path, frames: int, span: str) -> Clip:
    count, rate = _declared_frames(path)
    indices = _frame_indices(count, rate, frames, span)
    decoded, pictures = _decode_frames(path, indices)
    if decoded <= indices[-1]:
        # An edit list may hide a few frames; a damaged file lacks more, and a part of it would be a lie.
        if decoded < max(1, MOST_FRAMES * count):
            raise VideoError(f"{path}: damaged, only {decoded} of {count} frames decode")
        count = decoded
        indices = _frame_indices(count, rate, frames, span)
        pictures = _decode_frames(path, indices)[1]
    stacked = np.stack([pictures[i][0] for i in indices.tolist()])
    times = np.array([pictures[i][1] for i in indices.tolist()])
    return Clip(stacked, times, "pyav", indices, _count_in_span(count, rate, span), rate)


def _declared_frames(path: Path) -> tuple[int, float]:
    """(frames, frames a second) as the container states them."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        return count, float(stream.average_rate or stream.guessed_rate or 0)


def _decode_frames(path: Path, indices: np.ndarray) -> tuple[int, dict[int, tuple[np.ndarray, float]]]:
    """(frames decoded up to the last of `indices`, the picture and the time of each of them by its index)."""
    import av

    awaited = set(indices.tolist())
    pictures: dict[int, tuple[np.ndarray, float]] = {}
    count = 0
    start: float | None = None
    with av.open(str(path)) as container:
        for count, frame in enumerate(container.decode(video=0), 1):
            time = frame.time or 0.0
            if start is None:
                start = time
            if count - 1 in awaited:
                pictures[count - 1] = (frame.to_ndarray(format="rgb24"), time - start)
            if len(pictures) == len(awaited):
                break
    return count, pictures
