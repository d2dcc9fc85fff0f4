"""The world: scenes of moving shapes, rendered to real H.264 mp4 files, and the rows made of them.

A scene is a plain dictionary (it travels in the rows as `facts`):
`{"background", "axis", "objects": [{"shape", "color", "size", "motion"}, ...]}`. Objects stand along `axis` in list order (top to
bottom, or left to right); shapes and colors are unique within a scene, so "the circle" and "the red object" name one object.
Everything is deterministic by seed. Scenes of base training, the loop and evaluation are disjoint: a hash of the facts decides.
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

import numpy as np

from isrdpo.core.records import FixedPair, Sample
from isrdpo.toybox import language

SIZE, FPS, FRAMES = 96, 4, 12  # pixels a side; frames a second; frames a clip (3 s)
COLORS = {
    "red": (215, 40, 45), "orange": (240, 140, 35), "yellow": (235, 215, 50),
    "green": (45, 175, 65), "blue": (45, 85, 225), "purple": (150, 60, 190),
}  # fmt: skip
LOOKALIKE = {"red": "orange", "orange": "yellow", "yellow": "orange", "green": "blue", "blue": "purple", "purple": "blue"}
BACKGROUNDS = {"black": (12, 12, 12), "white": (238, 238, 238), "gray": (125, 125, 125)}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": (10.0, 12.5), "large": (17.0, 20.0)}  # radius in pixels; 4/5 of it where there are three objects
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
SPLITS = {"evaluate": range(0, 2), "loop": range(2, 5), "base": range(5, 20)}  # twentieths of all scenes
ENCODER = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}  # the macroblock tree's rounding differs from call to call
RENDERING = 3  # raise it when the pixels of a scene change: it is part of a clip's name


@dataclass(frozen=True)
class Difficulty:
    """How hard the clips are to read. The shipped base model was trained in the world of these defaults."""

    noise: float = 10.0  # standard deviation of pixel noise, of 255
    occlusion: float = 0.3  # share of clips with a bar in front of the objects
    lookalike: float = 0.3  # how far a color may lean towards its look-alike (0 no, 1 half-way)
    crf: int = 26  # H.264 constant rate factor: higher is blurrier
    objects: tuple[float, float, float] = (0.1, 0.8, 0.1)  # shares of scenes with 1, 2, 3 objects


def scene(rng: random.Random, difficulty: Difficulty) -> dict:
    """Draw one scene's facts."""
    count = rng.choices((1, 2, 3), difficulty.objects)[0]
    shapes, colors = rng.sample(SHAPES, count), rng.sample(list(COLORS), count)
    objects = [
        {"shape": s, "color": c, "size": rng.choice(list(SIZES)), "motion": rng.choice(list(MOTIONS))}
        for s, c in zip(shapes, colors, strict=True)
    ]
    return {"background": rng.choice(list(BACKGROUNDS)), "axis": rng.choice(("vertical", "horizontal")), "objects": objects}


