"""Time what sharing work saves between the calls that see the same video: notebook 07, `isrdpo benchmark`.

A case does the same work in two ways. `apart`: each call encodes its video for itself (cases encode and
train) or reads its features for itself (respond and judge), as a trainer that is handed pixels and a plain
loop over `generate` do. `shared`: as the stages do. Both must give the same before they are timed; then they
take turns, and each turn gives a ratio.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor

from isrdpo.core import prompts
from isrdpo.core.clips import find_clip
from isrdpo.core.folders import resolve
from isrdpo.core.params import Params
from isrdpo.core.progress import progress_bar
from isrdpo.core.records import Preference
from isrdpo.models import dpo, local
from isrdpo.toybox import world

QUESTION = "What happens in the video?"
ANSWERS = ("It moves to the left.", "It moves to the right and stops there.")
PASSES = 4  # a loop asks about a clip, and DPO forwards it, at least so many times
Result = Tensor | list[Tensor] | list[str]


class Case(Protocol):
    """One kind of work, done in two ways with the same result."""

    name: str
    what: str

    def apart(self) -> Result:
        """Do the work of each call for itself."""

    def shared(self) -> Result:
        """Do the work that calls have in common once."""


class Turn(TypedDict):
    """One timing of both ways. `ratio` is apart / shared; `difference` that of their results."""

    case: str
    turn: int
    apart_seconds: float
    shared_seconds: float
    ratio: float
    difference: float


class CaseSummary(TypedDict):
    """The turns of a case: medians of both ways, and the median ratio with the smallest and the largest."""

    case: str
    apart_seconds: float
    shared_seconds: float
    ratio: float
    ratio_min: float
    ratio_max: float
    turns: int
    difference: float


@dataclass(frozen=True)
class Bench:
    """A model and the clips that it is asked about."""

    params: Params
    model: Any  # of transformers
    processor: Any
    paths: list[Path]

    @classmethod
    def load(cls, params: Params, paths: list[Path]) -> "Bench":
        """Open the model of `params`."""
        policy = local.open_policy(params, params.model.path)
        return cls(params, policy.model, policy.processor, paths)

    def policy(self, share: bool) -> local.LocalPolicy:
        """Return a policy that holds no encoded video yet.

        With `share`, prompts about the same video read it once.
        """
        settings = self.params.video
        pixels = settings.max_pixels or 0
        return local.LocalPolicy(
            self.model, self.processor, settings.span, max_pixels=pixels, share=share, limits=None
        )


class EncodeCase:
    """The features of each clip for PASSES questions about it."""

    name = "encode"
    what = "a clip's features for the four questions that a loop asks about it: encoded each time, or once"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def apart(self) -> list[Tensor]:
        """Encode each clip anew for each question."""
        features = []
        for _ in range(PASSES):
            features += self._features(self.bench.policy(share=False))
        return features

    def shared(self) -> list[Tensor]:
        """Encode each clip for the first question; the policy keeps it for the others."""
        policy = self.bench.policy(share=True)
        features = []
        for _ in range(PASSES):
            features += self._features(policy)
        return features

    def _features(self, policy: local.LocalPolicy) -> list[Tensor]:
        return [video.features for video in policy.encode(self.bench.paths)]


class RespondCase:
    """Two sampled responses to a question about each clip. Its features are at hand."""

    name = "respond"
    what = "two responses a clip: two calls that each read their video, or one that reads it once"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.policies = {share: bench.policy(share) for share in (False, True)}

    def apart(self) -> list[str]:
        """Ask twice, with the seeds that the shared call has."""
        count = len(self.bench.paths)
        return self._respond(False, 1, range(count)) + self._respond(False, 1, range(count, 2 * count))

    def shared(self) -> list[str]:
        """Ask for both responses in one call."""
        return self._respond(True, 2, range(2 * len(self.bench.paths)))

    def _respond(self, share: bool, responses: int, seeds: Iterable[int]) -> list[str]:
        settings = self.bench.params.respond
        policy = self.policies[share]
        videos = policy.encode(self.bench.paths) * responses
        return policy.generate(
            videos,
            [QUESTION] * len(videos),
            seeds=list(seeds),
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
        )


class JudgeCase:
    """Verdicts on a pair of responses to each clip, in both orders. Its features are at hand."""

    name = "judge"
    what = "both orders of a pair: two calls that each read their video, or one that reads it once"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.policies = {share: bench.policy(share) for share in (False, True)}
        template = prompts.JUDGE_WITHOUT_CONTEXT
        self.requests = [
            prompts.judge_request(template, QUESTION, first, second, None)
            for first, second in (ANSWERS, ANSWERS[::-1])
        ]

    def apart(self) -> Tensor:
        """Ask for each order in a call of its own; float [2N, 2] for N clips."""
        return torch.cat([self._choose(False, [request]) for request in self.requests])

    def shared(self) -> Tensor:
        """Ask for both orders in one call; float [2N, 2] for N clips."""
        return self._choose(True, self.requests)

    def _choose(self, share: bool, requests: list[str]) -> Tensor:
        policy = self.policies[share]
        videos = policy.encode(self.bench.paths)
        texts: list[str] = []
        for request in requests:
            texts += [request] * len(videos)
        return policy.choose(videos * len(requests), texts)


class TrainCase:
    """The loss of a DPO batch with a pair about each clip; forward only."""

    name = "train"
    what = (
        "the loss of a DPO batch (forward only): clips decoded and encoded for chosen, rejected, policy and "
        "reference, or their features given"
    )

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.videos = self._encode()
        chosen, rejected = ANSWERS
        self.rows = [
            dpo.training_row(Preference(name, name, QUESTION, chosen, rejected, None), bench.processor, video)
            for name, video in self.videos.items()
        ]
        self.folder = tempfile.TemporaryDirectory()  # for checkpoints, of which there are none
        self.trainer = dpo.make_trainer(
            bench.model,
            bench.processor,
            self.rows,
            self.videos.__getitem__,
            bench.params.train,
            Path(self.folder.name),
            seed=0,
        )
        self.trainer.model.eval()

    def apart(self) -> Tensor:
        """Encode the clips for chosen and rejected, for policy and reference; float [1]."""
        for _ in range(PASSES):
            self.videos.update(self._encode())
        return self.shared()

    def shared(self) -> Tensor:
        """Take the features that are at hand; float [1]."""
        batch = self.trainer.data_collator(self.rows)
        with torch.no_grad():
            loss = self.trainer.compute_loss(self.trainer.model, batch)
        return loss.detach()[None].cpu()  # a device has done its work when the value is here

    def _encode(self) -> dict[str, Any]:
        """The encoded clips by path."""
        videos = self.bench.policy(share=False).encode(self.bench.paths)
        return dict(zip(map(str, self.bench.paths), videos, strict=True))


def clips(params: Params, count: int) -> list[Path]:
    """The first `count` clips of Toybox's evaluation set, whatever the model."""
    folder = resolve(params.run).parent / ".cache" / "clips"
    samples = world.samples("evaluate", count, 0, world.Difficulty(), folder)
    return [find_clip(folder, sample.video) for sample in samples]


