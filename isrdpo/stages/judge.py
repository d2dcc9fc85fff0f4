"""Stage 3, judge: python -m isrdpo.stages.judge --run outputs/toybox --iteration 1

responses.jsonl -> judgments.jsonl (one row for each call) and preferences.jsonl (y_w, y_l). The same pi_t
reads (V, x, c_t, y1, y2) and says which response is better, in both orders by default. Pairs on which the
orders do not agree, ties and replies that cannot be read are counted and left out.

A judge is an entry of `core.judges.JUDGES` (what it needs) and of `VERDICTS` below (how it decides).
"""

import math
from collections import Counter
from collections.abc import Callable

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.judges import JUDGES
from isrdpo.core.left_out import TOO_LONG
from isrdpo.core.metrics import word_count
from isrdpo.core.records import Judgment, Preference, Responses, Sample
from isrdpo.core.runs import Run, draw_seed, stage_main
from isrdpo.core.stage import Stage
from isrdpo.models import verdicts
from isrdpo.models.resources import one_line_errors
from isrdpo.stages.policies import Request, encode_usable, open_policy

Samples = dict[str, Sample]  # by id
Calls = dict[str, list[Judgment]]  # by the sample's id
LESS_MEMORY = "judge.batch_size or video.max_pixels, or choose a smaller model.dtype"


def run(run: Run, iteration: int) -> None:
    """Judge the pairs of iteration t, and keep the decisive verdicts as preferences."""
    with run.stage("judge", iteration) as stage, one_line_errors("judge", LESS_MEMORY):
        if stage is None:
            return
        samples = {row.id: row for row in records.read_jsonl(stage.path("samples.jsonl"), Sample)}
        method = stage.params.judge.method
        if JUDGES[method].needs_responses:
            pairs = response_pairs(stage)
        else:
            pairs = data_set_pairs(stage, samples)
        calls = VERDICTS[method](stage, samples, pairs)
        if not JUDGES[method].asks_policy:
            records.write_jsonl(stage.path("judgments.jsonl"), calls)
        left_out = {bad["id"] for bad in stage.bad_samples}
        judged = [row for row in pairs if row.id not in left_out]
        write_preferences(stage, samples, judged, verdicts.calls_by_sample(calls))


def response_pairs(stage: Stage) -> list[Responses]:
    """The responses that can be judged: neither of them is empty, nor their description, and they are not
    the same text.
    """
    rows = records.read_jsonl(stage.path("responses.jsonl"), Responses)
    usable = [row for row in rows if is_usable(row)]
    differing = [row for row in usable if row.responses[0].strip() != row.responses[1].strip()]
    stage.total = len(rows)
    stage.count("empty", len(rows) - len(usable))
    stage.count("ties", len(usable) - len(differing))
    return differing


def is_usable(row: Responses) -> bool:
    """Whether neither response is empty, nor the description where there is one."""
    return all(text.strip() for text in row.responses) and (row.context is None or bool(row.context.strip()))


def data_set_pairs(stage: Stage, samples: Samples) -> list[Responses]:
    """The data set's own chosen and rejected. A sample without both, or with equal ones, is bad."""
    rows = records.data_set_responses(samples.values())
    stage.total = len(rows)
    pairs = []
    for row in rows:
        cause = records.why_no_pair(*row.responses)
        if cause:
            stage.bad(row.id, cause)
        else:
            pairs.append(row)
    share = stage.params.judge.keep_surest
    if share < 1:
        stage.warn(
            f"judge.keep_surest={share}: given pairs have no margin, "
            f"so the first {share:.0%} of them are kept"
        )
    return pairs


def judge_by_policy(stage: Stage, samples: Samples, pairs: list[Responses]) -> list[Judgment]:
    """The policy's own verdicts, with its description at hand where there is one."""
    size = stage.params.judge.batch_size
    batches = stage.batches("judgments.jsonl", Judgment, records.cut_batches(pairs, size), size, "judge")
    if not batches.complete:
        policy = open_policy(stage, stage.run.policy(stage.t))
        for batch in batches:
            requests = [Request(row.id, samples[row.id].video) for row in batch]
            videos = encode_usable(stage, policy, batches, requests)
            usable = [row for row in batch if row.id in videos]
            calls = verdicts.ask_policy(
                policy,
                stage.params,
                list(videos),
                list(videos.values()),
                [samples[row.id].question for row in usable],
                [row.responses for row in usable],
                [row.context for row in usable],
            )
            batches.append([call for row_calls in calls for call in row_calls])
    stage.bad_left_out(batches)
    return batches.rows()


