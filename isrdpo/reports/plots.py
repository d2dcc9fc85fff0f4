"""DataFrame in, matplotlib Figure out; no files, no pyplot state. The same color means the same thing in every figure.

Colors are Okabe and Ito's, which color-blind readers can tell apart; what they tell apart is told by marker or line style too. A figure is
one panel, small with large letters: pages set them side by side, and at half width they are still readable. Whiskers and bands are 95 %.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, GRAY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#808080"
COLORS = {
    "accuracy": BLUE, "hallucination": ORANGE, "false_claims": YELLOW, "response_words": GREEN, "prefers_longer": PINK, "context": SKY,
    "chosen": BLUE, "rejected": ORANGE, "y1": SKY, "y2": YELLOW, "right": BLUE, "wrong": ORANGE,
    "with its description": BLUE, "without": ORANGE, "base": GRAY, "before": SKY, "now": BLUE,
    "the longer is truer": BLUE, "the shorter is truer": ORANGE, "equally true": GRAY, "truth not known": PINK,
    "data": GRAY, "respond": SKY, "judge": PINK, "look": YELLOW, "train": ORANGE, "evaluate": BLUE, "score": GREEN, "training": BLUE, "held out": ORANGE,
    "reference answers": GREEN, "answers": GREEN, "repaired": BLUE, "broken": ORANGE,
}  # fmt: skip
MARKERS = "osD^vPX"
ARMS = {  # an arm's color, and what tells an arm from the others
    "isr": (BLUE, "looks back"), "fresh": (SKY, "describes anew"), "self_reward": (ORANGE, "no description"), "oracle": (GREEN, "perfect verdicts"), "random": (GRAY, "a coin"),
}  # fmt: skip
CURVES = {  # the four panels of the index: (columns of summary.csv with their legend, y axis, reference line, upper limit), and what they show
    "accuracy": (({"accuracy": ""}, "accuracy (share of answers)", None, 1.0), "Answers whose main claim is stated and true."),
    "hallucination": (({"hallucination": "a claim", "false_claims": "an answer"}, "false claims", None, None), "False claims: of all claims made, and an answer."),
    "response_words": (({"response_words": ""}, "length (words an answer)", None, None), "How long answers are."),
    "prefers_longer": (({"prefers_longer": ""}, "verdicts for the longer (share)", 0.5, 1.0), "How often its judge prefers the longer answer."),
}
COMPARED = {  # the panels of a comparison: column of summary.csv: (y axis, upper limit where it begins at 0, what it shows)
    "accuracy": ("accuracy (share of answers)", 1.0, "Answers whose main claim is stated and true."),
    "hallucination": ("hallucination (share of claims)", None, "False claims among all checkable ones."),
    "false_claims": ("false claims an answer", None, "False claims an answer: longer answers have more of them at the same rate."),
    "response_words": ("length (words an answer)", None, "How long the answers are."),
    "prefers_longer": ("verdicts for the longer (share)", 1.0, "How often each arm's verdicts go to the longer answer."),
    "judge_accuracy": ("right verdicts (share)", 1.0, "Verdicts on own answers that differ in truth."),
    "fixed_judge_accuracy": ("right verdicts, fixed pairs (share)", 1.0, "The fixed pairs, judged by each policy with its own description: erosion of the judge shows here."),
    "context_accuracy": ("true claims of descriptions (share)", 1.0, "Checkable claims of the descriptions that are true."),
    "kept_share": ("kept pairs (share)", 1.0, "Samples whose verdict was decisive, and sure enough."),
}


def panel(width: float = 3.5, height: float = 2.6) -> tuple[Figure, Axes]:
    """An empty figure (inches) with one panel."""
    made = Figure(figsize=(width, height), layout="constrained")
    return made, _plain(made.subplots())


def _plain(axis: Axes) -> Axes:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
    return axis


def _legend(made: Figure, axis: Axes) -> None:
    """A legend above the panel, in as many columns as its names leave room for; the figure grows by its rows."""
    handles, names = axis.get_legend_handles_labels()
    if names:
        columns = max(1, min(len(names), int(13 * made.get_figwidth() // (max(map(len, names)) + 5))))
        made.set_figheight(made.get_figheight() + 0.16 * -(-len(names) // columns))
        made.legend(handles, names, frameon=False, fontsize=8, loc="outside upper center", ncols=columns)


def _interval(rows: pd.DataFrame, name: str) -> list[pd.Series]:
    """Distances to `name_low` and `name_high`, as errorbar takes them."""
    value = rows[name].astype(float)
    return [(value - rows[f"{name}_low"].astype(float)).clip(lower=0), (rows[f"{name}_high"].astype(float) - value).clip(lower=0)]


def _curve(axis: Axes, rows: pd.DataFrame, names: dict[str, str], label: str, reference: float | None, top: float | None) -> None:
    for number, (name, legend) in enumerate(names.items()):
        known = rows.dropna(subset=[name])
        axis.errorbar(known["iteration"] + 0.06 * number, known[name].astype(float), yerr=_interval(known, name), marker=MARKERS[number], capsize=3,
                      color=COLORS.get(name, list(COLORS.values())[number]), linestyle=("-", "--")[number % 2], label=legend or None)  # fmt: skip
    axis.set(xlabel="iteration", ylabel=label, xticks=rows["iteration"].tolist())
    axis.set_xlim(rows["iteration"].min() - 0.3, rows["iteration"].max() + 0.3)
    axis.set_ylim(0, top and 1.04 * top)
    if reference is not None:
        axis.axhline(reference, color=GRAY, linestyle=":", linewidth=1)
    if any(names.values()):
        axis.legend(frameon=False)


def curve(rows: pd.DataFrame, names: dict[str, str], label: str, reference: float | None = None, top: float | None = None) -> Figure:
    """Columns over `iteration`, each with its interval (`<name>_low`, `<name>_high`); `names`: column to legend."""
    made, axis = panel()
    _curve(axis, rows, names, label, reference, top)
    return made


def curves(summary: pd.DataFrame) -> Figure:
    """The index's four panels as one figure: accuracy, hallucination, length, verdicts for the longer answer."""
    made = Figure(figsize=(12, 2.7), layout="constrained")
    for axis, entry in zip(made.subplots(1, len(CURVES)), [entry for entry, _ in CURVES.values()], strict=True):
        _curve(_plain(axis), summary, *entry)
    return made


