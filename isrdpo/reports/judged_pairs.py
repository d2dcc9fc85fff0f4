"""The judged pairs of an iteration, as objects and as one table, and the shares that say what the verdicts
went by.

Pages, comparisons and the summary read verdicts from here only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import pandas as pd

from isrdpo.core import metrics, records
from isrdpo.core.judges import JUDGES
from isrdpo.core.runs import Run
from isrdpo.models import verdicts
from isrdpo.reports.truth import DescriptionSays, count_pair

SHARE_COLUMNS = ["measure", "what", "n", "share", "share_low", "share_high"]


class Truer(StrEnum):
    """Which response to a question is truer, seen by their lengths."""

    EQUAL = "equally true"
    LONGER = "the longer is truer"
    SHORTER = "the shorter is truer"
    UNKNOWN = "truth not known"


class Verdict(StrEnum):
    """Whether a decisive verdict chose the truer response."""

    RIGHT = "right"
    WRONG = "wrong"
    EQUAL = "equally true"
    UNKNOWN = "truth not known"


@dataclass(frozen=True)
class JudgedPair:
    """Two responses to a sample, and what the judge made of them.

    `words` and `correct` have an entry for each response; `correct` is None where truth is not known.
    `choice` is the index of the preferred response, None without a decisive verdict. `kept`: the pair is
    trained on; `reason` says why it is not. `calls` counts the judge's replies, `unparsed` those without a
    verdict. `margin` is the mean log-odds of the chosen. `first` says of each call that could be read
    whether the response shown first was chosen.
    """

    id: str
    video: str
    question: str
    responses: list[str]
    context: str | None
    words: list[int]
    correct: list[bool] | None
    choice: int | None
    kept: bool
    reason: str
    calls: int
    unparsed: int
    margin: float | None
    first: list[bool]

    @property
    def _decided_by_length(self) -> bool:
        return self.choice is not None and self.words[0] != self.words[1]

    @property
    def _index_of_longer(self) -> int:
        return int(self.words[1] > self.words[0])

    @property
    def difference(self) -> int | None:
        """By how many words one response is longer, > 0; None without a decisive verdict, or of equal
        length.
        """
        return abs(self.words[0] - self.words[1]) if self._decided_by_length else None

    @property
    def longer(self) -> bool | None:
        """Whether the longer response was chosen; None where `difference` is."""
        return self.choice == self._index_of_longer if self._decided_by_length else None

    @property
    def truer(self) -> Truer | None:
        """The truer response, by its length; None where `difference` is."""
        if not self._decided_by_length:
            return None
        if self.correct is None:
            return Truer.UNKNOWN
        if self.correct[0] == self.correct[1]:
            return Truer.EQUAL
        return Truer.LONGER if self.correct[self._index_of_longer] else Truer.SHORTER

    @property
    def verdict(self) -> Verdict | None:
        """Whether the truer response was chosen; None without a decisive verdict."""
        if self.choice is None:
            return None
        if self.correct is None:
            return Verdict.UNKNOWN
        if self.correct[0] == self.correct[1]:
            return Verdict.EQUAL
        return Verdict.RIGHT if self.correct[self.choice] else Verdict.WRONG

    @property
    def right(self) -> bool | None:
        """Whether the truer response was chosen; None where no verdict was decisive, or neither response is
        known to be truer.
        """
        return {Verdict.RIGHT: True, Verdict.WRONG: False}.get(self.verdict)

    @property
    def agree(self) -> bool | None:
        """Whether both orders chose the same response; None where not both were asked and read."""
        if len(self.first) != 2:
            return None
        first_in_order_0, first_in_order_1 = self.first
        return first_in_order_0 != first_in_order_1

    def row(self) -> dict[str, Any]:
        """Return the pair as a row of `judged_table`."""
        values = asdict(self) | {name: getattr(self, name) for name in PROPERTIES}
        return {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}


PROPERTIES = ("difference", "longer", "truer", "verdict", "right", "agree")
COLUMNS = [*JudgedPair.__dataclass_fields__, *PROPERTIES]


def judged_pairs(run: Run, iteration: int, calls_file: str = "judgments.jsonl") -> list[JudgedPair]:
    """Return the pairs of an iteration in the order of its responses, with the verdicts of `calls_file`."""
    samples = {s.id: s for s in records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample)}
    if JUDGES[run.params.judge.method].needs_responses:
        responses = records.read_jsonl(run.file(iteration, "responses.jsonl"), records.Responses)
    else:
        responses = records.data_set_responses(samples.values())
    calls = verdicts.calls_by_sample(records.read_jsonl(run.file(iteration, calls_file), records.Judgment))
    kept_ids = _kept_ids(run, iteration)
    return [_judged_pair(run, samples[row.id], row, calls.get(row.id, []), kept_ids) for row in responses]


def _kept_ids(run: Run, iteration: int) -> set[str] | None:
    """Return the samples whose pair is trained on; None where the judge has not finished."""
    path = run.file(iteration, "preferences.jsonl")
    return {row.id for row in records.read_jsonl(path, records.Preference)} if path.exists() else None


def _judged_pair(
    run: Run,
    sample: records.Sample,
    row: records.Responses,
    calls: list[records.Judgment],
    kept_ids: set[str] | None,
) -> JudgedPair:
    judge = run.params.judge
    choice, reason = verdicts.decide(calls, judge.min_margin) if calls else (None, "tie or empty")
    if choice is not None and kept_ids is not None and row.id not in kept_ids:
        reason = "unsure or unbalanced"
    readable = [call for call in calls if call.choice is not None]
    were_shown = JUDGES[judge.method].needs_responses  # a data set's own pairs are shown to nobody
    return JudgedPair(
        id=row.id,
        video=sample.video,
        question=sample.question,
        responses=row.responses,
        context=row.context,
        words=[metrics.word_count(response) for response in row.responses],
        correct=count_pair(row.responses, sample.facts),
        choice=choice,
        kept=row.id in (kept_ids or ()),
        reason=reason,
        calls=len(calls),
        unparsed=sum(call.choice is None and call.scores is None for call in calls),
        margin=verdicts.margin(calls),
        first=[call.choice == call.order for call in readable] if were_shown else [],
    )


def judged_table(run: Run, iteration: int, calls_file: str = "judgments.jsonl") -> pd.DataFrame:
    """Return `judged_pairs` as a table: a column for each field and property of a JudgedPair, texts instead
    of enums.
    """
    pairs = judged_pairs(run, iteration, calls_file)
    table = pd.DataFrame([pair.row() for pair in pairs], columns=COLUMNS)
    # Else None makes every index a float.
    table["choice"] = pd.Series([pair.choice for pair in pairs], dtype=object)
    return table


def judged_by_condition(run: Run, iteration: int) -> dict[str, pd.DataFrame]:
    """Return the loop's verdicts and, where they were asked for, those on the same pairs without the
    description.

    Maps the condition's name to its `judged_table`; the loop's own verdicts come first.
    """
    table = judged_table(run, iteration)
    again = run.file(iteration, "judgments_no_context.jsonl")
    if not JUDGES[run.params.judge.method].needs_responses:
        return {run.params.judge.method: table}
    if again.exists():
        return {"with its description": table, "without": judged_table(run, iteration, again.name)}
    return {"with its description" if table["context"].notna().any() else "without": table}


def length_bias(table: pd.DataFrame) -> pd.DataFrame:
    """Return id, difference, longer and truer of the decisive verdicts on responses of unequal length."""
    rows = table.dropna(subset=["difference"])
    return rows[["id", "difference", "longer", "truer"]].astype({"difference": int, "longer": bool})


def verdict_confidence(table: pd.DataFrame) -> pd.DataFrame:
    """Return id, margin and verdict (right, wrong, equally true, truth not known) of every decisive
    verdict.
    """
    return table.loc[table["choice"].notna(), ["id", "margin", "verdict"]]


def measures(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return by measure the verdicts that count for it: True where the judge did what the measure says.

    `table` has columns longer, truer, right and agree (as `judged_table` does), and may have `first` and
    `says` (what the description says of the asked fact). A measure of a column that is missing is left out.
    Entries have the index of their rows, so that rows can be grouped.
    """
    differing = table.dropna(subset=["right"])

    def _right_where(column: str, value: StrEnum) -> pd.Series:
        return differing.loc[differing[column] == value.value, "right"]

    series = {
        "the longer is chosen": table["longer"],
        "the truer is chosen": differing["right"],
        "… where the longer is truer": _right_where("truer", Truer.LONGER),
        "… where the shorter is truer": _right_where("truer", Truer.SHORTER),
    }
    if "says" in table:
        series["… where the description is right"] = _right_where("says", DescriptionSays.RIGHT)
        series["… where it is wrong"] = _right_where("says", DescriptionSays.WRONG)
    if "first" in table:
        series["the first shown is chosen"] = table["first"].explode()
    series["the two orders agree"] = table["agree"]
    return {name: values.dropna().astype(bool) for name, values in series.items()}


def judge_shares(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return what the judge went by: a row for each measure and condition, with Wilson intervals
    (SHARE_COLUMNS).

    `tables` maps a condition's name to its `judged_table`. Measures that no condition has a verdict for are
    left out.
    """
    rows = []
    for what, table in tables.items():
        rows += [share_row(name, what, values) for name, values in measures(table).items()]
    shares = pd.DataFrame(rows, columns=SHARE_COLUMNS)
    return shares[shares.groupby("measure")["n"].transform("max") > 0].reset_index(drop=True)


def share_row(measure: str, what: str, values: Iterable[bool]) -> dict[str, Any]:
    """Return the share of true values as a row of SHARE_COLUMNS, with its Wilson interval."""
    counted = list(values)
    return {"measure": measure, "what": what, "n": len(counted)} | metrics.share(counted).columns("share")
