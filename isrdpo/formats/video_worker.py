"""The process that decodes videos, apart from the one that trains: `worker_pool` starts it and asks it.

A file from anywhere may crash a decoder, keep it busy for ever or make it take all memory. Here that ends
this process only. It has a limit on its memory, writes no file, and ends when its parent has ended.

Requests come on standard input and replies go to standard output: eight bytes of length, then JSON; behind
the reply to "read" the frames follow, as bytes. Nothing that is sent is ever run or unpickled.
"""

import json
import os
import resource
import signal
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from isrdpo.core.errors import VideoError, message_of
from isrdpo.formats import decoding, pictures
from isrdpo.formats.sampling import Clip

LENGTH = struct.Struct(">Q")  # before each message
NO_FRAMES = memoryview(b"")
LOST_PARENT = 0.5  # seconds between two looks whether the parent is alive


def read_here(path: Path, frames: int, span: str) -> Clip:
    """Read frames of a video file or a folder of pictures in this process. Raises VideoError."""
    if path.is_dir():
        return pictures.read_folder(path, frames)
    return decoding.read_video(path, frames, span)


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], memoryview]:
    """The reply to a request, and the bytes behind it. Raises MemoryError."""
    path = Path(request["path"])
    try:
        if request["job"] == "seconds":
            return {"seconds": decoding.container_seconds(path)}, NO_FRAMES
        clip = read_here(path, request["frames"], request["span"])
    except MemoryError:
        raise
    except VideoError as error:
        return {"error": message_of(error)}, NO_FRAMES
    except Exception as error:  # noqa: BLE001 (whatever it is, it is this file's)
        return {"error": f"{path}: not a readable video ({type(error).__name__})"}, NO_FRAMES
    header = {
        "shape": clip.frames.shape,
        "times": clip.times.tolist(),
        "indices": clip.indices.tolist(),
        "decoder": clip.decoder,
        "count": clip.count,
        "rate": clip.rate,
    }
    return header, memoryview(clip.frames).cast("B")


def send(file: BinaryIO, message: dict[str, Any], body: memoryview = NO_FRAMES) -> None:
    """Write a message and the bytes behind it."""
    text = json.dumps(message).encode()
    file.write(LENGTH.pack(len(text)) + text)
    file.write(body)
    file.flush()


def main(memory: int, parent: int) -> None:
    """Answer requests until the parent closes the pipe.

    `memory` is the most bytes of address space, `parent` the number of the parent's process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this process
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(silence, stream)  # so that no library speaks between two replies
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    _load_libraries()
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    send(replies, {"ready": True})
    while head := requests.read(LENGTH.size):
        request = json.loads(requests.read(LENGTH.unpack(head)[0]))
        try:
            send(replies, *answer(request))
        except MemoryError:
            send(replies, {"out_of_memory": True})
            return


def _load_libraries() -> None:
    """Import what decoding needs before the limits are set."""
    import av  # noqa: F401
    from PIL import Image

    Image.preinit()


def _limit(kind: int, most: int) -> None:
    """Lower a limit of this process, where the system has it."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    try:
        resource.setrlimit(kind, (most, most))
    except (ValueError, OSError):  # macOS refuses some
        pass


def _end_with_parent(parent: int) -> None:
    """End this process soon after its parent, also in the midst of a file."""
    while os.getppid() == parent:
        time.sleep(LOST_PARENT)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