def arms(rows: pd.DataFrame, name: str, label: str, top: float | None = None) -> Figure:
    """A line an arm over `iteration`, with its interval; columns arm, iteration, `name`, `name`_low, `name`_high."""
    made, axis = panel(4.4, 2.8)
    _arms(axis, rows, name, label, top)
    _legend(made, axis)
    return made


def study(panels: Sequence[tuple[pd.DataFrame, str, str]]) -> Figure:
    """Several `arms` side by side under one legend, which says what they are; panels: (rows, name, label)."""
    made = Figure(figsize=(3.4 * len(panels), 3.0), layout="constrained")
    axes = np.atleast_1d(made.subplots(1, len(panels)))
    for axis, (rows, name, label) in zip(axes, panels, strict=True):
        _arms(_plain(axis), rows, name, label, None)
    handles, names = axes[0].get_legend_handles_labels()
    told = [f"{name} ({ARMS[name][1]})" if name in ARMS else name for name in names]
    made.legend(handles, told, frameon=False, loc="outside upper center", ncols=8)
    return made


def _arms(axis: Axes, rows: pd.DataFrame, name: str, label: str, top: float | None) -> None:
    found = list(dict.fromkeys(rows["arm"]))
    for number, arm in enumerate(found):
        part = rows[rows["arm"] == arm].sort_values("iteration")
        at = part["iteration"] + 0.06 * (number - (len(found) - 1) / 2)
        color, style = arm_style(arm)
        known = part[f"{name}_low"].notna()
        axis.plot(at, part[name].astype(float), color=color, linestyle=style, marker=MARKERS[number % len(MARKERS)], markersize=4, label=arm, zorder=4 - number / 10)
        axis.errorbar(at[known], part.loc[known, name].astype(float), yerr=_interval(part[known], name), color=color, linestyle="", capsize=2, linewidth=1)
    axis.set(xlabel="iteration", ylabel=label)
    if len(rows):
        axis.set_ylim(*_limits(rows, name, top))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _limits(rows: pd.DataFrame, name: str, top: float | None) -> tuple[float, float]:
    """Of the y axis: zero to `top`, or around the values where zero is so far below them that they would look flat. An interval that is wider than all values
    are apart (of two or three seeds) may run out of the panel."""
    values, ends = rows[name].astype(float), rows[[name, f"{name}_low", f"{name}_high"]].astype(float)
    apart = max(values.max() - values.min(), abs(values.max()) / 10)
    low, high = max(ends.min(axis=None), values.min() - apart), min(ends.max(axis=None), values.max() + apart)
    if low < high / 2:
        return 0.0, 1.04 * (top or high)
    if low == high:  # all values are 0
        return 0.0, 1.0
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def arm_style(arm: str) -> tuple[str, str]:
    """(color, line style) of an arm: a color each for the five, a style each for their length controls."""
    base = next((name for name in sorted(ARMS, key=len, reverse=True) if arm == name or arm.startswith(f"{name}_")), "")
    styles = {"": "-", "_ld": "--", "_norm": "-.", "_rdpo": ":", "_balanced": (0, (5, 1, 1, 1, 1, 1))}
    return ARMS[base][0] if base else PINK, styles.get(arm.removeprefix(base), "-")