def digest(*parts: object) -> str:
    """A name for anything JSON can write; the same on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def scenes(split: str, seed: int, difficulty: Difficulty) -> Iterator[dict]:
    """Endless distinct scenes of one split, the same for the same seed."""
    rng, seen = random.Random(f"toybox-{split}-{seed}"), set()
    while True:
        facts = scene(rng, difficulty)
        name = digest(facts)
        if int(name[:8], 16) % 20 in SPLITS[split] and name not in seen:
            seen.add(name)
            yield facts


def _mask(shape: str, dx: np.ndarray, dy: np.ndarray, r: float) -> np.ndarray:
    if shape == "circle":
        return dx**2 + dy**2 <= r**2
    if shape == "square":
        return (abs(dx) <= 0.9 * r) & (abs(dy) <= 0.9 * r)
    if shape == "triangle":
        return (dy <= 0.8 * r) & (dy >= -r) & (abs(dx) <= 0.6 * (dy + r))
    return ((abs(dx) <= 0.28 * r) & (abs(dy) <= r)) | ((abs(dy) <= 0.28 * r) & (abs(dx) <= r))


def paint(facts: dict, seed: int, difficulty: Difficulty) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """The scene without noise or bar: float32 [FRAMES, SIZE, SIZE, 3]; which object each pixel belongs to, int8 [FRAMES, SIZE, SIZE] (its
    index, -1 the background); and the generator that goes on drawing its nuisances."""
    rng = np.random.default_rng([seed, int(digest(facts)[:12], 16)])
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    video, owner = np.empty((FRAMES, SIZE, SIZE, 3), np.float32), np.full((FRAMES, SIZE, SIZE), -1, np.int8)
    video[:] = BACKGROUNDS[facts["background"]]
    count = len(facts["objects"])
    for place, thing in enumerate(facts["objects"]):
        radius, lean = rng.uniform(*SIZES[thing["size"]]) * (0.8 if count == 3 else 1.0), rng.uniform(0, 0.5 * difficulty.lookalike)
        color = (1 - lean) * np.array(COLORS[thing["color"]]) + lean * np.array(COLORS[LOOKALIKE[thing["color"]]])
        along = SIZE * (place + 0.5) / count + rng.uniform(-3, 3)
        across = SIZE / 2 + rng.uniform(-8, 8)
        center = np.array((across, along) if facts["axis"] == "vertical" else (along, across))
        direction = np.array(MOTIONS[thing["motion"]], float)
        crosswise = (facts["axis"] == "vertical") == (direction[0] != 0)
        reach = rng.uniform(18, 24) if crosswise else rng.uniform(8, 11)
        for t, u in enumerate(np.linspace(-1, 1, FRAMES)):
            cx, cy = center + u * reach * direction
            covered = _mask(thing["shape"], x - cx, y - cy, radius)
            video[t][covered], owner[t][covered] = color, place
    return video, owner, rng


def render(facts: dict, seed: int, difficulty: Difficulty) -> np.ndarray:
    """uint8 [FRAMES, SIZE, SIZE, 3]: the scene with the nuisances of `difficulty`."""
    video, _, rng = paint(facts, seed, difficulty)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    if rng.random() < difficulty.occlusion:
        start, width = rng.uniform(15, 70), rng.uniform(6, 10)
        line = x if rng.random() < 0.5 else y
        video[:, (line >= start) & (line < start + width)] = (70, 55, 45)
    video += difficulty.noise * rng.standard_normal(video.shape, np.float32)
    return np.clip(video, 0, 255).astype(np.uint8)


def clip_name(facts: dict, seed: int, difficulty: Difficulty) -> str:
    """The clip's file name: a digest of everything its pixels depend on."""
    nuisances = {k: v for k, v in asdict(difficulty).items() if k != "objects"}
    return f"{digest(facts, seed, nuisances, RENDERING)[:24]}.mp4"


def _write_clip(job: tuple[dict, int, Difficulty, Path]) -> None:
    import av

    facts, seed, difficulty, path = job
    part = path.with_suffix(f".{os.getpid()}.part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=ENCODER | {"crf": str(difficulty.crf)})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in render(facts, seed, difficulty):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    os.replace(part, path)


def write_clips(scenes: list[dict], seed: int, difficulty: Difficulty, folder: Path) -> list[str]:
    """Write the clips that `folder` does not hold yet, on all cores; returns their file names, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [clip_name(facts, seed, difficulty) for facts in scenes]
    missing = {name: facts for facts, name in zip(scenes, names, strict=True) if not (folder / name).exists()}
    jobs = [(facts, seed, difficulty, folder / name) for name, facts in missing.items()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and the encoder release the interpreter lock
        list(pool.map(_write_clip, jobs))
    return names


def samples(split: str, count: int, seed: int, difficulty: Difficulty, folder: Path, start: int = 0) -> list[Sample]:
    """`count` questions of a split ("loop", "evaluate" or "base") from number `start` on, each about a clip of its own, with the scene's facts."""
    source, rng = scenes(split, seed, difficulty), random.Random(f"questions-{split}-{seed}")
    chosen = [(facts, language.ask(facts, rng)) for facts in islice(source, start + count)][start:]
    names = write_clips([facts for facts, _ in chosen], seed, difficulty, folder)
    rows = []
    for number, ((facts, asked), name) in enumerate(zip(chosen, names, strict=True), start):
        reference = language.statement(facts, asked)
        rows.append(Sample(
            id=f"{split}-{seed}-{number:05d}", video=name, question=language.question(facts, asked), answer=reference,
            kind=asked["kind"], caption=language.description(facts), facts={"scene": facts, "asked": asked},
        ))  # fmt: skip
    return rows


def fixed_pairs(count: int, seed: int, difficulty: Difficulty, folder: Path) -> list[FixedPair]:
    """Held-out answer pairs that differ in the truth of the main claim; the truer one is the shorter in every second pair."""
    source, rng = scenes("evaluate", seed + 1_000_003, difficulty), random.Random(f"pairs-{seed}")
    chosen = [next(source) for _ in range(count)]
    names = write_clips(chosen, seed, difficulty, folder)
    rows = []
    for number, (facts, name) in enumerate(zip(chosen, names, strict=True)):
        asked = language.ask(facts, rng)
        good, bad = language.pair(facts, asked, rng, better_longer=number % 2 == 0, differ="main")
        truer = rng.randrange(2)
        rows.append(FixedPair(
            id=f"fixed-{seed}-{number:05d}", video=name, question=language.question(facts, asked),
            responses=[good, bad] if truer == 0 else [bad, good], truer=truer, facts={"scene": facts, "asked": asked},
        ))  # fmt: skip
    return rows
