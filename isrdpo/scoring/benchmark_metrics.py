"""The published metrics of VideoHallucer, EventHallusion and VidHalluc, each with a 95 % interval.

They come from answers alone, whose ids are those that `formats.benchmarks` makes. Left out, since they need
another model: EventHallusion's descriptions (judged by GPT-4o) and the half of VidHalluc's scene score that
compares embeddings of scenes.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from isrdpo.core.metrics import Interval, bootstrap, mean_of, ratio, share
from isrdpo.core.records import Answer
from isrdpo.core.replies import without_thoughts
from isrdpo.formats.benchmarks import HALLUCER, question_group

COLUMNS = ["subset", "measure", "value", "value_low", "value_high", "questions", "unread", "incomplete"]
PAIR_MEASURES = ("basic_accuracy", "halluc_accuracy", "accuracy")
ACTION = r"(action [ab]|[ab][\.\)])"


@dataclass(frozen=True)
class Metric:
    """A row of benchmark.csv.

    `questions` is what the value counts (pairs, questions or videos). `unread` are replies that say neither
    answer; they count as wrong, as in the references. `incomplete` are pairs without one of their answers,
    which are left out.
    """

    subset: str
    measure: str
    value: Interval
    questions: int
    unread: int
    incomplete: int = 0

    def cells(self) -> dict[str, Any]:
        """The row by COLUMNS."""
        return {
            "subset": self.subset,
            "measure": self.measure,
            **self.value.columns("value"),
            "questions": self.questions,
            "unread": self.unread,
            "incomplete": self.incomplete,
        }


def benchmark_rows(name: str, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return the rows of benchmark.csv by COLUMNS, one a subset and measure; none without answers.

    Thoughts are taken out of the answers first, and an unfinished one is an answer that says nothing; what is
    left is read by the benchmark's official rule.
    """
    functions: dict[str, Callable[[Sequence[Answer]], list[Metric]]] = {
        "videohallucer": videohallucer,
        "eventhallusion": eventhallusion,
        "vidhalluc": vidhalluc,
    }
    spoken = [replace(answer, response=without_thoughts(answer.response) or "") for answer in answers]
    return [metric.cells() for metric in functions[name](spoken)]


