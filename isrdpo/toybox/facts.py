"""The facts of a clip: their values, and the types of the dictionaries that travel in rows as `facts`.

Objects stand along the scene's `axis` in list order (top to bottom, or left to right). Shapes and colors are
unique within a scene, so "the circle" and "the red object" name one object.
"""

from typing import NotRequired, TypedDict

COLORS = ("red", "orange", "yellow", "green", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
MOTIONS = ("left", "right", "up", "down", "still")
BACKGROUNDS = ("black", "white", "gray")
AXES = ("vertical", "horizontal")


class Thing(TypedDict):
    """One object of a scene."""

    shape: str
    color: str
    size: str
    motion: str


class Scene(TypedDict):
    """Everything that is true of a clip.

    `flipped` marks a scene that somebody imagines, in which the objects stand in the reverse of their list
    order.
    """

    background: str
    axis: str
    objects: list[Thing]
    flipped: NotRequired[bool]


class Query(TypedDict):
    """A question about a scene.

    `kind` is one of `language.KINDS`, `object` the index of the object that the question names, `other` that
    of a second object (None where the kind needs none).
    """

    kind: str
    object: int
    other: int | None


class Facts(TypedDict):
    """What a row knows of its clip: the scene, and the question that was asked about it, if any."""

    scene: Scene
    asked: NotRequired[Query | None]
