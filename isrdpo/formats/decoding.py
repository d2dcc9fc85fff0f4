"""Frames of a video file, each one the frame that was asked for, upright and at its own time.

A frame is known by its presentation time, never by a count of what a decoder returned after a jump. Where a
container states the time of every packet, a reader jumps to the key frame before each frame it needs, and
takes the jump only if the frames from there on have exactly the times that the packets state. Everything
else is decoded from the first frame to the last, in the order of presentation.

Frames have the shape that they are stored in: a pixel that is not square stays as it is, as in decord.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isrdpo.core.errors import VideoError
from isrdpo.formats.containers import INDEXED, Unreadable, container_name, open_container
from isrdpo.formats.orientation import UprightPictures
from isrdpo.formats.sampling import SECONDS, Clip, Timeline

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

MOST_FRAMES = 0.95  # of those that a container declares; a file that decodes fewer is damaged
MOST_PACKETS = 2_000_000  # 18 hours at 30 frames a second

# Codecs of which each packet is one frame that is shown. (VP8 has packets that are not.)
ONE_FRAME_A_PACKET = ("h264", "hevc", "mpeg4", "vp9", "av1", "mjpeg", "prores")


@dataclass(frozen=True)
class Packets:
    """What a container says of its frames before one is decoded.

    `times` has the presentation time of each packet, in units of `unit` seconds, sorted; `keys` those of the
    key frames. `in_order` is False where a packet has no time or shares one. `by_number` is True for AVI,
    which knows no time of presentation: its n-th frame is shown at the time of its n-th packet.
    """

    times: list[int]
    keys: list[int]
    count: int
    in_order: bool
    by_number: bool
    unit: Fraction
    rate: float

    @property
    def timeline(self) -> Timeline:
        """When each frame is shown, if the packets are right."""
        if not self.in_order:
            return Timeline(np.arange(self.count) / (self.rate or 1.0), self.rate)
        return _timeline(self.times, self.unit, self.rate)


def read_video(path: Path, frames: int, span: str) -> Clip:
    """Read `frames` frames of a video file in this process. Raises VideoError.

    Prefer `video.read_clip`, which does it in a process of its own: files come from anywhere.
    """
    with _one_line(path):
        with open_container(path) as (container, stream):
            packets = _list_packets(container, stream)
            clip = _read_by_jumps(container, stream, packets, frames, span)
            name = container_name(container)
        if name == "matroska":
            _refuse_torn_matroska(path)
        return clip or _read_in_order(path, packets, frames, span)


def container_seconds(path: Path) -> float | None:
    """The seconds that a video file's header states, or that of its video stream; None where it is silent.

    Raises VideoError.
    """
    import av

    with _one_line(path), open_container(path) as (container, stream):
        if container.duration is not None:
            return container.duration / av.time_base
        return None if stream.duration is None else float(stream.duration * stream.time_base)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into a VideoError; a lack of memory stays one."""
    try:
        yield
    except (VideoError, MemoryError):
        raise
    except Unreadable as error:
        raise VideoError(f"{path}: {error}") from None
    except Exception as error:
        raise VideoError(f"{path}: not a readable video ({type(error).__name__})") from error


def _list_packets(container: "InputContainer", stream: "VideoStream") -> Packets:
    """Read the times of all packets. Raises Unreadable where the file ends long before it should."""
    times: list[int] = []
    keys: list[int] = []
    by_number = container_name(container) == "avi"
    count = 0
    for packet in container.demux(stream):
        time = packet.dts if by_number else packet.pts
        if time is not None and packet.is_keyframe:
            keys.append(time)  # also one that an edit list hides: frames that are shown may rest on it
        if packet.is_discard or not packet.size:
            continue
        count += 1
        if count > MOST_PACKETS:
            raise Unreadable(f"more than {MOST_PACKETS} frames")
        if time is not None:
            times.append(time)
    packets = Packets(
        times=sorted(times),
        keys=sorted(keys),
        count=count,
        in_order=len(set(times)) == count,
        by_number=by_number,
        unit=stream.time_base,
        rate=float(stream.average_rate or stream.guessed_rate or 0),
    )
    _refuse_torn(stream, packets)
    return packets


def _refuse_torn(stream: "VideoStream", packets: Packets) -> None:
    """Raise Unreadable where the header states many more frames than the file holds.

    An AVI also counts the frames that it leaves out, for which it has no packets.
    """
    count = packets.count
    if packets.by_number and packets.times:
        count = max(count, packets.times[-1] + 1)
    if not count or count < MOST_FRAMES * stream.frames:
        raise Unreadable(f"damaged, it holds only {packets.count} of {stream.frames} frames")


def _refuse_torn_matroska(path: Path) -> None:
    """Raise Unreadable where a Matroska file ends long before the time that its header states, in all of its
    streams: a film may have sound behind its last frame.
    """
    import av

    end = 0.0
    with open_container(path) as (container, _):
        for packet in container.demux():
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * float(packet.time_base))
        seconds = (container.duration or 0) / av.time_base
    if end < MOST_FRAMES * seconds:
        raise Unreadable(f"damaged, it ends at {end:.1f} of {seconds:.1f} s")


def _timeline(times: list[int], unit: Fraction, rate: float) -> Timeline:
    """The timeline of frames at `times`, in units of `unit` seconds."""
    ticks = np.array([time - times[0] for time in times], float)
    return Timeline(ticks * float(unit), rate)


