"""Pure functions from rows to figures: length, hallucination, verdicts, agreement; each with a 95 % interval.

A figure is `{name: value, name_low: ..., name_high: ...}`; None where nothing was counted. Shares have Wilson intervals, means and
ratios percentile bootstraps over rows (deterministic: a fixed generator). Intervals are of one run: they say how well these questions
fix the figure, not what another seed would give.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Z = 1.959964
DRAWS = 2000
SUMMARY = (
    "iteration", "accuracy", "hallucination", "false_claims", "claims_per_answer", "uncheckable_share", "response_words", "chosen_words",
    "rejected_words", "prefers_longer", "judge_accuracy", "fixed_judge_accuracy", "fixed_judge_accuracy_no_context", "context_accuracy",
    "kept_share", "unparsed_share", "dpo_loss_first", "dpo_loss_last", "seconds", "scorer",
)  # fmt: skip
WITHOUT_INTERVAL = ("iteration", "dpo_loss_first", "dpo_loss_last", "seconds", "scorer")
Figures = dict[str, float | None]


def wilson(k: int, n: int) -> tuple[float | None, float | None]:
    """95 % Wilson score interval of k successes in n (Wilson 1927); (None, None) for n = 0."""
    if n == 0:
        return None, None
    share, square = k / n, Z * Z
    center = (share + square / (2 * n)) / (1 + square / n)
    half = Z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return 0.0 if k == 0 else center - half, 1.0 if k == n else center + half


def share(name: str, values: Iterable[bool]) -> Figures:
    """The share of true values, with its Wilson interval."""
    counted = list(values)
    low, high = wilson(sum(counted), len(counted))
    return {name: sum(counted) / len(counted) if counted else None, f"{name}_low": low, f"{name}_high": high}


def ratio(name: str, above: Sequence[float], below: Sequence[float] | None = None) -> Figures:
    """sum(above) / sum(below) over rows (a mean where `below` is None), with a bootstrap interval over rows."""
    top = np.asarray(above, float)
    bottom = np.ones_like(top) if below is None else np.asarray(below, float)
    if len(top) == 0 or bottom.sum() == 0:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    draws = np.random.default_rng(0).integers(0, len(top), (DRAWS, len(top)))
    sums = bottom[draws].sum(1)
    low, high = np.percentile(top[draws].sum(1)[sums > 0] / sums[sums > 0], (2.5, 97.5))
    return {name: float(top.sum() / bottom.sum()), f"{name}_low": float(low), f"{name}_high": float(high)}


def mean_of(name: str, groups: Sequence[dict[str, Any]]) -> Figures:
    """The unweighted mean of a figure over independent groups of rows; what is left to either side adds in squares. None where a group has none."""
    if not groups or any(group[name] is None for group in groups):
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    middle = sum(group[name] for group in groups) / len(groups)
    low, high = (sum((group[f"{name}_{end}"] - group[name]) ** 2 for group in groups) ** 0.5 / len(groups) for end in ("low", "high"))
    return {name: middle, f"{name}_low": middle - low, f"{name}_high": middle + high}


def kappa(name: str, one: Sequence[bool], other: Sequence[bool]) -> Figures:
    """Cohen's kappa of two raters' yes and no (Cohen 1960), with a bootstrap interval over rows; None where both always say the same one thing."""
    pairs = np.stack([np.asarray(one, float), np.asarray(other, float)], 1)
    draws = np.random.default_rng(0).integers(0, len(pairs), (DRAWS, len(pairs))) if len(pairs) else np.zeros((0, 0), int)
    found = [_kappa(pairs[at]) for at in draws]
    known = [value for value in found if value is not None]
    low, high = np.percentile(known, (2.5, 97.5)) if known else (None, None)
    value = _kappa(pairs) if len(pairs) else None
    return {name: value, f"{name}_low": None if value is None else float(low), f"{name}_high": None if value is None else float(high)}


def _kappa(pairs: np.ndarray) -> float | None:
    agree, (a, b) = float((pairs[:, 0] == pairs[:, 1]).mean()), pairs.mean(0)
    chance = a * b + (1 - a) * (1 - b)
    return None if chance >= 1 else float((agree - chance) / (1 - chance))


def words(text: str) -> int:
    """Length in words: what whitespace separates."""
    return len(text.split())


def answers(rows: Sequence[dict[str, Any]]) -> Figures:
    """Figures of evaluation answers. `hallucination`: false claims among checkable ones; `uncheckable_share`: among all claims."""
    found = ratio("response_words", [row["words"] for row in rows])
    truths = [row["truth"] for row in rows if row["truth"] is not None]
    false, checked = [t["false"] for t in truths], [t["claims"] for t in truths]
    loose = [t["uncheckable"] for t in truths]
    return (
        share("accuracy", [t["correct"] for t in truths]) | ratio("hallucination", false, checked) | ratio("false_claims", false)
        | ratio("claims_per_answer", checked) | ratio("uncheckable_share", loose, [a + b for a, b in zip(checked, loose, strict=True)]) | found
    )  # fmt: skip


def told(rows: Sequence[dict[str, Any]]) -> Figures:
    """Figures of answers that a scorer judged: `correct`, `false` (claims without support) and `claims`, each None where it did not say."""
    counted = [row for row in rows if row["claims"] is not None]
    false, claims = [row["false"] for row in counted], [row["claims"] for row in counted]
    known = [row["correct"] for row in rows if row["correct"] is not None]
    return share("accuracy", known) | ratio("hallucination", false, claims) | ratio("false_claims", false) | ratio("claims_per_answer", claims)


def fixed(pairs: Sequence[dict[str, Any]], calls: Sequence[dict[str, Any]]) -> Figures:
    """Accuracy on the fixed pairs, over all calls (each order counts; an unreadable reply is wrong), with and without a description."""
    truer = {pair["id"]: pair["truer"] for pair in pairs}
    found: Figures = {}
    for name, with_context in (("fixed_judge_accuracy", True), ("fixed_judge_accuracy_no_context", False)):
        mine: dict[str, list[bool]] = {}
        for call in calls:
            if call["with_context"] == with_context:
                mine.setdefault(call["id"], []).append(call["choice"] == truer[call["id"]])
        found |= ratio(name, [sum(v) for v in mine.values()], [len(v) for v in mine.values()])
    return found


def verdicts(rows: Sequence[dict[str, Any]]) -> Figures:
    """Figures of an iteration's verdicts; a row a judged sample: `words` [2], `correct` [2] or None, `choice` or None, `kept`, `calls`,
    `unparsed` (calls without a verdict). Words are those of the kept pairs; `prefers_longer` and `judge_accuracy` count every decisive verdict, the
    latter on pairs that differ in the truth of the main claim."""
    decisive = [row for row in rows if row["choice"] is not None]
    longer = [row["words"][row["choice"]] > row["words"][1 - row["choice"]] for row in decisive if row["words"][0] != row["words"][1]]
    kept = [row for row in decisive if row["kept"]]
    right = [row["correct"][row["choice"]] for row in decisive if row["correct"] and row["correct"][0] != row["correct"][1]]
    return (
        ratio("chosen_words", [row["words"][row["choice"]] for row in kept])
        | ratio("rejected_words", [row["words"][1 - row["choice"]] for row in kept])
        | share("prefers_longer", longer) | share("judge_accuracy", right) | share("kept_share", [row["kept"] for row in rows])
        | ratio("unparsed_share", [row["unparsed"] for row in rows], [row["calls"] for row in rows])
    )  # fmt: skip


def contexts(truths: Sequence[dict[str, Any]]) -> Figures:
    """Share of the descriptions' checkable claims that are true; one entry a video."""
    return ratio("context_accuracy", [t["claims"] - t["false"] for t in truths], [t["claims"] for t in truths])


def summary_columns() -> list[str]:
    """summary.csv's header: the figures in their order, then their intervals."""
    with_interval = [name for name in SUMMARY if name not in WITHOUT_INTERVAL]
    return [*SUMMARY, *(f"{name}_{end}" for name in with_interval for end in ("low", "high"))]