def _by_subset(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    parts: dict[str, list[Answer]] = {}
    for answer in answers:
        parts.setdefault(answer.id.split("/", 1)[0], []).append(answer)
    return parts


@dataclass(frozen=True)
class Pairs:
    """VideoHallucer's pairs of questions, as they were answered.

    `right` has an entry for each whole pair: whether its basic question, and whether its hallucinated one,
    is answered right. `unread` and `incomplete` are as in Metric.
    """

    right: list[tuple[bool, bool]]
    unread: int
    incomplete: int

    def metric(self, subset: str, measure: str, value: Interval) -> Metric:
        """A metric that counts these pairs."""
        return Metric(subset, measure, value, len(self.right), self.unread, self.incomplete)


def videohallucer(answers: Sequence[Answer]) -> list[Metric]:
    """Return paired accuracy by subset, and of all: basic, hallucination, and both right (`accuracy`).

    An answer is right where its word stands anywhere in the reply (cal_score in
    evaluations/evaluation_utils.py). `all` is the mean over those of the leaderboard's five that were asked
    (evaluation.py), with their bias (evaluation_bias.py).
    """
    subsets = {name: _answered_pairs(part) for name, part in _by_subset(answers).items()}
    metrics = []
    for name, pairs in subsets.items():
        values = _pair_accuracies(pairs)
        metrics += [pairs.metric(name, measure, values[measure]) for measure in PAIR_MEASURES]
    leaderboard = [subsets[name] for name in HALLUCER if name in subsets and subsets[name].right]
    if not leaderboard:
        return metrics
    every = Pairs(
        right=list(chain.from_iterable(pairs.right for pairs in leaderboard)),
        unread=sum(pairs.unread for pairs in leaderboard),
        incomplete=sum(pairs.incomplete for pairs in leaderboard),
    )
    accuracies = [_pair_accuracies(pairs) for pairs in leaderboard]
    for measure in PAIR_MEASURES:
        metrics.append(every.metric("all", measure, mean_of([values[measure] for values in accuracies])))
    return metrics + _bias(every)


def _answered_pairs(answers: Sequence[Answer]) -> Pairs:
    groups: dict[str, dict[str, Answer]] = {}
    for answer in answers:
        group, _, part = answer.id.rpartition("/")
        groups.setdefault(group, {})[part] = answer
    whole = [pair for pair in groups.values() if len(pair) == 2]
    unread = 0
    for pair in whole:
        unread += sum(not _holds_yes_or_no(answer.response) for answer in pair.values())
    return Pairs(
        right=[(_is_right(pair["basic"]), _is_right(pair["hallucination"])) for pair in whole],
        unread=unread,
        incomplete=len(groups) - len(whole),
    )


def _is_right(answer: Answer) -> bool:
    return _holds_word(answer.reference, answer.response)


def _holds_yes_or_no(reply: str) -> bool:
    return _holds_word("yes", reply) or _holds_word("no", reply)


def _holds_word(word: str, reply: str) -> bool:
    return re.search(rf"\b({word})\b", reply, re.IGNORECASE) is not None


def _pair_accuracies(pairs: Pairs) -> dict[str, Interval]:
    """The values of PAIR_MEASURES."""
    return {
        "basic_accuracy": share(basic for basic, _ in pairs.right),
        "halluc_accuracy": share(hallucination for _, hallucination in pairs.right),
        "accuracy": share(basic and hallucination for basic, hallucination in pairs.right),
    }


def _bias(pairs: Pairs) -> list[Metric]:
    """The bias of the replies (evaluation_bias.py).

    `yes_difference` is how many more times yes is said than is true, per question. `false_positive_ratio`
    is the share of the wrong answers that say yes wrongly. Both count a hallucinated question as a yes only
    where the basic one was answered yes, as the reference does.
    """
    # Of the two questions of a pair, yes is true of one: the basic one.
    surplus = [int(basic) + int(basic and not hallucination) - 1 for basic, hallucination in pairs.right]
    wrong = [int(not basic) + int(not hallucination) for basic, hallucination in pairs.right]
    false_yes = [int(basic and not hallucination) for basic, hallucination in pairs.right]
    false_positives = ratio(false_yes, wrong)
    return [
        pairs.metric("all", "yes_difference", ratio(surplus, [2] * len(pairs.right))),
        Metric("all", "false_positive_ratio", false_positives, sum(wrong), pairs.unread, pairs.incomplete),
    ]


def eventhallusion(answers: Sequence[Answer]) -> list[Metric]:
    """Return the accuracy of the binary questions by subset, and of all.

    A reply counts by how it begins; one that begins otherwise is wrong (extract_pred in eval.py).
    """
    parts = _by_subset(answers)
    if answers:
        parts["all"] = list(answers)
    metrics = []
    for name, part in parts.items():
        words = [_first_word(answer.response) for answer in part]
        right = [word == answer.reference for word, answer in zip(words, part, strict=True)]
        metrics.append(Metric(name, "accuracy", share(right), len(part), words.count("")))
    return metrics


def _first_word(reply: str) -> str:
    """The word that a reply begins with, written as "Yes." or "No."; empty where it begins otherwise."""
    for word in ("Yes", "No"):
        if reply.lower().startswith(word.lower()):
            return f"{word}."
    return ""


def vidhalluc(answers: Sequence[Answer]) -> list[Metric]:
    """Return a metric by subset, as eval/evaluation/eval_{bqa,mcq,tsh,sth}.py count."""
    functions: dict[str, Callable[[Sequence[Answer]], Metric]] = {
        "ach_binaryqa": _binary_accuracy,
        "ach_mcq": _choice_accuracy,
        "tsh": _order_accuracy,
        "sth": _scene_metric,
    }
    return [functions[name](part) for name, part in _by_subset(answers).items()]


def _binary_accuracy(answers: Sequence[Answer]) -> Metric:
    """A question is right where it is for every one of its clips.

    A reply counts up to its first period or comma.
    """
    questions: dict[str, list[bool]] = {}
    unread = 0
    for answer in answers:
        word = answer.response.strip().split(".")[0].split(",")[0].strip().upper()
        right = word == answer.reference.strip().upper()
        questions.setdefault(question_group(answer.id), []).append(right)
        unread += word not in ("YES", "NO")
    # The number of clips that a question has is the last part of its group's id.
    right_questions = [
        all(clips) and len(clips) == int(group.rpartition("/")[2]) for group, clips in questions.items()
    ]
    return Metric("ach_binaryqa", "accuracy", share(right_questions), len(questions), unread)


def _choice_accuracy(answers: Sequence[Answer]) -> Metric:
    """The letters A to D of a reply must be exactly those of the answer."""
    letters = [_chosen_letters(answer) for answer in answers]
    right = [
        chosen == set(re.findall("[A-D]", answer.reference.upper()))
        for chosen, answer in zip(letters, answers, strict=True)
    ]
    return Metric("ach_mcq", "accuracy", share(right), len(answers), sum(not chosen for chosen in letters))


def _chosen_letters(answer: Answer) -> set[str]:
    """The letters in a reply; of a reply without one, the letter of the first choice whose text it holds."""
    letters = set(re.findall(r"\b[A-D]\b", answer.response))
    if letters:
        return letters
    choices = re.findall(r"(?m)^([A-Z])\. (.*)$", answer.question.rpartition("Choices:\n")[2])
    for letter, text in choices:
        if text.lower() in answer.response.lower():
            return {letter}
    return set()


def _order_accuracy(answers: Sequence[Answer]) -> Metric:
    orders = [named_order(answer.response) for answer in answers]
    right = [order == answer.reference for order, answer in zip(orders, answers, strict=True)]
    return Metric("tsh", "accuracy", share(right), len(answers), orders.count("None"))


def named_order(reply: str) -> str:
    """Return the actions that a reply names in their order: A, B, AB, BA, longer with repeats, or None.

    This is model_answer_to_correct_answer in eval_tsh.py, with its character classes as they stand there.
    """
    lower = reply.lower()
    if lower in ("ab", "ba", "a", "b"):
        return lower.upper()
    names_a = "action a" in lower
    names_b = "action b" in lower
    if "not clear" in lower or "no clear" in lower or not (names_a or names_b):
        return "None"
    if not (names_a and names_b):
        return "A" if names_a else "B"
    word = next((word for word in ("before", "then", "after") if word in lower), "")
    if word:
        match = re.search(rf"{ACTION}[^{word}]+{word}[^action]*?{ACTION}", lower)
        if match:
            first = match[1][-1].upper()
            second = match[2][-1].upper()
            return second + first if word == "after" else first + second
    return "".join(match[1][-1].upper() for match in re.finditer(ACTION, lower))


def _scene_metric(answers: Sequence[Answer]) -> Metric:
    """The classification score of yes and no (eval_sth.py); anything but yes counts as no there, too."""
    words = [_scene_word(answer.response) for answer in answers]
    truth = np.array([answer.reference.lower() == "yes" for answer in answers])
    reply = np.array([word == "yes" for word in words])

    def score_draws(rows: np.ndarray) -> list[float]:
        """Return the score of each draw of rows, int [draws, answers]."""
        return [_classification_score(*counts) for counts in _confusion(truth[rows], reply[rows])]

    value = _classification_score(*_confusion(truth, reply))
    unread = sum(word not in ("yes", "no") for word in words)
    interval = bootstrap(len(answers), score_draws, value)
    return Metric("sth", "classification_score", interval, len(answers), unread)


def _scene_word(reply: str) -> str:
    """The word behind "Scene change:"."""
    first = reply.split(", Locations: ", 1)[0]
    return first.split(": ", 1)[-1].split(",")[0].strip().lower()


def _confusion(truth: np.ndarray, reply: np.ndarray) -> list[Any]:
    """Counts over the last dimension: a list [..., 4] of TP, TN, FP, FN."""
    cells = [truth & reply, ~truth & ~reply, ~truth & reply, truth & ~reply]
    return np.stack([cell.sum(-1) for cell in cells], -1).tolist()


def _classification_score(tp: int, tn: int, fp: int, fn: int) -> float:
    """((MCC + 1) / 2)^2; MCC is 0 where it is not defined, as in scikit-learn.

    scikit-learn's own takes labels, not counts: it would be called once a draw of the bootstrap, and its
    last digit differs.
    """
    below = float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    correlation = (tp * tn - fp * fn) / below if below else 0.0
    return (correlation + 1) ** 2 / 4
