"""Figures from scorers' replies: by test set, beside published numbers, and how far two scorers agree. Numbers of different scorers never share a column."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from isrdpo.core import metrics, records
from isrdpo.core.errors import RunError
from isrdpo.scoring import protocol

BY = ["protocol", "scorer", "scorer_version"]
SHOWN = ["accuracy", "score", "unsupported_share", "claims_per_answer", "words"]
COLUMNS = ["set", *BY, "questions", *(name + end for name in SHOWN for end in ("", "_low", "_high")), "fallbacks", "claims_unread", "failed"]


class ScorersDiffer(RunError):
    """Numbers of several scorers were about to stand in one column."""


def table(rows: Sequence[records.Score], failed: Sequence[tuple[str, str]] = ()) -> pd.DataFrame:
    """scores.csv: a row a set, protocol and scorer's version, then the mean over the sets of each. `accuracy`: share right (hound: a score of 3 and above; hound.official:
    yes among yes and no); `score`: mean; `unsupported_share`: of claims, with a bootstrap interval over answers; `fallbacks`: replies that another rule
    than the pattern read, which count; `claims_unread`: replies about claims without a claim, which do not; `failed`: (set, protocol) of requests without a reply."""
    made = []
    for (name, kind, scorer, version), part in _groups(rows):
        claims = [r for r in rows if (r.set, r.protocol, r.scorer, r.version) == (name, protocol.CLAIMS, scorer, version) and kind == protocol.OWN]
        read = [r for r in claims if r.claims is not None]
        known = [r for r in part if r.score is not None]
        lost = [k for s, k in failed if s == name and (k == kind or (k == protocol.CLAIMS and kind == protocol.OWN))]
        made.append(
            {"set": name, "protocol": kind, "scorer": scorer, "scorer_version": version, "questions": len(part)}
            | metrics.share([r.correct for r in part if r.correct is not None]).columns("accuracy") | metrics.ratio([r.score for r in known]).columns("score")
            | metrics.ratio([r.unsupported for r in read], [r.claims for r in read]).columns("unsupported_share") | metrics.ratio([r.claims for r in read]).columns("claims_per_answer")
            | metrics.ratio([r.words for r in part]).columns("words")
            | {"fallbacks": sum(r.parsed_by != "pattern" for r in part), "claims_unread": len(claims) - len(read), "failed": len(lost)}
        )  # fmt: skip
    found = pd.DataFrame(made, columns=COLUMNS)
    means = [_mean(part) for _, part in found.groupby(BY, sort=False) if len(part) > 1]
    return pd.concat([found, pd.DataFrame(means, columns=COLUMNS)], ignore_index=True) if means else found


def _groups(rows: Sequence[records.Score]) -> list[tuple[tuple[str, str, str, str], list[records.Score]]]:
    """Verdicts on answers by (set, protocol, scorer, version), in the order of their names; rows by id, whatever order they came in."""
    found: dict[tuple[str, str, str, str], list[records.Score]] = {}
    for row in sorted(rows, key=lambda row: (row.set, row.protocol, row.id)):
        if row.protocol != protocol.CLAIMS:
            found.setdefault((row.set, row.protocol, row.scorer, row.version), []).append(row)
    return sorted(found.items())


def _mean(part: pd.DataFrame) -> dict[str, Any]:
    """The unweighted mean over sets, as LLaVA-Hound reports it; see metrics.mean_of."""
    row: dict[str, Any] = {name: part[name].iloc[0] for name in BY}
    row |= {"set": f"mean of {', '.join(part['set'])}"} | {name: int(part[name].sum()) for name in ("questions", "fallbacks", "claims_unread", "failed")}
    figures = part.astype(object).where(part.notna(), None).to_dict("records")
    for name in SHOWN:
        row |= metrics.mean_of([metrics.interval_of(figure, name) for figure in figures]).columns(name)
    return row


def write(found: pd.DataFrame, path: Path) -> None:
    text = io.StringIO()
    found.to_csv(text, index=False, lineterminator="\n")
    records.write_text(path, text.getvalue())


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)


def told(found: pd.DataFrame) -> str:
    """A line a set, for a terminal."""
    lines = [
        f"{row['set']}: accuracy {_cell(row, 'accuracy')}, score {_cell(row, 'score')}, {row['questions']} questions, {row['fallbacks']} fallbacks, "
        f"{row['failed']} failed; {row['protocol']} by {row['scorer_version']}" for _, row in found.iterrows()
    ]  # fmt: skip
    return "\n".join(lines) or "nothing was scored"


def _cell(row: pd.Series, name: str, scale: int = 1, digits: int = 2) -> str:
    if pd.isna(row[name]):
        return ""
    value, low, high = (scale * float(row[name + end]) for end in ("", "_low", "_high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def column(found: pd.DataFrame, name: str) -> pd.Series:
    """One figure by set, as text with its interval. Raises ScorersDiffer unless one version of one scorer made all of it."""
    who = found[["scorer", "scorer_version"]].drop_duplicates()
    if len(who) > 1:
        raise ScorersDiffer(f"{name}: scored by {' and '.join(who['scorer_version'])}; numbers of different scorers do not compare (up to 15 points), a table each")
    return found.set_index("set").apply(_cell, axis=1, name=name)


def by_version(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """What each scorer's version says of each policy by set, as text with intervals. `tables`: of `table`, by policy."""
    made: dict[str, list[pd.DataFrame]] = {}
    for name, found in tables.items():
        for version, part in found.groupby("scorer_version", sort=False):
            texts = {figure: list(column(part, figure)) for figure in SHOWN if figure != "claims_per_answer"}
            counts = part[["fallbacks", "claims_unread", "failed"]]
            made.setdefault(str(version), []).append(part[["set", "protocol", "questions"]].assign(policy=name, **texts).join(counts))
    return {version: pd.concat(parts, ignore_index=True) for version, parts in made.items()}


