"""A clip as a page shows it: a file to play, and the frames that the model saw.

Clips that are shown are linked into `outputs/<run>/clips/`. A hard link takes no space on the disk, and the
clip is there when the run is copied elsewhere.
"""

import base64
import hashlib
import io
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from isrdpo.core import records
from isrdpo.core.folders import atomic_file
from isrdpo.core.runs import Run
from isrdpo.formats import video
from isrdpo.reports import html

PLAYABLE = (".mp4", ".webm", ".m4v", ".mov")  # what a browser can be expected to play
LARGEST_SIDE = 224  # pixels of a frame on a page
LARGEST_PNG = 64  # pixels; a larger frame is a JPEG


@dataclass(frozen=True)
class Frame:
    """One frame that the model saw: a data URI, and when it is, such as "0.8 s"."""

    picture: str
    time: str


@dataclass(frozen=True)
class ClipView:
    """A clip on a page.

    `href` plays it; None where no browser can. `frames` are those that the model saw. `note` says what is
    missing, and why.
    """

    name: str
    href: str | None
    frames: list[Frame]
    note: str = ""


@dataclass
class ModelInput:
    """What model.json holds at least; see `model_input`."""

    frames: int
    image_size: int | None


def model_input(run: Run) -> dict[str, Any]:
    """Return the model's input: `frames`, and `image_size`, in pixels per side of the center square.

    An `image_size` of None stands for whole frames, at a size that the model chooses.
    """
    path = run.folder / "model.json"
    if not path.exists():
        return {"frames": 8, "image_size": LARGEST_SIDE}
    advice = "remove it: the next stage that opens the model writes it anew"
    return records.read_json(path, ModelInput, advice)


def frames_seen(run: Run, path: Path) -> video.Clip:
    """The frames of a clip that the model saw, uint8 [T, h, w, 3]: sampled as it samples, cut and sized as
    it takes them.

    None is larger than LARGEST_SIDE. Raises VideoError for a clip that cannot be read.
    """
    from PIL import Image

    sizes = model_input(run)
    clip = video.read_clip(path, sizes["frames"], run.params.video.span, video.decode_limits(run.params))
    height, width = clip.frames.shape[1:3]
    pictures = [Image.fromarray(frame) for frame in clip.frames]
    if sizes["image_size"] is None:
        new_width = min(width, LARGEST_SIDE)
        whole_frame = (new_width, round(height * new_width / width))
        resized = [picture.resize(whole_frame) for picture in pictures]
    else:
        side = min(sizes["image_size"], LARGEST_SIDE)
        box = _center_square(height, width)
        resized = [picture.resize((side, side), Image.Resampling.BILINEAR, box=box) for picture in pictures]
    return replace(clip, frames=np.stack([np.asarray(picture) for picture in resized]))


def _center_square(height: int, width: int) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the largest square in the middle of a frame."""
    side = min(height, width)
    return ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)


def data_uri(frame: np.ndarray) -> str:
    """A frame as a data URI: PNG where it is small, else JPEG."""
    from PIL import Image

    form = "png" if frame.shape[0] <= LARGEST_PNG else "jpeg"
    out = io.BytesIO()
    Image.fromarray(frame).save(out, format=form, quality=80)
    return f"data:image/{form};base64,{base64.b64encode(out.getvalue()).decode()}"


def view_clip(run: Run, name: str, page: Path | None = None, held_out: bool = False) -> ClipView:
    """The clip that a row's `video` names, for a page in the folder `page` (None: a page of an iteration).

    `held_out` says that it belongs to an evaluation question. A clip that is missing or cannot be read is a
    note.
    """
    try:
        path = run.clip(name, held_out)
        clip = frames_seen(run, path)
    except OSError as error:
        return ClipView(name, None, [], f"this clip is not at hand ({error})")
    frames = [
        Frame(data_uri(frame), f"{time:.1f} s") for frame, time in zip(clip.frames, clip.times, strict=True)
    ]
    if path.is_dir():
        return ClipView(name, None, frames, "a folder of frames")
    if path.suffix.lower() not in PLAYABLE:
        return ClipView(name, None, frames, f"browsers do not play {path.suffix}")
    page = page or run.iteration(1) / "reports"
    return ClipView(name, html.href(page, _link_clip(run, path, name)), frames)


def _link_clip(run: Run, path: Path, name: str) -> Path:
    """Link a clip into the run's own folder, under a name that is harmless in a link and that no other clip
    has.
    """
    stem = re.sub(r"[^\w.-]", "_", Path(name).stem)[:60]
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    target = run.folder / "clips" / f"{stem}-{digest}{path.suffix.lower()}"
    if not target.exists():
        with atomic_file(target) as part:
            part.unlink(missing_ok=True)  # what a killed process with the same number left
            try:
                os.link(path.resolve(), part)
            except OSError:  # another file system
                shutil.copyfile(path, part)
    return target
