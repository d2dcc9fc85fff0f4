"""Stage 2, respond and look back: python -m isrdpo.stages.respond --run outputs/toybox --iteration 1

samples.jsonl -> contexts.jsonl (c_t, one a video) and responses.jsonl (y1, y2). c_t ~ pi_t(V, c_{t-1}): the description that the
previous iteration wrote is read from its file (paper section 3, self-retrospection); at t = 1 there is none. Where iterations have videos of their own
(data.reuse: false), pi_{t-1} describes the new ones first -> previous_contexts.jsonl.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from isrdpo.core import prompts, records
from isrdpo.core.clips import find_clip
from isrdpo.core.errors import RunError
from isrdpo.core.pipeline import looks_back, needs_previous_contexts
from isrdpo.core.progress import progress_bar
from isrdpo.core.runs import Run, Stage, draw_seed, stage_main

if TYPE_CHECKING:
    from isrdpo.models.local import Video, VideoModel


def run(run: Run, iteration: int) -> None:
    with run.stage("respond", iteration) as stage:
        if stage is None:
            return
        if stage.params.judge.method == "given":
            idle(stage)
            return
        samples = records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample)
        stage.total = len(samples)
        previous = looked_back(run, iteration, samples)
        size = stage.params.respond.batch_size
        contexts, responses = stage.log("contexts.jsonl", dict, size), stage.log("responses.jsonl", records.Responses, size)
        write(stage, run, samples, previous, contexts, responses)
        count(stage, responses.rows(), contexts.rows())


def idle(stage: Stage) -> None:
    """The pairs are the data set's own: no model is opened, the files are there and empty."""
    for name in ("contexts.jsonl", "responses.jsonl"):
        records.write_jsonl(stage.path(name), [])
    stage.count("described", 0)
    stage.warn("no responses and no descriptions: the pairs are the data set's own (judge.method: given)")


def looked_back(run: Run, iteration: int, samples: list[records.Sample]) -> dict[str, str]:
    """c_{t-1} by video, as far as iteration t - 1 wrote it. Empty at t = 1 and where the context is not retrospective; a video that lacks it is an error
    where iterations share their videos, never silently described afresh."""
    if not looks_back(run.params, iteration):
        return {}
    path = run.file(iteration - 1, "contexts.jsonl")
    known = {row["video"]: row["context"] for row in records.read_jsonl(path, dict)} if path.exists() else {}
    missing = [s.id for s in samples if s.video not in known]
    if missing and not needs_previous_contexts(run.params, iteration):
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise RunError(
            f"{path}: {len(missing)} of {len(samples)} samples have no description of iteration {iteration - 1} to look back at ({named}); "
            f"remove {run.iteration(iteration - 1)} to have that iteration made again on the same videos, or set respond.context=fresh"
        )
    return known


def write(
    stage: Stage, run: Run, samples: list[records.Sample], previous: dict[str, str], contexts: records.BatchLog, responses: records.BatchLog
) -> None:
    """Batch by batch what is not on disk yet; a batch's videos are encoded once, for the description and for both responses."""
    size = contexts.batch_size
    batches = records.cut_batches(samples, size)
    begin = min(contexts.done, responses.done)
    if begin == len(batches):
        return
    from isrdpo.models import local as vlmm

    previous = previous | described_before(stage, run, samples, previous)
    model, root = vlmm.open_model(run.params, run.policy(stage.t)), run.videos_folder()
    known = {row["video"]: row["context"] for row in contexts.rows()}
    for number in progress_bar(range(begin, len(batches)), len(batches) - begin, f"iteration {stage.t}: respond"):
        batch = batches[number]
        names = list(dict.fromkeys(s.video for s in batch))
        features = dict(zip(names, model.encode([find_clip(root, n) for n in names]), strict=True))
        if contexts.done == number:
            rows = describe(stage, model, {n: features[n] for n in names if n not in known}, previous)
            contexts.append(rows)
            known |= {row["video"]: row["context"] for row in rows}
        if responses.done == number:
            responses.append(respond(stage, model, batch, features, known, previous))


