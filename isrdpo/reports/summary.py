"""A run's figures: a row an iteration (summary.csv), what was left out, what it cost, and the sentence that says what came out."""

import io
from collections.abc import Sequence
from typing import Any

import pandas as pd

from isrdpo.core import metrics, records
from isrdpo.core.pipeline import STAGES
from isrdpo.core.runs import Run
from isrdpo.reports import tables as report

SHOWN = ["accuracy", "hallucination", "false_claims", "response_words", "prefers_longer", "judge_accuracy", "fixed_judge_accuracy",
         "fixed_judge_accuracy_no_context", "context_accuracy", "kept_share", "seconds"]  # fmt: skip
ANSWERS = ["accuracy", "hallucination", "false_claims", "claims_per_answer", "uncheckable_share", "response_words", "fixed_judge_accuracy",
           "fixed_judge_accuracy_no_context"]  # fmt: skip
LEFT_OUT = ("ties", "empty", "disagreement", "undecided", "weak", "unparsed", "unsure", "unbalanced", "too_long")


def iteration_row(run: Run, iteration: int) -> dict[str, Any]:
    """One row of summary.csv, from what is on disk; what is not there yet is left empty."""
    row: dict[str, Any] = {"iteration": iteration}
    if run.done("evaluate", iteration):
        row |= {k: v for k, v in records.read_json(run.file(iteration, "eval.json")).items() if k != "iteration"}
        row["scorer"] = report.scorer(run, iteration)
        if row["scorer"] not in ("", "facts"):
            row |= metrics.scored_figures(report.answers(run, iteration)[["correct", "false", "claims"]].to_dict("records"))
    if iteration and run.done("judge", iteration):
        row |= metrics.verdict_figures(report.judged(run, iteration).to_dict("records")) | metrics.context_figures(report.context_truths(run, iteration))
    if iteration and run.done("train", iteration):
        steps = pd.read_csv(run.file(iteration, "train.csv"))
        if len(steps):
            row |= {"dpo_loss_first": steps["loss"].iloc[0], "dpo_loss_last": steps["loss"].iloc[-1]}
    markers = [m for stage in STAGES if (m := run.done(stage, iteration))]
    return row | {"seconds": round(sum(m["seconds"] for m in markers), 1) if markers else None}


def table(run: Run) -> pd.DataFrame:
    """summary.csv as a table: a row an iteration, figures, then their intervals."""
    last = max((t for stage, t in run.finished() if stage != "data"), default=-1)
    return pd.DataFrame([iteration_row(run, t) for t in range(last + 1)], columns=metrics.summary_columns())


def figures(found: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """summary.csv's rows for reading: a line a figure that is known of some iteration, a column an iteration, "0.84 [0.79, 0.88]"."""
    names, columns = [name for name in names if found[name].notna().any()], {}
    for _, row in found.iterrows():
        cells = []
        for name in names:
            interval = f" [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]" if pd.notna(row.get(f"{name}_low")) else ""
            cells.append("" if pd.isna(row[name]) else f"{row[name]:.0f}" if name == "seconds" else f"{row[name]:.2f}{interval}")
        columns[f"iteration {int(row['iteration'])}"] = cells
    return pd.DataFrame({"figure": names, **columns})


def write(run: Run) -> pd.DataFrame:
    made, text = table(run), io.StringIO()
    made.to_csv(text, index=False, lineterminator="\n")
    records.write_text(run.folder / "summary.csv", text.getvalue())
    return made


def markers(run: Run) -> list[dict]:
    """The markers of everything that is done, in order."""
    return [m for stage, t in run.finished() if (m := run.done(stage, t))]


def cost(found: Sequence[dict]) -> pd.DataFrame:
    """Seconds and peak memory (MB) by iteration and stage."""
    return pd.DataFrame([{k: m[k] for k in ("iteration", "stage", "total", "seconds", "peak_rss_mb")} for m in found],
                        columns=["iteration", "stage", "total", "seconds", "peak_rss_mb"])  # fmt: skip


def left_out(found: Sequence[dict]) -> pd.DataFrame:
    """What did not reach training, a row an iteration, a column a reason; bad samples by stage and cause."""
    rows: dict[int, dict[str, int]] = {}
    for m in found:
        row = rows.setdefault(m["iteration"], {})
        if m["stage"] == "judge":
            row |= {"judged": m["total"], "kept": m["counts"]["kept"]}
        if m["stage"] in ("judge", "train"):
            row |= {reason.replace("_", " "): m["counts"][reason] for reason in LEFT_OUT if reason in m["counts"]}
        row |= {f"{cause} ({m['stage']})": n for cause, n in m["bad"].items() if cause != "unparsed verdict"}
    frame = pd.DataFrame([{"iteration": t} | row for t, row in sorted(rows.items()) if row])
    return frame.astype("Int64") if len(frame) else frame


def outcome(run: Run, table: pd.DataFrame) -> str:
    """What became of the answers, in a sentence made of the data: paired changes on the same questions, each with its interval."""
    known = table.dropna(subset=["response_words"])
    if len(known) < 2:
        return as_it_is(known.iloc[0]) if len(known) and run.params.iterations == 0 else "No policy has been trained and evaluated yet."
    t = int(known["iteration"].iloc[-1])
    first, last = report.answers(run, 0), report.answers(run, t)
    both = first.merge(last, on="id", suffixes=("_then", ""))
    longer = metrics.ratio((both["words"] - both["words_then"]).tolist()).columns("x")
    sure = both.dropna(subset=["correct", "correct_then"])
    truer = metrics.ratio((sure["correct"].astype(int) - sure["correct_then"].astype(int)).tolist()).columns("x")
    words = f"{first['words'].mean():.1f} → {last['words'].mean():.1f} words an answer"
    if truer["x"] is None:
        return f"{_moved(longer, 'Wordier', 'Terser', 'Of about the same length')} after {_times(t)}: {words}. What is true of these clips is not known."
    length, truth = _moved(longer, "wordier", "terser", "as long as before"), _moved(truer, "Truer", "Less true", "Not measurably truer")
    joined = "but" if length == ("terser" if truth == "Less true" else "wordier") else "and"
    row, base = known.iloc[-1], known.iloc[0]
    claims = (
        f"; false claims {base['hallucination']:.0%} → {row['hallucination']:.0%} of all, {base['false_claims']:.2f} → {row['false_claims']:.2f} an answer"
        if pd.notna(row["hallucination"]) and pd.notna(base["hallucination"]) else ""
    )  # fmt: skip
    by = f" So says {row['scorer']}, not the facts." if row["scorer"] != "facts" else ""
    return (
        f"{truth}, {joined} {length}, after {_times(t)}: accuracy {base['accuracy']:.0%} → {row['accuracy']:.0%} "
        f"({100 * truer['x']:+.1f} points [{100 * truer['x_low']:+.1f}, {100 * truer['x_high']:+.1f}] on the same {len(sure)} questions), {words}{claims}.{by}"
    )


def as_it_is(row: pd.Series) -> str:
    """The outcome of a run that trains nothing."""
    right = f"{row['accuracy']:.0%} of its answers are right, as {row['scorer'].replace('facts', 'the facts')} say{'s' * (row['scorer'] != 'facts')}; " if row["scorer"] else ""
    return f"Nothing was trained: the model as it is. {right}{row['response_words']:.1f} words an answer."


def _moved(change: dict, up: str, down: str, neither: str) -> str:
    """Which word an interval allows."""
    return up if change["x_low"] > 0 else down if change["x_high"] < 0 else neither


def _times(t: int) -> str:
    return f"{t} iteration{'s' * (t > 1)}"