def differences(rows: pd.DataFrame, measure: str) -> Figure:
    """How far each arm's last answers are from the baseline's, with intervals; columns arm, difference, difference_low, difference_high."""
    rows = rows.dropna(subset=["difference"])
    made, axis = panel(4.4, 1.0 + 0.28 * max(len(rows), 1))
    for at, (_, row) in enumerate(rows.iterrows()):
        axis.errorbar(row["difference"], at, xerr=[[row["difference"] - row["difference_low"]], [row["difference_high"] - row["difference"]]], marker="o",
                      capsize=3, color=arm_style(row["arm"])[0])  # fmt: skip
    axis.axvline(0, color=GRAY, linestyle=":", linewidth=1)
    axis.set_yticks(range(len(rows)), rows["arm"].tolist())
    axis.invert_yaxis()
    axis.set(xlabel=measure)
    axis.grid(axis="y", visible=False)
    return made


def speed(rows: pd.DataFrame) -> Figure:
    """Each turn's ratio of seconds, a line a case, and the median; columns case, ratio."""
    names = list(dict.fromkeys(rows["case"]))
    made, axis = panel(4.4, 1.0 + 0.35 * max(len(names), 1))
    for at, name in enumerate(names):
        ratios = rows[rows["case"] == name]["ratio"]
        axis.plot(ratios, [at] * len(ratios), "o", color=SKY, alpha=0.6)
        axis.plot(ratios.median(), at, "|", color=BLUE, markersize=18, markeredgewidth=3)
        axis.annotate(f"{ratios.median():.1f}x", (ratios.median(), at), (0, 12), textcoords="offset points", ha="center", fontsize=9)
    axis.axvline(1, color=GRAY, linestyle=":", linewidth=1)
    axis.set_yticks(range(len(names)), names)
    axis.set_xlim(0, 1.1 * max(rows["ratio"].max(), 1))
    axis.set_ylim(len(names) - 0.4, -0.7)
    axis.set(xlabel="seconds apart / seconds shared")
    axis.grid(axis="y", visible=False)
    return made


def lengths(rows: pd.DataFrame) -> Figure:
    """Histogram of words; columns `words` and `what` (one color each)."""
    made, axis = panel()
    edges = np.histogram_bin_edges(rows["words"], bins=20)
    for number, (what, part) in enumerate(rows.groupby("what", sort=False)):
        axis.hist(part["words"], bins=edges, color=COLORS.get(str(what), GRAY), label=f"{what} (mean {part['words'].mean():.1f})",
                  histtype=("stepfilled", "step")[number % 2], alpha=(0.5, 1)[number % 2], linewidth=2)  # fmt: skip
    axis.set(xlabel="length (words)", ylabel="texts (count)")
    if len(rows):
        axis.legend(frameon=False)
    return made


def bars(rows: pd.DataFrame, label: str) -> Figure:
    """Counts side by side; columns `kind`, then one a color."""
    made, axis = panel()
    kinds, names = rows["kind"].astype(str).tolist(), [name for name in rows.columns if name != "kind"]
    for number, name in enumerate(names):
        at = np.arange(len(kinds)) + (number - (len(names) - 1) / 2) * 0.8 / len(names)
        axis.barh(at, rows[name], height=0.8 / len(names), color=COLORS.get(name, GRAY), label=name)
    axis.set_yticks(range(len(kinds)), kinds)
    axis.invert_yaxis()
    axis.set(xlabel=label)
    axis.grid(axis="y", visible=False)
    if len(names) > 1:
        axis.legend(frameon=False)
    return made


