"""Which frames of a video are taken: LLaVA-Hound's rule, `np.linspace(0, n - 1, T, dtype=int)` over the whole
clip, or over its first 10 seconds.
"""

from dataclasses import dataclass

import numpy as np

FOLDER_RATE = 2.0  # frames a second in LLaVA-Hound's frame folders (ffmpeg -vf fps=2)
SPANS = ("whole", "first_10s")
READING = 2  # raised when a file may give other frames than before, so that encoded clips are made anew
SECONDS = 10  # of the span first_10s


@dataclass(frozen=True)
class Clip:
    """T frames of a video.

    `frames` is uint8 [T, H, W, 3]; `times` is float [T], in seconds from the start. `decoder` is pyav or
    frames (a folder of pictures). `indices` is int [T]: the places of the frames among the `count` frames
    that were sampled over. `rate` is the frames a second of the source.
    """

    frames: np.ndarray
    times: np.ndarray
    decoder: str
    indices: np.ndarray
    count: int
    rate: float


@dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown.

    `times` is float [n], in seconds from the first frame, in order. `stated_rate` is the frames a second
    that the container states; 0 where it does not.
    """

    times: np.ndarray
    stated_rate: float

    @property
    def rate(self) -> float:
        """Frames a second: the container's where all frames keep to it, else their mean."""
        if self._keeps_rate(self.times) or len(self.times) < 2 or self.times[-1] == 0:
            return self.stated_rate
        return float((len(self.times) - 1) / self.times[-1])

    def count(self, span: str) -> int:
        """The number of frames to sample over.

        The first 10 seconds are LLaVA-Hound's `int(10 * rate)` frames where the rate is constant, else the
        frames whose time is below 10 s.
        """
        if span == "whole":
            return len(self.times)
        early = self.times[self.times < SECONDS]
        if self._keeps_rate(early):
            return max(1, min(int(self.stated_rate * SECONDS), len(self.times)))
        return len(early)

    def _keeps_rate(self, times: np.ndarray) -> bool:
        """Whether each frame is within half a frame of its place at the container's rate."""
        if not self.stated_rate:
            return False
        places = np.arange(len(times)) / self.stated_rate
        return bool(np.abs(times - places).max(initial=0) < 0.5 / self.stated_rate)

    def indices(self, frames: int, span: str) -> np.ndarray:
        """The places of the frames to take, int [frames]."""
        return frame_indices(self.count(span), frames)


def frame_indices(count: int, frames: int) -> np.ndarray:
    """`frames` places, evenly spread over `count` frames from the first to the last."""
    return np.linspace(0, count - 1, frames, dtype=int)
