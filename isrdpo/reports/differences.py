"""How far the last answers of each arm are from those of another, on the same questions of the same seeds.

Intervals are nested bootstraps: seeds are drawn, then questions within each. With few seeds they are too
narrow; the tables say how many there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isrdpo.core import metrics
from isrdpo.core.metrics import Interval, Sums
from isrdpo.reports.arms import without_controls

COLUMNS = [
    "arm",
    "iteration",
    "seeds",
    "questions",
    "measure",
    "value",
    "value_low",
    "value_high",
    "baseline",
    "baseline_value",
    "difference",
    "difference_low",
    "difference_high",
]


@dataclass(frozen=True)
class Measure:
    """A figure of answers: the sum of column `above` divided by the sum of `below`, or by the number of
    answers where it is None.

    `words` names it in a sentence (empty: the sentence leaves it out), `digits` are those that a reader
    needs.
    """

    above: str
    below: str | None = None
    words: str = ""
    digits: int = 3

    def sums(self, rows: pd.DataFrame, suffix: str = "") -> Sums:
        """Return what is summed above and below the line, an entry for each answer."""
        above = rows[self.above + suffix].to_numpy(float)
        below = np.ones_like(above) if self.below is None else rows[self.below + suffix].to_numpy(float)
        return above, below


MEASURES = {
    "accuracy": Measure("correct", words="accuracy"),
    "hallucination": Measure("false", "claims", words="false claims among all"),
    "false_claims": Measure("false"),
    "response_words": Measure("words", words="words per answer", digits=1),
}


def differences(questions: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return the last answers of each arm, and how far they are from the baseline's: a row for each arm and
    measure (COLUMNS).

    `questions` is the table of `compare.questions`. An arm's last answers are those of the last iteration
    that the baseline has too. `baseline_value` is the baseline's figure there, on the questions that both
    were asked.
    """
    rows: list[dict[str, Any]] = []
    base = questions[questions["arm"] == baseline]
    for arm, part in questions.groupby("arm", sort=False):
        iteration = _last_common_iteration(part, base)
        last = part[part["iteration"] == iteration]
        base_last = base[base["iteration"] == iteration]
        for name, measure in MEASURES.items():
            answers = last.dropna(subset=[measure.above])
            if answers.empty:
                continue
            row = {"arm": arm, "iteration": iteration, "measure": name, "baseline": baseline} | _value(
                answers, measure
            )
            if arm != baseline:
                row |= _difference(answers, base_last, measure)
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _last_common_iteration(part: pd.DataFrame, base: pd.DataFrame) -> int:
    """Return the last iteration that both have; that of `part` alone where they have none in common."""
    iterations = set(part["iteration"])
    return max(iterations & set(base["iteration"]) or iterations)


def _seeds(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    return (seed for _, seed in rows.groupby("seed"))


def _value(answers: pd.DataFrame, measure: Measure) -> dict[str, Any]:
    """Return an arm's figure, as the cells of its row."""
    value = metrics.nested_bootstrap([measure.sums(seed) for seed in _seeds(answers)])
    return {"seeds": answers["seed"].nunique(), "questions": len(answers)} | value.columns("value")


def _difference(answers: pd.DataFrame, base: pd.DataFrame, measure: Measure) -> dict[str, float | None]:
    """Return how far an arm is from the baseline, as cells of its row; none where no question was asked of
    both.
    """
    both = answers.merge(base, on=["seed", "id"], suffixes=("", "_base")).dropna(
        subset=[f"{measure.above}_base"]
    )
    if both.empty:
        return {}
    own_sums = [measure.sums(seed) for seed in _seeds(both)]
    base_sums = [measure.sums(seed, "_base") for seed in _seeds(both)]
    difference = metrics.paired_bootstrap(own_sums, base_sums)
    return {"baseline_value": metrics.mean_ratio(base_sums)} | difference.columns("difference")


def controls(questions: pd.DataFrame) -> pd.DataFrame:
    """Return each length control against the same arm without it, as `differences`; empty where there is
    none.
    """
    arms = list(dict.fromkeys(questions["arm"]))
    parts = []
    for arm in arms:
        plain = without_controls(arm)
        if plain != arm and plain in arms:
            table = differences(questions[questions["arm"].isin([arm, plain])], plain)
            parts.append(table[table["arm"] == arm])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def as_text(table: pd.DataFrame, name: str = "value") -> pd.DataFrame:
    """Return `differences` or `controls` for a reader: a row for each arm, a column for each measure,
    "value [low, high]".

    `name` is "value" or "difference".
    """
    signed = name == "difference"
    rows: dict[str, dict[str, str]] = {}
    for row in table.dropna(subset=[name]).to_dict("records"):
        label = f"{row['arm']} - {row['baseline']}" if signed else row["arm"]
        first_cells = {"arm": label, "iteration": str(row["iteration"]), "seeds": str(row["seeds"])}
        cells = rows.setdefault(row["arm"], first_cells)
        digits = MEASURES[row["measure"]].digits
        cells[row["measure"]] = metrics.interval_of(row, name).text(digits, signed)
    return pd.DataFrame(rows.values()).fillna("")


@dataclass(frozen=True)
class Change:
    """A measure of the baseline and of another arm. `difference` is baseline minus other."""

    measure: Measure
    baseline: float
    other: float
    difference: Interval

    def text(self) -> str:
        """Return the change for a sentence, as in "accuracy 0.900 against 0.800 (difference +0.100 [+0.050,
        +0.150])".
        """
        digits = self.measure.digits
        doubt = "" if self.difference.excludes_zero else ", which is not distinguishable from none"
        return (
            f"{self.measure.words} {self.baseline:.{digits}f} against {self.other:.{digits}f} "
            f"(difference {self.difference.text(digits, signed=True)}{doubt})"
        )


def outcome(table: pd.DataFrame, baseline: str, other: str) -> str:
    """Return what `differences` says of two arms, in a sentence."""
    rows = table[table["arm"] == other]
    if other == baseline or rows.empty or baseline not in set(table["arm"]):
        return f"{baseline} and {other} are not both here."
    if rows["difference"].isna().all():
        return f"{baseline} and {other} were not asked the same questions."
    changes = [_change(row) for row in rows.dropna(subset=["difference"]).to_dict("records")]
    texts = "; ".join(change.text() for change in changes if change.measure.words)
    seeds = int(rows["seeds"].max())
    iteration = int(rows["iteration"].iloc[0])
    runs = f"{seeds} seed" if seeds == 1 else f"{seeds} seeds"
    return f"{baseline} against {other} after {iteration} iterations, {runs}: {texts}."


def _change(row: dict[str, Any]) -> Change:
    """Read a row of `differences` the other way round: the baseline against the arm."""
    difference = Interval(-row["difference"], -row["difference_high"], -row["difference_low"])
    return Change(MEASURES[row["measure"]], row["baseline_value"], row["value"], difference)
