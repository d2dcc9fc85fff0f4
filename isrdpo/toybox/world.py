"""The world: scenes of moving shapes, rendered to real H.264 mp4 files, and the rows made of them.

A scene is a plain dictionary (`isrdpo.toybox.facts.Scene`); it travels in the rows as `facts`. Everything is
deterministic by seed. Scenes of base training, the loop and evaluation are disjoint: a hash of the scene
decides.
"""

import hashlib
import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from isrdpo.core.folders import atomic_file
from isrdpo.core.records import FixedPair, Sample
from isrdpo.toybox import facts, language, writers
from isrdpo.toybox.facts import Scene, Thing

SIZE = 96  # pixels a side
FPS = 4
FRAMES = 12  # of a clip: 3 seconds
COLORS = {
    "red": (215, 40, 45),
    "orange": (240, 140, 35),
    "yellow": (235, 215, 50),
    "green": (45, 175, 65),
    "blue": (45, 85, 225),
    "purple": (150, 60, 190),
}
LOOKALIKE = {
    "red": "orange",
    "orange": "yellow",
    "yellow": "orange",
    "green": "blue",
    "blue": "purple",
    "purple": "blue",
}
BACKGROUNDS = {"black": (12, 12, 12), "white": (238, 238, 238), "gray": (125, 125, 125)}
BAR = (70, 55, 45)  # the color of what stands in front of the objects
RADII = {"small": (10.0, 12.5), "large": (17.0, 20.0)}  # in pixels
CROWDED = 0.8  # of that radius, where there are three objects
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
SPLITS = {"evaluate": range(0, 2), "loop": range(2, 5), "base": range(5, 20)}  # twentieths of all scenes
PAIRS_SEED = 1_000_003  # is added to the seed, so that fixed pairs and questions are about different scenes
# No macroblock tree: its rounding differs from call to call, and a scene is to give the same bytes.
ENCODER = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
RENDERING = 3  # part of a clip's name; raise it when the pixels of a scene change


@dataclass(frozen=True)
class Difficulty:
    """How hard the clips are to read. The shipped base model was trained in the world of these defaults."""

    noise: float = 10.0  # standard deviation of pixel noise, of 255
    occlusion: float = 0.3  # share of clips with a bar in front of the objects
    lookalike: float = 0.3  # how far a color may lean towards its look-alike (0 no, 1 half-way)
    crf: int = 26  # H.264 constant rate factor: higher is blurrier
    objects: tuple[float, float, float] = (0.1, 0.8, 0.1)  # shares of scenes with 1, 2, 3 objects


class Painting(NamedTuple):
    """A scene without noise or bar."""

    pixels: np.ndarray  # float32 [FRAMES, SIZE, SIZE, 3]
    owner: (
        np.ndarray
    )  # int8 [FRAMES, SIZE, SIZE]: the index of the object that each pixel shows, -1 the background
    rng: np.random.Generator  # goes on to draw the nuisances


def draw_scene(rng: random.Random, difficulty: Difficulty) -> Scene:
    """Draw one scene."""
    count = rng.choices((1, 2, 3), difficulty.objects)[0]
    shapes = rng.sample(facts.SHAPES, count)
    colors = rng.sample(facts.COLORS, count)
    objects: list[Thing] = []
    for shape, color in zip(shapes, colors, strict=True):
        size = rng.choice(facts.SIZES)
        motion = rng.choice(facts.MOTIONS)
        objects.append({"shape": shape, "color": color, "size": size, "motion": motion})
    background = rng.choice(facts.BACKGROUNDS)
    axis = rng.choice(facts.AXES)
    return {"background": background, "axis": axis, "objects": objects}


def digest(*parts: object) -> str:
    """Return a SHA-256 in hex of anything that JSON can write, the same on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def scenes(split: str, seed: int, difficulty: Difficulty) -> Iterator[Scene]:
    """Yield distinct scenes of one split without end, the same for the same seed."""
    rng = random.Random(f"toybox-{split}-{seed}")
    names: set[str] = set()
    while True:
        scene = draw_scene(rng, difficulty)
        name = digest(scene)
        if int(name[:8], 16) % 20 in SPLITS[split] and name not in names:
            names.add(name)
            yield scene


def _mask(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """Whether a shape covers the pixels at a distance (dx, dy) from its center."""
    if shape == "circle":
        return dx**2 + dy**2 <= radius**2
    if shape == "square":
        return (abs(dx) <= 0.9 * radius) & (abs(dy) <= 0.9 * radius)
    if shape == "triangle":
        return (dy <= 0.8 * radius) & (dy >= -radius) & (abs(dx) <= 0.6 * (dy + radius))
    upright = (abs(dx) <= 0.28 * radius) & (abs(dy) <= radius)
    level = (abs(dy) <= 0.28 * radius) & (abs(dx) <= radius)
    return upright | level


def paint(scene: Scene, seed: int, difficulty: Difficulty) -> Painting:
    """Paint a scene's objects over its background."""
    rng = np.random.default_rng([seed, int(digest(scene)[:12], 16)])
    pixels = np.empty((FRAMES, SIZE, SIZE, 3), np.float32)
    pixels[:] = BACKGROUNDS[scene["background"]]
    owner = np.full((FRAMES, SIZE, SIZE), -1, np.int8)
    for index in range(len(scene["objects"])):
        _paint_object(pixels, owner, scene, index, rng, difficulty)
    return Painting(pixels, owner, rng)


