"""Stage 3, judge: python -m isrdpo.stages.judge --run outputs/toybox --iteration 1

responses.jsonl -> judgments.jsonl (a row a call) and preferences.jsonl (y_w, y_l). The same pi_t reads (V, x, c_t, y1, y2) and says
which is better, in both orders by default; what the orders do not agree on, ties and unreadable replies are counted and left out.
"""

import math
from collections import Counter

from isrdpo.core import records
from isrdpo.core.clips import find_clip
from isrdpo.core.errors import RunError
from isrdpo.core.progress import progress_bar
from isrdpo.core.runs import Run, Stage, draw_seed, stage_main
from isrdpo.models import verdicts


def run(run: Run, iteration: int) -> None:
    with run.stage("judge", iteration) as stage:
        if stage is None:
            return
        samples = {s.id: s for s in records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample)}
        method = stage.params.judge.method
        if method == "given":
            by_data_set(stage, samples)
            return
        answered = records.read_jsonl(run.file(iteration, "responses.jsonl"), records.Responses)
        stage.total = len(answered)
        usable = [r for r in answered if all(text.strip() for text in r.responses) and (r.context is None or r.context.strip())]
        differing = [r for r in usable if r.responses[0].strip() != r.responses[1].strip()]
        if method in ("truth", "random"):
            calls = by_truth(stage, samples, differing) if method == "truth" else by_coin(stage, differing)
        else:
            calls = by_policy(stage, run, samples, differing)
        keep(stage, samples, differing, calls)
        stage.count("empty", len(answered) - len(usable))
        stage.count("ties", len(usable) - len(differing))


def by_policy(stage: Stage, run: Run, samples: dict[str, records.Sample], rows: list[records.Responses]) -> dict[str, list[records.Judgment]]:
    """The calls by sample, from the policy itself."""
    from isrdpo.models import local as vlmm

    size = stage.params.judge.batch_size
    log = stage.log("judgments.jsonl", records.Judgment, size)
    batches = records.cut_batches(rows, size)
    if log.done < len(batches):
        model, root = vlmm.open_model(run.params, run.policy(stage.t)), run.videos_folder()
        for batch in progress_bar(batches[log.done :], len(batches) - log.done, f"iteration {stage.t}: judge"):
            asked = [samples[r.id] for r in batch]
            videos = model.encode([find_clip(root, s.video) for s in asked])
            made = verdicts.ask(
                model, stage.params, [r.id for r in batch], videos, [s.question for s in asked], [r.responses for r in batch], [r.context for r in batch]
            )
            log.append([call for calls in made for call in calls])
    return grouped(log.rows())


def by_truth(stage: Stage, samples: dict[str, records.Sample], rows: list[records.Responses]) -> dict[str, list[records.Judgment]]:
    """Perfect verdicts, from Toybox's facts: the asked claim decides, then the fewer false claims; equal truth is undecided."""
    from isrdpo.toybox import claims

    calls = []
    for row in rows:
        facts = samples[row.id].facts
        if facts is None:
            raise RunError(f"judge.method=truth needs facts, which sample {row.id} has not; only Toybox knows them")
        order = claims.better(*(claims.truth(text, facts) for text in row.responses))
        if order:
            calls.append(records.Judgment(row.id, 0, 0 if order > 0 else 1, "truth", None))
    records.write_jsonl(stage.path("judgments.jsonl"), calls)
    return grouped(calls)


def by_coin(stage: Stage, rows: list[records.Responses]) -> dict[str, list[records.Judgment]]:
    """Verdicts that know nothing: what training on any pair of its own does to a policy."""
    tossed = [draw_seed(stage.params.seed, stage.t, row.id, "coin") & 1 for row in rows]
    calls = [records.Judgment(row.id, 0, choice, "coin", None) for row, choice in zip(rows, tossed, strict=True)]
    records.write_jsonl(stage.path("judgments.jsonl"), calls)
    return grouped(calls)


def by_data_set(stage: Stage, samples: dict[str, records.Sample]) -> None:
    """The data set's own chosen and rejected as they are, as LLaVA-Hound-DPO trains on them; a sample without both, or with equal ones, is bad."""
    stage.total, rows = len(samples), records.data_set_responses(samples.values())
    differing = [row for row in rows if not records.why_no_pair(*row.responses)]
    for row in rows:
        if cause := records.why_no_pair(*row.responses):
            stage.bad(row.id, cause)
    calls = [records.Judgment(row.id, 0, 0, "given", None) for row in differing]
    records.write_jsonl(stage.path("judgments.jsonl"), calls)
    if (share := stage.params.judge.keep_surest) < 1:
        stage.warn(f"judge.keep_surest={share}: given pairs have no margin, so the first {share:.0%} of them are kept")
    keep(stage, samples, differing, grouped(calls))


def grouped(calls: list[records.Judgment]) -> dict[str, list[records.Judgment]]:
    found: dict[str, list[records.Judgment]] = {}
    for call in calls:
        found.setdefault(call.id, []).append(call)
    return found


def keep(stage: Stage, samples: dict[str, records.Sample], rows: list[records.Responses], calls: dict[str, list[records.Judgment]]) -> None:
    """Decisive verdicts become preferences; the rest is counted by reason."""
    kept, reasons = [], Counter(kept=0, disagreement=0, unparsed=0, weak=0, undecided=0, unsure=0, unbalanced=0)
    for row in rows:
        mine = calls.get(row.id, [])
        choice, reason = verdicts.decide(mine, stage.params.judge.min_margin) if mine else (None, "undecided")
        reasons[reason] += 1
        if choice is not None:
            sample, text = samples[row.id], row.responses
            kept.append(records.Preference(row.id, sample.video, sample.question, text[choice], text[1 - choice], verdicts.margin(mine)))
        elif reason == "unparsed":
            stage.bad(row.id, "unparsed verdict", next(c.reply for c in mine if c.choice is None)[:200])
    if stage.params.judge.keep_surest < 1:
        surest = keep_surest(kept, stage.params.judge.keep_surest)
        reasons["unsure"], reasons["kept"] = len(kept) - len(surest), len(surest)
        kept = surest
    if stage.params.judge.balance_lengths:
        balanced = balance(kept)
        reasons["unbalanced"], reasons["kept"] = len(kept) - len(balanced), len(balanced)
        kept = balanced
    records.write_jsonl(stage.path("preferences.jsonl"), kept)
    for reason, n in reasons.items():
        stage.count(reason, n)


def keep_surest(pairs: list[records.Preference], share: float) -> list[records.Preference]:
    """The given share of the pairs (rounded up), those with the largest margins, in their order; without margins the first ones."""
    ranked = sorted(pairs, key=lambda pair: -(pair.margin or 0.0))[: math.ceil(share * len(pairs))]
    chosen = {pair.id for pair in ranked}
    return [pair for pair in pairs if pair.id in chosen]


def balance(pairs: list[records.Preference]) -> list[records.Preference]:
    """As many pairs whose chosen has more words as pairs whose chosen has fewer: of the more numerous kind the weakest verdicts go (without
    margins the last ones). Pairs of equal length stay."""
    kinds: dict[int, list[records.Preference]] = {1: [], -1: []}
    for pair in pairs:
        longer = len(pair.chosen.split()) - len(pair.rejected.split())
        if longer:
            kinds[1 if longer > 0 else -1].append(pair)
    few = min(map(len, kinds.values()))
    gone = {pair.id for kind in kinds.values() for pair in sorted(kind, key=lambda pair: -(pair.margin or 0.0))[few:]}
    return [pair for pair in pairs if pair.id not in gone]


if __name__ == "__main__":
    stage_main("judge", run)
