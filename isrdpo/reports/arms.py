"""Arms: the experiments that a comparison sets side by side; their names, their order, and how they are
drawn.

A run's arm is the name that whoever started it gave it (`arm:` in its params.yaml). A name that ends in
length controls (`isr_ld`, `self_reward_rdpo_balanced`) is the arm before them with these controls switched
on. An arm that ARMS does not list is drawn in a color of its own.
"""

import colorsys
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isrdpo.core.judges import JUDGES
from isrdpo.core.params import Params
from isrdpo.core.runs import Run
from isrdpo.reports.palette import BLUE, GRAY, GREEN, ORANGE, PINK, SKY, YELLOW

Line = str | tuple[int, tuple[int, ...]]  # a line style of matplotlib


@dataclass(frozen=True)
class Arm:
    """A listed arm: its color, and for a legend what tells it from the others (empty: nothing)."""

    color: str
    meaning: str = ""


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn: a color for each arm, a line style for each of its length controls."""

    color: str
    line: Line


ARMS = {  # in the order in which they are shown
    "isr": Arm(BLUE, "looks back"),
    "fresh": Arm(SKY, "describes anew"),
    "self_reward": Arm(ORANGE, "no description"),
    "oracle": Arm(GREEN, "perfect verdicts"),
    "random": Arm(GRAY, "a coin"),
    "given": Arm(PINK),
}
CONTROLS: dict[str, Line] = {  # of length, as they end an arm's name, with their line style
    "ld": "--",
    "norm": "-.",
    "rdpo": ":",
    "balanced": (0, (5, 1, 1, 1, 1, 1)),
}
SEVERAL_CONTROLS: Line = (0, (1, 3))
FREE_COLORS = (YELLOW, "#332288", "#999933", "#882255", "#8B4513")  # of arms that are not listed
BY_CONTEXT = {
    "retrospective": "isr",
    "fresh": "fresh",
    "none": "self_reward",
}  # respond.context: the arm it makes


def arm_of(run: Run) -> str:
    """Return the arm that a run belongs to.

    A run made before `arm:` existed says it by its folder's name (`isr-0`: the arm, then the run's seed),
    else by its other parameters.
    """
    if run.params.arm:
        return run.params.arm
    name = re.fullmatch(r"(.+)-(\d+)", run.folder.name)
    if name and int(name[2]) == run.params.seed:
        return name[1]
    return arm_from_parameters(run.params)


def arm_from_parameters(params: Params) -> str:
    """Return the arm that judge, description and length controls make, whatever the run is called."""
    switched_on = {
        "ld": params.train.ld_alpha is not None,
        "norm": params.train.loss_type == "sigmoid_norm",
        "rdpo": bool(params.train.length_alpha),
        "balanced": params.judge.balance_lengths,
    }
    plain = JUDGES[params.judge.method].arm or BY_CONTEXT[params.respond.context]
    return "_".join([plain, *(control for control in CONTROLS if switched_on[control])])


def without_controls(arm: str) -> str:
    """Return an arm's name without the length controls at its end."""
    return re.sub(rf"(_({'|'.join(CONTROLS)}))+$", "", arm)


def arm_order(arm: str) -> tuple[int, bool, str]:
    """Return a key to sort arms by: as ARMS lists them, each before its length controls; others last, by
    name.
    """
    plain = without_controls(arm)
    position = list(ARMS).index(plain) if plain in ARMS else len(ARMS)
    return position, plain != arm, arm


def group_arms(arms: Iterable[str]) -> dict[str, list[str]]:
    """Return the arms that are shown in one figure.

    Group "" has those without length control (all, where there are no others); the group of an arm has it
    and its controls.
    """
    every = list(dict.fromkeys(arms))
    plain = [arm for arm in every if without_controls(arm) == arm]
    groups = {"": plain or every}
    for arm in plain:
        controls = [other for other in every if other != arm and without_controls(other) == arm]
        if controls:
            groups[arm] = [arm, *controls]
    return groups


def legend_name(arm: str) -> str:
    """Return an arm's name with what tells it from the others, as in "isr (looks back)"."""
    meaning = ARMS[arm].meaning if arm in ARMS else ""
    return f"{arm} ({meaning})" if meaning else arm


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """Return how each of the arms of one figure is drawn: no two arms alike."""
    families = dict.fromkeys(without_controls(arm) for arm in arms)
    colors = {plain: ARMS[plain].color for plain in families if plain in ARMS}
    colors |= _free_colors(sorted(plain for plain in families if plain not in ARMS))
    return {arm: ArmStyle(colors[without_controls(arm)], _line(arm)) for arm in arms}


def _line(arm: str) -> Line:
    controls = arm.removeprefix(without_controls(arm)).removeprefix("_")
    if not controls:
        return "-"
    return CONTROLS.get(controls, SEVERAL_CONTROLS)


def _free_colors(names: Sequence[str]) -> dict[str, str]:
    """Return a color for each name.

    A name begins to look for a free one where its checksum points, so that it mostly has the same color
    beside whatever other arms. When all are used up, hues are added that lie far from each other.
    """
    colors: dict[str, str] = {}
    for name in names:
        start = zlib.crc32(name.encode()) % len(FREE_COLORS)
        candidates = [*FREE_COLORS[start:], *FREE_COLORS[:start]]
        free = [color for color in candidates if color not in colors.values()]
        colors[name] = free[0] if free else _further_color(len(colors) - len(FREE_COLORS))
    return colors


def _further_color(number: int) -> str:
    """Return the color of this number beyond FREE_COLORS; the golden ratio spreads any number of hues."""
    red, green, blue = colorsys.hsv_to_rgb((0.1 + 0.618034 * number) % 1, 0.75, 0.7)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
