"""Figures of one run, each made of a table.

No files, no pyplot state. Whiskers and bands are 95 % intervals.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from isrdpo.reports.arms import arm_styles
from isrdpo.reports.palette import BLACK, BLUE, COLORS, GRAY, SKY, marker_of
from isrdpo.reports.panels import (
    binned_shares,
    dotted_line,
    figure_name,
    growing_legend,
    legend_above,
    name_rows,
    new_panel,
    whiskers,
)


def lengths(rows: pd.DataFrame) -> Figure:
    """Draw a histogram of `words`, a color for each `what`."""
    figure, axis = new_panel()
    edges = np.histogram_bin_edges(rows["words"], bins=20)
    for number, (what, part) in enumerate(rows.groupby("what", sort=False)):
        axis.hist(
            part["words"],
            bins=edges,
            color=COLORS.get(str(what), GRAY),
            label=f"{figure_name(what)} (mean {part['words'].mean():.1f})",
            histtype=("stepfilled", "step")[number % 2],
            alpha=(0.5, 1)[number % 2],
            linewidth=2,
        )
    axis.set(xlabel="length (words)", ylabel="texts (count)")
    if len(rows):
        axis.legend(frameon=False)
    return figure


def bars(rows: pd.DataFrame, label: str) -> Figure:
    """Draw counts side by side: a group for each `kind`, a color for each other column."""
    figure, axis = new_panel()
    kinds = rows["kind"].astype(str).tolist()
    names = [name for name in rows.columns if name != "kind"]
    for number, name in enumerate(names):
        height = 0.8 / len(names)
        positions = np.arange(len(kinds)) + (number - (len(names) - 1) / 2) * 0.8 / len(names)
        axis.barh(positions, rows[name], height=height, color=COLORS.get(name, GRAY), label=figure_name(name))
    name_rows(axis, kinds)
    axis.invert_yaxis()
    axis.set(xlabel=label)
    if len(names) > 1:
        axis.legend(frameon=False)
    return figure


def length_bias(rows: pd.DataFrame) -> Figure:
    """Draw verdicts for the longer answer against how much longer it is.

    Columns `difference` (words, > 0), `longer` (bool), `truer` (a color each). Points: quintiles with
    Wilson intervals; curve: logistic regression on the difference (L2 penalty 1, so that it stays finite
    where all verdicts are alike), drawn where there is data.
    """
    figure, axis = new_panel(4.4, 3.0)
    for number, (truer, part) in enumerate(rows.groupby("truer")):
        color = COLORS.get(str(truer), GRAY)
        marker = marker_of(number)
        quantiles = np.linspace(0, 1, 6 if len(part) >= 50 else 4)
        binned_shares(axis, part, "difference", "longer", quantiles, marker, color)
        axis.plot([], [], marker=marker, color=color, label=f"{figure_name(truer)} (n = {len(part)})")
        _draw_regression(axis, part, color)
    dotted_line(axis, y=0.5)
    axis.set(xlabel="how much longer (words)", ylabel="verdicts for the longer (share)", ylim=(-0.03, 1.03))
    if len(rows):
        legend_above(axis)
    return figure


def _draw_regression(axis: Axes, rows: pd.DataFrame, color: str) -> None:
    """Draw the logistic regression of `longer` on `difference`, where both take several values."""
    from sklearn.linear_model import LogisticRegression

    if rows["longer"].nunique() < 2 or rows["difference"].nunique() < 2:
        return
    model = LogisticRegression().fit(rows[["difference"]].to_numpy(float), rows["longer"])
    positions = np.linspace(rows["difference"].min(), rows["difference"].max(), 50)
    axis.plot(positions, model.predict_proba(positions[:, None])[:, 1], color=color, alpha=0.6)


def shares(rows: pd.DataFrame, label: str = "share") -> Figure:
    """Draw shares as points with intervals: a line for each `measure`, a color for each `what`.

    `rows` has the columns of `judged_pairs.SHARE_COLUMNS`.
    """
    measures = list(dict.fromkeys(rows["measure"]))
    whats = list(dict.fromkeys(rows["what"]))
    figure, axis = new_panel(4.4, 0.9 + 0.45 * max(len(measures), 1) * max(1.0, len(whats) / 3))
    colors = _colors(whats)
    for number, what in enumerate(whats):
        part = rows[(rows["what"] == what) & rows["share"].notna()]
        offset = (number - (len(whats) - 1) / 2) * min(0.25, 0.8 / len(whats))
        axis.errorbar(
            part["share"].astype(float),
            [measures.index(measure) + offset for measure in part["measure"]],
            xerr=whiskers(part, "share"),
            marker=marker_of(number),
            linestyle="",
            capsize=3,
            color=colors[what],
            label=figure_name(what),
        )
    axis.set_yticks(range(len(measures)), [textwrap.fill(figure_name(measure), 26) for measure in measures])
    axis.set(xlabel=label, xlim=(-0.02, 1.02), ylim=(len(measures) - 0.4, -0.6))
    axis.grid(axis="x", alpha=0.25)
    dotted_line(axis, x=0.5)
    if len(whats) > 1 or whats not in ([], [""]):
        growing_legend(figure, axis)
    return figure


def _colors(whats: Sequence[str]) -> dict[str, str]:
    """Return a color for each condition, policy or arm."""
    return {what: COLORS.get(what) or style.color for what, style in arm_styles(whats).items()}


def confidence(rows: pd.DataFrame, widest: float) -> Figure:
    """Draw how sure the verdicts are.

    Columns `margin` (log-odds of the chosen, 0 to `widest`) and `verdict` (a color each: right, wrong, ...).
    """
    figure, axis = new_panel(4.4, 3.0)
    groups = {
        str(name): part["margin"].astype(float)
        for name, part in rows.dropna(subset=["margin"]).groupby("verdict")
    }
    if groups:
        axis.hist(
            list(groups.values()),
            bins=np.linspace(0, widest, 21).tolist(),
            stacked=True,
            color=[COLORS.get(name, GRAY) for name in groups],
            label=[f"{name} (n = {len(margins)})" for name, margins in groups.items()],
        )
        legend_above(axis)
    axis.set(xlabel="log-odds of the chosen (nats)", ylabel="verdicts (count)")
    return figure


def steps(table: pd.DataFrame, names: Sequence[str], label: str, reference: float | None = None) -> Figure:
    """Draw columns of train.csv against its steps."""
    figure, axis = new_panel()
    for number, name in enumerate(names):
        kind = name.removeprefix("logps_").removesuffix("_words")
        axis.plot(
            table["step"],
            table[name],
            color=COLORS.get(kind, BLACK),
            linestyle=("-", "--")[number % 2],
            marker="." if len(table) < 30 else "",
            label=kind if len(names) > 1 else None,
        )
    dotted_line(axis, y=reference)
    axis.set(xlabel="step", ylabel=label)
    axis.ticklabel_format(axis="y", scilimits=(-3, 5))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(names) > 1:
        axis.legend(frameon=False)
    return figure


def length_truth(rows: pd.DataFrame) -> Figure:
    """Draw the accuracy of answers of about equal length; columns `what` (a policy or arm each), `words`,
    `correct`.

    Points: quartiles of length.
    """
    figure, axis = new_panel(4.4, 3.0)
    colors = _colors(list(dict.fromkeys(rows["what"].astype(str))))
    for number, (what, part) in enumerate(rows.groupby("what", sort=False)):
        color = colors[str(what)]
        marker = marker_of(number)
        binned_shares(axis, part, "words", "correct", np.linspace(0, 1, 5), marker, color)
        axis.plot([], [], marker=marker, linestyle="", color=color, label=figure_name(what))
    axis.set(xlabel="length (words per answer)", ylabel="accuracy (share of answers)", ylim=(0, 1.03))
    growing_legend(figure, axis)
    return figure


def cost(rows: pd.DataFrame) -> Figure:
    """Draw seconds by iteration, stacked by stage; columns `iteration`, `stage`, `seconds`."""
    table = rows.pivot_table(
        index="iteration", columns="stage", values="seconds", aggfunc="sum", sort=False
    ).fillna(0)
    figure, axis = new_panel(7.2, 0.9 + 0.3 * len(table))
    start = np.zeros(len(table))
    for stage in table.columns:
        color = COLORS.get(stage, GRAY)
        axis.barh(range(len(table)), table[stage], left=start, height=0.7, color=color, label=stage)
        start += table[stage].to_numpy()
    name_rows(axis, [f"iteration {t}" for t in table.index])
    axis.invert_yaxis()
    axis.set(xlabel="time (seconds)")
    legend_above(axis, columns=5)
    return figure


def speed(rows: pd.DataFrame) -> Figure:
    """Draw each turn's ratio of seconds, a line for each case, and their median; columns `case`, `ratio`."""
    names = list(dict.fromkeys(rows["case"]))
    figure, axis = new_panel(4.4, 1.0 + 0.35 * max(len(names), 1))
    for row, name in enumerate(names):
        ratios = rows[rows["case"] == name]["ratio"]
        median = ratios.median()
        axis.plot(ratios, [row] * len(ratios), "o", color=SKY, alpha=0.6)
        axis.plot(median, row, "|", color=BLUE, markersize=18, markeredgewidth=3)
        axis.annotate(
            f"{median:.1f}x", (median, row), (0, 12), textcoords="offset points", ha="center", fontsize=9
        )
    dotted_line(axis, x=1)
    name_rows(axis, names)
    axis.set_xlim(0, 1.1 * max(rows["ratio"].max(), 1))
    axis.set_ylim(len(names) - 0.4, -0.7)
    axis.set(xlabel="seconds apart / seconds shared")
    return figure


