"""The held-out figures of a Toybox base model: what it sees, what it says, how it judges.

    python -m isrdpo.toybox.figures outputs/base/model

Each has a 95 % interval. It takes minutes on two cores, prints the model card's table and writes figures.json
beside the weights. Questions are of the evaluation split, with a seed that no run uses. Answers are sampled
as the loop samples them.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from isrdpo.core import metrics, params, prompts, records
from isrdpo.core.folders import project_root
from isrdpo.core.progress import progress_bar
from isrdpo.core.runs import draw_seed
from isrdpo.models import local, verdicts
from isrdpo.toybox import claims, world

SEED = 100
ANSWER_DRAWS = ("y1", "y2")
TABLE_HEAD = ["| figure | value, 95 % interval |", "|---|---|"]
JUDGE_LINES = {
    "picks_longer": "picks the longer of two own answers",
    "accuracy": "accuracy",
    "accuracy_truer_shorter": "accuracy where the truer answer is the shorter",
}


@dataclass(frozen=True)
class JudgedPair:
    """Two different answers with a decisive verdict: their lengths in words, and whether each is true."""

    choice: int
    words: list[int]
    correct: list[bool]

    @property
    def of_unequal_length(self) -> bool:
        """Whether one answer is longer."""
        return self.words[0] != self.words[1]

    @property
    def of_unequal_truth(self) -> bool:
        """Whether just one answer is true."""
        return self.correct[0] != self.correct[1]

    @property
    def picks_longer(self) -> bool:
        """Whether the chosen answer is longer than the other one."""
        return self.words[self.choice] > self.words[1 - self.choice]

    @property
    def right(self) -> bool:
        """Whether the chosen answer is true."""
        return self.correct[self.choice]

    @property
    def truer_is_longer(self) -> bool:
        """Whether the true answer is longer than the other one; asked where just one is true."""
        return self.right == self.picks_longer


def share_figure(values: Iterable[bool]) -> dict:
    """Return {"value", "low", "high", "n"} of a share (Wilson)."""
    counted = list(values)
    share = metrics.share(counted)
    return {"value": share.value, "low": share.low, "high": share.high, "n": len(counted)}


def answers_truly(text: str, row: records.Sample) -> bool:
    """Whether a text answers a row's question truly."""
    return claims.truth(text, row.facts).correct


def judge_figures(
    rows: Sequence[records.Sample], pairs: Sequence[list[str]], calls: Sequence[list[records.Judgment]]
) -> dict:
    """Return the figures of a judge, from its calls on a pair of answers to each row's question.

    Decisive verdicts count: how often they pick the longer answer; their accuracy on pairs that differ in the
    truth of the main claim, also where the truer answer is the longer one and where it is the shorter one.
    """
    choices = [verdicts.decide(row_calls)[0] for row_calls in calls]
    decisive = []
    for row, texts, choice in zip(rows, pairs, choices, strict=True):
        if choice is not None and texts[0] != texts[1]:
            words = [metrics.word_count(text) for text in texts]
            decisive.append(JudgedPair(choice, words, [answers_truly(text, row) for text in texts]))
    differing = [pair for pair in decisive if pair.of_unequal_truth]
    unequal = [pair for pair in differing if pair.of_unequal_length]
    return {
        "picks_longer": share_figure(pair.picks_longer for pair in decisive if pair.of_unequal_length),
        "accuracy": share_figure(pair.right for pair in differing),
        "accuracy_truer_longer": share_figure(pair.right for pair in unequal if pair.truer_is_longer),
        "accuracy_truer_shorter": share_figure(pair.right for pair in unequal if not pair.truer_is_longer),
        "decisive": share_figure(choice is not None for choice in choices),
    }


def description_figures(rows: Sequence[records.Sample], texts: Sequence[str]) -> dict:
    """Return the share of the descriptions' checkable claims that are true, pooled and by kind."""
    counts: dict[str, list[int]] = {}  # true and false claims of each kind
    for row, text in zip(rows, texts, strict=True):
        for kind, (true, false) in claims.truth(text, {"scene": row.facts["scene"]}).by_kind.items():
            total = counts.setdefault(kind, [0, 0])
            total[0] += true
            total[1] += false
    true = sum(total[0] for total in counts.values())
    false = sum(total[1] for total in counts.values())
    by_kind = {kind: total[0] / sum(total) for kind, total in sorted(counts.items())}
    return {"claims_right": share_figure([True] * true + [False] * false), "by_kind": by_kind}