def described_before(stage: Stage, run: Run, samples: list[records.Sample], previous: dict[str, str]) -> dict[str, str]:
    """c_{t-1} of the videos that iteration t - 1 had not, by pi_{t-1}: a plain description, drawn as it would have drawn it then."""
    names = [name for name in dict.fromkeys(s.video for s in samples) if name not in previous] if needs_previous_contexts(run.params, stage.t) else []
    if not names:
        return {}
    size = stage.params.respond.batch_size
    log, batches = stage.log("previous_contexts.jsonl", dict, size), records.cut_batches(names, size)
    if log.done < len(batches):
        from isrdpo.models import local as vlmm

        path = run.policy(stage.t - 1)
        if stage.t > 2 and not Path(path).is_dir():
            raise RunError(f"{path}: the policy that is to describe the new videos is gone; run the train stage of iteration {stage.t - 2} again")
        model, root = vlmm.open_model(run.params, path), run.videos_folder()
        for batch in progress_bar(batches[log.done :], len(batches) - log.done, f"iteration {stage.t}: describe new videos as before"):
            features = model.encode([find_clip(root, name) for name in batch])
            texts = described(stage, model, features, [stage.params.prompts.context] * len(batch), batch, stage.t - 1)
            log.append([{"video": name, "context": text} for name, text in zip(batch, texts, strict=True)])
    return {row["video"]: row["context"] for row in log.rows()}


def described(stage: Stage, model: "VideoModel", videos: "list[Video]", requests: list[str], names: list[str], t: int) -> list[str]:
    """A description of each video, under the draws of iteration t."""
    settings = stage.params.respond
    return model.generate(
        videos, requests, max_new_tokens=settings.context_max_new_tokens,
        temperature=settings.context_temperature, top_p=settings.top_p, top_k=settings.top_k,
        seeds=[draw_seed(stage.params.seed, t, name, "context") for name in names],
    )  # fmt: skip


def describe(stage: Stage, model: "VideoModel", features: "dict[str, Video]", previous: dict[str, str]) -> list[dict]:
    """c_t of each video (`features` by name), as rows; none with `context: none`."""
    templates, names = stage.params.prompts, list(features)
    if stage.params.respond.context == "none":
        return []
    asked = [templates.context if n not in previous else prompts.retrospection_request(templates.retrospection, previous[n]) for n in names]
    texts = described(stage, model, list(features.values()), asked, names, stage.t)
    return [{"video": n, "context": text, "previous_context": previous.get(n)} for n, text in zip(names, texts, strict=True)]


def respond(
    stage: Stage, model: "VideoModel", batch: list[records.Sample], features: "dict[str, Video]", contexts: dict, previous: dict
) -> list[records.Responses]:
    """y1 and y2 of each sample, with the c_t that will judge them. Drawn together, so that a video is read once for both."""
    settings = stage.params.respond
    twice = [(s, name) for name in ("y1", "y2") for s in batch]
    texts = model.generate(
        [features[s.video] for s, _ in twice], [s.question for s, _ in twice], max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k,
        seeds=[draw_seed(stage.params.seed, stage.t, s.id, name) for s, name in twice],
    )  # fmt: skip
    drawn = zip(batch, texts[: len(batch)], texts[len(batch) :], strict=True)
    return [records.Responses(s.id, [y1, y2], contexts.get(s.video), previous.get(s.video)) for s, y1, y2 in drawn]


def count(stage: Stage, responses: list[records.Responses], contexts: list[dict]) -> None:
    """An empty response, or an empty description, makes a bad sample. An empty c_{t-1} is looked back at as it is, and said."""
    for row in responses:
        if not all(text.strip() for text in row.responses):
            stage.bad(row.id, "empty response")
        elif row.context is not None and not row.context.strip():
            stage.bad(row.id, "empty context")
    empty = sum(row["previous_context"] is not None and not row["previous_context"].strip() for row in contexts)
    stage.count("described", len(contexts))
    stage.count("empty_previous", empty)
    if empty:
        stage.warn(f"{empty} of {len(contexts)} descriptions looked back at an empty one")


if __name__ == "__main__":
    stage_main("respond", run)
