"""Stage 5, evaluate: python -m isrdpo.stages.evaluate --run outputs/toybox --iteration 1      (iteration 0:
the base)

Greedy answers of the policy after training t to the held-out questions -> answers.jsonl, with their claims
counted where facts are known, and predictions/<set>.jsonl in LLaVA-Hound's format. The same policy judges
one fixed set of held-out pairs, with its own description and without -> fixed_judgments.jsonl.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING

from isrdpo.core import metrics, records
from isrdpo.core.records import Answer, FixedPair, PairContext, PairJudgment, Sample
from isrdpo.core.replies import without_thoughts
from isrdpo.core.runs import Run, stage_main
from isrdpo.core.stage import Stage
from isrdpo.formats import predictions
from isrdpo.models import verdicts
from isrdpo.models.resources import one_line_errors
from isrdpo.stages.policies import NewTokens, Request, encode_usable, open_policy

if TYPE_CHECKING:
    from isrdpo.models.interface import Policy

LESS_MEMORY = "evaluate.batch_size or video.max_pixels, or choose a smaller model.dtype"


def run(run: Run, iteration: int) -> None:
    """Evaluate the policy after training t; the base first where that was not done, since all comparisons
    begin there.
    """
    if iteration > 0 and not run.done("evaluate", 0):
        evaluate_policy(run, 0)
    evaluate_policy(run, iteration)


def evaluate_policy(run: Run, iteration: int) -> None:
    """Ask the policy after training t every held-out question, and have it judge the fixed pairs."""
    with run.stage("evaluate", iteration) as stage, one_line_errors("evaluate", LESS_MEMORY):
        if stage is None:
            return
        samples = records.read_jsonl(run.file(0, "samples.jsonl"), Sample)
        pairs = records.read_jsonl(run.file(0, "fixed_pairs.jsonl"), FixedPair)
        stage.total = len(samples)
        policy = open_policy(stage, run.policy_after(iteration))
        answers = answer(stage, policy, samples)
        count_empty(stage, answers)
        limit = stage.params.evaluate.max_new_tokens
        predictions.write_predictions(stage.path("predictions"), answers, samples, limit)
        if stage.params.data.benchmark != "none":
            write_benchmark(stage, answers)
        contexts = describe_fixed_pairs(stage, policy, pairs)
        calls = judge_fixed_pairs(stage, policy, pairs, contexts)
        figures = metrics.answer_figures([asdict(row) for row in answers])
        figures |= metrics.fixed_pair_figures([asdict(pair) for pair in pairs], calls)
        counts = {"iteration": iteration, "questions": len(answers), "fixed_pairs": len(pairs)}
        records.write_json(stage.path("eval.json"), counts | figures)


def answer(stage: Stage, policy: "Policy", samples: list[Sample]) -> list[Answer]:
    """One greedy answer to each question whose clip can be used and that fits into the model's positions."""
    from isrdpo.toybox import claims

    settings = stage.params.evaluate
    size = settings.batch_size
    new_tokens = NewTokens("evaluate.max_new_tokens", settings.max_new_tokens)
    batches = stage.batches("answers.jsonl", Answer, records.cut_batches(samples, size), size, "answer")
    for batch in batches:
        requests = [Request(sample.id, sample.video, sample.question) for sample in batch]
        videos = encode_usable(stage, policy, batches, requests, new_tokens, held_out=True)
        usable = [sample for sample in batch if sample.id in videos]
        questions = [sample.question for sample in usable]
        replies = policy.generate(list(videos.values()), questions, max_new_tokens=settings.max_new_tokens)
        texts = [without_thoughts(reply) or "" for reply in replies]
        batches.append(
            [
                Answer(
                    sample.id,
                    sample.question,
                    sample.kind,
                    sample.answer,
                    text,
                    metrics.word_count(text),
                    claims.count(text, sample.facts),
                )
                for sample, text in zip(usable, texts, strict=True)
            ]
        )
    stage.bad_left_out(batches)
    return batches.rows()


def count_empty(stage: Stage, answers: list[Answer]) -> None:
    """Count the empty answers, and warn where they are half of all or more."""
    empty = sum(not row.response.strip() for row in answers)
    stage.count("empty", empty)
    if answers and 2 * empty >= len(answers):
        stage.warn(f"{empty} of {len(answers)} answers are empty: the policy must be broken")


def write_benchmark(stage: Stage, answers: list[Answer]) -> None:
    """Write benchmark.csv: the benchmark's own figures."""
    import pandas as pd

    from isrdpo.scoring import benchmark_metrics

    rows = benchmark_metrics.benchmark_rows(stage.params.data.benchmark, answers)
    records.write_csv(stage.path("benchmark.csv"), pd.DataFrame(rows, columns=benchmark_metrics.COLUMNS))


def describe_fixed_pairs(stage: Stage, policy: "Policy", pairs: list[FixedPair]) -> dict[str, str]:
    """The policy's own plain description of each fixed pair's video, by the pair's id."""
    size = stage.params.evaluate.batch_size
    batches = stage.batches(
        "fixed_contexts.jsonl", PairContext, records.cut_batches(pairs, size), size, "describe fixed pairs"
    )
    limit = stage.params.respond.context_max_new_tokens
    new_tokens = NewTokens("respond.context_max_new_tokens", limit)
    for batch in batches:
        request = stage.params.prompts.context
        requests = [Request(pair.id, pair.video, request) for pair in batch]
        videos = encode_usable(stage, policy, batches, requests, new_tokens, held_out=True)
        replies = policy.generate(list(videos.values()), [request] * len(videos), max_new_tokens=limit)
        texts = [without_thoughts(reply) or "" for reply in replies]
        batches.append([PairContext(name, text) for name, text in zip(videos, texts, strict=True)])
    stage.bad_left_out(batches, "fixed_pairs_left_out")
    return {row.id: row.context for row in batches.rows()}


def judge_fixed_pairs(
    stage: Stage, policy: "Policy", pairs: list[FixedPair], contexts: dict[str, str]
) -> list[dict]:
    """Every verdict on the fixed pairs, as rows of PairJudgment; always the policy's own
    verdicts. Pairs without a description were left out before.
    """
    size = stage.params.evaluate.batch_size
    batches = stage.batches(
        "fixed_judgments.jsonl", PairJudgment, records.cut_batches(pairs, size), size, "judge fixed pairs"
    )
    params = verdicts.own_verdicts_params(stage.params)
    for batch in batches:
        requests = [Request(pair.id, pair.video) for pair in batch if pair.id in contexts]
        videos = encode_usable(stage, policy, batches, requests, held_out=True)
        usable = [pair for pair in batch if pair.id in videos]
        rows = []
        for with_context in (True, False):
            calls = verdicts.ask_policy(
                policy,
                params,
                list(videos),
                list(videos.values()),
                [pair.question for pair in usable],
                [pair.responses for pair in usable],
                [contexts[pair.id] if with_context else None for pair in usable],
            )
            for pair_calls in calls:
                rows += [PairJudgment(**asdict(call), with_context=with_context) for call in pair_calls]
        batches.append(rows)
    stage.bad_left_out(batches, "fixed_pairs_left_out")
    return [asdict(row) for row in batches.rows()]


if __name__ == "__main__":
    stage_main("evaluate", run)
