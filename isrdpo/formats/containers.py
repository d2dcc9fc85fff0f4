"""Video files opened as data: only containers that their first bytes prove, and no file beside the one that
was named.

FFmpeg guesses what a file is, and some of its formats are programs: playlists, lists of files, sessions of
a network. None of them is reached here. The demuxer is chosen from a short list by the file's magic bytes,
it reads from an open file, and it may open nothing else: no protocol is allowed, not even for other files.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from isrdpo.core.errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

MOST_PIXELS = 2**26  # of one frame, 8192 x 8192; more is refused before it is decoded
HEAD = 600  # bytes, enough for three packets of a transport stream
READ_SIZE = 2**16  # bytes

# Demuxers whose tables say each frame's time, so that a reader may jump to a frame: see `frames`.
INDEXED = ("mov", "matroska")

# First bytes -> FFmpeg's demuxer (libavformat/{mov,matroskadec,avidec,gifdec,flvdec,mpeg}.c).
MAGIC = {
    b"\x1aE\xdf\xa3": "matroska",  # EBML: Matroska and WebM
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"FLV\x01": "flv",
    b"\x00\x00\x01\xba": "mpeg",  # a program stream
}
MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")  # first box of MP4 and QuickTime


class Unreadable(Exception):
    """What is wrong with a video; who knows its path makes a VideoError of it."""


def container_of(head: bytes) -> str | None:
    """The demuxer for a file that begins with `head`; None where it is no container that is read here."""
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            return name
    if head[4:8] in MOV_BOXES:
        return "mov"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    for start in (0, 4):  # a transport stream has a sync byte every 188 bytes, or every 192 on Blu-ray
        sync = head[start :: 188 + start][:3]
        if sync == b"GGG":
            return "mpegts"
    return None


def container_name(container: "InputContainer") -> str:
    """The first of the names that FFmpeg has for a demuxer, as in MAGIC."""
    return container.format.name.split(",")[0]


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file to read; a pipe or a device is refused, and never waited for. Raises VideoError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise VideoError(f"{path}: cannot be opened ({error.strerror})") from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise VideoError(f"{path}: not a regular file")
        yield file


@contextmanager
def open_container(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """Open a video file; yields it and its video stream.

    Raises Unreadable for what is no container of the list, holds no video, or has frames above MOST_PIXELS,
    VideoError for what is no file.
    """
    import av

    av.logging.set_level(None)  # what is wrong with a file is said in its VideoError
    with open_regular(path) as file:
        name = container_of(file.read(HEAD))
        file.seek(0)
        if name is None:
            raise Unreadable("not a readable video (its first bytes are of no video container)")
        options = {"protocol_whitelist": "none"}
        if name == "mov":
            options |= {"enable_drefs": "0", "use_absolute_path": "0"}
        with av.open(
            file, "r", format=name, options=options, buffer_size=READ_SIZE, metadata_errors="replace"
        ) as container:
            yield container, _video_stream(container)


def _video_stream(container: "InputContainer") -> "VideoStream":
    """The stream that players show. A picture of an album's cover is none."""
    from av.stream import Disposition

    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise Unreadable("not a readable video (no stream of frames in it)")
    codec = stream.codec_context
    if codec is None:
        raise Unreadable("not a readable video (no decoder for its codec)")
    if codec.width * codec.height > MOST_PIXELS:
        raise Unreadable(f"{codec.width} x {codec.height} pixels a frame, more than {MOST_PIXELS}")
    codec.thread_count = 1  # so that damage is concealed, or not, alike on every machine
    return stream
