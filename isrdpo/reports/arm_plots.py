"""Figures that set arms side by side: their curves, and how far each is from another."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from isrdpo.reports.arms import arm_styles, legend_name
from isrdpo.reports.palette import marker_of
from isrdpo.reports.panels import (
    dotted_line,
    figure_name,
    growing_legend,
    name_rows,
    new_panel,
    plain,
    whiskers,
)


class ComparedPanel(NamedTuple):
    """A panel of a comparison: its y axis, the upper limit where it begins at 0, and its caption."""

    label: str
    top: float | None
    caption: str


COMPARED = {  # by column of summary.csv
    "accuracy": ComparedPanel(
        "accuracy (share of answers)", 1.0, "Answers whose main claim is stated and true."
    ),
    "hallucination": ComparedPanel(
        "hallucination (share of claims)", None, "False claims among all checkable ones."
    ),
    "false_claims": ComparedPanel(
        "false claims per answer",
        None,
        "False claims per answer: longer answers have more of them at the same rate.",
    ),
    "response_words": ComparedPanel("length (words per answer)", None, "How long the answers are."),
    "prefers_longer": ComparedPanel(
        "verdicts for the longer (share)", 1.0, "How often each arm's verdicts go to the longer answer."
    ),
    "judge_accuracy": ComparedPanel(
        "right verdicts (share)", 1.0, "Verdicts on own answers that differ in truth."
    ),
    "fixed_judge_accuracy": ComparedPanel(
        "right verdicts, fixed pairs (share)",
        1.0,
        "The fixed pairs, judged by each policy with its own description: erosion of the judge shows here.",
    ),
    "context_accuracy": ComparedPanel(
        "true claims of descriptions (share)", 1.0, "Checkable claims of the descriptions that are true."
    ),
    "kept_share": ComparedPanel(
        "kept pairs (share)", 1.0, "Samples whose verdict was decisive, and sure enough."
    ),
}


def arm_curves(rows: pd.DataFrame, name: str, label: str, top: float | None = None) -> Figure:
    """Draw a line for each arm over `iteration`, with its interval; columns arm, iteration, `name`,
    `name`_low, `name`_high.
    """
    figure, axis = new_panel(4.4, 2.8)
    _draw_arms(axis, rows, name, label, top)
    growing_legend(figure, axis)
    return figure


def study(panels: Sequence[tuple[pd.DataFrame, str, str]]) -> Figure:
    """Draw several `arm_curves` (rows, name, label) side by side under one legend, which says what each arm
    is.
    """
    figure = Figure(figsize=(3.4 * len(panels), 3.0), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axis, (rows, name, label) in zip(axes, panels, strict=True):
        _draw_arms(plain(axis), rows, name, label, None)
    handles, names = axes[0].get_legend_handles_labels()
    texts = [legend_name(name) for name in names]
    figure.legend(handles, texts, frameon=False, loc="outside upper center", ncols=8)
    return figure


def _draw_arms(axis: Axes, rows: pd.DataFrame, name: str, label: str, top: float | None) -> None:
    arms = list(dict.fromkeys(rows["arm"]))
    for number, (arm, style) in enumerate(arm_styles(arms).items()):
        part = rows[rows["arm"] == arm].sort_values("iteration")
        position = part["iteration"] + 0.06 * (number - (len(arms) - 1) / 2)
        axis.plot(
            position,
            part[name].astype(float),
            color=style.color,
            linestyle=style.line,
            marker=marker_of(number),
            markersize=4,
            label=figure_name(arm),
            zorder=4 - number / 10,
        )
        has_interval = part[f"{name}_low"].notna()
        axis.errorbar(
            position[has_interval],
            part.loc[has_interval, name].astype(float),
            yerr=whiskers(part[has_interval], name),
            color=style.color,
            linestyle="",
            capsize=2,
            linewidth=1,
        )
    axis.set(xlabel="iteration", ylabel=label)
    if len(rows):
        axis.set_ylim(*_limits(rows, name, top))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _limits(rows: pd.DataFrame, name: str, top: float | None) -> tuple[float, float]:
    """Return the limits of the y axis: 0 to `top`, or around the values where they would look flat so far
    above 0.

    An interval that is wider than all values are apart (of two or three seeds) may run out of the panel.
    """
    values = rows[name].astype(float)
    ends = rows[[name, f"{name}_low", f"{name}_high"]].astype(float)
    apart = max(values.max() - values.min(), abs(values.max()) / 10)
    low = max(ends.min(axis=None), values.min() - apart)
    high = min(ends.max(axis=None), values.max() + apart)
    if low < high / 2:
        return 0.0, 1.04 * (top or high)
    if low == high:  # all values are 0
        return 0.0, 1.0
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def arm_differences(rows: pd.DataFrame, measure: str) -> Figure:
    """Draw how far each arm's last answers are from the baseline's, with intervals.

    Columns arm, difference, difference_low, difference_high; rows without a difference are left out.
    """
    rows = rows.dropna(subset=["difference"])
    figure, axis = new_panel(4.4, 1.0 + 0.28 * max(len(rows), 1))
    arms = rows["arm"].tolist()
    styles = arm_styles(arms)
    for position, row in enumerate(rows.to_dict("records")):
        axis.errorbar(
            row["difference"],
            position,
            xerr=[[row["difference"] - row["difference_low"]], [row["difference_high"] - row["difference"]]],
            marker="o",
            capsize=3,
            color=styles[row["arm"]].color,
        )
    dotted_line(axis, x=0)
    name_rows(axis, arms)
    axis.invert_yaxis()
    axis.set(xlabel=measure)
    return figure
