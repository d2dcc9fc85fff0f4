"""The answers to evaluation questions as tables: who was right, by policy, by kind, and what was gained and
lost.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from isrdpo.core import metrics, records
from isrdpo.core.runs import Run
from isrdpo.formats import predictions
from isrdpo.reports.judged_pairs import SHARE_COLUMNS, share_row
from isrdpo.reports.tables import rows_of
from isrdpo.scoring import protocol, scores

SAID_OF_ANSWERS = ("correct", "false", "claims")
HALLUCINATED = "object"  # the kind of claim that speaks of an object which is not there; always false


def answers(run: Run, iteration: int) -> pd.DataFrame:
    """Return answers.jsonl with the clip of each, and columns correct, false and claims.

    These three are by the facts, else by the scorer where the answers were scored, else None.
    """
    rows = rows_of(run, iteration, "answers.jsonl")
    truths = [truth if isinstance(truth, dict) else None for truth in rows["truth"]]
    verdicts: list[dict[str, Any]] = [truth or {} for truth in truths]
    if not any(truths):
        by_scorer = scores_by_answer(run, iteration)
        keys = [_score_key(row) for row in rows[["id", "kind"]].to_dict("records")]
        verdicts = [by_scorer.get(key, {}) for key in keys]
    columns = {
        name: pd.Series([verdict.get(name) for verdict in verdicts], index=rows.index, dtype=object)
        for name in SAID_OF_ANSWERS
    }
    clips = rows_of(run, 0, "samples.jsonl").set_index("id")["video"]
    return rows.assign(truth=truths, **columns, video=rows["id"].map(clips))


def _score_key(answer: dict[str, Any]) -> tuple[str, str]:
    """Return the test set and the id under which an answer was scored."""
    return predictions.set_from_kind(answer["kind"]), answer["id"].removeprefix(f"{answer['kind']}/")


def scores_by_answer(run: Run, iteration: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the scorer's word on each answer by test set and id.

    An entry has correct and, where claims were asked about, false (unsupported) and claims.
    """
    verdicts: dict[tuple[str, str], dict[str, Any]] = {}
    for row in score_rows(run, iteration):
        verdict = verdicts.setdefault((row.set, row.id), {})
        if row.protocol == protocol.CLAIMS:
            verdict |= {"false": row.unsupported, "claims": row.claims}
        else:
            verdict |= {"correct": row.correct}
    return verdicts


def score_rows(run: Run, iteration: int) -> list[records.Score]:
    """Return the rows of a finished scoring; none where nothing was scored."""
    path = run.file(iteration, "scores.jsonl")
    return records.read_jsonl(path, records.Score) if run.done("score", iteration) and path.exists() else []


def scorer(run: Run, iteration: int) -> str:
    """Return who says what is right in `answers`: "facts", a scorer's version, or "" for nobody."""
    rows = records.read_jsonl(run.file(iteration, "answers.jsonl"), records.Answer)
    if any(row.truth is not None for row in rows):
        return "facts"
    return ", ".join(sorted({row.version for row in score_rows(run, iteration)}))


def answers_by_policy(run: Run, iteration: int) -> dict[str, pd.DataFrame]:
    """Return the answers of the base, of the policy before (where that is another) and of this one ("now"),
    in that order.
    """
    iterations = {"base": 0}
    if iteration > 1:
        iterations["before"] = iteration - 1
    if iteration:
        iterations["now"] = iteration
    return {name: answers(run, t) for name, t in iterations.items() if run.done("evaluate", t)}