def length_bias(rows: pd.DataFrame) -> Figure:
    """Verdicts for the longer answer against how much longer it is; columns `difference` (words, > 0), `longer` (bool), `truer` (a color
    each). Points: quintiles with Wilson intervals; curve: logistic regression on the difference (L2 penalty 1,
    so that it stays finite where all verdicts are alike), drawn where there is data."""
    from sklearn.linear_model import LogisticRegression

    from isrdpo.core.metrics import wilson

    made, axis = panel(4.4, 3.0)
    for number, (truer, part) in enumerate(rows.groupby("truer")):
        color = COLORS.get(str(truer), GRAY)
        edges = np.unique(np.quantile(part["difference"], np.linspace(0, 1, 6 if len(part) >= 50 else 4)))
        edges = edges if len(edges) > 1 else np.array([edges[0] - 0.5, edges[0] + 0.5])
        for _, inside in part.groupby(pd.cut(part["difference"], edges, include_lowest=True), observed=True):
            found = wilson(int(inside["longer"].sum()), len(inside))
            share, low, high = inside["longer"].mean(), found.low, found.high
            axis.errorbar(inside["difference"].mean(), share, yerr=[[max(share - low, 0)], [max(high - share, 0)]], marker=MARKERS[number], capsize=3,
                          color=color)  # fmt: skip
        axis.plot([], [], marker=MARKERS[number], color=color, label=f"{truer} (n = {len(part)})")
        if part["longer"].nunique() == 2 and part["difference"].nunique() > 1:
            fitted = LogisticRegression().fit(part[["difference"]].to_numpy(float), part["longer"])
            at = np.linspace(part["difference"].min(), part["difference"].max(), 50)
            axis.plot(at, fitted.predict_proba(at[:, None])[:, 1], color=color, alpha=0.6)
    axis.axhline(0.5, color=GRAY, linestyle=":", linewidth=1)
    axis.set(xlabel="how much longer (words)", ylabel="verdicts for the longer (share)", ylim=(-0.03, 1.03))
    if len(rows):
        axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)
    return made


def shares(rows: pd.DataFrame, label: str = "share") -> Figure:
    """Shares as points with intervals, a line a measure; columns `measure`, `what` (a color each), `share`, `share_low`, `share_high`, `n`."""
    measures, whats = list(dict.fromkeys(rows["measure"])), list(dict.fromkeys(rows["what"]))
    made, axis = panel(4.4, 0.9 + 0.45 * max(len(measures), 1) * max(1.0, len(whats) / 3))
    for number, what in enumerate(whats):
        part = rows[(rows["what"] == what) & rows["share"].notna()]
        at = [measures.index(m) + (number - (len(whats) - 1) / 2) * min(0.25, 0.8 / len(whats)) for m in part["measure"]]
        axis.errorbar(part["share"].astype(float), at, xerr=_interval(part, "share"), marker=MARKERS[number % len(MARKERS)], linestyle="", capsize=3,
                      color=COLORS.get(what) or arm_style(what)[0], label=what)  # fmt: skip
    axis.set_yticks(range(len(measures)), [textwrap.fill(measure, 26) for measure in measures])
    axis.set(xlabel=label, xlim=(-0.02, 1.02), ylim=(len(measures) - 0.4, -0.6))
    axis.grid(axis="x", alpha=0.25)
    axis.axvline(0.5, color=GRAY, linestyle=":", linewidth=1)
    if len(whats) > 1 or whats not in ([], [""]):
        _legend(made, axis)
    return made


def confidence(rows: pd.DataFrame, widest: float) -> Figure:
    """How sure the verdicts are; columns `margin` (log-odds of the chosen, 0 to `widest`) and `verdict` (right, wrong, truth not known)."""
    made, axis = panel(4.4, 3.0)
    groups = [(str(name), part["margin"].astype(float)) for name, part in rows.dropna(subset=["margin"]).groupby("verdict")]
    if groups:
        axis.hist([values for _, values in groups], bins=np.linspace(0, widest, 21).tolist(), stacked=True, color=[COLORS.get(name, GRAY) for name, _ in groups],
                  label=[f"{name} (n = {len(values)})" for name, values in groups])  # fmt: skip
        axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axis.set(xlabel="log-odds of the chosen (nats)", ylabel="verdicts (count)")
    return made


