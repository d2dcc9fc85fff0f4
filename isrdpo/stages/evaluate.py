"""Stage 5, evaluate: python -m isrdpo.stages.evaluate --run outputs/toybox --iteration 1      (iteration 0: the base)

Greedy answers of the policy after training t on the held-out questions -> answers.jsonl, with their claims counted where facts are
known, and predictions/<set>.jsonl in LLaVA-Hound's format. The same policy judges one fixed set of held-out pairs, with its own description and without -> fixed_judgments.jsonl.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from isrdpo.core import metrics, records
from isrdpo.core.clips import find_clip
from isrdpo.core.progress import progress_bar
from isrdpo.core.runs import Run, Stage, stage_main
from isrdpo.formats import predictions
from isrdpo.models import verdicts

if TYPE_CHECKING:
    from isrdpo.models.local import VideoModel


def run(run: Run, iteration: int) -> None:
    """Evaluates the base first, where that was not done: row 0 of every comparison."""
    if iteration > 0 and not run.done("evaluate", 0):
        _evaluate(run, 0)
    _evaluate(run, iteration)


def _evaluate(run: Run, iteration: int) -> None:
    with run.stage("evaluate", iteration) as stage:
        if stage is None:
            return
        from isrdpo.models import local as vlmm

        samples = records.read_jsonl(run.file(0, "samples.jsonl"), records.Sample)
        fixed = records.read_jsonl(run.file(0, "fixed_pairs.jsonl"), records.FixedPair)
        stage.total = len(samples)
        model, root = vlmm.open_model(run.params, run.policy_after(iteration)), run.videos_folder(held_out=True)
        answers = answer(stage, model, samples, root)
        stage.count("empty", sum(not a.response.strip() for a in answers))
        predictions.write(stage.path("predictions"), answers, samples, stage.params.evaluate.max_new_tokens)
        if run.params.data.benchmark != "none":
            benchmark(stage, answers)
        contexts = describe(stage, model, fixed, root)
        calls = judge_fixed(stage, model, fixed, contexts, root)
        figures = metrics.answer_figures([a.__dict__ for a in answers]) | metrics.fixed_pair_figures([p.__dict__ for p in fixed], calls)
        records.write_json(stage.path("eval.json"), {"iteration": iteration, "questions": len(answers), "fixed_pairs": len(fixed), **figures})


def answer(stage: Stage, model: "VideoModel", samples: list[records.Sample], root: Path) -> list[records.Answer]:
    settings = stage.params.evaluate
    log, cut = stage.log("answers.jsonl", records.Answer, settings.batch_size), records.cut_batches(samples, settings.batch_size)
    for batch in progress_bar(cut[log.done :], len(cut) - log.done, f"iteration {stage.t}: answer"):
        videos = model.encode([find_clip(root, s.video) for s in batch])
        texts = model.generate(videos, [s.question for s in batch], max_new_tokens=settings.max_new_tokens)
        log.append([
            records.Answer(s.id, s.question, s.kind, s.answer, text, len(text.split()), truth(text, s.facts))
            for s, text in zip(batch, texts, strict=True)
        ])  # fmt: skip
    return log.rows()


def benchmark(stage: Stage, answers: list[records.Answer]) -> None:
    """benchmark.csv: the benchmark's own figures."""
    import pandas as pd

    from isrdpo.scoring import benchmark_metrics as benchmark_scores

    rows = benchmark_scores.table(stage.params.data.benchmark, answers)
    records.write_text(stage.path("benchmark.csv"), pd.DataFrame(rows, columns=benchmark_scores.COLUMNS).to_csv(index=False, lineterminator="\n"))


def truth(text: str, facts: dict | None) -> dict | None:
    """The claims of a text, counted, where facts are known."""
    if facts is None:
        return None
    from isrdpo.toybox import claims

    return claims.truth(text, facts).to_dict()


def describe(stage: Stage, model: "VideoModel", fixed: list[records.FixedPair], root: Path) -> dict[str, str]:
    """The policy's own plain description of each fixed pair's video."""
    size = stage.params.evaluate.batch_size
    log, cut = stage.log("fixed_contexts.jsonl", dict, size), records.cut_batches(fixed, size)
    for batch in progress_bar(cut[log.done :], len(cut) - log.done, f"iteration {stage.t}: describe fixed pairs"):
        videos = model.encode([find_clip(root, p.video) for p in batch])
        texts = model.generate(videos, [stage.params.prompts.context] * len(batch), max_new_tokens=stage.params.respond.context_max_new_tokens)
        log.append([{"id": p.id, "context": text} for p, text in zip(batch, texts, strict=True)])
    return {row["id"]: row["context"] for row in log.rows()}


def judge_fixed(stage: Stage, model: "VideoModel", fixed: list[records.FixedPair], contexts: dict[str, str], root: Path) -> list[dict]:
    """Every call on the fixed pairs; rows are Judgments with `with_context`. Always asked of the policy, by score or generation."""
    size, asked = stage.params.evaluate.batch_size, verdicts.own(stage.params)
    log, cut = stage.log("fixed_judgments.jsonl", dict, size), records.cut_batches(fixed, size)
    for batch in progress_bar(cut[log.done :], len(cut) - log.done, f"iteration {stage.t}: judge fixed pairs"):
        videos, rows = model.encode([find_clip(root, p.video) for p in batch]), []
        for with_context in (True, False):
            given = [contexts[p.id] if with_context else None for p in batch]
            made = verdicts.ask(model, asked, [p.id for p in batch], videos, [p.question for p in batch], [p.responses for p in batch], given)
            rows += [call.__dict__ | {"with_context": with_context} for calls in made for call in calls]
        log.append(rows)
    return log.rows()


if __name__ == "__main__":
    stage_main("evaluate", run)
