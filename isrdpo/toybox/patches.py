"""The true labels of video patches: what each one shows. The video tower learns them before any text."""

import numpy as np
import torch
from torch import Tensor

from isrdpo.toybox import facts, world
from isrdpo.toybox.facts import Scene
from isrdpo.toybox.recipe import Recipe

# The classes of each slot. A place is that of the object within its scene.
SLOTS = {
    "shape": facts.SHAPES,
    "color": facts.COLORS,
    "size": facts.SIZES,
    "motion": facts.MOTIONS,
    "place": ("alone", "top", "middle or bottom of two", "bottom", "left", "middle or right of two", "right"),
    "background": facts.BACKGROUNDS,
}
BACKGROUND = list(SLOTS).index("background")  # the last slot; the others are about the object
COVERED = 0.1  # of a patch, from which on it shows an object
NO_LABEL = -1


def patch_labels(recipe: Recipe, scenes: list[Scene]) -> Tensor:
    """Return what each patch of each frame that the model sees shows.

    int8 [clips, N, slots], an index into each list of SLOTS, for N patches of all frames. An object's slots
    are NO_LABEL where none covers a tenth of the patch; the background's is NO_LABEL where an object covers
    any of it.
    """
    frames = np.linspace(
        0, world.FRAMES - 1, recipe.frames, dtype=int
    )  # as isrdpo.formats.video chooses them
    grid = recipe.image_size // recipe.patch_size
    side = world.SIZE // grid
    labels = torch.full((len(scenes), recipe.frames * grid * grid, len(SLOTS)), NO_LABEL, dtype=torch.int8)
    for row, scene in enumerate(scenes):
        owner = torch.from_numpy(world.paint(scene, recipe.seed, world.Difficulty()).owner[frames])
        blocks = owner.unfold(1, side, side).unfold(2, side, side).flatten(3).flatten(0, 2)  # [N, pixels]
        coverage = [(blocks == index).float().mean(-1) for index in range(len(scene["objects"]))]
        largest, covering = torch.stack(coverage, -1).max(-1)
        labels[row, largest == 0, BACKGROUND] = SLOTS["background"].index(scene["background"])
        for index in range(len(scene["objects"])):
            patches = (covering == index) & (largest >= COVERED)
            labels[row, patches, :BACKGROUND] = torch.tensor(_object_labels(scene, index), dtype=torch.int8)
    return labels


def _object_labels(scene: Scene, index: int) -> list[int]:
    """The labels of an object: shape, color, size, motion, place."""
    thing = scene["objects"][index]
    labels = [SLOTS[slot].index(thing[slot]) for slot in ("shape", "color", "size", "motion")]
    if len(scene["objects"]) == 1:
        return [*labels, 0]
    horizontal = scene["axis"] == "horizontal"
    return [*labels, 1 + index + (3 if horizontal else 0)]