class Examination:
    """A model that is asked about the clips of some rows, batch by batch."""

    def __init__(
        self, settings: params.Params, model: local.LocalPolicy, rows: list[records.Sample], folder: Path
    ) -> None:
        self.settings = settings
        self.model = model
        self.rows = rows
        self.videos = model.encode([folder / row.video for row in rows])
        size = settings.evaluate.batch_size
        self.batches = [slice(start, start + size) for start in range(0, len(rows), size)]

    def generate(self, requests: list[str], max_new_tokens: int, draw: str = "") -> list[str]:
        """Return one reply to each row's request: greedy, or sampled as draw `draw`."""
        respond = self.settings.respond
        sampling = {}
        if draw:
            sampling = {"temperature": respond.temperature, "top_p": respond.top_p, "top_k": respond.top_k}
        seeds = [draw_seed(SEED, 0, row.id, draw) for row in self.rows]
        texts = []
        for batch in progress_bar(self.batches, len(self.batches), draw or "greedy"):
            texts += self.model.generate(
                self.videos[batch],
                requests[batch],
                seeds=seeds[batch],
                max_new_tokens=max_new_tokens,
                **sampling,
            )
        return texts

    def judge(self, pairs: list[list[str]], contexts: Sequence[str | None]) -> list[list[records.Judgment]]:
        """Return the calls on each row's pair of answers, with its description if there is one."""
        ids = [row.id for row in self.rows]
        questions = [row.question for row in self.rows]
        calls = []
        for batch in self.batches:
            calls += verdicts.ask_policy(
                self.model,
                self.settings,
                ids[batch],
                self.videos[batch],
                questions[batch],
                pairs[batch],
                contexts[batch],
            )
        return calls


def measure(settings: params.Params, model: local.LocalPolicy, folder: Path, count: int) -> dict:
    """Return every figure, of `count` questions; `folder` takes their clips.

    The gain under perfect verdicts is not among them: that one is a run with `judge.method=truth`.
    """
    rows = world.samples("evaluate", count, SEED, world.Difficulty(), folder)
    examination = Examination(settings, model, rows, folder)
    respond = settings.respond
    questions = [row.question for row in rows]
    greedy = examination.generate(questions, settings.evaluate.max_new_tokens)
    draws = [examination.generate(questions, respond.max_new_tokens, draw) for draw in ANSWER_DRAWS]
    pairs = [list(pair) for pair in zip(*draws, strict=True)]
    descriptions = examination.generate([settings.prompts.context] * count, respond.context_max_new_tokens)
    looks = [prompts.retrospection_request(settings.prompts.retrospection, text) for text in descriptions]
    again = examination.generate(looks, respond.context_max_new_tokens)
    contexts: dict[str, Sequence[str | None]] = {
        "no description": [None] * count,
        "own": descriptions,
        "own, looked at again": again,
        "true": [row.caption for row in rows],
    }
    judges = {
        name: judge_figures(rows, pairs, examination.judge(pairs, texts)) for name, texts in contexts.items()
    }
    right = [answers_truly(text, row) for text, row in zip(greedy, rows, strict=True)]
    pair_truths = [[answers_truly(text, row) for text in pair] for pair, row in zip(pairs, rows, strict=True)]
    return {
        "questions": count,
        "seed": SEED,
        "accuracy": share_figure(right),
        "samples_differ": share_figure(first != second for first, second in pair_truths),
        "accuracy_by_kind": pd.Series(right).groupby([row.kind for row in rows]).mean().to_dict(),
        "words": sum(metrics.word_count(text) for text in greedy) / count,
        "description": description_figures(rows, descriptions),
        "description_again": description_figures(rows, again),
        "judge": judges,
    }


def markdown_table(figures: dict) -> str:
    """Return the model card's table."""
    lines = {
        "greedy main claim right": figures["accuracy"],
        "two samples differ in the truth of the main claim": figures["samples_differ"],
        "claims of a description right": figures["description"]["claims_right"],
        "the same, describing again given its own description": figures["description_again"]["claims_right"],
    }
    for context, judge in figures["judge"].items():
        for name, label in JUDGE_LINES.items():
            lines[f"judge, {context}: {label}"] = judge[name]
    return "\n".join([*TABLE_HEAD, *(f"| {label} | {_cell(figure)} |" for label, figure in lines.items())])


def _cell(figure: dict) -> str:
    """A share with its interval and the number of values; "none" without any."""
    if not figure["n"]:
        return "none"
    interval = metrics.Interval(figure["value"], figure["low"], figure["high"])
    return f"{interval.text()} (n = {figure['n']})"


def main() -> None:
    """Measure a base model from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--questions", type=int, default=512)
    arguments = parser.parse_args()
    root = project_root()
    settings = params.load(root / "params" / "toybox.yaml", [f"model.path={arguments.model}"])
    model = local.open_policy(settings, str(arguments.model))
    figures = measure(settings, model, root / "outputs" / ".cache" / "clips", arguments.questions)
    records.write_json(arguments.model / "figures.json", figures)
    print(markdown_table(figures))


if __name__ == "__main__":
    main()