def steps(table: pd.DataFrame, names: Sequence[str], label: str, reference: float | None = None) -> Figure:
    """Columns of train.csv against its steps."""
    made, axis = panel()
    for number, name in enumerate(names):
        kind = name.removeprefix("logps_").removesuffix("_words")
        axis.plot(table["step"], table[name], color=COLORS.get(kind, "#000000"), linestyle=("-", "--")[number % 2],
                  marker="." if len(table) < 30 else "", label=kind if len(names) > 1 else None)  # fmt: skip
    if reference is not None:
        axis.axhline(reference, color=GRAY, linestyle=":", linewidth=1)
    axis.set(xlabel="step", ylabel=label)
    axis.ticklabel_format(axis="y", scilimits=(-3, 5))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(names) > 1:
        axis.legend(frameon=False)
    return made


def length_truth(rows: pd.DataFrame) -> Figure:
    """Accuracy of answers of about equal length; columns `what` (a policy each), `words`, `correct`. Points: quartiles of length."""
    from isrdpo.core.metrics import wilson

    made, axis = panel(4.4, 3.0)
    for number, (what, part) in enumerate(rows.groupby("what", sort=False)):
        color = COLORS.get(str(what)) or arm_style(str(what))[0]
        edges = np.unique(np.quantile(part["words"], np.linspace(0, 1, 5)))
        edges = edges if len(edges) > 1 else np.array([edges[0] - 0.5, edges[0] + 0.5])
        for _, inside in part.groupby(pd.cut(part["words"], edges, include_lowest=True), observed=True):
            found = wilson(int(inside["correct"].sum()), len(inside))
            share, low, high = inside["correct"].mean(), found.low, found.high
            axis.errorbar(inside["words"].mean(), share, yerr=[[max(share - low, 0)], [max(high - share, 0)]], marker=MARKERS[number % len(MARKERS)], capsize=3,
                          color=color)  # fmt: skip
        axis.plot([], [], marker=MARKERS[number % len(MARKERS)], linestyle="", color=color, label=str(what))
    axis.set(xlabel="length (words an answer)", ylabel="accuracy (share of answers)", ylim=(0, 1.03))
    _legend(made, axis)
    return made


def cost(rows: pd.DataFrame) -> Figure:
    """Seconds by iteration, stacked by stage; columns `iteration`, `stage`, `seconds`."""
    table = rows.pivot_table(index="iteration", columns="stage", values="seconds", aggfunc="sum", sort=False).fillna(0)
    made, axis = panel(7.2, 0.9 + 0.3 * len(table))
    left = np.zeros(len(table))
    for stage in table.columns:
        axis.barh(range(len(table)), table[stage], left=left, height=0.7, color=COLORS.get(stage, GRAY), label=stage)
        left += table[stage].to_numpy()
    axis.set_yticks(range(len(table)), [f"iteration {t}" for t in table.index])
    axis.invert_yaxis()
    axis.set(xlabel="time (seconds)")
    axis.grid(axis="y", visible=False)
    axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5)
    return made


def heat(frames: np.ndarray, times: np.ndarray, maps: dict[str, np.ndarray]) -> Figure:
    """Heat maps over frames: frames uint8 [T, S, S, 3], times [T] in seconds, maps float [T, g, g] by row label (all on one scale)."""
    made = Figure(figsize=(1.25 * len(frames) + 1.2, 1.25 * (len(maps) + 1) + 0.3), layout="constrained")
    axes = made.subplots(len(maps) + 1, len(frames), squeeze=False)
    top = max(float(values.max()) for values in maps.values()) or 1.0
    for column, frame in enumerate(frames):
        axes[0, column].set_title(f"{times[column]:.2g} s", fontsize=10)
        for row, values in enumerate([None, *maps.values()]):
            axis = axes[row, column]
            axis.imshow(frame if values is None else 64 + frame.mean(-1) / 2, extent=(0, 1, 0, 1), cmap="gray", vmin=0, vmax=255)
            if values is not None:
                drawn = axis.imshow(values[column], extent=(0, 1, 0, 1), cmap="plasma", alpha=np.sqrt(values[column] / top), vmin=0, vmax=top)
            axis.set(xticks=[], yticks=[])
    for row, name in enumerate(["what it saw", *maps]):
        axes[row, 0].set_ylabel(name, fontsize=10)
    made.colorbar(drawn, ax=axes[1:, :], label="effect on the verdict (nats)")
    return made
