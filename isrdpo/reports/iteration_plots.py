"""Figures of a run's course: figures of summary.csv, or of another table, over the iterations.

Whiskers are 95 % intervals.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isrdpo.reports.palette import COLORS, SERIES, marker_of
from isrdpo.reports.panels import dotted_line, new_panel, plain, whiskers


class Curve(NamedTuple):
    """A panel over iterations: columns of summary.csv with their legend, y axis, dotted line, and upper
    limit.
    """

    names: Mapping[str, str]
    label: str
    reference: float | None = None
    top: float | None = None


class IndexPanel(NamedTuple):
    """A panel of a run's index, with its caption."""

    curve: Curve
    caption: str


CURVES = {
    "accuracy": IndexPanel(
        Curve({"accuracy": ""}, "accuracy (share of answers)", top=1.0),
        "Answers whose main claim is stated and true.",
    ),
    "hallucination": IndexPanel(
        Curve({"hallucination": "per claim", "false_claims": "per answer"}, "false claims"),
        "False claims: of all claims made, and per answer.",
    ),
    "response_words": IndexPanel(
        Curve({"response_words": ""}, "length (words per answer)"),
        "How long answers are.",
    ),
    "prefers_longer": IndexPanel(
        Curve({"prefers_longer": ""}, "verdicts for the longer (share)", reference=0.5, top=1.0),
        "How often its judge prefers the longer answer.",
    ),
}


def curve(
    rows: pd.DataFrame,
    names: Mapping[str, str],
    label: str,
    reference: float | None = None,
    top: float | None = None,
) -> Figure:
    """Draw columns over `iteration`, each with its interval (`<name>_low`, `<name>_high`); `names`: column
    to legend.
    """
    figure, axis = new_panel()
    _draw_curve(axis, rows, Curve(names, label, reference, top))
    return figure


def curves(summary: pd.DataFrame) -> Figure:
    """Draw the index's four panels as one figure."""
    figure = Figure(figsize=(12, 2.7), layout="constrained")
    for axis, entry in zip(figure.subplots(1, len(CURVES)), CURVES.values(), strict=True):
        _draw_curve(plain(axis), summary, entry.curve)
    return figure


def _draw_curve(axis: Axes, rows: pd.DataFrame, curve: Curve) -> None:
    for number, (name, legend) in enumerate(curve.names.items()):
        part = rows.dropna(subset=[name])
        axis.errorbar(
            part["iteration"] + 0.06 * number,
            part[name].astype(float),
            yerr=whiskers(part, name),
            marker=marker_of(number),
            capsize=3,
            color=COLORS.get(name, SERIES[number]),
            linestyle=("-", "--")[number % 2],
            label=legend or None,
        )
    axis.set(xlabel="iteration", ylabel=curve.label, xticks=rows["iteration"].tolist())
    axis.set_xlim(rows["iteration"].min() - 0.3, rows["iteration"].max() + 0.3)
    axis.set_ylim(0, curve.top and 1.04 * curve.top)
    dotted_line(axis, y=curve.reference)
    if any(curve.names.values()):
        axis.legend(frameon=False)