def cases(params: Params, paths: list[Path]) -> list[Case]:
    """All cases, over the clips in `paths` with the model of `params`."""
    bench = Bench.load(params, paths)
    return [EncodeCase(bench), RespondCase(bench), JudgeCase(bench), TrainCase(bench)]


def difference(first: Result, second: Result) -> float:
    """Return the largest absolute difference of two results' numbers, or the share of texts that differ."""
    pairs = list(zip(first, second, strict=True))
    if isinstance(pairs[0][0], str):
        return sum(a != b for a, b in pairs) / len(pairs)
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs)


def measure(cases: Iterable[Case], repeats: int) -> list[Turn]:
    """Time each case `repeats` times, after both ways have run once to be compared.

    The two ways take turns in going first, so that a machine that changes its speed is fair to both.
    """
    turns: list[Turn] = []
    for case in cases:
        gap = difference(case.apart(), case.shared())
        for number in progress_bar(range(1, repeats + 1), repeats, case.name):
            if number % 2:
                apart = _seconds(case.apart)
                shared = _seconds(case.shared)
            else:
                shared = _seconds(case.shared)
                apart = _seconds(case.apart)
            turns.append(
                Turn(
                    case=case.name,
                    turn=number,
                    apart_seconds=apart,
                    shared_seconds=shared,
                    ratio=apart / shared,
                    difference=gap,
                )
            )
    return turns


def _seconds(work: Callable[[], Result]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def summarize(turns: list[Turn]) -> list[CaseSummary]:
    """Sum up the turns of each case, in order."""
    names = dict.fromkeys(turn["case"] for turn in turns)
    return [_summary_of(name, [turn for turn in turns if turn["case"] == name]) for name in names]


def _summary_of(name: str, turns: list[Turn]) -> CaseSummary:
    ratios = [turn["ratio"] for turn in turns]
    return CaseSummary(
        case=name,
        apart_seconds=statistics.median(turn["apart_seconds"] for turn in turns),
        shared_seconds=statistics.median(turn["shared_seconds"] for turn in turns),
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        turns=len(turns),
        difference=turns[0]["difference"],
    )
