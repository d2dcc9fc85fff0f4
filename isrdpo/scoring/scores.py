"""Figures from scorers' replies: by test set, beside published numbers, and how far two scorers agree.

Numbers of different scorers never share a column.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.metrics import Interval, interval_of, kappa, mean_of, ratio, share
from isrdpo.core.records import Score
from isrdpo.scoring.protocol import CLAIMS, OFFICIAL, OWN, REFERENCE, REFERENCE_SETS

FIGURES = ("accuracy", "score", "unsupported_share", "claims_per_answer", "words")
COUNTS = ("questions", "fallbacks", "claims_unread", "failed")
AGREEMENT_FIGURES = ("accuracy_first", "accuracy_second", "agree", "kappa")  # those that are printed
Failure = tuple[str, str]  # (set, protocol) of a request without a reply


class ScorersDiffer(RunError):
    """Numbers of several scorers were about to stand in one column."""


@dataclass(frozen=True)
class ScoreRow:
    """A row of scores.csv: the figures of one test set, under one protocol, by one version of a scorer.

    `accuracy` is the share of right answers (hound: a score of 3 and above; hound.official: yes among yes
    and no), `score` the mean score, `unsupported_share` that of claims that the caption does not support,
    `words` the mean length of an answer. `fallbacks` counts the replies that another rule than the pattern
    read, which count; `claims_unread` the replies about claims without a claim, which do not; `failed` the
    requests without a reply.
    """

    set: str
    protocol: str
    scorer: str
    scorer_version: str
    questions: int
    accuracy: Interval
    score: Interval
    unsupported_share: Interval
    claims_per_answer: Interval
    words: Interval
    fallbacks: int
    claims_unread: int
    failed: int

    def cells(self) -> dict[str, Any]:
        """The row by its columns: a figure has three."""
        cells: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            cells |= value.columns(field.name) if isinstance(value, Interval) else {field.name: value}
        return cells

    @classmethod
    def columns(cls) -> list[str]:
        """The header of scores.csv."""
        names: list[str] = []
        for field in fields(cls):
            names += Interval(None).columns(field.name) if field.name in FIGURES else [field.name]
        return names


def score_table(rows: Sequence[Score], failures: Sequence[Failure] = ()) -> pd.DataFrame:
    """Return scores.csv: a ScoreRow a set, protocol and scorer's version, then the means over sets.

    The interval of `unsupported_share` is a bootstrap over answers.
    """
    claims: dict[tuple[str, str, str], list[Score]] = {}
    for row in rows:  # not sorted, so that the bootstrap of an older scores.csv comes out again
        if row.protocol == CLAIMS:
            claims.setdefault((row.set, row.scorer, row.version), []).append(row)
    table = []
    for (name, protocol, scorer, version), answers in _answers_by_set(rows).items():
        # Claims are asked about beside protocol hound only, whose sets have captions.
        claims_of_set = claims.get((name, scorer, version), []) if protocol == OWN else []
        protocols = (OWN, CLAIMS) if protocol == OWN else (protocol,)
        failed = sum(failed_set == name and kind in protocols for failed_set, kind in failures)
        table.append(_score_row(answers, claims_of_set, failed))
    by_version: dict[tuple[str, str, str], list[ScoreRow]] = {}
    for row in table:
        by_version.setdefault((row.protocol, row.scorer, row.scorer_version), []).append(row)
    means = [_mean_row(part) for part in by_version.values() if len(part) > 1]
    return pd.DataFrame([row.cells() for row in table + means], columns=ScoreRow.columns())


def _answers_by_set(rows: Sequence[Score]) -> dict[tuple[str, str, str, str], list[Score]]:
    """Verdicts on answers by (set, protocol, scorer, version), in the order of these names.

    Each group is in the order of its ids, whatever order the replies came in.
    """
    groups: dict[tuple[str, str, str, str], list[Score]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        if row.protocol != CLAIMS:
            groups.setdefault((row.set, row.protocol, row.scorer, row.version), []).append(row)
    return dict(sorted(groups.items()))


def _score_row(answers: Sequence[Score], claims: Sequence[Score], failed: int) -> ScoreRow:
    """Figures of verdicts on answers (one at least) and of the rows about their claims."""
    first = answers[0]
    readable = [row for row in claims if row.claims is not None]
    counts = [row.claims for row in readable]
    unsupported = [row.unsupported for row in readable]
    return ScoreRow(
        set=first.set,
        protocol=first.protocol,
        scorer=first.scorer,
        scorer_version=first.version,
        questions=len(answers),
        accuracy=share([row.correct for row in answers if row.correct is not None]),
        score=ratio([row.score for row in answers if row.score is not None]),
        unsupported_share=ratio(unsupported, counts),
        claims_per_answer=ratio(counts),
        words=ratio([row.words for row in answers]),
        fallbacks=sum(row.parsed_by != "pattern" for row in answers),
        claims_unread=len(claims) - len(readable),
        failed=failed,
    )


def _mean_row(rows: Sequence[ScoreRow]) -> ScoreRow:
    """The unweighted mean over the sets of one scorer's version, as LLaVA-Hound reports it."""
    names = ", ".join(row.set for row in rows)
    means = {name: mean_of([getattr(row, name) for row in rows]) for name in FIGURES}
    sums = {name: sum(getattr(row, name) for row in rows) for name in COUNTS}
    return ScoreRow(
        set=f"mean of {names}",
        protocol=rows[0].protocol,
        scorer=rows[0].scorer,
        scorer_version=rows[0].scorer_version,
        **means,
        **sums,
    )