def length_truth(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return id, words, correct and what (the policy) of every answer whose truth is known."""
    parts = [
        table.loc[table["correct"].notna(), ["id", "words", "correct"]].assign(what=what)
        for what, table in tables.items()
    ]
    if not parts:
        return pd.DataFrame(columns=["id", "words", "correct", "what"])
    return pd.concat(parts).astype({"correct": bool})


def accuracy_by_kind(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return accuracy by kind of question (the measure) and policy, as SHARE_COLUMNS."""
    rows = []
    for what, table in tables.items():
        answered = table[table["correct"].notna()]
        rows += [
            share_row(kind, what, correct) for kind, correct in answered["correct"].groupby(answered["kind"])
        ]
    return pd.DataFrame(rows, columns=SHARE_COLUMNS)


def claim_kinds(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the share of false claims among checkable ones by kind of claim (the measure) and policy, as
    SHARE_COLUMNS.

    Objects that are not there, which are always false, are left out; `absent_objects` counts them.
    """
    rows = []
    for what, table in tables.items():
        counts = _claims_by_kind(table)
        for kind in sorted(counts.keys() - {HALLUCINATED}):
            true, false = counts[kind]
            share = metrics.wilson(false, true + false)
            rows.append({"measure": kind, "what": what, "n": true + false} | share.columns("share"))
    return pd.DataFrame(rows, columns=SHARE_COLUMNS)


def _claims_by_kind(table: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Return the true and the false claims of all answers, by kind."""
    counts: dict[str, tuple[int, int]] = {}
    for truth in table["truth"].dropna():
        for kind, (true, false) in truth["by_kind"].items():
            true_before, false_before = counts.get(kind, (0, 0))
            counts[kind] = (true_before + true, false_before + false)
    return counts


def absent_objects(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return for a caption how often an answer of each policy speaks of objects that are not there."""
    parts = []
    for what, table in tables.items():
        counts = [truth["by_kind"].get(HALLUCINATED, [0, 0])[1] for truth in table["truth"].dropna()]
        if counts:
            parts.append(f"{what} {sum(counts) / len(counts):.2f}")
    return ", ".join(parts)


def answer_changes(before: pd.DataFrame, after: pd.DataFrame) -> pd.Series:
    """Return for each question that both answered, with known truth: 1 where it was gained, -1 where it was
    lost, else 0.
    """
    both = before.merge(after, on="id", suffixes=("_before", "")).dropna(subset=["correct", "correct_before"])
    return both["correct"].astype(int) - both["correct_before"].astype(int)


def gained_lost(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the questions that `now` answers rightly and an earlier policy did not, and the other way round.

    A row for each earlier policy (against), with the paired change of accuracy and its interval.
    """
    rows = []
    for name, table in tables.items():
        if "now" in tables and name != "now":
            change = answer_changes(table, tables["now"])
            counts = {
                "against": name,
                "questions": len(change),
                "gained": int((change > 0).sum()),
                "lost": int((change < 0).sum()),
            }
            rows.append(counts | metrics.ratio(change.tolist()).columns("change"))
    columns = ["against", "questions", "gained", "lost", "change", "change_low", "change_high"]
    return pd.DataFrame(rows, columns=columns)


# Scores and benchmarks


def benchmark_tables(run: Run, iteration: int) -> dict[str, pd.DataFrame]:
    """Return by caption the benchmark's own figures of the base and of this iteration, side by side.

    None where the questions are no benchmark's.
    """
    keys = ["subset", "measure"]
    parts = []
    for t in sorted({0, iteration}):
        path = run.file(t, "benchmark.csv")
        if not (run.done("evaluate", t) and path.exists()):
            continue
        table = records.read_csv(path, [*keys, "value", "unread", "questions", "incomplete"])
        name = _policy_name(t)
        intervals = [metrics.interval_of(row, "value").text() for row in table.to_dict("records")]
        columns = {name: intervals, f"{name}: unread": table["unread"]}
        parts.append(table[keys].assign(**columns).set_index(keys))
        counts = table.set_index(keys)[["questions", "incomplete"]]
    if not parts:
        return {}
    caption = f"{run.params.data.benchmark}, its own figures"
    return {caption: pd.concat([*parts, counts], axis=1).reset_index()}


def _policy_name(iteration: int) -> str:
    return f"iteration {iteration}" if iteration else "base"


def score_tables(run: Run, iteration: int) -> dict[str, pd.DataFrame]:
    """Return by caption the scores of the base and of this iteration, a table for each scorer's version.

    Then official sets beside the published numbers, where such sets were scored. None where nothing was
    scored.
    """
    tables = {
        _policy_name(t): scores.read_scores(run.file(t, "scores.csv"))
        for t in sorted({0, iteration})
        if score_rows(run, t)
    }
    captions = {f"Scored by {version}": table for version, table in scores.tables_by_version(tables).items()}
    if any((table["protocol"] == protocol.OFFICIAL).any() for table in tables.values()):
        for version, table in scores.tables_beside_published(tables).items():
            captions[f"Official sets, percent right, by {version}"] = table
    return captions