def _read_by_jumps(
    container: "InputContainer", stream: "VideoStream", packets: Packets, frames: int, span: str
) -> Clip | None:
    """The frames, by jumps to the key frames before them.

    None where the container or the codec allows none, or where a jump does not lead to the frames that the
    packets state.
    """
    is_verified = container_name(container) in INDEXED and stream.codec.name in ONE_FRAME_A_PACKET
    if not is_verified or not packets.in_order or not packets.keys:
        return None
    timeline = packets.timeline
    indices = timeline.indices(frames, span)
    pictures = _jump_and_decode(container, stream, packets, sorted(set(indices.tolist())))
    return None if pictures is None else _clip(pictures, timeline, indices, span)


def _jump_and_decode(
    container: "InputContainer", stream: "VideoStream", packets: Packets, awaited: list[int]
) -> dict[int, np.ndarray] | None:
    """The pictures at the places `awaited`, which ascend; None where a frame is not where it should be."""
    upright = UprightPictures()
    pictures: dict[int, np.ndarray] = {}
    decoded: Iterator[VideoFrame] = iter(())
    last = -1  # the place of the frame that was decoded last
    for place in awaited:
        before = bisect_right(packets.keys, packets.times[place]) - 1
        if before < 0:
            return None
        key = packets.keys[before]
        behind_key = bisect_left(packets.times, key)
        if last < 0 or behind_key > last + 1:
            container.seek(key, stream=stream)
            decoded = _frames_from(container, stream, key)
            last = behind_key - 1
        for expected in range(last + 1, place + 1):
            frame = next(decoded, None)
            if frame is None or frame.pts != packets.times[expected]:
                return None
            if frame.is_corrupt or frame.pts == key and not frame.key_frame:
                return None
        last = place
        pictures[place] = upright.of(frame)
    return pictures


def _frames_from(container: "InputContainer", stream: "VideoStream", key: int) -> Iterator["VideoFrame"]:
    """The frames from the time `key` on; those before it rest on what a jump left out.

    There are none behind one that does not decode: whether it is damaged shows when all is decoded in order.
    """
    import av

    try:
        for frame in container.decode(stream):
            if frame.pts is None or frame.pts >= key:
                yield frame
    except av.FFmpegError:
        return


def _read_in_order(path: Path, packets: Packets, frames: int, span: str) -> Clip:
    """The frames, by decoding everything before them, twice where the packets miscount. Raises Unreadable."""
    awaited = packets.timeline.indices(frames, span)
    timeline, pictures = _decode_in_order(path, packets, awaited.tolist(), span)
    indices = timeline.indices(frames, span)
    if not pictures.keys() >= set(indices.tolist()):
        timeline, pictures = _decode_in_order(path, packets, indices.tolist(), span)
    return _clip(pictures, timeline, indices, span)


def _decode_in_order(
    path: Path, packets: Packets, awaited: Collection[int], span: str
) -> tuple[Timeline, dict[int, np.ndarray]]:
    """The timeline of the frames that were decoded, and the pictures at the places `awaited`.

    Decoding ends with the file, or behind the span. Raises Unreadable where too few frames decode.
    """
    enough = packets.rate * SECONDS if span == "first_10s" else float("inf")
    wanted = set(awaited)
    upright = UprightPictures()
    pictures: dict[int, np.ndarray] = {}
    times: list[int | None] = []
    with open_container(path) as (container, stream):
        for place, frame in enumerate(container.decode(stream)):
            times.append(frame.pts)
            if place in wanted and frame.is_corrupt:
                raise Unreadable(f"damaged at frame {place}")
            if place in wanted:
                pictures[place] = upright.of(frame)
            if place > enough and _seconds_between(times[0], frame.pts, packets.unit) > SECONDS:
                break
        else:
            if len(times) < max(1, MOST_FRAMES * packets.count):
                raise Unreadable(f"damaged, only {len(times)} of {packets.count} frames decode")
    return _decoded_timeline(times, packets), pictures


def _seconds_between(start: int | None, end: int | None, unit: Fraction) -> float:
    """Seconds from one time to another; endless where one is not known, so that the rate alone counts."""
    return float("inf") if start is None or end is None else float((end - start) * unit)


def _decoded_timeline(times: list[int | None], packets: Packets) -> Timeline:
    """The timeline of decoded frames; by their number and the rate where their times are missing or fall."""
    if packets.by_number and packets.in_order and len(times) <= packets.count:
        return _timeline(packets.times[: len(times)], packets.unit, packets.rate)
    known = [time for time in times if time is not None]
    rise = all(first <= second for first, second in pairwise(known))
    if len(known) == len(times) and rise:
        return _timeline(known, packets.unit, packets.rate)
    if not packets.rate:
        raise Unreadable("neither its frames nor its container say when they are shown")
    return Timeline(np.arange(len(times)) / packets.rate, packets.rate)


def _clip(pictures: dict[int, np.ndarray], timeline: Timeline, indices: np.ndarray, span: str) -> Clip:
    """Put a clip together. Raises Unreadable where its frames have several sizes."""
    places = indices.tolist()
    sizes = {pictures[place].shape for place in places}
    if len(sizes) > 1:
        raise Unreadable("frames of several sizes")
    stacked = np.stack([pictures[place] for place in places])
    return Clip(stacked, timeline.times[indices], "pyav", indices, timeline.count(span), timeline.rate)
