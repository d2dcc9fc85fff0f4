"""What a machine is short of, and what is broken in it: such errors concern every row, and are one line.

They are known by type and text, so that nothing heavy is imported to ask.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from isrdpo.core.errors import IsrdpoError

DEVICE_MEMORY = ("out of memory", "not enough memory")
HOST_MEMORY = ("can't allocate memory", "Cannot allocate memory")
BROKEN_DEVICE = ("CUDA error", "CUBLAS_STATUS", "cuDNN error", "HIP error")
FULL_DISK = (
    "No space left on device",
    "Disk quota exceeded",
    "PytorchStreamWriter failed",
    "unexpected pos",  # torch.save, which says nothing of the disk
)


class ResourceError(IsrdpoError, RuntimeError):
    """The machine cannot do what was asked; the line says what it is short of and what to change."""


def shortage(error: BaseException) -> str:
    """Say what the machine is short of; empty where an error is about something else."""
    text = str(error)
    name = type(error).__name__
    if isinstance(error, MemoryError) or _has(text, HOST_MEMORY):
        return "out of memory"
    if name == "OutOfMemoryError" or (isinstance(error, RuntimeError) and _has(text, DEVICE_MEMORY)):
        return "the device is out of memory"
    if name == "AcceleratorError" or (isinstance(error, RuntimeError) and _has(text, BROKEN_DEVICE)):
        return "the device failed"
    if _has(text, FULL_DISK):
        return "the disk is full"
    return ""


def concerns_everything(error: Exception) -> bool:
    """Whether an error in encoding one clip is no fault of the clip.

    Memory of the host is: a clip of an odd shape asks for any amount, where the next one asks for little.
    """
    if isinstance(error, OSError):
        return True
    return shortage(error) not in ("", "out of memory")


@contextmanager
def one_line_errors(place: str, memory_advice: str) -> Iterator[None]:
    """Turn an error of the machine into a ResourceError; `memory_advice` is what takes less memory."""
    try:
        yield
    except (IsrdpoError, OSError):
        raise
    except Exception as error:
        problem = shortage(error)
        if not problem:
            raise
        advice = "free some space" if "disk" in problem else "see the system's log"
        if "memory" in problem:
            advice = f"lower {memory_advice}"
        raise ResourceError(
            f"{place}: {problem} ({first_line(error)}); {advice}; the same command goes on from there"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, else its type."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _has(text: str, parts: tuple[str, ...]) -> bool:
    return any(part in text for part in parts)
