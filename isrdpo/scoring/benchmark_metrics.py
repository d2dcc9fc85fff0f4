"""The published metrics of VideoHallucer, EventHallusion and VidHalluc, from answers alone (ids as `benchmarks` makes them), each with a 95 % interval.

Left out, since they need another model: EventHallusion's descriptions (judged by GPT-4o) and the half of VidHalluc's scene score that compares embeddings of scenes.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from isrdpo.core import metrics
from isrdpo.core.records import Answer
from isrdpo.formats import benchmarks

COLUMNS = ["subset", "measure", "value", "value_low", "value_high", "questions", "unread", "incomplete"]
Row = dict[str, Any]


def table(name: str, answers: Sequence[Answer]) -> list[Row]:
    """benchmark.csv: a row a subset and measure. `questions`: what the value counts (pairs, questions, videos); `unread`: replies that say neither (they
    count as wrong, as in the references); `incomplete`: pairs without one of their answers, left out."""
    return {"videohallucer": videohallucer, "eventhallusion": eventhallusion, "vidhalluc": vidhalluc}[name](answers)


def _row(subset: str, measure: str, figures: metrics.Figures, questions: int, unread: int, incomplete: int = 0) -> Row:
    return {"subset": subset, "measure": measure, **figures, "questions": questions, "unread": unread, "incomplete": incomplete}


def _subset(answer: Answer) -> str:
    return answer.id.split("/", 1)[0]


def _parts(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    parts: dict[str, list[Answer]] = {}
    for answer in answers:
        parts.setdefault(_subset(answer), []).append(answer)
    return parts


def _says(word: str, reply: str) -> bool:
    return re.search(rf"\b({word})\b", reply, re.IGNORECASE) is not None


def videohallucer(answers: Sequence[Answer]) -> list[Row]:
    """Paired accuracy by subset: basic, hallucination, and both right (`accuracy`), where an answer is right when its word stands anywhere in the reply (cal_score in
    evaluations/evaluation_utils.py); `all`: the mean over those of the leaderboard's five that were asked (evaluation.py), and their bias (evaluation_bias.py)."""
    found = {name: _pairs(part) for name, part in _parts(answers).items()}
    rows = [row for name, (pairs, unread, torn) in found.items() for row in _paired(name, pairs, unread, torn)]
    five = [name for name in benchmarks.HALLUCER if name in found and found[name][0]]
    if five:
        pairs = [pair for name in five for pair in found[name][0]]
        unread, torn = (sum(found[name][at] for name in five) for at in (1, 2))
        for measure in ("basic_accuracy", "halluc_accuracy", "accuracy"):
            each = [metrics.interval_of(row, "value") for row in rows if row["subset"] in five and row["measure"] == measure]
            rows.append(_row("all", measure, metrics.mean_of(each).columns("value"), len(pairs), unread, torn))
        rows += _bias(pairs, unread, torn)
    return rows


def _pairs(part: Sequence[Answer]) -> tuple[list[tuple[bool, bool]], int, int]:
    """((basic right, hallucination right) a pair, unread replies, pairs that lack one)."""
    both: dict[str, dict[str, Answer]] = {}
    for answer in part:
        group, _, which = answer.id.rpartition("/")
        both.setdefault(group, {})[which] = answer
    whole = [pair for pair in both.values() if len(pair) == 2]
    unread = sum(not (_says("yes", a.response) or _says("no", a.response)) for pair in whole for a in pair.values())
    return [tuple(_says(pair[w].reference, pair[w].response) for w in ("basic", "hallucination")) for pair in whole], unread, len(both) - len(whole)


def _paired(subset: str, pairs: Sequence[tuple[bool, bool]], unread: int, torn: int) -> list[Row]:
    measures = {"basic_accuracy": [a for a, _ in pairs], "halluc_accuracy": [b for _, b in pairs], "accuracy": [a and b for a, b in pairs]}
    return [_row(subset, name, metrics.share(right).columns("value"), len(pairs), unread, torn) for name, right in measures.items()]


def _bias(pairs: Sequence[tuple[bool, bool]], unread: int, torn: int) -> list[Row]:
    """`yes_difference`: how many more times yes is said than is true, a question; `false_positive_ratio`: among the wrong answers, those that say yes wrongly. Both
    count a hallucinated question as a yes only where the basic one was answered yes, as evaluation_bias.py does."""
    said = [int(a) + int(a and not b) - 1 for a, b in pairs]
    wrong, false = [int(not a) + int(not b) for a, b in pairs], [int(a and not b) for a, b in pairs]
    return [
        _row("all", "yes_difference", metrics.ratio(said, [2] * len(pairs)).columns("value"), len(pairs), unread, torn),
        _row("all", "false_positive_ratio", metrics.ratio(false, wrong).columns("value"), sum(wrong), unread, torn),
    ]


