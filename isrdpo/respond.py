"""Stage 2, respond and look back: python -m isrdpo.respond --run outputs/toybox --iteration 1

samples.jsonl -> contexts.jsonl (c_t, one a video) and responses.jsonl (y1, y2). c_t ~ pi_t(V, c_{t-1}): the description that the
previous iteration wrote is read from its file (paper section 3, self-retrospection); at t = 1 there is none.
"""

from typing import TYPE_CHECKING

from isrdpo import prompts, records, video
from isrdpo.runs import Run, RunError, Stage, draw_seed, progress, stage_main

if TYPE_CHECKING:
    from isrdpo.vlmm import VideoModel


def run(run: Run, iteration: int) -> None:
    with run.stage("respond", iteration) as stage:
        if stage is None:
            return
        from isrdpo import vlmm

        samples = records.read(run.file(iteration, "samples.jsonl"), records.Sample)
        stage.total = len(samples)
        previous = looked_back(run, iteration, samples)
        model = vlmm.open_model(run.params, run.policy(iteration))
        root, names = run.video_root(), list(dict.fromkeys(s.video for s in samples))
        features = dict(zip(names, model.encode([video.resolve(root, n) for n in names]), strict=True))
        contexts = describe(stage, model, names, features, previous)
        respond(stage, model, samples, features, contexts, previous)


def looked_back(run: Run, iteration: int, samples: list[records.Sample]) -> dict[str, str]:
    """c_{t-1} by video. Empty at t = 1 and where the context is not retrospective; a video that lacks it is an error, never
    silently described afresh."""
    if iteration == 1 or run.params.respond.context != "retrospective":
        return {}
    path = run.file(iteration - 1, "contexts.jsonl")
    known = {row["video"]: row["context"] for row in records.read(path, dict)} if path.exists() else {}
    missing = [s.id for s in samples if not known.get(s.video, "").strip()]
    if missing:
        raise RunError(
            f"{path}: {len(missing)} of {len(samples)} samples have no description of iteration {iteration - 1} to look back at "
            f"(first: {missing[0]}); run respond of iteration {iteration - 1} on the same videos, or set respond.context=fresh"
        )
    return known


def describe(stage: Stage, model: "VideoModel", names: list[str], features: dict, previous: dict[str, str]) -> dict[str, str]:
    """c_t by video; {} with `context: none`."""
    settings, templates = stage.params.respond, stage.params.prompts
    log, size = stage.log("contexts.jsonl", dict, settings.batch_size), settings.batch_size
    batches = [names[at : at + size] for at in range(0, len(names), size)] if settings.context != "none" else []
    for batch in progress(batches[log.done :], len(batches) - log.done, f"iteration {stage.t}: describe"):
        asked = [templates.context if n not in previous else prompts.retrospection_request(templates.retrospection, previous[n]) for n in batch]
        texts = model.generate(
            [features[n] for n in batch], [prompts.conversation(a) for a in asked], max_new_tokens=settings.context_max_new_tokens,
            temperature=settings.context_temperature, top_p=settings.top_p, top_k=settings.top_k,
            seeds=[draw_seed(stage.params.seed, stage.t, n, "context") for n in batch],
        )  # fmt: skip
        log.append([{"video": n, "context": c, "previous_context": previous.get(n)} for n, c in zip(batch, texts, strict=True)])
    return {row["video"]: row["context"] for row in log.rows()}


def respond(stage: Stage, model: "VideoModel", samples: list[records.Sample], features: dict, contexts: dict, previous: dict) -> None:
    """y1 and y2 of every sample; an empty one, or an empty description, makes a bad sample."""
    settings = stage.params.respond
    log, size = stage.log("responses.jsonl", records.Responses, settings.batch_size), settings.batch_size
    batches = [samples[at : at + size] for at in range(0, len(samples), size)]
    for batch in progress(batches[log.done :], len(batches) - log.done, f"iteration {stage.t}: respond"):
        drawn = [
            model.generate(
                [features[s.video] for s in batch], [prompts.conversation(s.question) for s in batch], max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k,
                seeds=[draw_seed(stage.params.seed, stage.t, s.id, name) for s in batch],
            )
            for name in ("y1", "y2")
        ]  # fmt: skip
        log.append([
            records.Responses(s.id, [y1, y2], contexts.get(s.video), previous.get(s.video))
            for s, y1, y2 in zip(batch, *drawn, strict=True)
        ])  # fmt: skip
    for row in log.rows():
        if not all(text.strip() for text in row.responses):
            stage.bad(row.id, "empty response")
        elif row.context is not None and not row.context.strip():
            stage.bad(row.id, "empty context")
    stage.count("described", len(contexts))


if __name__ == "__main__":
    stage_main("respond")
