"""Beside judge, for pages only: python -m isrdpo.stages.look --run outputs/toybox --iteration 1

The judge's pairs once more without the description (`look.without_context`) -> judgments_no_context.jsonl,
and for a few of them the places where the judge looks (`look.examples`) -> looks.jsonl. No other stage
reads either, so both can be switched on and off and no row is made again.

A heat map is gradient times input: |d log-odds / d pixel x (pixel - blank)|, summed over a cell, where
blank is the frame's median color. Its control: the hottest tenth of the cells is blanked, and as many
random ones; a map that means something moves the verdict more than they do.
"""

from typing import TYPE_CHECKING

from isrdpo.core import prompts, records
from isrdpo.core.left_out import BadItem
from isrdpo.core.records import Judgment, Responses, Sample
from isrdpo.core.runs import Run, draw_seed, stage_main
from isrdpo.core.stage import Stage
from isrdpo.formats import video
from isrdpo.models import verdicts
from isrdpo.models.resources import one_line_errors
from isrdpo.stages.policies import Request, encode_clip, encode_usable, open_policy

if TYPE_CHECKING:
    from torch import Tensor

    from isrdpo.models.local import LocalPolicy

GRID = 12  # cells on a side of a heat map, at most
BLANKED = 0.1  # share of the cells that the control blanks
DRAWS = 8  # random blankings that it is compared with
LESS_MEMORY = "judge.batch_size, look.examples or video.max_pixels, or choose a smaller model.dtype"


def run(run: Run, iteration: int) -> None:
    """Judge the pairs of iteration t without their descriptions, and draw heat maps of some of them."""
    with run.stage("look", iteration) as stage, one_line_errors("look", LESS_MEMORY):
        if stage is None:
            return
        samples = {row.id: row for row in records.read_jsonl(stage.path("samples.jsonl"), Sample)}
        pairs = judged_responses(stage)
        described = [row for row in pairs if row.context is not None]
        stage.total = len(pairs)
        settings = stage.params.look
        judge_again = settings.without_context and bool(described)
        if not pairs or not (judge_again or settings.examples):
            return
        if not run.has_policy(iteration):
            keep = run.params.keep_policies
            stage.warn(
                f"the policy that judged is gone (keep_policies: {keep}): "
                f"no verdicts without the description, no heat maps"
            )
            return
        policy = open_policy(stage, run.policy(iteration))
        if judge_again:
            judge_without_context(stage, policy, samples, described)
        if settings.examples and policy.cannot_explain:
            stage.warn(f"{policy.cannot_explain}; look.examples has no effect")
            return
        rows = []
        left_out = {bad["id"] for bad in stage.bad_samples}
        for row in choose_examples(stage, [pair for pair in pairs if pair.id not in left_out]):
            rows += heat_maps(stage, policy, samples[row.id], row)
        records.write_jsonl(stage.path("looks.jsonl"), rows)


def judged_responses(stage: Stage) -> list[Responses]:
    """The rows of responses.jsonl that a verdict was asked for."""
    judged = {call.id for call in records.read_jsonl(stage.path("judgments.jsonl"), Judgment)}
    rows = records.read_jsonl(stage.path("responses.jsonl"), Responses)
    return [row for row in rows if row.id in judged]


def judge_without_context(
    stage: Stage, policy: "LocalPolicy", samples: dict[str, Sample], pairs: list[Responses]
) -> None:
    """Ask the same policy for verdicts on the same pairs, without a description."""
    size = stage.params.judge.batch_size
    batches = stage.batches(
        "judgments_no_context.jsonl",
        Judgment,
        records.cut_batches(pairs, size),
        size,
        "judge without the description",
    )
    params = verdicts.own_verdicts_params(stage.params)
    for batch in batches:
        requests = [Request(row.id, samples[row.id].video) for row in batch]
        videos = encode_usable(stage, policy, batches, requests)
        usable = [row for row in batch if row.id in videos]
        calls = verdicts.ask_policy(
            policy,
            params,
            list(videos),
            list(videos.values()),
            [samples[row.id].question for row in usable],
            [row.responses for row in usable],
            [None] * len(usable),
        )
        batches.append([call for row_calls in calls for call in row_calls])
    stage.bad_left_out(batches)