def heat(frames: np.ndarray, times: np.ndarray, maps: Mapping[str, np.ndarray]) -> Figure:
    """Draw heat maps over frames.

    frames uint8 [T, S, S, 3], times [T] in seconds, maps float [T, g, g] by row label, all on one scale.
    """
    size = (1.25 * len(frames) + 1.2, 1.25 * (len(maps) + 1) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(maps) + 1, len(frames), squeeze=False)
    top = max(float(values.max()) for values in maps.values()) or 1.0
    extent = (0, 1, 0, 1)
    for column, frame in enumerate(frames):
        axes[0, column].set_title(f"{times[column]:.2g} s", fontsize=10)
        axes[0, column].imshow(frame, extent=extent, cmap="gray", vmin=0, vmax=255)
        pale = 64 + frame.mean(-1) / 2
        for axis, values in zip(axes[1:, column], maps.values(), strict=True):
            axis.imshow(pale, extent=extent, cmap="gray", vmin=0, vmax=255)
            cells = values[column]
            image = axis.imshow(
                cells, extent=extent, cmap="plasma", alpha=np.sqrt(cells / top), vmin=0, vmax=top
            )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for row, name in enumerate(["what it saw", *maps]):
        axes[row, 0].set_ylabel(name, fontsize=10)
    figure.colorbar(image, ax=axes[1:, :], label="effect on the verdict (nats)")
    return figure
