"""What only pages need: python -m isrdpo.stages.look --run outputs/toybox --iteration 1

The judge's pairs once more without the description (`look.without_context`) -> judgments_no_context.jsonl, and for a few of them where the
judge looks (`look.examples`) -> looks.jsonl. No other stage reads either, so both can be switched on and off and no row is made anew.
A heat map is gradient times input: |d log-odds / d pixel x (pixel - blank)|, summed over a cell, where blank is the frame's median color.
Its control: the hottest tenth of the cells is blanked, and as many random ones; a map that means something moves the verdict more.
"""

from typing import TYPE_CHECKING

from isrdpo.core import prompts, records
from isrdpo.core.clips import find_clip
from isrdpo.core.progress import progress_bar
from isrdpo.core.runs import Run, Stage, draw_seed, stage_main
from isrdpo.formats import video
from isrdpo.models import verdicts

if TYPE_CHECKING:
    from torch import Tensor

    from isrdpo.models.local import VideoModel

GRID = 12  # cells a side of a heat map, at most
BLANKED = 0.1  # share of the cells that the control blanks
DRAWS = 8  # random blankings that it is compared with


def run(run: Run, iteration: int) -> None:
    with run.stage("look", iteration) as stage:
        if stage is None:
            return
        from pathlib import Path

        from isrdpo.models import local as vlmm

        settings, policy = stage.params.look, run.policy(iteration)
        samples = {s.id: s for s in records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample)}
        asked = {call.id for call in records.read_jsonl(run.file(iteration, "judgments.jsonl"), records.Judgment)}
        rows = [r for r in records.read_jsonl(run.file(iteration, "responses.jsonl"), records.Responses) if r.id in asked]
        stage.total = len(rows)
        with_context = [r for r in rows if r.context is not None]
        if not rows or not (settings.without_context and with_context or settings.examples):
            return
        if iteration > 1 and not Path(policy).is_dir():
            stage.warn(f"the policy that judged is gone (keep_policies: {run.params.keep_policies}): no verdicts without the description, no heat maps")
            return
        model = vlmm.open_model(run.params, policy)
        if settings.without_context and with_context:
            judge_again(stage, run, model, samples, with_context)
        if settings.examples and not model.explains:
            stage.warn(f"{run.params.model.path}: heat maps are drawn for LLaVA-Hound checkpoints only; look.examples has no effect")
            return
        records.write_jsonl(stage.path("looks.jsonl"), [looked for row in chosen(stage, run, rows) for looked in look(stage, run, model, samples[row.id], row)])


def judge_again(stage: Stage, run: Run, model: "VideoModel", samples: dict[str, records.Sample], rows: list[records.Responses]) -> None:
    """The same pairs, by the same policy, without a description."""
    size, root, asked = stage.params.judge.batch_size, run.videos_folder(), verdicts.own(stage.params)
    log = stage.log("judgments_no_context.jsonl", records.Judgment, size)
    batches = records.cut_batches(rows, size)
    for batch in progress_bar(batches[log.done :], len(batches) - log.done, f"iteration {stage.t}: judge without the description"):
        videos = model.encode([find_clip(root, samples[r.id].video) for r in batch])
        made = verdicts.ask(model, asked, [r.id for r in batch], videos, [samples[r.id].question for r in batch], [r.responses for r in batch], [None] * len(batch))
        log.append([call for calls in made for call in calls])


def chosen(stage: Stage, run: Run, rows: list[records.Responses]) -> list[records.Responses]:
    """The examples: those whose log-odds the description moves most, where both were scored; else the first ones."""
    odds: list[dict[str, float]] = [{}, {}]
    for found, name in zip(odds, ("judgments.jsonl", "judgments_no_context.jsonl"), strict=True):
        path = run.file(stage.t, name)
        for call in records.read_jsonl(path, records.Judgment) if path.exists() else []:
            if call.scores and call.order == 0:
                found[call.id] = call.scores[1] - call.scores[0]
    moved = {row.id: abs(odds[0][row.id] - odds[1][row.id]) for row in rows if row.id in odds[0] and row.id in odds[1]}
    return sorted(rows, key=lambda row: -moved.get(row.id, 0.0))[: stage.params.look.examples]


def look(stage: Stage, run: Run, model: "VideoModel", sample: records.Sample, row: records.Responses) -> list[dict]:
    """Rows of one pair, in its first order: `judged` (with its description, without, and each with the hottest cells blanked), `log_odds` of the second response
    over the first (nats), `heat` [T][g][g], and for the control `random_log_odds`."""
    import torch

    path = run.clip(sample.video)
    seen = model.encode([path])[0]
    pixels = model.processor.pixels(video.read(path, model.processor.frames, stage.params.video.span).frames)
    blank = pixels.flatten(2).median(-1).values[..., None, None].expand_as(pixels)
    grid = max(g for g in range(1, GRID + 1) if pixels.shape[-1] % g == 0)
    made, template = [], stage.params.prompts
    for context in dict.fromkeys([row.context, None]):
        request = prompts.judge_request(template.judge_without_context if context is None else template.judge, sample.question, *row.responses, context)
        if model.room(request, seen) < 1:
            continue
        name, base = "without" if context is None else "with its description", {"id": sample.id, "video": sample.video}
        odds, heat = model.gradient(pixels, blank, request, grid)
        made.append(base | {"judged": name, "log_odds": odds, "heat": heat.tolist()})
        count = max(1, round(BLANKED * heat.numel()))
        hottest = heat.flatten().topk(count).indices
        blanked, after = model.gradient(_blanked(pixels, blank, hottest, grid), blank, request, grid)
        draws = torch.Generator().manual_seed(draw_seed(stage.params.seed, stage.t, sample.id, "look"))
        others = [model.gradient(_blanked(pixels, blank, torch.randperm(heat.numel(), generator=draws)[:count], grid), blank, request, grid)[0] for _ in range(DRAWS)]
        made.append(base | {"judged": f"{name}, blanked", "log_odds": blanked, "heat": after.tolist(), "random_log_odds": others})
    return made


def _blanked(pixels: "Tensor", blank: "Tensor", cells: "Tensor", grid: int) -> "Tensor":
    """pixels [T, 3, S, S] with the given cells (indices into [T, grid, grid]) replaced by `blank`."""
    import torch

    mask = torch.zeros(pixels.shape[0] * grid * grid, dtype=torch.bool)
    mask[cells] = True
    size = pixels.shape[-1] // grid
    mask = mask.view(-1, 1, grid, grid).repeat_interleave(size, 2).repeat_interleave(size, 3)
    return torch.where(mask, blank, pixels)


if __name__ == "__main__":
    stage_main("look", run)