def judge_by_truth(stage: Stage, samples: Samples, pairs: list[Responses]) -> list[Judgment]:
    """Perfect verdicts, from Toybox's facts: the claim that was asked about decides, then the fewer false
    claims.

    Responses that are equally true get no verdict. Raises RunError for a sample without facts.
    """
    from isrdpo.toybox import claims

    calls = []
    for row in pairs:
        facts = samples[row.id].facts
        if facts is None:
            raise RunError(
                f"judge.method=truth: sample {row.id} has no facts; only Toybox's samples have them"
            )
        order = claims.compare_truths(*(claims.truth(text, facts) for text in row.responses))
        if order:
            calls.append(Judgment(row.id, 0, 0 if order > 0 else 1, "truth", None))
    return calls


def judge_by_coin(stage: Stage, samples: Samples, pairs: list[Responses]) -> list[Judgment]:
    """Random verdicts. They show what training on any of its own pairs does to a policy."""
    return [
        Judgment(row.id, 0, draw_seed(stage.params.seed, stage.t, row.id, "coin") & 1, "coin", None)
        for row in pairs
    ]


def judge_by_data_set(stage: Stage, samples: Samples, pairs: list[Responses]) -> list[Judgment]:
    """The data set's own verdicts: chosen is better than rejected, as LLaVA-Hound-DPO trains on them."""
    return [Judgment(row.id, 0, 0, "given", None) for row in pairs]


VERDICTS: dict[str, Callable[[Stage, Samples, list[Responses]], list[Judgment]]] = {
    "generate": judge_by_policy,
    "score": judge_by_policy,
    "truth": judge_by_truth,
    "random": judge_by_coin,
    "given": judge_by_data_set,
}


def write_preferences(stage: Stage, samples: Samples, pairs: list[Responses], calls: Calls) -> None:
    """Turn decisive verdicts into preferences; count the others by the reason why they are left out."""
    counts = Counter(kept=0, disagreement=0, unparsed=0, weak=0, undecided=0, unsure=0, unbalanced=0)
    decisive = []
    for row in pairs:
        row_calls = calls.get(row.id, [])
        if any(call.reply == verdicts.TOO_LONG for call in row_calls):
            stage.bad(row.id, TOO_LONG, verdicts.TOO_LONG)
            continue
        choice, reason = verdicts.decide(row_calls, stage.params.judge.min_margin)
        counts[reason] += 1
        if choice is not None:
            decisive.append(preference(samples[row.id], row.responses, choice, verdicts.margin(row_calls)))
        elif reason == "unparsed":
            unread = next(call.reply for call in row_calls if call.choice is None)
            stage.bad(row.id, "unparsed verdict", unread[:200])
    surest = keep_surest(decisive, stage.params.judge.keep_surest)
    balanced = balance_lengths(surest) if stage.params.judge.balance_lengths else surest
    counts["unsure"] = len(decisive) - len(surest)
    counts["unbalanced"] = len(surest) - len(balanced)
    counts["kept"] = len(balanced)
    records.write_jsonl(stage.path("preferences.jsonl"), balanced)
    for reason, number in counts.items():
        stage.count(reason, number)


def preference(sample: Sample, responses: list[str], choice: int, margin: float | None) -> Preference:
    """The pair to train on where response `choice` is the better one."""
    return Preference(
        sample.id, sample.video, sample.question, responses[choice], responses[1 - choice], margin
    )


def keep_surest(pairs: list[Preference], share: float) -> list[Preference]:
    """The share (rounded up) of the pairs with the largest margins, in their order; without margins the
    first ones.
    """
    ranked = sorted(pairs, key=lambda pair: -(pair.margin or 0.0))
    surest = {pair.id for pair in ranked[: math.ceil(share * len(pairs))]}
    return [pair for pair in pairs if pair.id in surest]


def balance_lengths(pairs: list[Preference]) -> list[Preference]:
    """As many pairs whose chosen response is the longer as pairs whose chosen response is the shorter.

    Of the more numerous kind the weakest verdicts are left out (without margins the last ones). Pairs of
    equal length stay.
    """
    longer: list[Preference] = []
    shorter: list[Preference] = []
    for pair in pairs:
        difference = word_count(pair.chosen) - word_count(pair.rejected)
        if difference:
            (longer if difference > 0 else shorter).append(pair)
    count = min(len(longer), len(shorter))
    weakest: set[str] = set()
    for kind in (longer, shorter):
        by_margin = sorted(kind, key=lambda pair: -(pair.margin or 0.0))
        weakest |= {pair.id for pair in by_margin[count:]}
    return [pair for pair in pairs if pair.id not in weakest]


if __name__ == "__main__":
    stage_main("judge", run)
