"""Stage 2, respond and look back: python -m isrdpo.stages.respond --run outputs/toybox --iteration 1

samples.jsonl -> contexts.jsonl (c_t, one for each video) and responses.jsonl (y1, y2). The context c_t ~
pi_t(V, c_{t-1}) is written with the description at hand that the previous iteration wrote (paper, section
3, self-retrospection); at t = 1 there is none. Two passes: descriptions by video, then responses by sample.
Where every iteration has videos of its own (data.reuse: false), pi_{t-1} first describes the new ones ->
previous_contexts.jsonl.
"""

from typing import TYPE_CHECKING

from isrdpo.core import prompts, records
from isrdpo.core.errors import RunError
from isrdpo.core.judges import JUDGES
from isrdpo.core.pipeline import looks_back, needs_previous_contexts
from isrdpo.core.records import Context, PreviousContext, Responses, Sample
from isrdpo.core.runs import Run, draw_seed, stage_main
from isrdpo.core.stage import Batches, Stage
from isrdpo.stages.policies import open_policy, require_policy

if TYPE_CHECKING:
    from isrdpo.models.interface import Policy


def run(run: Run, iteration: int) -> None:
    """Describe the videos of iteration t, and draw two responses to each of its samples."""
    with run.stage("respond", iteration) as stage:
        if stage is None:
            return
        if not JUDGES[stage.params.judge.method].needs_responses:
            write_nothing(stage)
            return
        samples = records.read_jsonl(stage.path("samples.jsonl"), Sample)
        stage.total = len(samples)
        previous = read_previous_contexts(stage, samples)
        size = stage.params.respond.batch_size
        sample_batches = records.cut_batches(samples, size)
        video_batches = new_videos(sample_batches) if stage.params.respond.context != "none" else []
        describing = stage.batches("contexts.jsonl", Context, video_batches, size, "describe")
        responding = stage.batches("responses.jsonl", Responses, sample_batches, size, "respond")
        if not (describing.complete and responding.complete):
            previous |= describe_as_before(stage, samples, previous)
            policy = open_policy(stage, run.policy(iteration))
            describe(stage, policy, describing, previous)
            contexts = {row.video: row.context for row in describing.rows()}
            respond(stage, policy, responding, contexts, previous)
        count_empty(stage, responding.rows(), describing.rows())


def write_nothing(stage: Stage) -> None:
    """Leave empty files where the pairs are the data set's own: no policy is opened."""
    for name in ("contexts.jsonl", "responses.jsonl"):
        records.write_jsonl(stage.path(name), [])
    stage.count("described", 0)
    stage.warn(
        "no responses and no descriptions: the pairs are the data set's own "
        f"(judge.method: {stage.params.judge.method})"
    )


def new_videos(sample_batches: list[list[Sample]]) -> list[list[str]]:
    """For each batch of samples, its videos that no earlier batch has."""
    described: set[str] = set()
    batches = []
    for batch in sample_batches:
        names = [name for name in dict.fromkeys(sample.video for sample in batch) if name not in described]
        described.update(names)
        batches.append(names)
    return batches


def read_previous_contexts(stage: Stage, samples: list[Sample]) -> dict[str, str]:
    """c_{t-1} by video, as far as iteration t - 1 wrote it; empty where iteration t does not look back.

    Raises RunError where iterations share their videos and one of them has no c_{t-1}: it is never
    described afresh in silence.
    """
    run = stage.run
    if not looks_back(run.params, stage.t):
        return {}
    path = run.file(stage.t - 1, "contexts.jsonl")
    rows = records.read_jsonl(path, Context) if path.exists() else []
    contexts = {row.video: row.context for row in rows}
    missing = [sample.id for sample in samples if sample.video not in contexts]
    if missing and not needs_previous_contexts(run.params, stage.t):
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise RunError(
            f"{path}: {len(missing)} of {len(samples)} samples have no description of iteration "
            f"{stage.t - 1} to look back at ({names}); remove {run.iteration(stage.t - 1)} to have that "
            f"iteration made again on the same videos, or set respond.context=fresh"
        )
    return contexts


