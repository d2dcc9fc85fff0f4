"""Stage 2, respond and look back: python -m isrdpo.stages.respond --run outputs/toybox --iteration 1

samples.jsonl -> contexts.jsonl (c_t, one for each video) and responses.jsonl (y1, y2). The context c_t ~
pi_t(V, c_{t-1}) is written with the description at hand that the previous iteration wrote (paper, section
3, self-retrospection); at t = 1 there is none. Two passes: descriptions by video, then responses by sample.
Where every iteration has videos of its own (data.reuse: false), pi_{t-1} first describes the new ones ->
previous_contexts.jsonl.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from isrdpo.core import prompts, records
from isrdpo.core.errors import RunError
from isrdpo.core.judges import JUDGES
from isrdpo.core.left_out import CAUSES, NO_EARLIER_DESCRIPTION, BadItem
from isrdpo.core.pipeline import looks_back, needs_previous_contexts
from isrdpo.core.records import Context, PreviousContext, Responses, Sample
from isrdpo.core.replies import UNFINISHED, spoken
from isrdpo.core.runs import Run, draw_seed, stage_main
from isrdpo.core.stage import Batches, Stage
from isrdpo.models.resources import one_line_errors
from isrdpo.stages.policies import NewTokens, Request, encode_usable, open_policy, require_policy

if TYPE_CHECKING:
    from isrdpo.models.interface import Policy

LESS_MEMORY = "respond.batch_size or video.max_pixels, or choose a smaller model.dtype"


def run(run: Run, iteration: int) -> None:
    """Describe the videos of iteration t, and draw two responses to each of its samples.

    A sample whose clip cannot be used, or whose request is longer than the model's positions, is left out.
    """
    with run.stage("respond", iteration) as stage, one_line_errors("respond", LESS_MEMORY):
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
            respond(stage, policy, responding, describing, previous)
        stage.bad_left_out(responding)
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

    Raises RunError where iterations share their videos and one of them has no c_{t-1}, though it was not left
    out as bad: it is never described afresh in silence.
    """
    run = stage.run
    if not looks_back(run.params, stage.t):
        return {}
    path = run.file(stage.t - 1, "contexts.jsonl")
    rows = records.read_jsonl(path, Context) if path.exists() else []
    contexts = {row.video: row.context for row in rows}
    left_out = left_out_before(run, stage.t - 1)
    without = [sample.id for sample in samples if sample.video not in contexts]
    missing = [sample_id for sample_id in without if sample_id not in left_out]
    if missing and not needs_previous_contexts(run.params, stage.t):
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise RunError(
            f"{path}: {len(missing)} of {len(samples)} samples have no description of iteration "
            f"{stage.t - 1} to look back at ({names}); remove {run.iteration(stage.t - 1)} to have that "
            f"iteration made again on the same videos, or set respond.context=fresh"
        )
    return contexts


def left_out_before(run: Run, t: int) -> set[str]:
    """The samples that iteration t neither described nor responded to."""
    path = run.file(t, "bad_respond.jsonl")
    rows = records.read_jsonl(path, dict) if path.exists() else []
    return {row["id"] for row in rows if row["cause"] in CAUSES}


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
            requests = dict.fromkeys(batch, stage.params.prompts.context)
            texts = draw_contexts(stage, policy, describing, requests, stage.t - 1)
            describing.append([PreviousContext(name, text) for name, text in texts.items()])
    return {row.video: row.context for row in describing.rows()}


def describe(stage: Stage, policy: "Policy", batches: Batches[str], previous: dict[str, str]) -> None:
    """Draw c_t of each video, with c_{t-1} at hand where there is one."""
    templates = stage.params.prompts
    for names in batches:
        requests = {}
        for name in names:
            if name in previous:
                requests[name] = prompts.retrospection_request(templates.retrospection, previous[name])
            elif looks_back(stage.params, stage.t):
                detail = f"{name}: it could not be described as in iteration {stage.t - 1}, to look back at"
                batches.leave_out(name, BadItem(NO_EARLIER_DESCRIPTION, detail))
            else:
                requests[name] = templates.context
        texts = draw_contexts(stage, policy, batches, requests, stage.t)
        batches.append([Context(name, text, previous.get(name)) for name, text in texts.items()])


def draw_contexts(
    stage: Stage, policy: "Policy", batches: Batches[str], requests: dict[str, str], t: int
) -> dict[str, str]:
    """One description of each video, under the draws of iteration t; both by the video's name.

    Videos that cannot be described are left out of the batch.
    """
    settings = stage.params.respond
    limit = settings.context_max_new_tokens
    videos = encode_usable(
        stage,
        policy,
        batches,
        [Request(name, name, text) for name, text in requests.items()],
        NewTokens("respond.context_max_new_tokens", limit),
    )
    replies = policy.generate(
        list(videos.values()),
        [requests[name] for name in videos],
        max_new_tokens=limit,
        temperature=settings.context_temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        seeds=[draw_seed(stage.params.seed, t, name, "context") for name in videos],
    )
    texts = [spoken(reply) for reply in replies]
    return dict(zip(videos, texts, strict=True))


def respond(
    stage: Stage,
    policy: "Policy",
    batches: Batches[Sample],
    describing: Batches[str],
    previous: dict[str, str],
) -> None:
    """Draw y1 and y2 to each sample. Both are drawn together, so that a video is read once for both.

    A sample whose video has no description is left out for the reason why it has none.
    """
    settings = stage.params.respond
    contexts = {row.video: row.context for row in describing.rows()}
    undescribed = {item.id: item for item in describing.left_out.items}
    new_tokens = NewTokens("respond.max_new_tokens", settings.max_new_tokens)
    for batch in batches:
        requests = []
        for sample in batch:
            if item := undescribed.get(sample.video):
                clip = Path(item.clip) if item.clip else None
                batches.leave_out(sample.id, BadItem(item.cause, item.detail, clip))
            else:
                requests.append(Request(sample.id, sample.video, sample.question))
        encoded = encode_usable(stage, policy, batches, requests, new_tokens)
        usable = [sample for sample in batch if sample.id in encoded]
        draws = [(sample, name) for name in ("y1", "y2") for sample in usable]
        replies = policy.generate(
            [encoded[sample.id] for sample, _ in draws],
            [sample.question for sample, _ in draws],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            seeds=[draw_seed(stage.params.seed, stage.t, sample.id, name) for sample, name in draws],
        )
        texts = [spoken(reply) for reply in replies]
        batches.append(
            [
                Responses(sample.id, [y1, y2], contexts.get(sample.video), previous.get(sample.video))
                for sample, y1, y2 in zip(usable, texts[: len(usable)], texts[len(usable) :], strict=True)
            ]
        )


def count_empty(stage: Stage, responses: list[Responses], contexts: list[Context]) -> None:
    """List samples with an empty response or an empty description as bad, also where only a thought was
    begun.

    An empty c_{t-1} is looked back at as it is, and said.
    """
    for row in responses:
        if UNFINISHED in (*row.responses, row.context):
            stage.bad(row.id, "unfinished thought")
        elif not all(text.strip() for text in row.responses):
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