def beside(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Percent right on the official sets, models by name, a table a scorer's version, with the published numbers of the same version below ours; the other
    versions' published numbers in tables of their own. `tables`: of `table`."""
    sets, made = protocol.REFERENCE_SETS, {}
    for name, found in tables.items():
        official = found[found["protocol"] == protocol.OFFICIAL]
        for version, part in official.groupby("scorer_version", sort=False):
            cells = column(part.assign(**{f"accuracy{end}": 100 * part[f"accuracy{end}"].astype(float) for end in ("", "_low", "_high")}), "accuracy")
            rows = {"model": name} | {s: cells.get(s, "") for s in sets}
            rows["mean"] = next((cells[s] for s in cells.index if s == f"mean of {', '.join(sorted(sets))}"), "")
            made.setdefault(str(version), []).append(rows)
    for version, models in protocol.REFERENCE.items():
        for model, values in models.items():
            cells = {"model": f"{model} (published)"} | {s: f"{v:.2f}" for s, v in zip(sets, values, strict=True)}
            made.setdefault(version, []).append(cells | {"mean": f"{sum(values) / len(values):.2f}"})
    return {version: pd.DataFrame(rows) for version, rows in made.items()}


def agreement(one: Sequence[records.Score], other: Sequence[records.Score]) -> pd.DataFrame:
    """Two scorers on the same answers, a row a set and protocol and one of all: both_right, both_wrong, only_first, only_second (answers), accuracy of each and
    their difference, `agree` (share) and Cohen's kappa, each with a 95 % interval. Raises RunError where they did not score the same."""
    tables = [{(r.set, r.protocol, r.id): r for r in rows if r.protocol != protocol.CLAIMS} for rows in (one, other)]
    if not tables[0] or tables[0].keys() != tables[1].keys() or any(tables[0][k].asked != tables[1][k].asked for k in tables[0]):
        raise RunError("these scores are not of the same answers; score one set of predictions by both scorers")
    known = [k for k in tables[0] if tables[0][k].correct is not None and tables[1][k].correct is not None]
    names = [", ".join(sorted({f"{r.version}" for r in found.values()})) for found in tables]
    rows = []
    for label in [*dict.fromkeys(k[:2] for k in sorted(known)), ("all", "")]:
        pairs = [(tables[0][k].correct, tables[1][k].correct) for k in known if label[0] == "all" or k[:2] == label]
        rows.append({"set": label[0], "protocol": label[1], "first": names[0], "second": names[1]} | _agreement(pairs))
    return pd.DataFrame(rows)


def agreed(found: pd.DataFrame) -> str:
    """A line a set, for a terminal."""
    return "\n".join(
        f"{row['set']}: {row['questions']} answers; {row['first']} {_cell(row, 'accuracy_first')} right, {row['second']} {_cell(row, 'accuracy_second')}; both right "
        f"{row['both_right']}, both wrong {row['both_wrong']}, only the first {row['only_first']}, only the second {row['only_second']}; agree {_cell(row, 'agree')}, "
        f"kappa {_cell(row, 'kappa')}" for _, row in found.iterrows()
    )  # fmt: skip


def _agreement(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    counts = {"both_right": (True, True), "both_wrong": (False, False), "only_first": (True, False), "only_second": (False, True)}
    change = metrics.ratio([int(b) - int(a) for a, b in pairs]).columns("difference")
    return (
        {"questions": len(pairs)} | {name: pairs.count(pair) for name, pair in counts.items()} | metrics.share(first).columns("accuracy_first")
        | metrics.share(second).columns("accuracy_second") | change | metrics.share([a == b for a, b in pairs]).columns("agree") | metrics.kappa(first, second).columns("kappa")
    )  # fmt: skip
