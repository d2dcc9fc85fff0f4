"""The parts that figures are made of: an empty panel, its legend, intervals, and shares by bins.

A figure is one panel, small with large letters: pages set them side by side, and at half width they are
still readable.
"""

import textwrap
import warnings
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from isrdpo.core.metrics import wilson
from isrdpo.reports.palette import GRAY

LONGEST_NAME = 60  # letters of a name on a figure; the table beside it has the whole name
LONGEST_LINE = 34


def new_panel(width: float = 3.5, height: float = 2.6) -> tuple[Figure, Axes]:
    """Return an empty figure (inches) with one panel."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, plain(figure.subplots())


def plain(axis: Axes) -> Axes:
    """Take the upper and right frame off a panel, and give it a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
    return axis


def dotted_line(axis: Axes, *, x: float | None = None, y: float | None = None) -> None:
    """Draw a dotted reference line at `x` or at `y`; nothing where both are None."""
    if x is not None:
        axis.axvline(x, color=GRAY, linestyle=":", linewidth=1)
    if y is not None:
        axis.axhline(y, color=GRAY, linestyle=":", linewidth=1)


def figure_name(name: object) -> str:
    """A name from data or parameters as a figure shows it: cut where it is very long, and then in two lines.

    matplotlib leaves a name that begins with an underscore out of a legend, unless something is in front.
    """
    words = " ".join(str(name).split())
    if len(words) > LONGEST_NAME:
        words = f"{words[: LONGEST_NAME - 1]}…"
    if len(words) > LONGEST_LINE:
        words = textwrap.fill(words, LONGEST_LINE)
    return f"\u200b{words}" if words.startswith("_") else words


def save(figure: Figure, target: Any, **options: Any) -> None:
    """Write a figure to a file, as `Figure.savefig` does, with every text taken as it stands.

    matplotlib reads what stands between two `$` as a formula; names from data and parameters are none. A
    letter that its font lacks is drawn as a box; the picture says so itself.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(target, **options)


def name_rows(axis: Axes, names: list[str]) -> None:
    """Write a name at each whole number of the y axis; there are no grid lines between."""
    axis.set_yticks(range(len(names)), [textwrap.fill(figure_name(name), 24) for name in names])
    axis.grid(axis="y", visible=False)


def legend_above(axis: Axes, columns: int = 1) -> None:
    """Put the legend above a panel that leaves no room for one."""
    axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)


def growing_legend(figure: Figure, axis: Axes) -> None:
    """Put a legend above the panel, in as many columns as its names leave room for; the figure grows by its
    rows.
    """
    handles, names = axis.get_legend_handles_labels()
    if not names:
        return
    letters = 13 * figure.get_figwidth()
    longest = max(len(line) for name in names for line in name.splitlines() or [""])
    columns = max(1, min(len(names), int(letters // (longest + 5))))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 0.16 * rows)
    figure.legend(handles, names, frameon=False, fontsize=8, loc="outside upper center", ncols=columns)


def whiskers(rows: pd.DataFrame, name: str) -> list[pd.Series]:
    """Return the distances to `name_low` and `name_high`, as errorbar takes them."""
    value = rows[name].astype(float)
    low = rows[f"{name}_low"].astype(float)
    high = rows[f"{name}_high"].astype(float)
    return [(value - low).clip(lower=0), (high - value).clip(lower=0)]


def binned_shares(
    axis: Axes, rows: pd.DataFrame, x: str, y: str, quantiles: np.ndarray, marker: str, color: str
) -> None:
    """Draw the share of true `y` with its Wilson interval in bins of `x` between its quantiles."""
    edges = np.unique(np.quantile(rows[x], quantiles))
    if len(edges) == 1:
        edges = np.array([edges[0] - 0.5, edges[0] + 0.5])
    for _, part in rows.groupby(pd.cut(rows[x], edges, include_lowest=True), observed=True):
        share = part[y].mean()
        interval = wilson(int(part[y].sum()), len(part))
        ends = [[max(share - interval.low, 0)], [max(interval.high - share, 0)]]
        axis.errorbar(part[x].mean(), share, yerr=ends, marker=marker, capsize=3, color=color)