def eventhallusion(answers: Sequence[Answer]) -> list[Row]:
    """Accuracy of the binary questions by subset and overall: a reply counts by how it begins, anything else is wrong (extract_pred in eval.py)."""

    def begins(answer: Answer) -> str:
        return next((f"{word.capitalize()}." for word in ("yes", "no") if answer.response.lower().startswith(word)), "")

    parts = _parts(answers) | ({"all": list(answers)} if answers else {})
    return [
        _row(name, "accuracy", metrics.share([begins(a) == a.reference for a in part]).columns("value"), len(part), sum(not begins(a) for a in part))
        for name, part in parts.items()
    ]


def vidhalluc(answers: Sequence[Answer]) -> list[Row]:
    """By subset, as eval/evaluation/eval_{bqa,mcq,tsh,sth}.py count."""
    found: dict[str, Callable[[Sequence[Answer]], Row]] = {"ach_binaryqa": _binary, "ach_mcq": _choices, "tsh": _order, "sth": _scene}
    return [found[name](part) for name, part in _parts(answers).items()]


def _binary(part: Sequence[Answer]) -> Row:
    """A question is right when it is for every one of its clips; the reply counts up to its first period or comma."""
    questions: dict[str, list[bool]] = {}
    wanted: dict[str, int] = {}
    unread = 0
    for a in part:
        above = benchmarks.group(a.id)
        said = a.response.strip().split(".")[0].split(",")[0].strip().upper()
        questions.setdefault(above, []).append(said == a.reference.strip().upper())
        wanted[above] = int(above.rpartition("/")[2])
        unread += said not in ("YES", "NO")
    right = [all(clips) and len(clips) == wanted[above] for above, clips in questions.items()]
    return _row("ach_binaryqa", "accuracy", metrics.share(right).columns("value"), len(right), unread)


def _choices(part: Sequence[Answer]) -> Row:
    """The letters A to D of a reply are exactly those of the answer; a reply without one counts as the first choice whose text it holds."""
    right, unread = [], 0
    for a in part:
        letters = set(re.findall(r"\b[A-D]\b", a.response))
        if not letters:
            listed = re.findall(r"(?m)^([A-Z])\. (.*)$", a.question.rpartition("Choices:\n")[2])
            letters = set(next((letter for letter, text in listed if text.lower() in a.response.lower()), ""))
        unread += not letters
        right.append(letters == set(re.findall("[A-D]", a.reference.upper())))
    return _row("ach_mcq", "accuracy", metrics.share(right).columns("value"), len(part), unread)


ACTION = r"(action [ab]|[ab][\.\)])"


def order(reply: str) -> str:
    """Which actions a reply names, in which order: A, B, AB, BA, longer where it repeats them, or None (model_answer_to_correct_answer in eval_tsh.py,
    with its character classes as they stand there)."""
    said = reply.lower()
    if said in ("ab", "ba", "a", "b"):
        return said.upper()
    a, b = "action a" in said, "action b" in said
    if "not clear" in said or "no clear" in said or not (a or b):
        return "None"
    if not (a and b):
        return "A" if a else "B"
    word = next((word for word in ("before", "then", "after") if word in said), "")
    found = re.search(rf"{ACTION}[^{word}]+{word}[^action]*?{ACTION}", said) if word else None
    if found:
        first, second = found[1][-1].upper(), found[2][-1].upper()
        return second + first if word == "after" else first + second
    return "".join(match[1][-1].upper() for match in re.finditer(ACTION, said))


def _order(part: Sequence[Answer]) -> Row:
    said = [order(a.response) for a in part]
    return _row("tsh", "accuracy", metrics.share([s == a.reference for s, a in zip(said, part, strict=True)]).columns("value"), len(part), said.count("None"))


def _scene(part: Sequence[Answer]) -> Row:
    """The classification score, ((MCC + 1) / 2)^2 of yes and no (eval_sth.py); anything but yes counts as no there, too."""
    said = [a.response.split(", Locations: ", 1)[0].split(": ", 1)[-1].split(",")[0].strip().lower() for a in part]
    pairs = np.array([(a.reference.lower() == "yes", s == "yes") for s, a in zip(said, part, strict=True)], bool)
    draws = np.random.default_rng(0).integers(0, len(pairs), (metrics.DRAWS, len(pairs)))
    low, high = np.percentile([_classification(pairs[at]) for at in draws], (2.5, 97.5))
    figures = {"value": _classification(pairs), "value_low": float(low), "value_high": float(high)}
    return _row("sth", "classification_score", figures, len(part), sum(s not in ("yes", "no") for s in said))


def _classification(pairs: np.ndarray) -> float:
    """((MCC + 1) / 2)^2 of [n, 2] truths and predictions; MCC is 0 where it is not defined, as in scikit-learn."""
    truth, said = pairs[:, 0], pairs[:, 1]
    tp, tn, fp, fn = (float((t & s).sum()) for t, s in ((truth, said), (~truth, ~said), (~truth, said), (truth, ~said)))
    below = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    return (((tp * tn - fp * fn) / below if below else 0.0) + 1) ** 2 / 4
