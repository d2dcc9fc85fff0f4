"""Verdicts: asking a policy which of two responses is better, and deciding from its answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, TypeVar

from isrdpo.core import prompts
from isrdpo.core.judges import JUDGES, OWN_METHOD
from isrdpo.core.params import Params
from isrdpo.core.records import Judgment

if TYPE_CHECKING:
    from isrdpo.models.interface import EncodedVideo, Policy

TOO_LONG = "(not asked: description and responses are longer than the model's positions)"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Verdict:
    """A policy's answer about two responses A and B, in the order in which it read them.

    `choice`: 0 for A, 1 for B, None where it cannot be read or both score alike.
    `scores`: the log-probabilities of choosing A and B (None where the verdict was generated).
    """

    choice: int | None
    reply: str
    scores: tuple[float, float] | None = None


def own_verdicts_params(params: Params) -> Params:
    """Return the parameters under which a policy gives verdicts of its own, whoever judges in the loop."""
    if JUDGES[params.judge.method].asks_policy:
        return params
    return params.override("judge", {"method": OWN_METHOD})


def in_order(pair: Sequence[Item], order: int) -> list[Item]:
    """Return a pair as it is (order 0) or swapped (order 1). Doing it twice gives the pair itself."""
    first, second = pair
    return [first, second] if order == 0 else [second, first]


def ask_policy(
    policy: "Policy",
    params: Params,
    ids: Sequence[str],
    videos: "list[EncodedVideo]",
    questions: Sequence[str],
    pairs: Sequence[list[str]],
    contexts: Sequence[str | None],
) -> list[list[Judgment]]:
    """Return for each row one Judgment per order (`judge.orders`: as given, then swapped).

    The rows are one batch. Both orders of a row are asked together, so that its video is read once.
    """
    calls = [(row, order) for order, row in product(range(params.judge.orders), range(len(ids)))]
    requests = []
    for row, order in calls:
        first, second = in_order(pairs[row], order)
        template = params.prompts.judge_without_context if contexts[row] is None else params.prompts.judge
        requests.append(prompts.judge_request(template, questions[row], first, second, contexts[row]))
    answers = _verdicts(policy, params, [videos[row] for row, _ in calls], requests)
    judgments: list[list[Judgment]] = [[] for _ in ids]
    for (row, order), verdict in zip(calls, answers, strict=True):
        judgments[row].append(_judgment(ids[row], order, verdict))
    return judgments


def _judgment(sample_id: str, order: int, verdict: Verdict) -> Judgment:
    """The verdict as a row, its choice and scores turned back to the order of the row's responses."""
    choice = None if verdict.choice is None else in_order((0, 1), order)[verdict.choice]
    scores = None if verdict.scores is None else in_order(verdict.scores, order)
    return Judgment(sample_id, order, choice, verdict.reply, scores)


def _verdicts(
    policy: "Policy", params: Params, videos: "list[EncodedVideo]", requests: list[str]
) -> list[Verdict]:
    """One verdict per request. A request that leaves too little room for a reply is not asked."""
    limit = params.judge.max_new_tokens
    verdicts = [Verdict(None, TOO_LONG)] * len(requests)
    fitting = [n for n, request in enumerate(requests) if policy.room(request, videos[n]) >= limit]
    if not fitting:
        return verdicts
    fitting_videos = [videos[n] for n in fitting]
    fitting_requests = [requests[n] for n in fitting]
    if JUDGES[params.judge.method].has_margin:
        rows = policy.choose(fitting_videos, fitting_requests).tolist()
        answers = [_scored(*row) for row in rows]
    else:
        replies = policy.generate(fitting_videos, fitting_requests, max_new_tokens=limit)
        answers = [Verdict(prompts.parse_choice(reply), reply) for reply in replies]
    for n, answer in zip(fitting, answers, strict=True):
        verdicts[n] = answer
    return verdicts


def _scored(first: float, second: float) -> Verdict:
    """The verdict that two log-probabilities make, rounded as they are kept; equal ones decide nothing."""
    scores = (round(first, 6), round(second, 6))
    if scores[0] == scores[1]:
        return Verdict(None, "", scores)
    choice = int(scores[1] > scores[0])
    return Verdict(choice, prompts.REPLIES[choice], scores)


def calls_by_sample(calls: Iterable[Judgment]) -> dict[str, list[Judgment]]:
    """Return the calls of each sample, in their order, by the sample's id."""
    grouped: dict[str, list[Judgment]] = {}
    for call in calls:
        grouped.setdefault(call.id, []).append(call)
    return grouped


def decide(calls: Sequence[Judgment], min_margin: float = 0.0) -> tuple[int | None, str]:
    """Return the index of the preferred response with "kept", or None with the reason why there is none.

    One rule for every number of orders. Reasons: "unparsed" (a reply could not be read), "undecided" (equal
    scores, or no call at all), "disagreement" (between the orders), "weak" (a margin below `min_margin`).
    """
    if any(call.choice is None and call.scores is None for call in calls):
        return None, "unparsed"
    if not calls or any(call.choice is None for call in calls):
        return None, "undecided"
    if len({call.choice for call in calls}) > 1:
        return None, "disagreement"
    strength = margin(calls)
    if strength is not None and strength < min_margin:
        return None, "weak"
    return calls[0].choice, "kept"


def margin(calls: Sequence[Judgment]) -> float | None:
    """Return the mean log-odds of the chosen response over the orders (None without scores)."""
    odds = [abs(call.scores[0] - call.scores[1]) for call in calls if call.scores is not None]
    return round(sum(odds) / len(odds), 6) if odds else None
