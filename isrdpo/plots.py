"""DataFrame in, matplotlib Figure out; no files, no pyplot state. The same color means the same thing in every figure.

Colors are Okabe and Ito's, which color-blind readers can tell apart.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = {
    "accuracy": "#0072B2", "hallucination": "#D55E00", "response_words": "#009E73", "prefers_longer": "#CC79A7",
    "chosen": "#0072B2", "rejected": "#D55E00", "neutral": "#555555",
}  # fmt: skip
CURVES = {
    "accuracy": "accuracy (share of answers)", "hallucination": "hallucination (share of claims)",
    "response_words": "length (words an answer)", "prefers_longer": "verdicts for the longer (share)",
}  # fmt: skip


def figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure (inches) with `columns` axes side by side."""
    made = Figure(figsize=(width, height), layout="constrained")
    axes = np.atleast_1d(made.subplots(1, columns)).tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.25)
    return made, axes


def curves(summary: pd.DataFrame) -> Figure:
    """Accuracy, hallucination, length and preference for the longer answer over iterations, with 95 % intervals."""
    made, axes = figure(11, 2.7, len(CURVES))
    for axis, (name, label) in zip(axes, CURVES.items(), strict=True):
        rows = summary.dropna(subset=[name])
        below, above = (rows[name] - rows[f"{name}_low"]).clip(lower=0), (rows[f"{name}_high"] - rows[name]).clip(lower=0)
        axis.errorbar(rows["iteration"], rows[name], yerr=[below, above], marker="o", capsize=3, color=COLORS[name])
        axis.set(xlabel="iteration", ylabel=label, xticks=summary["iteration"].tolist())
        axis.set_xlim(summary["iteration"].min() - 0.3, summary["iteration"].max() + 0.3)
        axis.set_ylim(bottom=0)
        if name == "prefers_longer":
            axis.axhline(0.5, color=COLORS["neutral"], linestyle=":", linewidth=1)
            axis.set_ylim(0, 1)
    return made


def lengths(rows: pd.DataFrame) -> Figure:
    """Histogram of words; columns `words` and `what` (one color each)."""
    made, (axis,) = figure(5.5, 2.8)
    edges = np.histogram_bin_edges(rows["words"], bins=24)
    for number, (what, part) in enumerate(rows.groupby("what", sort=False)):
        color = COLORS.get(str(what), list(COLORS.values())[number % len(COLORS)])
        axis.hist(part["words"], bins=edges, alpha=0.6, label=f"{what} (mean {part['words'].mean():.1f})", color=color)
    axis.set(xlabel="length (words)", ylabel="count")
    axis.legend(frameon=False)
    return made


def length_bias(rows: pd.DataFrame) -> Figure:
    """Share of decisive verdicts for the longer answer against how much longer it is; columns `difference` (words, > 0), `longer` (bool)."""
    from isrdpo.metrics import wilson

    made, (axis,) = figure(5.5, 2.8)
    edges = np.unique(np.quantile(rows["difference"], np.linspace(0, 1, 6))) if len(rows) else np.array([0.0, 1.0])
    groups = rows.groupby(pd.cut(rows["difference"], edges, include_lowest=True), observed=True)
    for _, part in groups:
        low, high = wilson(int(part["longer"].sum()), len(part))
        share = part["longer"].mean()
        axis.errorbar(part["difference"].mean(), share, yerr=[[share - low], [high - share]], marker="o", capsize=3, color=COLORS["prefers_longer"])
    axis.axhline(0.5, color=COLORS["neutral"], linestyle=":", linewidth=1)
    axis.set(xlabel="how much longer (words)", ylabel="verdicts for the longer (share)", ylim=(0, 1))
    return made


def training(steps: pd.DataFrame) -> Figure:
    """train.csv against steps: loss, reward accuracy, margin, log-probabilities."""
    made, axes = figure(11, 2.6, 4)
    for axis, (names, label) in zip(axes, {
        ("loss",): "DPO loss", ("accuracies",): "pairs ranked right (share)", ("margins",): "reward margin",
        ("logps_chosen", "logps_rejected"): "log-probability of an answer (nats)",
    }.items(), strict=True):  # fmt: skip
        for name in names:
            kind = name.removeprefix("logps_")
            axis.plot(steps["step"], steps[name], color=COLORS.get(kind, COLORS["neutral"]), label=kind if len(names) > 1 else None)
        axis.set(xlabel="step", ylabel=label)
        if names == ("loss",):
            axis.axhline(np.log(2), color=COLORS["neutral"], linestyle=":", linewidth=1)
        if len(names) > 1:
            axis.legend(frameon=False)
    return made


def by_kind(rows: pd.DataFrame) -> Figure:
    """Accuracy by kind of question; columns `kind`, `accuracy`, `accuracy_low`, `accuracy_high`, `n`."""
    made, (axis,) = figure(5.5, 2.8)
    values = rows["accuracy"].to_numpy()
    spread = np.clip([values - rows["accuracy_low"], rows["accuracy_high"] - values], 0, None)
    axis.bar(range(len(rows)), values, yerr=spread, capsize=3, color=COLORS["accuracy"])
    axis.set_xticks(range(len(rows)), [f"{kind}\n(n = {n})" for kind, n in zip(rows["kind"], rows["n"], strict=True)])
    axis.set(ylabel="accuracy (share of answers)", ylim=(0, 1))
    return made