def read_scores(path: Path) -> pd.DataFrame:
    """Read scores.csv."""
    return records.read_csv(path, ["set", "protocol", "scorer", "scorer_version", "questions"])


def score_lines(table: pd.DataFrame) -> str:
    """Return a score table for a terminal, a line a set."""
    lines = []
    for row in table.to_dict("records"):
        accuracy = interval_of(row, "accuracy").text(2)
        score = interval_of(row, "score").text(2)
        counts = f"{row['questions']} questions, {row['fallbacks']} fallbacks, {row['failed']} failed"
        by = f"{row['protocol']} by {row['scorer_version']}"
        lines.append(f"{row['set']}: accuracy {accuracy}, score {score}, {counts}; {by}")
    return "\n".join(lines) or "nothing was scored"


def score_column(table: pd.DataFrame, name: str, percent: bool = False) -> pd.Series:
    """Return one figure of a score table by set, as text with its interval.

    Raises ScorersDiffer unless one version of one scorer made all of it.
    """
    scorers = table[["scorer", "scorer_version"]].drop_duplicates()
    if len(scorers) > 1:
        versions = " and ".join(scorers["scorer_version"])
        what = "numbers of different scorers do not compare (up to 15 points), a table each"
        raise ScorersDiffer(f"{name}: scored by {versions}; {what}")
    texts = []
    for row in table.to_dict("records"):
        interval = interval_of(row, name)
        if percent:
            interval = _in_percent(interval)
        texts.append(interval.text(2))
    return pd.Series(texts, index=table["set"])


def _in_percent(interval: Interval) -> Interval:
    ends = (interval.value, interval.low, interval.high)
    return Interval(*(None if end is None else 100 * end for end in ends))


