"""What became of a run's answers, in a sentence made of the data: paired changes on the same questions,
each with its interval.
"""

from dataclasses import dataclass

import pandas as pd

from isrdpo.core import metrics
from isrdpo.core.metrics import Interval
from isrdpo.core.runs import Run
from isrdpo.reports import answer_tables


@dataclass(frozen=True)
class Change:
    """How the answers of the last policy differ from the base's, on the questions that both answered.

    `words` is the change of an answer's length, `accuracy` that of the share of right answers over the
    `questions` whose truth is known. `base` and `last` are the two policies' rows of summary.csv.
    """

    base: pd.Series
    last: pd.Series
    base_words: float
    last_words: float
    words: Interval
    questions: int
    accuracy: Interval

    @property
    def iterations(self) -> str:
        """The number of iterations in words, as in "3 iterations"."""
        return "1 iteration" if self.last["iteration"] == 1 else f"{int(self.last['iteration'])} iterations"


def run_outcome(run: Run, summary: pd.DataFrame) -> str:
    """Return what became of a run's answers, in a sentence; `summary` is its summary.csv."""
    evaluated = summary.dropna(subset=["response_words"])
    if len(evaluated) >= 2 and not _pairs_trained_on(run, int(evaluated.iloc[-1]["iteration"])):
        return (
            "Nothing was trained: no iteration had a pair to train on, so every policy is the base. "
            "The warnings and the table of what was left out say why."
        )
    if len(evaluated) >= 2:
        change = _change(run, evaluated)
        return _words_sentence(change) if change.accuracy.value is None else _full_sentence(change)
    if len(evaluated) == 1 and run.params.iterations == 0:
        return _untrained_sentence(evaluated.iloc[0])
    return "No policy has been trained and evaluated yet."


def _pairs_trained_on(run: Run, last: int) -> bool:
    """Whether some training up to iteration `last` had a pair; also where no marker says."""
    markers = [run.done("train", t) for t in range(1, last + 1)]
    return any(marker is None or marker["counts"].get("pairs", 1) for marker in markers)


def _change(run: Run, evaluated: pd.DataFrame) -> Change:
    last = evaluated.iloc[-1]
    before = answer_tables.answers(run, 0)
    after = answer_tables.answers(run, int(last["iteration"]))
    both = before.merge(after, on="id", suffixes=("_before", ""))
    gains = answer_tables.answer_changes(before, after)
    return Change(
        base=evaluated.iloc[0],
        last=last,
        base_words=before["words"].mean(),
        last_words=after["words"].mean(),
        words=metrics.ratio((both["words"] - both["words_before"]).tolist()),
        questions=len(gains),
        accuracy=metrics.ratio(gains.tolist()),
    )


def _words_sentence(change: Change) -> str:
    """Return the outcome where nobody says what is true."""
    length = _by_sign(change.words, "Wordier", "Terser", "Of about the same length")
    return f"{length} after {change.iterations}: {_words(change)}. What is true of these clips is not known."


def _full_sentence(change: Change) -> str:
    truth = _by_sign(change.accuracy, "Truer", "Less true", "Not measurably truer")
    length = _by_sign(change.words, "wordier", "terser", "as long as before")
    unwelcome = "terser" if truth == "Less true" else "wordier"
    joined = "but" if length == unwelcome else "and"
    gain = change.accuracy
    sentence = (
        f"{truth}, {joined} {length}, after {change.iterations}: "
        f"accuracy {change.base['accuracy']:.0%} → {change.last['accuracy']:.0%} "
        f"({100 * gain.value:+.1f} points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] "
        f"on the same {change.questions} questions), {_words(change)}{_claims(change)}."
    )
    if change.last["scorer"] != "facts":
        sentence += f" So says {change.last['scorer']}, not the facts."
    return sentence


def _words(change: Change) -> str:
    return f"{change.base_words:.1f} → {change.last_words:.1f} words per answer"


def _claims(change: Change) -> str:
    """Return the change of false claims, where both policies' claims were counted."""
    base = change.base
    last = change.last
    if pd.isna(base["hallucination"]) or pd.isna(last["hallucination"]):
        return ""
    return (
        f"; false claims {base['hallucination']:.0%} → {last['hallucination']:.0%} of all, "
        f"{base['false_claims']:.2f} → {last['false_claims']:.2f} per answer"
    )


def _untrained_sentence(row: pd.Series) -> str:
    """Return the outcome of a run that trains nothing."""
    accuracy = ""
    if row["scorer"]:
        source = "the facts say" if row["scorer"] == "facts" else f"{row['scorer']} says"
        accuracy = f"{row['accuracy']:.0%} of its answers are right, as {source}; "
    return f"Nothing was trained: the model as it is. {accuracy}{row['response_words']:.1f} words per answer."


def _by_sign(change: Interval, up: str, down: str, neither: str) -> str:
    """Return the word that an interval allows: `neither` where it contains 0."""
    if not change.excludes_zero:
        return neither
    return up if change.low > 0 else down
