"""The recipe of the Toybox base model: its sizes, its phases, and how fast it learns at each step.

It learns in this order: copying; whether a claim is true of a description; which of two answers fits a
description; what each patch of a frame shows; then all with the video in front, beside describing, describing
again, and answering.
"""

from bisect import bisect_right
from dataclasses import dataclass

TASKS = (
    "describe",
    "again",
    "look",
    "answer",
    "copy",
    "claim",
    "terse_with",
    "terse_without",
    "pair_with",
    "pair_without",
    "judge_with",
    "judge_without",
)
MAX_BRANCHES = 8  # of one sequence
# The branches of one sequence: "with" and "without" a description in front; "terse" pairs have no more than
# the asked sentence.
COPYING = ("copy",)
CLAIMS = ("claim",) * 6
TERSE_PAIRS = ("claim", "claim", "terse_with", "terse_with", "terse_with", "terse_with")
TERSE_PAIRS_WITHOUT = ("terse_without",) * 4
PAIRS = ("claim", "claim", "terse_with", "pair_with", "pair_with", "pair_with")
PAIRS_WITHOUT = ("pair_without",) * 3
SEEING = ("see",)  # no text: the tower alone learns what is at each patch
LOOKING = ("describe", "look", "look", "look")
EVERYTHING = ("describe", "again", "answer", "answer", "judge_with", "judge_without")

WARM_UP = 50  # steps
FINAL_SHARE = 0.03  # of the learning rate, at the end of a cycle


@dataclass(frozen=True)
class Phase:
    """A number of steps on the same tasks, with `batch` sequences each.

    `tasks` are the branches of every sequence with a video. One step in `text_every` (1: all, 0: none) is
    text only; its rows take `texts` in turn. `longer` is how often the better of two answers is the longer
    one, with and without a description alike. With `restart` the learning rate starts anew here, at `rate` of
    the full one.
    """

    steps: int
    batch: int
    tasks: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...] = ()
    text_every: int = 0
    longer: float = 0.5
    restart: bool = True
    rate: float = 1.0


PHASES = (
    Phase(steps=320, batch=32, tasks=(), texts=(COPYING,), text_every=1),
    Phase(steps=560, batch=64, tasks=(), texts=(CLAIMS,) * 7 + (COPYING,), text_every=1, restart=False),
    Phase(
        steps=200,
        batch=64,
        tasks=(),
        texts=(TERSE_PAIRS,) * 6 + (TERSE_PAIRS_WITHOUT, COPYING),
        text_every=1,
        rate=0.5,
    ),
    Phase(steps=300, batch=64, tasks=(), texts=(PAIRS,) * 3 + (PAIRS_WITHOUT,), text_every=1, restart=False),
    Phase(steps=800, batch=64, tasks=SEEING),
    Phase(steps=400, batch=48, tasks=LOOKING, texts=(PAIRS,) * 3 + (PAIRS_WITHOUT,), text_every=3, rate=0.5),
    Phase(
        steps=800,
        batch=36,
        tasks=EVERYTHING,
        texts=(PAIRS,) * 3 + (PAIRS_WITHOUT,),
        text_every=3,
        longer=0.7,
        rate=0.5,
    ),
)


@dataclass(frozen=True)
class Recipe:
    """Everything that a base model follows from. It lies beside the weights as recipe.json."""

    seed: int = 0
    clips: int = 8000
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    image_size: int = 48
    patch_size: int = 12
    frames: int = 4
    width: int = 128
    layers: int = 4
    tower_width: int = 128
    tower_layers: int = 4
    phases: tuple[Phase, ...] = PHASES


def learning_rate_share(recipe: Recipe, step: int) -> float:
    """Return the share of the full learning rates at a step.

    In each cycle (from one restart to the next): warm-up over WARM_UP steps, and linear decay to FINAL_SHARE.
    """
    starts: list[int] = []
    shares: list[float] = []
    total = 0
    for phase in recipe.phases:
        if phase.restart or not starts:
            starts.append(total)
            shares.append(phase.rate)
        total += phase.steps
    cycle = bisect_right(starts, step) - 1
    start, end = [*starts, total][cycle : cycle + 2]
    warm_up = min(1.0, (step - start + 1) / WARM_UP)
    return shares[cycle] * warm_up * (1 - (1 - FINAL_SHARE) * (step - start) / (end - start))
