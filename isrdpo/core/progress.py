"""Progress bars, durations and sizes, as a person reads them."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress_bar(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    """Iterate with a bar: a widget in a notebook, a line in a terminal, nothing in a pipe.

    `total` may be None where it is not known: then the bar only counts. Notebooks that papermill executes
    have no bar either (TQDM_DISABLE in their kernel's environment), since a page shows what they display.
    """
    from tqdm.auto import tqdm

    options = {} if "ipykernel" in sys.modules else {"disable": not sys.stderr.isatty()}
    return iter(tqdm(iterable, total=total, desc=label, **options))


def format_duration(seconds: float) -> str:
    """Minutes and seconds, as in 4:05; with hours in front where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def format_time_left(elapsed: float, done: int, total: int) -> str:
    """Say how long the rest takes at the pace so far; empty before the first step and after the last one.

    `elapsed` is in seconds; `done` and `total` count equal steps.
    """
    if not 0 < done < total:
        return ""
    return f"about {format_duration(elapsed * (total - done) / done)} left"


def format_size(count: float) -> str:
    """Return bytes as a person reads them, such as 14.0 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
