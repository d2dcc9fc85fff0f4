"""The processes that decode videos for this one: started when first needed, used again, and replaced when a
file ends one.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isrdpo.core.errors import RunError, VideoError
from isrdpo.core.folders import PACKAGE
from isrdpo.core.secrets import SECRET_NAME
from isrdpo.formats.sampling import Clip

MODULE = "isrdpo.formats.video_worker"
START_SECONDS = 120  # for a process to start: a cluster's file system may be slow
MOST_WORKERS = 8
LONGEST_HEADER = 2**24  # bytes
LENGTH = 8  # bytes before a message


@dataclass(frozen=True)
class DecodeLimits:
    """What decoding one file may take: `seconds`, and `memory` in GB (2^30 bytes) of the decoding process."""

    seconds: float = 120.0
    memory: float = 4.0


class WorkerDied(Exception):
    """The process ended before it replied; `code` is its exit code, or minus its signal."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    @property
    def cause(self) -> str:
        """How it ended, in words."""
        return f"signal {signal.Signals(-self.code).name}" if self.code < 0 else f"exit code {self.code}"


class Worker:
    """One decoding process.

    `start` waits until it is ready; `request` and `receive` raise TimeoutError and WorkerDied.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(int(memory * 2**30)), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=_environment(),
        )

    def start(self) -> None:
        """Wait for the process. Raises RunError where it does not start."""
        try:
            self.receive(time.monotonic() + START_SECONDS)
        except (WorkerDied, TimeoutError) as error:
            cause = error.cause if isinstance(error, WorkerDied) else f"waited {START_SECONDS} s"
            command = f"{Path(sys.executable).name} -m {MODULE} {2**32} {os.getppid()}"
            raise RunError(
                f"the process that decodes videos does not start ({cause}): see `{command}`"
            ) from None

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def request(self, message: dict[str, Any]) -> None:
        """Send a request."""
        text = json.dumps(message).encode()
        try:
            self._process.stdin.write(len(text).to_bytes(LENGTH, "big") + text)
        except BrokenPipeError:
            raise WorkerDied(self._process.wait()) from None

    def receive(self, deadline: float) -> dict[str, Any]:
        """Read a reply, until `deadline` on the monotonic clock."""
        length = int.from_bytes(self._read(LENGTH, deadline), "big")
        if length > LONGEST_HEADER:
            raise WorkerDied(0)
        return json.loads(bytes(self._read(length, deadline)))

    def receive_frames(self, shape: tuple[int, ...], deadline: float) -> np.ndarray:
        """Read the frames behind a reply."""
        size = int(np.prod(shape, dtype=object))
        if size > self.memory * 2**30:
            raise WorkerDied(0)
        return np.frombuffer(self._read(size, deadline), np.uint8).reshape(shape)

    def _read(self, size: int, deadline: float) -> bytearray:
        """Read `size` bytes."""
        content = bytearray(size)
        rest = memoryview(content)
        pipe = self._process.stdout
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while rest:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            count = pipe.readinto(rest)
            if not count:
                raise WorkerDied(self._process.wait())
            rest = rest[count:]
        return content

    def stop(self) -> None:
        """End the process now."""
        self._process.kill()
        self._process.wait()
        self.close()

    def close(self) -> None:
        """Close this process's ends of the pipes."""
        self._process.stdin.close()
        self._process.stdout.close()


class WorkerPool:
    """As many decoding processes as threads ask at once, up to the number of cores and MOST_WORKERS."""

    def __init__(self) -> None:
        self._slots = threading.BoundedSemaphore(min(os.cpu_count() or 1, MOST_WORKERS))
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()

    def read_clip(self, path: Path, frames: int, span: str, limits: DecodeLimits) -> Clip:
        """Read a clip, as `video.read_clip`. Raises VideoError."""
        reply, pictures = self._ask(
            {"job": "read", "path": str(path), "frames": frames, "span": span}, limits
        )
        return Clip(
            frames=pictures,
            times=np.array(reply["times"], float),
            decoder=reply["decoder"],
            indices=np.array(reply["indices"], int),
            count=reply["count"],
            rate=reply["rate"],
        )

    def clip_seconds(self, path: Path, limits: DecodeLimits) -> float | None:
        """The seconds that a file's header states, as `video.clip_seconds`. Raises VideoError."""
        return self._ask({"job": "seconds", "path": str(path)}, limits)[0]["seconds"]

    def stop(self) -> None:
        """End all processes."""
        with self._lock:
            workers = [*self._idle, *self._busy]
            self._idle.clear()
        for worker in workers:
            worker.stop()

    def forget(self) -> None:
        """Let go of processes that belong to the process from which this one was forked."""
        for worker in [*self._idle, *self._busy]:
            worker.close()

    def _ask(self, request: dict[str, Any], limits: DecodeLimits) -> tuple[dict[str, Any], np.ndarray | None]:
        """The reply to a request, and the frames behind it. Raises VideoError."""
        path = request["path"]
        with self._slots:
            worker = self._take(limits.memory)
            done = False
            try:
                reply, frames = _exchange(worker, request, limits.seconds)
                done = "out_of_memory" not in reply
            except TimeoutError:
                cause = f"not decoded within {limits.seconds:g} s (video.decode_seconds)"
                raise VideoError(f"{path}: {cause}") from None
            except WorkerDied as error:
                raise VideoError(f"{path}: not a readable video (the decoder ended: {error.cause})") from None
            finally:  # also after Ctrl-C, which leaves half a reply in the pipe
                self._give_back(worker, done)
        if not done:
            raise VideoError(f"{path}: needs more than {limits.memory:g} GB to decode (video.decode_memory)")
        if "error" in reply:
            raise VideoError(reply["error"])
        return reply, frames

    def _take(self, memory: float) -> Worker:
        """A process that waits for a request, a new one where none does."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.is_alive and worker.memory == memory:
                    self._busy.add(worker)
                    return worker
                worker.stop()
            worker = Worker(memory)
            self._busy.add(worker)
        try:
            worker.start()
        except BaseException:
            self._give_back(worker, False)
            raise
        return worker

    def _give_back(self, worker: Worker, is_usable: bool) -> None:
        with self._lock:
            self._busy.discard(worker)
            if is_usable:
                self._idle.append(worker)
        if not is_usable:
            worker.stop()


def _exchange(
    worker: Worker, request: dict[str, Any], seconds: float
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Send a request; its reply, and the frames behind it."""
    deadline = time.monotonic() + seconds
    worker.request(request)
    reply = worker.receive(deadline)
    frames = worker.receive_frames(tuple(reply["shape"]), deadline) if "shape" in reply else None
    return reply, frames


def _environment() -> dict[str, str]:
    """The environment of a decoding process: this one's, without keys and tokens.

    It imports from where this process does, and never from the working folder, which may hold data.
    """
    variables = {name: value for name, value in os.environ.items() if not SECRET_NAME.search(name)}
    paths = os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)])
    return variables | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"}


_pool = WorkerPool()


def pool() -> WorkerPool:
    """This process's pool."""
    return _pool


def _start_afresh() -> None:
    """After a fork: a pool of this process's own."""
    global _pool
    _pool.forget()
    _pool = WorkerPool()


os.register_at_fork(after_in_child=_start_afresh)
atexit.register(lambda: _pool.stop())
