"""What sharing work between the calls that see the same video saves, side by side in one run. Notebook 07 draws it.

A case does the same work twice. `apart`: each call encodes (cases encode, train) or reads (respond, judge: features at hand) its video for itself, as a trainer
that is handed pixels and a plain loop over `generate` do. `shared`: as the stages do. Both must give the same before they are timed; then they take turns, and each turn is a ratio.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isrdpo.core.clips import find_clip
from isrdpo.core.params import Params
from isrdpo.core.progress import progress_bar


@dataclass(frozen=True)
class Case:
    """`apart` and `shared` return a tensor or a list of texts of the same meaning."""

    name: str
    what: str
    apart: Callable[[], Any]
    shared: Callable[[], Any]


def clips(params: Params, count: int) -> list[Path]:
    """Toybox's clips, whatever the model: the first `count` of its evaluation set."""
    from isrdpo.core.folders import resolve
    from isrdpo.toybox import world

    root = resolve(params.run).parent / ".cache" / "clips"
    return [find_clip(root, row.video) for row in world.samples("evaluate", count, 0, world.Difficulty(), root)]


def cases(params: Params, paths: list[Path]) -> list[Case]:
    """Encoding, answering twice, judging in both orders, and a step of DPO, over the clips in `paths` with the model of `params`."""
    from isrdpo.core import prompts
    from isrdpo.models import local as vlmm

    opened = vlmm.open_model(params, params.model.path)
    base, made, span = opened.model, opened.processor, params.video.span

    def fresh(share: bool) -> vlmm.VideoModel:
        return vlmm.VideoModel(base, made, span, None, params.video.max_pixels or 0, share)

    apart, shared, count = fresh(False), fresh(True), len(paths)
    shared.encode(paths)
    question, tokens = "What happens in the video?", params.respond.max_new_tokens
    how = {"temperature": params.respond.temperature, "top_p": params.respond.top_p, "top_k": params.respond.top_k, "max_new_tokens": tokens}
    asked = [
        prompts.judge_request(prompts.JUDGE_WITHOUT_CONTEXT, question, *pair, None)
        for pair in (("It moves to the left.", "It moves to the right and stops there."), ("It moves to the right and stops there.", "It moves to the left."))
    ]

    def features(seen: list[vlmm.Video]) -> list:
        return [video["features"] for video in seen]

    def twice(model: vlmm.VideoModel, together: bool) -> list[str]:
        videos = model.encode(paths)
        if together:
            return model.generate(videos * 2, [question] * (2 * count), seeds=list(range(2 * count)), **how)
        return [text for k in (0, 1) for text in model.generate(videos, [question] * count, seeds=list(range(k * count, (k + 1) * count)), **how)]

    def judged(model: vlmm.VideoModel, together: bool) -> Any:
        import torch

        videos = model.encode(paths)
        if together:
            return model.choose(videos * 2, [request for request in asked for _ in paths])
        return torch.cat([model.choose(videos, [request] * count) for request in asked])

    return [
        Case("encode", "a clip's features for the four questions that a loop asks about it: encoded each time, or once", lambda: [f for _ in range(4) for f in features(fresh(False).encode(paths))],
             lambda: [f for model in [fresh(True)] for _ in range(4) for f in features(model.encode(paths))]),
        Case("respond", "two responses a clip: two calls that each read their video, or one that reads it once", lambda: twice(apart, False), lambda: twice(shared, True)),
        Case("judge", "both orders of a pair: two calls that each read their video, or one that reads it once", lambda: judged(apart, False), lambda: judged(shared, True)),
        training(params, opened, lambda: fresh(False), paths),
    ]  # fmt: skip


def training(params: Params, opened: Any, fresh: Callable[[], Any], paths: list[Path]) -> Case:
    """The loss of one DPO batch: clips through the tower for chosen and rejected, for policy and reference, or their features given."""
    from isrdpo.core.records import Preference
    from isrdpo.models import dpo

    pairs = [Preference(str(n), str(path), "What happens in the video?", "It moves to the left.", "It moves to the right and stops there.", None) for n, path in enumerate(paths)]
    known = dict(zip(map(str, paths), opened.encode(paths), strict=True))
    rows = [dpo.row(pair, opened.processor, known[pair.video]) for pair in pairs]
    trainer = dpo.trainer(opened.model, opened.processor, rows, known.__getitem__, params.train, Path(tempfile.mkdtemp()), 0)
    trainer.model.eval()

    def loss(again: int) -> Any:
        import torch

        with torch.no_grad():
            for _ in range(again):
                known.update(zip(map(str, paths), fresh().encode(paths), strict=True))
            return trainer.compute_loss(trainer.model, trainer.data_collator(rows)).detach()[None]

    return Case("train", "the loss of a DPO batch (forward only): clips decoded and encoded for chosen, rejected, policy and reference, or their features given", lambda: loss(4), lambda: loss(0))


def difference(one: Any, other: Any) -> float:
    """How far two results are apart: the largest absolute difference of numbers, or the share of texts that differ."""
    if isinstance(one, list) and one and isinstance(one[0], str):
        return sum(a != b for a, b in zip(one, other, strict=True)) / len(one)
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(one, other, strict=True))


def measure(found: list[Case], repeats: int) -> list[dict]:
    """A row a case and turn: case, turn, apart_seconds, shared_seconds, ratio, difference. The first turn warms up and is not counted."""
    rows = []
    for case in found:
        gap = difference(case.apart(), case.shared())
        for turn in progress_bar(range(repeats), repeats, case.name):
            order = ("apart", "shared") if turn % 2 == 0 else ("shared", "apart")
            took = {}
            for side in order:
                began = time.perf_counter()
                getattr(case, side)()
                took[side] = time.perf_counter() - began
            rows.append({"case": case.name, "turn": turn + 1, "apart_seconds": took["apart"], "shared_seconds": took["shared"],
                         "ratio": took["apart"] / took["shared"], "difference": gap})  # fmt: skip
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """A row a case: medians of both sides, the median ratio with the smallest and the largest, and the difference of what they give."""
    made = []
    for name in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == name]
        ratios = [row["ratio"] for row in mine]
        made.append({"case": name, "apart_seconds": statistics.median(row["apart_seconds"] for row in mine),
                     "shared_seconds": statistics.median(row["shared_seconds"] for row in mine), "ratio": statistics.median(ratios),
                     "ratio_min": min(ratios), "ratio_max": max(ratios), "turns": len(mine), "difference": mine[0]["difference"]})  # fmt: skip
    return made
