"""A run's figures: a row for each iteration (summary.csv), what was left out, and what it cost."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from isrdpo.core import metrics, records
from isrdpo.core.folders import display_path
from isrdpo.core.pipeline import STAGES
from isrdpo.core.runs import Run
from isrdpo.reports import answer_tables, tables
from isrdpo.reports.judged_pairs import judged_pairs

SHOWN = [  # figures of the index, in their order
    "accuracy",
    "hallucination",
    "false_claims",
    "response_words",
    "prefers_longer",
    "judge_accuracy",
    "fixed_judge_accuracy",
    "fixed_judge_accuracy_no_context",
    "context_accuracy",
    "kept_share",
    "seconds",
]
ANSWERS = [  # figures of the page about evaluation
    "accuracy",
    "hallucination",
    "false_claims",
    "claims_per_answer",
    "uncheckable_share",
    "response_words",
    "fixed_judge_accuracy",
    "fixed_judge_accuracy_no_context",
]
LEFT_OUT = (
    "ties",
    "empty",
    "disagreement",
    "undecided",
    "weak",
    "unparsed",
    "unsure",
    "unbalanced",
    "too_long",
)
COST_COLUMNS = ["iteration", "stage", "total", "seconds", "peak_rss_mb"]


def iteration_row(run: Run, iteration: int) -> dict[str, Any]:
    """Return one row of summary.csv, from what is on disk; what is not there yet is left empty."""
    row: dict[str, Any] = {"iteration": iteration}
    if run.done("evaluate", iteration):
        row |= _evaluation_figures(run, iteration)
    if iteration and run.done("judge", iteration):
        pairs = judged_pairs(run, iteration)
        row |= metrics.verdict_figures([vars(pair) for pair in pairs])
        row |= metrics.context_figures(tables.context_truths(run, iteration))
    if iteration and run.done("train", iteration):
        row |= _training_figures(run, iteration)
    markers = [marker for stage in STAGES if (marker := run.done(stage, iteration))]
    row["seconds"] = round(sum(marker["seconds"] for marker in markers), 1) if markers else None
    return row


def _evaluation_figures(run: Run, iteration: int) -> dict[str, Any]:
    advice = f"restore it, or remove {display_path(run.marker_path('evaluate', iteration))}: it is made anew"
    figures = records.read_json(run.file(iteration, "eval.json"), dict, advice)
    figures["scorer"] = answer_tables.scorer(run, iteration)
    if figures["scorer"] not in ("", "facts"):
        answers = answer_tables.answers(run, iteration)[["correct", "false", "claims"]]
        figures |= metrics.scored_figures(answers.to_dict("records"))
    return figures


def _training_figures(run: Run, iteration: int) -> dict[str, float]:
    losses = records.read_csv(run.file(iteration, "train.csv"), ["loss"])["loss"]
    return {"dpo_loss_first": losses.iloc[0], "dpo_loss_last": losses.iloc[-1]} if len(losses) else {}


def table(run: Run) -> pd.DataFrame:
    """Return summary.csv as a table: a row for each iteration, figures, then their intervals."""
    last = max((t for stage, t in run.finished() if stage != "data"), default=-1)
    rows = [iteration_row(run, t) for t in range(last + 1)]
    return pd.DataFrame(rows, columns=metrics.summary_columns())


def write_summary(run: Run) -> pd.DataFrame:
    """Write summary.csv into the run's folder, and return it."""
    summary = table(run)
    records.write_csv(run.folder / "summary.csv", summary)
    return summary


def figures(summary: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return summary.csv turned for a reader: a row for each figure, a column for each iteration, "0.84
    [0.79, 0.88]".

    Figures that no iteration has are left out.
    """
    names = [name for name in names if summary[name].notna().any()]
    columns = {
        f"iteration {int(row['iteration'])}": [_cell(row, name) for name in names]
        for _, row in summary.iterrows()
    }
    return pd.DataFrame({"figure": names, **columns})


def _cell(row: pd.Series, name: str) -> str:
    figure = metrics.Interval(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"))
    if pd.isna(row[name]):
        return ""
    return figure.text(digits=0 if name == "seconds" else 2)


def cost(markers: Sequence[dict]) -> pd.DataFrame:
    """Return seconds and peak memory (MB) by iteration and stage."""
    rows = [{name: marker[name] for name in COST_COLUMNS} for marker in markers]
    return pd.DataFrame(rows, columns=COST_COLUMNS)


def exclusions(markers: Sequence[dict]) -> pd.DataFrame:
    """Return what did not reach training: a row for each iteration, a column for each reason; bad samples
    by stage and cause.
    """
    rows: dict[int, dict[str, int]] = {}
    for marker in markers:
        rows.setdefault(marker["iteration"], {}).update(_excluded_by(marker))
    table = pd.DataFrame([{"iteration": t} | row for t, row in sorted(rows.items()) if row])
    return table.astype("Int64") if len(table) else table


def _excluded_by(marker: dict) -> dict[str, int]:
    """Return how many samples a stage left out, by reason."""
    stage = marker["stage"]
    counts = marker["counts"]
    row: dict[str, int] = {}
    if stage == "judge":
        row |= {"judged": marker["total"], "kept": counts["kept"]}
    if stage in ("judge", "train"):
        row |= {reason.replace("_", " "): counts[reason] for reason in LEFT_OUT if reason in counts}
    bad = {
        cause: n for cause, n in marker["bad"].items() if cause != "unparsed verdict"
    }  # `unparsed` counts these
    return row | {f"{cause} ({stage})": n for cause, n in bad.items()}
