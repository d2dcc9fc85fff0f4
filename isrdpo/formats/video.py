"""From a path to frames and their times.

python -c "from pathlib import Path; from isrdpo.formats.video import read_clip;
print(read_clip(Path('CLIP.mp4'), 8).times)"

Videos come from anywhere. They are decoded by PyAV, and pictures by Pillow, in a process of its own with a
limit on its time and its memory; what that process must not do stands in `video_worker`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from isrdpo.core.clips import frame_files
from isrdpo.core.errors import VideoError
from isrdpo.core.params import Params
from isrdpo.formats import decoding, video_worker
from isrdpo.formats.sampling import FOLDER_RATE, SPANS, Clip
from isrdpo.formats.worker_pool import DecodeLimits, pool

DEFAULT_LIMITS = DecodeLimits()


def decode_limits(params: Params) -> DecodeLimits | None:
    """The limits for a run's clips.

    None for Toybox: this library has just written its clips, and decodes them in its own process, which
    saves the start of another.
    """
    if params.data.is_toybox:
        return None
    return DecodeLimits(params.video.decode_seconds, params.video.decode_memory)


def read_clip(
    path: Path, frames: int, span: str = "whole", limits: DecodeLimits | None = DEFAULT_LIMITS
) -> Clip:
    """Read `frames` frames of a video file, or of a folder of frames (of which `span` takes all).

    `limits` of None is for files that are trusted: they are decoded in this process, without limits. Raises
    VideoError, also for a file that takes more than the limits or crashes the decoder.
    """
    if span not in SPANS:
        raise ValueError(f"span {span!r} is not one of {', '.join(SPANS)}")
    _require_video(path)
    if limits is None:
        return video_worker.read_here(path, frames, span)
    return pool().read_clip(path.absolute(), frames, span, limits)


def clip_seconds(path: Path, limits: DecodeLimits | None = DEFAULT_LIMITS) -> float | None:
    """Return how long a video is by its container's header, or a folder by its count of frames.

    None where the header does not say. `limits` as in `read_clip`. Raises VideoError.
    """
    if path.is_dir():
        return len(frame_files(path)) / FOLDER_RATE
    _require_video(path)
    if limits is None:
        return decoding.container_seconds(path)
    return pool().clip_seconds(path.absolute(), limits)


def _require_video(path: Path) -> None:
    """Raise VideoError where there is nothing, or something that is neither a file nor a folder."""
    if not path.exists():
        raise VideoError(f"{path}: no such video")
    if not path.is_file() and not path.is_dir():
        raise VideoError(f"{path}: neither a file nor a folder")


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
