"""Pure functions from rows to figures: length, hallucination, verdicts, agreement; each with a 95 %
interval.

A figure is an `Interval`: its value with the interval's two ends, all None where nothing was counted.
Shares have Wilson intervals; means and ratios have percentile bootstraps over rows, from a fixed generator,
so that a page is drawn the same each time. These intervals are of one run: they say how well its questions
fix the figure, not what another seed would give. Means over seeds have intervals of their own:
`over_seeds`, `nested_bootstrap`, `paired_bootstrap`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z = 1.959964  # of a normal distribution, for 95 %
DRAWS = 2000  # bootstrap samples
SUMMARY = (
    "iteration",
    "accuracy",
    "hallucination",
    "false_claims",
    "claims_per_answer",
    "uncheckable_share",
    "response_words",
    "chosen_words",
    "rejected_words",
    "prefers_longer",
    "judge_accuracy",
    "fixed_judge_accuracy",
    "fixed_judge_accuracy_no_context",
    "context_accuracy",
    "kept_share",
    "unparsed_share",
    "dpo_loss_first",
    "dpo_loss_last",
    "seconds",
    "scorer",
)
WITHOUT_INTERVAL = ("iteration", "dpo_loss_first", "dpo_loss_last", "seconds", "scorer")
Figures = dict[str, float | None]  # name, name_low, name_high of each figure: one row of a table
Sums = tuple[np.ndarray, np.ndarray]  # what is summed above and below a ratio's line, one entry per row


@dataclass(frozen=True)
class Interval:
    """A value with the two ends of its interval.

    `low` and `high` are None where there is none, `value` where nothing was counted.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    def columns(self, name: str) -> Figures:
        """The three numbers as a table's cells: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def text(self, digits: int = 3, signed: bool = False) -> str:
        """The interval for a reader, as in "0.812 [0.761, 0.853]"; empty where nothing was counted."""
        if self.value is None or math.isnan(self.value):
            return ""
        form = f"+.{digits}f" if signed else f".{digits}f"
        if self.low is None or self.high is None or math.isnan(self.low):
            return f"{self.value:{form}}"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies above 0, or the whole of it below."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


NOTHING = Interval(None)


def interval_of(row: Any, name: str) -> Interval:
    """The interval in the cells `name`, `name_low` and `name_high` of a row of a table (a dict or a
    Series).
    """
    return Interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def wilson(successes: int, trials: int) -> Interval:
    """The share of successes with its 95 % score interval (Wilson 1927)."""
    if trials == 0:
        return NOTHING
    share = successes / trials
    square = Z * Z
    center = (share + square / (2 * trials)) / (1 + square / trials)
    half = (
        Z / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    )
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == trials else center + half
    return Interval(share, low, high)


def share(values: Iterable[bool]) -> Interval:
    """The share of true values, with its Wilson interval."""
    counted = list(values)
    return wilson(sum(counted), len(counted))


def bootstrap(
    count: int, statistic: Callable[[np.ndarray], np.ndarray | list], value: float | None
) -> Interval:
    """`value` with the percentile bootstrap interval of a statistic over `count` rows.

    `statistic` takes drawn row numbers, int [DRAWS, count], and returns one number for each draw (nan: not
    defined there; such draws are left out). The draws are those of `scipy.stats.bootstrap` under
    `numpy.random.default_rng(0)`.
    """
    if count == 0 or value is None:
        return NOTHING
    rows = np.random.default_rng(0).integers(0, count, (DRAWS, count))
    values = np.asarray(statistic(rows), float)
    low, high = np.percentile(values[~np.isnan(values)], (2.5, 97.5))
    return Interval(value, float(low), float(high))


def ratio(above: Sequence[float], below: Sequence[float] | None = None) -> Interval:
    """sum(above) / sum(below) over rows, or the mean of `above` where `below` is None, with a bootstrap
    interval over rows.
    """
    top = np.asarray(above, float)
    bottom = np.ones_like(top) if below is None else np.asarray(below, float)
    if len(top) == 0 or bottom.sum() == 0:
        return NOTHING

    def ratios(rows: np.ndarray) -> np.ndarray:
        sums = bottom[rows].sum(1)
        return np.divide(top[rows].sum(1), sums, out=np.full(len(sums), np.nan), where=sums > 0)

    return bootstrap(len(top), ratios, float(top.sum() / bottom.sum()))


def mean_of(groups: Sequence[Interval]) -> Interval:
    """The unweighted mean of a figure over independent groups of rows; distances to either end add in
    squares.

    Nothing where a group has nothing.
    """
    if not groups or any(group.value is None for group in groups):
        return NOTHING
    middle = sum(group.value for group in groups) / len(groups)
    below = sum((group.low - group.value) ** 2 for group in groups) ** 0.5 / len(groups)
    above = sum((group.high - group.value) ** 2 for group in groups) ** 0.5 / len(groups)
    return Interval(middle, middle - below, middle + above)


def kappa(first: Sequence[bool], second: Sequence[bool]) -> Interval:
    """Cohen's kappa of two raters' yes and no (Cohen 1960), with a bootstrap interval over rows.

    Nothing where both always say the same one thing, for which kappa is not defined.
    """
    pairs = np.stack([np.asarray(first, float), np.asarray(second, float)], 1)
    value = _kappa(pairs) if len(pairs) else math.nan
    if math.isnan(value):
        return NOTHING
    return bootstrap(len(pairs), lambda draws: [_kappa(pairs[rows]) for rows in draws], value)


def _kappa(pairs: np.ndarray) -> float:
    """Kappa of [n, 2] zeros and ones; nan where it is not defined. (scikit-learn's takes 2,000 draws a
    hundred times as long.)
    """
    agreement = float((pairs[:, 0] == pairs[:, 1]).mean())
    a, b = pairs.mean(0)
    chance = a * b + (1 - a) * (1 - b)
    return math.nan if chance >= 1 else float((agreement - chance) / (1 - chance))


def over_seeds(values: Sequence[float | None]) -> Interval:
    """The mean over seeds with Student's t interval; of one seed its value alone, without an interval."""
    from scipy import stats

    sample = np.asarray([value for value in values if value is not None and np.isfinite(value)], float)
    if len(sample) == 0:
        return Interval(math.nan)
    mean = float(sample.mean())
    if len(sample) == 1:
        return Interval(mean)
    half = float(stats.t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
    return Interval(mean, mean - half, mean + half)


def nested_bootstrap(seeds: Sequence[Sums]) -> Interval:
    """The mean over seeds of sum(above) / sum(below): seeds are drawn, then rows within each."""
    return _nested([(sums,) for sums in seeds])


def paired_bootstrap(seeds: Sequence[Sums], others: Sequence[Sums]) -> Interval:
    """The mean over seeds of the difference of two ratios, `seeds` minus `others`, with the same rows drawn
    for both.
    """
    return _nested(list(zip(seeds, others, strict=True)))


def _nested(seeds: Sequence[tuple[Sums, ...]]) -> Interval:
    """Of each seed one ratio, or the difference of two over the same rows; the mean over seeds."""
    rng = np.random.default_rng(0)
    draws = []
    values = []
    for parts in seeds:
        count = len(parts[0][0])
        rows = rng.integers(0, count, (DRAWS, count))
        draws.append(_first_minus_second([_ratio(above[rows], below[rows]) for above, below in parts]))
        values.append(_first_minus_second([_ratio(above, below) for above, below in parts]))
    stacked = np.stack(draws)  # [seeds, DRAWS]
    chosen = rng.integers(0, len(seeds), (DRAWS, len(seeds)))
    means = stacked[chosen, rng.integers(0, DRAWS, chosen.shape)].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(np.mean(values)), float(low), float(high))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Sums over the last dimension, divided; 0 / 0 is 0."""
    return above.sum(-1) / np.maximum(below.sum(-1), 1e-12)


def _first_minus_second(values: list[np.ndarray]) -> np.ndarray:
    return values[0] if len(values) == 1 else values[0] - values[1]


def mean_ratio(seeds: Sequence[Sums]) -> float:
    """The mean over seeds of sum(above) / sum(below)."""
    return float(np.mean([_ratio(above, below) for above, below in seeds]))


def word_count(text: str) -> int:
    """Length in words: what whitespace separates."""
    return len(text.split())


def answer_figures(rows: Sequence[dict[str, Any]]) -> Figures:
    """Figures of evaluation answers, from rows with `words` and `truth`.

    `hallucination` is the share of false claims among those that can be checked, `uncheckable_share` that
    of claims that cannot be checked among all.
    """
    truths = [row["truth"] for row in rows if row["truth"] is not None]
    false = [truth["false"] for truth in truths]
    checked = [truth["claims"] for truth in truths]
    uncheckable = [truth["uncheckable"] for truth in truths]
    every = [a + b for a, b in zip(checked, uncheckable, strict=True)]
    return (
        share([truth["correct"] for truth in truths]).columns("accuracy")
        | ratio(false, checked).columns("hallucination")
        | ratio(false).columns("false_claims")
        | ratio(checked).columns("claims_per_answer")
        | ratio(uncheckable, every).columns("uncheckable_share")
        | ratio([row["words"] for row in rows]).columns("response_words")
    )


def scored_figures(rows: Sequence[dict[str, Any]]) -> Figures:
    """Figures of answers that a scorer judged, from rows with `correct`, `false` (claims without support)
    and `claims`.

    Each of the three is None where the scorer did not say.
    """
    counted = [row for row in rows if row["claims"] is not None]
    false = [row["false"] for row in counted]
    claims = [row["claims"] for row in counted]
    return (
        share([row["correct"] for row in rows if row["correct"] is not None]).columns("accuracy")
        | ratio(false, claims).columns("hallucination")
        | ratio(false).columns("false_claims")
        | ratio(claims).columns("claims_per_answer")
    )


def fixed_pair_figures(pairs: Sequence[dict[str, Any]], calls: Sequence[dict[str, Any]]) -> Figures:
    """Accuracy of verdicts on the fixed pairs, with and without a description.

    Every call counts, in either order; a reply that cannot be read is wrong. The interval is over pairs.
    """
    truer = {pair["id"]: pair["truer"] for pair in pairs}
    figures: Figures = {}
    for name, with_context in (("fixed_judge_accuracy", True), ("fixed_judge_accuracy_no_context", False)):
        right: dict[str, list[bool]] = {}
        for call in calls:
            if call["with_context"] == with_context:
                right.setdefault(call["id"], []).append(call["choice"] == truer[call["id"]])
        figures |= ratio([sum(v) for v in right.values()], [len(v) for v in right.values()]).columns(name)
    return figures


def verdict_figures(rows: Sequence[dict[str, Any]]) -> Figures:
    """Figures of an iteration's verdicts.

    A row is a judged sample: `words` [2], `correct` [2] or None, `choice` or None, `kept`, `calls`, and
    `unparsed` (calls without a verdict). Words are those of the kept pairs. `prefers_longer` and
    `judge_accuracy` count every decisive verdict, the latter on pairs whose answers differ in the truth of
    the main claim.
    """
    decisive = [row for row in rows if row["choice"] is not None]
    unequal = [row for row in decisive if row["words"][0] != row["words"][1]]
    pairs = [row for row in decisive if row["kept"]]
    differing = [row for row in decisive if row["correct"] and row["correct"][0] != row["correct"][1]]
    longer = [row["words"][row["choice"]] > row["words"][1 - row["choice"]] for row in unequal]
    return (
        ratio([row["words"][row["choice"]] for row in pairs]).columns("chosen_words")
        | ratio([row["words"][1 - row["choice"]] for row in pairs]).columns("rejected_words")
        | share(longer).columns("prefers_longer")
        | share([row["correct"][row["choice"]] for row in differing]).columns("judge_accuracy")
        | share([row["kept"] for row in rows]).columns("kept_share")
        | ratio([row["unparsed"] for row in rows], [row["calls"] for row in rows]).columns("unparsed_share")
    )


def context_figures(truths: Sequence[dict[str, Any]]) -> Figures:
    """The share of the descriptions' checkable claims that are true; one entry a video."""
    true = [truth["claims"] - truth["false"] for truth in truths]
    return ratio(true, [truth["claims"] for truth in truths]).columns("context_accuracy")


def summary_columns() -> list[str]:
    """The header of summary.csv: the figures in their order, then their intervals."""
    with_interval = [name for name in SUMMARY if name not in WITHOUT_INTERVAL]
    columns = list(SUMMARY)
    for name in with_interval:
        columns += [f"{name}_low", f"{name}_high"]
    return columns