def _paint_object(
    pixels: np.ndarray,
    owner: np.ndarray,
    scene: Scene,
    index: int,
    rng: np.random.Generator,
    difficulty: Difficulty,
) -> None:
    """Paint one object into `pixels` and `owner`."""
    thing = scene["objects"][index]
    count = len(scene["objects"])
    vertical = scene["axis"] == "vertical"
    # the order of the draws is part of what a seed means
    radius = rng.uniform(*RADII[thing["size"]]) * (CROWDED if count == 3 else 1.0)
    lean = rng.uniform(0, 0.5 * difficulty.lookalike)
    color = (1 - lean) * np.array(COLORS[thing["color"]]) + lean * np.array(COLORS[LOOKALIKE[thing["color"]]])
    along = SIZE * (index + 0.5) / count + rng.uniform(-3, 3)
    across = SIZE / 2 + rng.uniform(-8, 8)
    center = np.array((across, along) if vertical else (along, across))
    direction = np.array(MOTIONS[thing["motion"]], float)
    crosswise = vertical == (direction[0] != 0)
    reach = rng.uniform(18, 24) if crosswise else rng.uniform(8, 11)  # less where others stand in the way
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    for frame, progress in enumerate(np.linspace(-1, 1, FRAMES)):
        center_x, center_y = center + progress * reach * direction
        mask = _mask(thing["shape"], x - center_x, y - center_y, radius)
        pixels[frame][mask] = color
        owner[frame][mask] = index


def render(scene: Scene, seed: int, difficulty: Difficulty) -> np.ndarray:
    """Return a clip's frames, uint8 [FRAMES, SIZE, SIZE, 3]: the scene with the nuisances of `difficulty`."""
    pixels, _, rng = paint(scene, seed, difficulty)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    if rng.random() < difficulty.occlusion:
        start = rng.uniform(15, 70)
        width = rng.uniform(6, 10)
        position = x if rng.random() < 0.5 else y
        pixels[:, (position >= start) & (position < start + width)] = BAR
    pixels += difficulty.noise * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def clip_name(scene: Scene, seed: int, difficulty: Difficulty) -> str:
    """Return the clip's file name: a digest of everything that its pixels depend on."""
    nuisances = {name: value for name, value in asdict(difficulty).items() if name != "objects"}
    return f"{digest(scene, seed, nuisances, RENDERING)[:24]}.mp4"


def write_clips(scenes: list[Scene], seed: int, difficulty: Difficulty, folder: Path) -> list[str]:
    """Write the clips that `folder` lacks, on all cores, and return the file names of all, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [clip_name(scene, seed, difficulty) for scene in scenes]
    missing = {name: scene for name, scene in zip(names, scenes, strict=True) if not (folder / name).exists()}

    def write(name: str) -> None:
        """Render and write one missing clip."""
        _write_clip(folder / name, render(missing[name], seed, difficulty), difficulty.crf)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and the encoder release the interpreter lock
        list(pool.map(write, missing))
    return names


def _write_clip(path: Path, frames: np.ndarray, crf: int) -> None:
    """Encode frames, uint8 [FRAMES, SIZE, SIZE, 3], as an mp4 file."""
    import av

    with atomic_file(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=ENCODER | {"crf": str(crf)})
        stream.width = SIZE
        stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def samples(
    split: str, count: int, seed: int, difficulty: Difficulty, folder: Path, start: int = 0
) -> list[Sample]:
    """Draw the questions of a split ("loop", "evaluate" or "base"), and write their clips.

    Returns `count` of them from number `start` on. Each is about a clip of its own, and carries the scene's
    facts.
    """
    rng = random.Random(f"questions-{split}-{seed}")
    queries = []
    for scene in islice(scenes(split, seed, difficulty), start + count):
        queries.append((scene, language.draw_query(scene, rng)))
    queries = queries[start:]
    names = write_clips([scene for scene, _ in queries], seed, difficulty, folder)
    rows = []
    for number, ((scene, query), name) in enumerate(zip(queries, names, strict=True), start):
        row = Sample(
            id=f"{split}-{seed}-{number:05d}",
            video=name,
            question=language.question(scene, query),
            answer=language.statement(scene, query),
            kind=query["kind"],
            caption=language.description(scene),
            facts={"scene": scene, "asked": query},
        )
        rows.append(row)
    return rows


def fixed_pairs(count: int, seed: int, difficulty: Difficulty, folder: Path) -> list[FixedPair]:
    """Draw held-out pairs of answers that differ in the truth of the main claim, and write their clips.

    The truer answer is the longer one in every second pair.
    """
    rng = random.Random(f"pairs-{seed}")
    held_out = list(islice(scenes("evaluate", seed + PAIRS_SEED, difficulty), count))
    names = write_clips(held_out, seed, difficulty, folder)
    rows = []
    for number, (scene, name) in enumerate(zip(held_out, names, strict=True)):
        query = language.draw_query(scene, rng)
        longer = number % 2 == 0
        better, worse = writers.answer_pair(scene, query, rng, longer, writers.Difference.MAIN)
        truer = rng.randrange(2)
        row = FixedPair(
            id=f"fixed-{seed}-{number:05d}",
            video=name,
            question=language.question(scene, query),
            responses=[better, worse] if truer == 0 else [worse, better],
            truer=truer,
            facts={"scene": scene, "asked": query},
        )
        rows.append(row)
    return rows
