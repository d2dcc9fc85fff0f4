"""The held-out figures of a Toybox base model, with 95 % intervals: what it sees, what it says, how it judges.

    python -m isrdpo.toybox.figures outputs/base/model          # minutes on two cores; prints the table, writes figures.json beside it

Questions are of the evaluation split (seed 100, which no run uses). Answers are sampled as the loop samples them.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from isrdpo.core import metrics, params, prompts, records
from isrdpo.core.folders import project_root
from isrdpo.core.progress import progress_bar
from isrdpo.core.runs import draw_seed
from isrdpo.models import local as vlmm
from isrdpo.models import verdicts
from isrdpo.toybox import claims, world

SEED = 100


def share(values: list[bool]) -> dict:
    """{"value", "low", "high", "n"} of a share (Wilson)."""
    found = metrics.share(values).columns("value")
    return {"value": found["value"], "low": found["value_low"], "high": found["value_high"], "n": len(values)}


def judged(rows: list[records.Sample], responses: list[list[str]], calls: list[list[records.Judgment]]) -> dict:
    """Figures of decisive verdicts: picks the longer, accuracy on pairs that differ in the truth of the main claim, and the same
    where the truer answer is the longer and the shorter one."""
    longer, right, right_longer, right_shorter = [], [], [], []
    for row, pair, mine in zip(rows, responses, calls, strict=True):
        choice, _ = verdicts.decide(mine)
        if choice is None or pair[0] == pair[1]:
            continue
        words = [len(text.split()) for text in pair]
        truth = [claims.truth(text, row.facts).correct for text in pair]
        if words[0] != words[1]:
            longer.append(words[choice] > words[1 - choice])
        if truth[0] != truth[1]:
            right.append(truth[choice])
            if words[0] != words[1]:
                (right_longer if words[truth.index(True)] > words[truth.index(False)] else right_shorter).append(truth[choice])
    return {
        "picks_longer": share(longer), "accuracy": share(right), "accuracy_truer_longer": share(right_longer),
        "accuracy_truer_shorter": share(right_shorter), "decisive": share([verdicts.decide(c)[0] is not None for c in calls]),
    }  # fmt: skip


def described(rows: list[records.Sample], texts: list[str]) -> dict:
    """Share of a description's checkable claims that are true, pooled and by kind."""
    kinds: dict[str, list[int]] = {}
    for row, text in zip(rows, texts, strict=True):
        for kind, (true, false) in claims.truth(text, {"scene": row.facts["scene"]}).by_kind.items():
            total = kinds.setdefault(kind, [0, 0])
            total[0], total[1] = total[0] + true, total[1] + false
    true, false = (sum(pair[i] for pair in kinds.values()) for i in (0, 1))
    return {"claims_right": share([True] * true + [False] * false), "by_kind": {k: t / (t + f) for k, (t, f) in sorted(kinds.items())}}


def measure(settings: params.Params, model: vlmm.VideoModel, folder: Path, count: int) -> dict:
    """Every figure but the gain under perfect verdicts (that one is a run with `judge.method=truth`)."""
    rows = world.samples("evaluate", count, SEED, world.Difficulty(), folder)
    videos, size = model.encode([folder / row.video for row in rows]), settings.evaluate.batch_size
    cuts = [slice(at, at + size) for at in range(0, count, size)]

    def say(requests: list[str], tokens: int, draw: str = "") -> list[str]:
        how = {"temperature": settings.respond.temperature, "top_p": settings.respond.top_p, "top_k": settings.respond.top_k} if draw else {}
        seeds = [draw_seed(SEED, 0, row.id, draw) for row in rows]
        made = (model.generate(videos[c], requests[c], seeds=seeds[c], max_new_tokens=tokens, **how) for c in progress_bar(cuts, len(cuts), draw or "greedy"))
        return [text for part in made for text in part]

    questions, limit = [row.question for row in rows], settings.respond.context_max_new_tokens
    greedy = say(questions, settings.evaluate.max_new_tokens)
    pairs = [list(pair) for pair in zip(*(say(questions, settings.respond.max_new_tokens, draw) for draw in ("y1", "y2")), strict=True)]
    own = say([settings.prompts.context] * count, limit)
    again = say([prompts.retrospection_request(settings.prompts.retrospection, text) for text in own], limit)
    contexts = {"no description": [None] * count, "own": own, "own, looked at again": again, "true": [row.caption for row in rows]}
    judges = {}
    for name, given in contexts.items():
        calls = [verdicts.ask(model, settings, [r.id for r in rows[c]], videos[c], questions[c], pairs[c], given[c]) for c in cuts]
        judges[name] = judged(rows, pairs, [call for part in calls for call in part])
    right = [claims.truth(text, row.facts).correct for text, row in zip(greedy, rows, strict=True)]
    sampled = [[claims.truth(text, row.facts).correct for text in pair] for pair, row in zip(pairs, rows, strict=True)]
    return {
        "questions": count, "seed": SEED, "accuracy": share(right), "samples_differ": share([a != b for a, b in sampled]),
        "accuracy_by_kind": pd.Series(right).groupby([row.kind for row in rows]).mean().to_dict(),
        "words": sum(len(text.split()) for text in greedy) / count,
        "description": described(rows, own), "description_again": described(rows, again), "judge": judges,
    }  # fmt: skip


def table(figures: dict) -> str:
    """The model card's table."""

    def cell(figure: dict) -> str:
        return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}] (n = {figure['n']})"

    def shown(figure: dict) -> str:
        return cell(figure) if figure["n"] else "none"

    lines = ["| figure | value, 95 % interval |", "|---|---|"]
    lines += [f"| greedy main claim right | {cell(figures['accuracy'])} |", f"| two samples differ in the truth of the main claim | {cell(figures['samples_differ'])} |"]
    lines += [f"| claims of a description right | {cell(figures['description']['claims_right'])} |"]
    lines += [f"| the same, describing again given its own description | {cell(figures['description_again']['claims_right'])} |"]
    for name, judge in figures["judge"].items():
        lines += [f"| judge, {name}: picks the longer of two own answers | {shown(judge['picks_longer'])} |", f"| judge, {name}: accuracy | {shown(judge['accuracy'])} |"]
        lines += [f"| judge, {name}: accuracy where the truer answer is the shorter | {shown(judge['accuracy_truer_shorter'])} |"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--questions", type=int, default=512)
    arguments = parser.parse_args()
    settings = params.load(project_root() / "params" / "toybox.yaml", [f"model.path={arguments.model}"])
    model = vlmm.open_model(settings, str(arguments.model))
    figures = measure(settings, model, project_root() / "outputs" / ".cache" / "clips", arguments.questions)
    (arguments.model / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