def tables_by_version(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the figures of each policy by set, as text with intervals: a table for each scorer's version.

    `tables` are score tables by policy.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    for policy, table in tables.items():
        for version, part in table.groupby("scorer_version", sort=False):
            figures = {
                name: list(score_column(part, name)) for name in FIGURES if name != "claims_per_answer"
            }
            counts = part[["fallbacks", "claims_unread", "failed"]]
            texts = part[["set", "protocol", "questions"]].assign(policy=policy, **figures)
            parts.setdefault(str(version), []).append(texts.join(counts))
    return {version: pd.concat(frames, ignore_index=True) for version, frames in parts.items()}


def tables_beside_published(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return percent right on the official sets, a row a model: a table for each scorer's version.

    The published numbers of the same version stand below ours; those of other versions have tables of their
    own. `tables` are score tables by the model's name.
    """
    rows: dict[str, list[dict[str, str]]] = {}
    mean_label = f"mean of {', '.join(sorted(REFERENCE_SETS))}"
    for model, table in tables.items():
        official = table[table["protocol"] == OFFICIAL]
        for version, part in official.groupby("scorer_version", sort=False):
            cells = score_column(part, "accuracy", percent=True)
            row = {"model": model}
            row |= {name: cells.get(name, "") for name in REFERENCE_SETS}
            row["mean"] = cells.get(mean_label, "")
            rows.setdefault(str(version), []).append(row)
    for version, models in REFERENCE.items():
        for model, values in models.items():
            row = {"model": f"{model} (published)"}
            row |= {name: f"{value:.2f}" for name, value in zip(REFERENCE_SETS, values, strict=True)}
            row["mean"] = f"{sum(values) / len(values):.2f}"
            rows.setdefault(version, []).append(row)
    return {version: pd.DataFrame(models) for version, models in rows.items()}


def agreement_table(first: Sequence[Score], second: Sequence[Score]) -> pd.DataFrame:
    """Return how far two scorers agree on the same answers: a row a set and protocol, and one of all.

    The columns are the numbers of answers that are right by both, by neither, by one alone; then, each with
    a 95 % interval, the accuracy by each scorer, their difference, the share on which they agree, and
    Cohen's kappa.

    Raises RunError where they did not score the same answers.
    """
    verdicts = _verdicts(first)
    others = _verdicts(second)
    requests = {key: row.asked for key, row in verdicts.items()}
    if not verdicts or requests != {key: row.asked for key, row in others.items()}:
        what = "these scores are not of the same answers"
        raise RunError(f"{what}; score one set of predictions by both scorers")
    every: list[tuple[bool, bool]] = []
    by_set: dict[tuple[str, str], list[tuple[bool, bool]]] = {}
    for key, row in verdicts.items():
        other = others[key]
        if row.correct is not None and other.correct is not None:
            every.append((row.correct, other.correct))
            by_set.setdefault((row.set, row.protocol), []).append(every[-1])
    versions = {"first": _versions(verdicts.values()), "second": _versions(others.values())}
    table = []
    for (name, protocol), pairs in [*sorted(by_set.items()), (("all", ""), every)]:
        table.append({"set": name, "protocol": protocol, **versions, **_agreement_figures(pairs)})
    return pd.DataFrame(table)


def _verdicts(rows: Sequence[Score]) -> dict[tuple[str, str, str], Score]:
    """Rows about answers, not about claims, by set, protocol and id."""
    return {(row.set, row.protocol, row.id): row for row in rows if row.protocol != CLAIMS}


def _versions(rows: Iterable[Score]) -> str:
    return ", ".join(sorted({row.version for row in rows}))


def _agreement_figures(pairs: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    """Counts and figures of two scorers' verdicts.

    There is a pair for each answer: whether it is right by the first, and by the second.
    """
    first = [one for one, _ in pairs]
    second = [other for _, other in pairs]
    counts = {
        "questions": len(pairs),
        "both_right": pairs.count((True, True)),
        "both_wrong": pairs.count((False, False)),
        "only_first": pairs.count((True, False)),
        "only_second": pairs.count((False, True)),
    }
    return (
        counts
        | share(first).columns("accuracy_first")
        | share(second).columns("accuracy_second")
        | ratio([int(other) - int(one) for one, other in pairs]).columns("difference")
        | share([one == other for one, other in pairs]).columns("agree")
        | kappa(first, second).columns("kappa")
    )


def agreement_lines(table: pd.DataFrame) -> str:
    """Return an agreement table for a terminal, a line a set."""
    lines = []
    for row in table.to_dict("records"):
        texts = {name: interval_of(row, name).text(2) for name in AGREEMENT_FIGURES}
        accuracies = (
            f"{row['first']} {texts['accuracy_first']} right, {row['second']} {texts['accuracy_second']}"
        )
        both = f"both right {row['both_right']}, both wrong {row['both_wrong']}"
        one = f"only the first {row['only_first']}, only the second {row['only_second']}"
        agreement = f"agree {texts['agree']}, kappa {texts['kappa']}"
        lines.append(f"{row['set']}: {row['questions']} answers; {accuracies}; {both}, {one}; {agreement}")
    return "\n".join(lines)
