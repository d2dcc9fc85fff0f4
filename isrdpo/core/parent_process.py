"""A process that ends with the one that started it, in whatever way that one ends.

A process that is killed cannot end its children. So each child looks for its parent now and then.
"""

import os
import signal
import threading
import time

VARIABLE = "ISRDPO_PARENT"  # holds the parent's process number
SECONDS = 0.5  # between two looks


def child_environment() -> dict[str, str]:
    """What the environment of a child needs, for it to end with this process."""
    return {VARIABLE: str(os.getpid())}


def end_with_parent() -> None:
    """End this process from now on when its parent is gone; nothing without VARIABLE in the environment."""
    parent = os.environ.pop(VARIABLE, "")  # this process's own children have another parent
    if parent:
        threading.Thread(target=_wait_for_end, args=(int(parent),), daemon=True).start()


def _wait_for_end(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