def describe_as_before(stage: Stage, samples: list[Sample], previous: dict[str, str]) -> dict[str, str]:
    """c_{t-1} of the videos that iteration t - 1 did not have, by pi_{t-1}: a plain description, under the
    draws of t - 1.
    """
    if not needs_previous_contexts(stage.params, stage.t):
        return {}
    names = [name for name in dict.fromkeys(sample.video for sample in samples) if name not in previous]
    size = stage.params.respond.batch_size
    batches = records.cut_batches(names, size)
    describing = stage.batches(
        "previous_contexts.jsonl", PreviousContext, batches, size, "describe new videos as before"
    )
    if not describing.complete:
        path = require_policy(stage.run, stage.t - 1, "describe the new videos")
        policy = open_policy(stage, path)
        for batch in describing:
            requests = [stage.params.prompts.context] * len(batch)
            texts = draw_contexts(stage, policy, batch, requests, stage.t - 1)
            describing.append([PreviousContext(n, text) for n, text in zip(batch, texts, strict=True)])
    return {row.video: row.context for row in describing.rows()}


def describe(stage: Stage, policy: "Policy", batches: Batches[str], previous: dict[str, str]) -> None:
    """Draw c_t of each video, with c_{t-1} at hand where there is one."""
    templates = stage.params.prompts
    for names in batches:
        requests = [
            prompts.retrospection_request(templates.retrospection, previous[name])
            if name in previous
            else templates.context
            for name in names
        ]
        texts = draw_contexts(stage, policy, names, requests, stage.t)
        batches.append([Context(n, text, previous.get(n)) for n, text in zip(names, texts, strict=True)])


def draw_contexts(stage: Stage, policy: "Policy", names: list[str], requests: list[str], t: int) -> list[str]:
    """One description of each video, under the draws of iteration t."""
    settings = stage.params.respond
    return policy.generate(
        policy.encode([stage.run.clip(name) for name in names]),
        requests,
        max_new_tokens=settings.context_max_new_tokens,
        temperature=settings.context_temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        seeds=[draw_seed(stage.params.seed, t, name, "context") for name in names],
    )


def respond(
    stage: Stage,
    policy: "Policy",
    batches: Batches[Sample],
    contexts: dict[str, str],
    previous: dict[str, str],
) -> None:
    """Draw y1 and y2 to each sample. Both are drawn together, so that a video is read once for both."""
    settings = stage.params.respond
    for batch in batches:
        videos = policy.encode([stage.run.clip(sample.video) for sample in batch])
        draws = [(sample, name) for name in ("y1", "y2") for sample in batch]
        texts = policy.generate(
            videos * 2,
            [sample.question for sample, _ in draws],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            seeds=[draw_seed(stage.params.seed, stage.t, sample.id, name) for sample, name in draws],
        )
        batches.append(
            [
                Responses(sample.id, [y1, y2], contexts.get(sample.video), previous.get(sample.video))
                for sample, y1, y2 in zip(batch, texts[: len(batch)], texts[len(batch) :], strict=True)
            ]
        )


def count_empty(stage: Stage, responses: list[Responses], contexts: list[Context]) -> None:
    """List samples with an empty response or an empty description as bad.

    An empty c_{t-1} is looked back at as it is, and said.
    """
    for row in responses:
        if not all(text.strip() for text in row.responses):
            stage.bad(row.id, "empty response")
        elif row.context is not None and not row.context.strip():
            stage.bad(row.id, "empty context")
    looked_back = [row.previous_context for row in contexts if row.previous_context is not None]
    empty = sum(not text.strip() for text in looked_back)
    stage.count("described", len(contexts))
    stage.count("empty_previous", empty)
    if empty:
        stage.warn(f"{empty} of {len(contexts)} descriptions looked back at an empty one")


if __name__ == "__main__":
    stage_main("respond", run)
