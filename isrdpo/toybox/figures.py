"""The held-out figures of a Toybox base model, with 95 % intervals: what it sees, what it says, how it judges.

    python -m isrdpo.toybox.figures outputs/base/model          # minutes on two cores; prints the table, writes figures.json beside it

Questions are of the evaluation split (seed 100, which no run uses). Answers are sampled as the loop samples them.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from isrdpo import metrics, params, prompts, records, verdicts, vlmm
from isrdpo.toybox import claims, language, world

SEED = 100


def share(values: list[bool]) -> dict:
    """{"value", "low", "high", "n"} of a share (Wilson)."""
    low, high = metrics.wilson(sum(values), len(values))
    return {"value": sum(values) / len(values) if values else None, "low": low, "high": high, "n": len(values)}


def judged(rows: list[records.Sample], responses: list[list[str]], calls: list[list[records.Judgment]]) -> dict:
    """Figures of decisive verdicts: picks the longer, accuracy on pairs that differ in the truth of the main claim, and the same
    where the truer answer is the longer and the shorter one."""
    longer, right, right_longer, right_shorter = [], [], [], []
    for row, pair, mine in zip(rows, responses, calls, strict=True):
        choice = verdicts.decide(mine)
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
        "accuracy_truer_shorter": share(right_shorter), "decisive": share([verdicts.decide(c) is not None for c in calls]),
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
    videos, sampling = model.encode([folder / row.video for row in rows]), settings.respond
    asked = [prompts.conversation(row.question) for row in rows]
    limit = settings.evaluate.max_new_tokens

    def say(requests: list[str], tokens: int, draw: str | None = None) -> list[str]:
        from isrdpo.runs import draw_seed

        out, size = [], settings.evaluate.batch_size
        for at in range(0, len(rows), size):
            part = rows[at : at + size]
            keyed = {} if draw is None else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
            seeds = None if draw is None else [draw_seed(SEED, 0, row.id, draw) for row in part]
            out += model.generate(videos[at : at + size], requests[at : at + size], seeds=seeds, max_new_tokens=tokens, **{"temperature": 0.0, "top_p": 1.0, "top_k": 0} | keyed)
        return out

    greedy, first, second = say(asked, limit), say(asked, limit, "y1"), say(asked, limit, "y2")
    truth = [claims.truth(text, row.facts) for text, row in zip(greedy, rows, strict=True)]
    pairs = [list(pair) for pair in zip(first, second, strict=True)]
    own = say([prompts.conversation(settings.prompts.context)] * len(rows), settings.respond.context_max_new_tokens)
    again = say([prompts.conversation(prompts.retrospection_request(settings.prompts.retrospection, c)) for c in own], settings.respond.context_max_new_tokens)
    contexts = {"no description": [None] * len(rows), "own": own, "own, looked at again": again, "true": [language.description(r.facts["scene"]) for r in rows]}
    sampled = [[claims.truth(t, row.facts).correct for t in pair] for pair, row in zip(pairs, rows, strict=True)]
    by_kind = pd.Series([t.correct for t in truth]).groupby([row.kind for row in rows]).mean()
    return {
        "questions": count, "seed": SEED,
        "accuracy": share([t.correct for t in truth]), "accuracy_by_kind": by_kind.to_dict(),
        "samples_differ": share([a != b for a, b in sampled]), "words": sum(len(t.split()) for t in greedy) / count,
        "description": described(rows, own), "description_again": described(rows, again),
        "judge": {
            name: judged(rows, pairs, verdicts.judge(model, settings, rows, videos, pairs, context))
            for name, context in contexts.items()
        },
    }  # fmt: skip


def table(figures: dict) -> str:
    """The model card's table."""

    def cell(figure: dict) -> str:
        return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}] (n = {figure['n']})"

    lines = ["| figure | value, 95 % interval |", "|---|---|"]
    lines += [f"| greedy main claim right | {cell(figures['accuracy'])} |", f"| two samples differ in the truth of the main claim | {cell(figures['samples_differ'])} |"]
    lines += [f"| claims of a description right | {cell(figures['description']['claims_right'])} |"]
    lines += [f"| the same, describing again given its own description | {cell(figures['description_again']['claims_right'])} |"]
    for name, judge in figures["judge"].items():
        lines += [f"| judge, {name}: picks the longer of two own answers | {cell(judge['picks_longer'])} |", f"| judge, {name}: accuracy | {cell(judge['accuracy'])} |"]
        lines += [f"| judge, {name}: accuracy where the truer answer is the shorter | {cell(judge['accuracy_truer_shorter'])} |"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--questions", type=int, default=512)
    arguments = parser.parse_args()
    from isrdpo.runs import project_root

    settings = params.load(project_root() / "params" / "toybox.yaml", [f"model.path={arguments.model}"])
    model = vlmm.open_model(settings, str(arguments.model))
    figures = measure(settings, model, project_root() / "outputs" / ".cache" / "clips", arguments.questions)
    (arguments.model / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
