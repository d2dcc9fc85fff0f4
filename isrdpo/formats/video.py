"""A path to frames and times: python -c "from isrdpo import video; print(video.read('CLIP.mp4', 8).times)"

Files go through decord, else PyAV (where decord has no wheel or cannot decode); folders of frames through Pillow.
The rule is LLaVA-Hound's: `np.linspace(0, n - 1, T, dtype=int)` over the whole clip, or over its first 10 seconds.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from isrdpo.core.clips import PICTURES, frame_files
from isrdpo.core.errors import VideoError

FOLDER_RATE = 2.0  # frames a second in LLaVA-Hound's frame folders (ffmpeg -vf fps=2)
SPANS = ("whole", "first_10s")


@dataclass(frozen=True)
class Clip:
    """frames: uint8 [T, H, W, 3]; times: float [T], seconds from the start; decoder: decord, pyav or frames; indices: int [T], which of the
    `count` frames that were sampled over they are; rate: frames a second of the source."""

    frames: np.ndarray
    times: np.ndarray
    decoder: str
    indices: np.ndarray
    count: int
    rate: float


def read(path: Path, frames: int, span: str = "whole") -> Clip:
    """T = `frames` frames of a video file or of a folder of frames (of which `span` takes all). Raises VideoError."""
    if span not in SPANS:
        raise ValueError(f"span {span!r} is not one of {', '.join(SPANS)}")
    if path.is_dir():
        return _read_folder(path, frames)
    if not path.is_file():
        raise VideoError(f"{path}: no such video")
    try:
        import decord

        return _read_decord(decord, path, frames, span)
    except Exception:  # noqa: BLE001 (no decord here, or one of its bare Exceptions: PyAV has the last word)
        return _read_pyav(path, frames, span)


def smaller(clip: Clip, max_pixels: int) -> Clip:
    """The clip with its frames scaled down, in proportion, to at most `max_pixels` pixels each; as it is when they are, or at 0."""
    height, width = clip.frames.shape[1:3]
    if not max_pixels or height * width <= max_pixels:
        return clip
    from PIL import Image

    scale = (max_pixels / (height * width)) ** 0.5
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return replace(clip, frames=np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in clip.frames]))


def seconds(path: Path) -> float | None:
    """How long a video is, by its container's header (None where that does not say), or by the count of frames where it is a folder. Raises VideoError."""
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


def _sampled(count: int, rate: float, span: str) -> int:
    """How many of a clip's `count` frames at `rate` a second are sampled over."""
    return max(min(int(rate * 10), count) if span == "first_10s" else count, 1)


def _chosen(count: int, rate: float, frames: int, span: str) -> np.ndarray:
    """Indices of the frames to take from a clip of `count` frames at `rate` a second."""
    return np.linspace(0, _sampled(count, rate, span) - 1, frames, dtype=int)


def _read_folder(path: Path, frames: int) -> Clip:
    from PIL import Image

    pictures = frame_files(path)
    if not pictures:
        raise VideoError(f"{path}: a folder without frames ({', '.join(PICTURES)})")
    chosen, loaded = _chosen(len(pictures), 0, frames, "whole"), {}
    for i in sorted(set(chosen.tolist())):
        try:
            with Image.open(pictures[i]) as picture:
                loaded[i] = np.asarray(picture.convert("RGB"))
        except Exception as error:
            raise VideoError(f"{pictures[i]}: not a readable picture ({type(error).__name__})") from error
        if loaded[i].shape != loaded[0].shape:
            raise VideoError(f"{pictures[i]}: of another size than {pictures[0].name}")
    return Clip(np.stack([loaded[i] for i in chosen.tolist()]), chosen / FOLDER_RATE, "frames", chosen, len(pictures), FOLDER_RATE)


def _read_decord(decord: ModuleType, path: Path, frames: int, span: str) -> Clip:
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    count, rate = len(reader), reader.get_avg_fps()
    chosen = _chosen(count, rate, frames, span)
    times = reader.get_frame_timestamp(chosen)[:, 0].astype(float)
    return Clip(reader.get_batch(chosen).asnumpy(), times, "decord", chosen, _sampled(count, rate, span), rate)


def _read_pyav(path: Path, frames: int, span: str) -> Clip:
    try:
        declared, rate = _declared(path)
        chosen = _chosen(declared, rate, frames, span)
        count, found = _decode(path, chosen)
        if (
            count <= chosen[-1]
        ):  # an edit list may hide a few frames; a damaged file lacks more, and a part of it would be a lie
            if count < max(1, 0.95 * declared):
                raise VideoError(f"{path}: damaged, only {count} of {declared} frames decode")
            declared, chosen = count, _chosen(count, rate, frames, span)
            found = _decode(path, chosen)[1]
    except VideoError:
        raise
    except Exception as error:
        raise VideoError(f"{path}: not a readable video ({type(error).__name__})") from error
    taken = [found[i] for i in chosen.tolist()]
    pictures, times = np.stack([picture for picture, _ in taken]), np.array([time for _, time in taken])
    return Clip(pictures, times, "pyav", chosen, _sampled(declared, rate, span), rate)


def _declared(path: Path) -> tuple[int, float]:
    """(frames, frames a second) as the container states them."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        return count, float(stream.average_rate or stream.guessed_rate or 0)


def _decode(path: Path, chosen: np.ndarray) -> tuple[int, dict[int, tuple[np.ndarray, float]]]:
    """(frames decoded up to the last chosen one, the chosen ones with their times)."""
    import av

    wanted, found, count, start = set(chosen.tolist()), {}, 0, None
    with av.open(str(path)) as container:
        for count, frame in enumerate(container.decode(video=0), 1):
            time = frame.time or 0.0
            start = time if start is None else start
            if count - 1 in wanted:
                found[count - 1] = (frame.to_ndarray(format="rgb24"), time - start)
            if len(found) == len(wanted):
                break
    return count, found