def choose_examples(stage: Stage, pairs: list[Responses]) -> list[Responses]:
    """The pairs whose log-odds the description moves most, where both verdicts were scored; else the first
    ones.
    """
    with_context = first_log_odds(stage, "judgments.jsonl")
    without = first_log_odds(stage, "judgments_no_context.jsonl")
    moved = {name: abs(with_context[name] - without[name]) for name in with_context.keys() & without.keys()}
    ranked = sorted(pairs, key=lambda row: -moved.get(row.id, 0.0))
    return ranked[: stage.params.look.examples]


def first_log_odds(stage: Stage, name: str) -> dict[str, float]:
    """Log-odds (nats) of the second response over the first, in the first order, of each scored verdict in
    a file.
    """
    path = stage.path(name)
    calls = records.read_jsonl(path, Judgment) if path.exists() else []
    return {call.id: call.scores[1] - call.scores[0] for call in calls if call.scores and call.order == 0}


def heat_maps(stage: Stage, policy: "LocalPolicy", sample: Sample, row: Responses) -> list[dict]:
    """Rows of one pair, in its first order: with its description and without, each also with its hottest
    cells blanked.

    A row has `judged` (which of these it is), `log_odds` of the second response over the first (nats),
    `heat` [T][g][g], and for the control `random_log_odds`.
    """
    try:
        encoded = encode_clip(stage.run, policy, sample.video)
    except BadItem as error:
        stage.bad(sample.id, error.cause, str(error))
        return []
    path = stage.run.clip(sample.video)
    clip = video.read_clip(
        path, policy.processor.frames, stage.params.video.span, video.decode_limits(stage.params)
    )
    pixels = policy.processor.pixels(clip.frames)
    blank = pixels.flatten(2).median(-1).values[..., None, None].expand_as(pixels)
    rows = []
    for context in dict.fromkeys([row.context, None]):
        templates = stage.params.prompts
        template = templates.judge_without_context if context is None else templates.judge
        request = prompts.judge_request(template, sample.question, *row.responses, context)
        if policy.room(request, encoded) < 1:
            continue
        name = "without" if context is None else "with its description"
        for values in heat_map_and_control(stage, policy, sample.id, pixels, blank, request):
            label = f"{name}, blanked" if "random_log_odds" in values else name
            rows.append({"id": sample.id, "video": sample.video, "judged": label} | values)
    return rows


def heat_map_and_control(
    stage: Stage, policy: "LocalPolicy", name: str, pixels: "Tensor", blank: "Tensor", request: str
) -> list[dict]:
    """The heat map of a verdict, and the same with its hottest cells blanked. pixels and blank: float [T,
    3, S, S].
    """
    import torch

    grid = max(cells for cells in range(1, GRID + 1) if pixels.shape[-1] % cells == 0)
    odds, heat = policy.gradient(pixels, blank, request, grid)
    count = max(1, round(BLANKED * heat.numel()))
    hottest = heat.flatten().topk(count).indices
    odds_blanked, heat_blanked = policy.gradient(
        blank_cells(pixels, blank, hottest, grid), blank, request, grid
    )
    generator = torch.Generator().manual_seed(draw_seed(stage.params.seed, stage.t, name, "look"))
    random_odds = []
    for _ in range(DRAWS):
        cells = torch.randperm(heat.numel(), generator=generator)[:count]
        random_odds.append(policy.gradient(blank_cells(pixels, blank, cells, grid), blank, request, grid)[0])
    return [
        {"log_odds": odds, "heat": heat.tolist()},
        {"log_odds": odds_blanked, "heat": heat_blanked.tolist(), "random_log_odds": random_odds},
    ]


def blank_cells(pixels: "Tensor", blank: "Tensor", cells: "Tensor", grid: int) -> "Tensor":
    """pixels [T, 3, S, S] with the cells (indices into [T, grid, grid]) replaced by `blank`."""
    import torch

    mask = torch.zeros(pixels.shape[0] * grid * grid, dtype=torch.bool)
    mask[cells] = True
    size = pixels.shape[-1] // grid
    mask = mask.view(-1, 1, grid, grid).repeat_interleave(size, 2).repeat_interleave(size, 3)
    return torch.where(mask, blank, pixels)


if __name__ == "__main__":
    stage_main("look", run)
