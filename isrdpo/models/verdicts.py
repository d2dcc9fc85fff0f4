"""Verdicts: asking a policy which of two responses is better, and deciding from its calls. Used by `judge` and `evaluate`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from isrdpo.core import prompts
from isrdpo.core.params import Params
from isrdpo.core.records import Judgment

if TYPE_CHECKING:
    from isrdpo.models.local import Video, VideoModel

TOO_LONG = "(not asked: description and responses are longer than the model's positions)"


def own(params: Params) -> Params:
    """The parameters under which a policy is asked for its own verdicts, whoever judges the loop."""
    return params.override("judge", {"method": "score"}) if params.judge.method in ("truth", "random", "given") else params


def ask(
    model: "VideoModel", params: Params, ids: Sequence[str], videos: "list[Video]", questions: Sequence[str],
    pairs: Sequence[list[str]], contexts: Sequence[str | None],
) -> list[list[Judgment]]:  # fmt: skip
    """For each row one Judgment an order (`judge.orders`: as given, then swapped). One batch: the caller cuts. Both orders of a row
    are asked together, so that its video is read once."""
    calls: list[list[Judgment]] = [[] for _ in ids]
    rows = [(row, order) for order in range(params.judge.orders) for row in range(len(ids))]
    requests = []
    for row, order in rows:
        first, second = pairs[row] if order == 0 else pairs[row][::-1]
        template = params.prompts.judge_without_context if contexts[row] is None else params.prompts.judge
        requests.append(prompts.judge_request(template, questions[row], first, second, contexts[row]))
    for (row, order), (shown, reply, scores) in zip(rows, _answers(model, params, [videos[row] for row, _ in rows], requests), strict=True):
        choice = None if shown is None else shown if order == 0 else 1 - shown
        calls[row].append(Judgment(ids[row], order, choice, reply, scores if scores is None or order == 0 else scores[::-1]))
    return calls


def _answers(model: "VideoModel", params: Params, videos: "list[Video]", requests: list[str]) -> list[tuple]:
    """(which shown response was chosen or None, the reply's text, log-probabilities of the shown responses or None)."""
    needed = params.judge.max_new_tokens
    fitting = [n for n, request in enumerate(requests) if model.room(request, videos[n]) >= needed]
    answers: list[tuple] = [(None, TOO_LONG, None)] * len(requests)
    shown, asked = [videos[n] for n in fitting], [requests[n] for n in fitting]
    if fitting and params.judge.method == "generate":
        for n, reply in zip(fitting, model.generate(shown, asked, max_new_tokens=needed), strict=True):
            answers[n] = (prompts.parse_choice(reply), reply, None)
    elif fitting:
        for n, row in zip(fitting, model.choose(shown, asked).tolist(), strict=True):
            a, b = (round(x, 6) for x in row)
            answers[n] = (None if a == b else int(b > a), "" if a == b else prompts.REPLIES[int(b > a)], [a, b])
    return answers


def decide(calls: Sequence[Judgment], min_margin: float = 0.0) -> tuple[int | None, str]:
    """(index of the preferred response, "kept"), or (None, why not): unparsed, undecided (equal scores), disagreement, weak. One rule
    for every order."""
    if any(call.choice is None for call in calls):
        return None, "undecided" if all(call.choice is not None or call.scores is not None for call in calls) else "unparsed"
    if len({call.choice for call in calls}) > 1:
        return None, "disagreement"
    strength = margin(calls)
    if strength is not None and strength < min_margin:
        return None, "weak"
    return calls[0].choice, "kept"


def margin(calls: Sequence[Judgment]) -> float | None:
    """Mean log-odds of the chosen response over the orders (None without scores)."""
    odds = [abs(call.scores[0] - call.scores[1]) for call in calls if call.scores is not None]
    return round(sum(odds) / len(odds), 6) if odds else None
