"""Errors that a user is meant to read: one line that says what is wrong, where, and what to do."""

import errno


class IsrdpoError(Exception):
    """An expected failure. Its text is shown without a traceback, and the program ends with `exit_code`."""

    exit_code = 1


class RunError(IsrdpoError):
    """A run, its data or its folder cannot be used as asked."""


class MissingStage(RunError):
    """A stage was started before the stage whose files it reads."""


class BadShare(RunError):
    """More samples are bad than `max_bad_share` allows."""


class RunLocked(RunError):
    """Another process works on this run."""


class VideoError(IsrdpoError, OSError):
    """A video is missing or cannot be read; the line names the file."""


_MAKE_ROOM = "; make room, then the same command goes on from here"
DISK_ADVICE = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EROFS: "; give a place that can be written",
}


def is_expected(error: BaseException) -> bool:
    """Whether an error is shown as one line: the project's own, or the file system's."""
    return isinstance(error, (IsrdpoError, OSError))


def message_of(error: BaseException) -> str:
    """The line of an expected error.

    One of the file system begins with the file's name, as the project's own do.
    """
    if isinstance(error, OSError) and error.strerror and not isinstance(error, IsrdpoError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}{DISK_ADVICE.get(error.errno, '')}"
    return str(error)
