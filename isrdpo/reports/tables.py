"""A run read back: its files as the tables that its pages show. Never imports torch, draws nothing."""

import difflib
from dataclasses import fields
from typing import Any

import pandas as pd

from isrdpo.core import metrics, records
from isrdpo.core.errors import MissingStage
from isrdpo.core.runs import Run
from isrdpo.reports.truth import false_claims, scene_facts
from isrdpo.toybox import claims

CONTEXT_COLUMNS = ["video", "context", "previous", "words", "similarity", "false", "repaired", "broken"]
DRIFT = ("words", "similarity", "repaired", "broken")


def rows_of(run: Run, iteration: int, name: str) -> pd.DataFrame:
    """Return a JSONL file of an iteration as a table; empty where the file is not there."""
    path = run.file(iteration, name)
    row_type = records.ROWS.get(name, dict)
    rows = records.read_jsonl(path, row_type) if path.exists() else []
    if path.exists() and not rows and name == "responses.jsonl":
        # Under judge.method: given nobody responds; pages ask for the columns all the same.
        return pd.DataFrame(columns=[field.name for field in fields(records.Responses)])
    return pd.DataFrame(rows if row_type is dict else map(vars, rows))


def stage_marker(run: Run, stage: str, iteration: int) -> dict:
    """Return the marker of a finished stage. Raises MissingStage where it is not finished."""
    marker = run.done(stage, iteration)
    if marker is None:
        raise MissingStage(f"{run.folder}: stage {stage} of iteration {iteration} is not done")
    return marker


def usable_samples(marker: dict[str, Any]) -> int:
    """Return how many samples of a stage have a row, by its marker: all but those left out as bad."""
    return marker["total"] - marker["counts"].get("left_out", 0)


def scenes(run: Run, iteration: int) -> dict[str, dict | None]:
    """Return each video's facts without a question, None where they are not known."""
    samples = records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample)
    return {sample.video: scene_facts(sample.facts) for sample in samples}


# Descriptions


def contexts(run: Run, iteration: int) -> pd.DataFrame:
    """Return c_t and c_{t-1}, a row for each video.

    Columns: video, context, previous (or ""), words, similarity (share of words in common order, 0 to 1),
    and where facts are known false, repaired (false claims of c_{t-1} that are gone) and broken (false
    claims that are new).
    """
    facts = scenes(run, iteration)
    rows = [_context_row(row, facts.get(row.video)) for row in _contexts(run, iteration)]
    return pd.DataFrame(rows, columns=CONTEXT_COLUMNS)


def _contexts(run: Run, iteration: int) -> list[records.Context]:
    path = run.file(iteration, "contexts.jsonl")
    return records.read_jsonl(path, records.Context) if path.exists() else []


def _context_row(row: records.Context, facts: dict | None) -> dict[str, Any]:
    now = row.context
    before = row.previous_context or ""
    cells: dict[str, Any] = {"video": row.video, "context": now, "previous": before}
    cells["words"] = metrics.word_count(now)
    cells["similarity"] = _similarity(before, now) if before else None
    if facts:
        false_now = false_claims(now, facts)
        false_before = false_claims(before, facts)
        cells["false"] = len(false_now)
        cells["repaired"] = len(false_before - false_now) if before else None
        cells["broken"] = len(false_now - false_before) if before else None
    return cells


def _similarity(before: str, now: str) -> float:
    return difflib.SequenceMatcher(None, before.split(), now.split(), autojunk=False).ratio()


def context_truths(run: Run, iteration: int) -> list[dict]:
    """Return the claims of c_t, counted, an entry for each video whose facts are known."""
    rows = _contexts(run, iteration)
    facts = scenes(run, iteration) if rows else {}
    counts = [claims.count(row.context, facts[row.video]) for row in rows]
    return [count for count in counts if count is not None]


def drift(run: Run, iteration: int) -> pd.DataFrame:
    """Return how descriptions moved, a row for each iteration up to this one.

    Means per description of words, similarity, repaired and broken, and context_accuracy, each with its
    interval.
    """
    rows = []
    for t in range(1, iteration + 1):
        table = contexts(run, t)
        row: dict[str, Any] = {"iteration": t}
        for name in DRIFT:
            row |= metrics.ratio(table[name].dropna().astype(float).tolist()).columns(name)
        rows.append(row | metrics.context_figures(context_truths(run, t)))
    return pd.DataFrame(rows)


# Training


def training_outcome(steps: pd.DataFrame) -> str:
    """Say what DPO did to the log-probabilities, from the first tenth of the steps to the last; each batch
    holds other pairs.
    """
    if not len(steps):
        return "No pair was kept: the policy stays as it is."
    tenth = max(1, len(steps) // 10)
    first = steps.head(tenth)
    last = steps.tail(tenth)
    chosen = last["rewards_chosen"].mean() - first["rewards_chosen"].mean()
    rejected = last["rewards_rejected"].mean() - first["rewards_rejected"].mean()
    sentence = (
        f"In {len(steps)} steps the reward of the chosen (beta times its log-probability against the "
        f"reference's) {_moved_by(chosen)} nats, that of the rejected {_moved_by(rejected)}; "
        f"the margin ended at {last['margins'].mean():.3f}."
    )
    if chosen < 0 and rejected < chosen:
        sentence += " DPO lowers the chosen too, only less than the rejected."
    return sentence


def _moved_by(change: float) -> str:
    verb = "rose" if change > 0 else "fell"
    return f"{verb} by {abs(change):.3f}"
