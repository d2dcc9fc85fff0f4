"""Damaged videos by the hundred: each is read whole or refused by name, in time, and nothing crashes."""

import json
import random
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FRAMES = 20
HEIGHT = 48
WIDTH = 64
MOST_FRAMES = 19  # of a video that is read whole: a decoder may drop one
MUTANTS = 240
SLOWEST = 30  # seconds for one file, on a loaded machine
CONTAINERS = {
    "mp4": ("libx264", "yuv420p"),
    "webm": ("libvpx-vp9", "yuv420p"),
    "avi": ("mpeg4", "yuv420p"),
    "gif": ("gif", "rgb8"),
}
# Reads files one after another in a process of its own: a line before each, and one for what came of it.
READER = """
import json, sys, time
from pathlib import Path
import numpy as np
from isrdpo.core.errors import VideoError
from isrdpo.formats.video import read_clip
for name in sys.stdin.read().split():
    print(json.dumps({"begin": name}), flush=True)
    began = time.monotonic()
    try:
        clip = read_clip(Path(name), 8)
    except VideoError as error:
        line = {"error": str(error)}
    else:
        times = np.asarray(clip.times, float)
        ordered = bool(np.isfinite(times).all() and (np.diff(times) >= 0).all())
        line = {"shape": clip.frames.shape, "type": str(clip.frames.dtype), "ordered": ordered,
                "times": len(times), "indices": len(clip.indices), "count": int(clip.count)}
    print(json.dumps(line | {"seconds": time.monotonic() - began}), flush=True)
"""


def write_video(path: Path) -> bytes:
    """Encode a short video in the container of its suffix; returns the file's content."""
    codec, pixel_format = CONTAINERS[path.suffix[1:]]
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = WIDTH
        stream.height = HEIGHT
        stream.pix_fmt = pixel_format
        for number in range(FRAMES):
            noise = generator.integers(0, 40, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(noise + np.uint8(number * 10), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode())
    return path.read_bytes()


def truncate(content: bytes, draw: random.Random) -> bytes:
    """Cut the end off."""
    return content[: draw.randrange(len(content))]


def flip(content: bytes, draw: random.Random) -> bytes:
    """Change some bytes, of the first kilobyte in half of the cases."""
    damaged = bytearray(content)
    end = min(1024, len(content)) if draw.random() < 0.5 else len(content)
    for _ in range(draw.choice((1, 4, 32))):
        damaged[draw.randrange(end)] = draw.randrange(256)
    return bytes(damaged)


def blank(content: bytes, draw: random.Random) -> bytes:
    """Set a region to zeros."""
    start = draw.randrange(len(content))
    length = min(draw.choice((4, 64, 1024, 8192)), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def swap(content: bytes, draw: random.Random) -> bytes:
    """Exchange two neighboring pieces: the atoms of an mp4, else pieces of any place and length."""
    cuts = atom_starts(content)
    if len(cuts) < 3:
        cuts = sorted(draw.randrange(len(content)) for _ in range(3))
    place = draw.randrange(len(cuts) - 2) if len(cuts) > 3 else 0
    first, second, third = cuts[place : place + 3]
    return content[:first] + content[second:third] + content[first:second] + content[third:]


def resize(content: bytes, draw: random.Random) -> bytes:
    """Overwrite four bytes, such as an atom's size or a table's count, by an extreme number."""
    atoms = [place for place in range(len(content) - 8) if content[place + 4 : place + 8].isalpha()]
    place = draw.choice(atoms or [0]) + draw.choice((0, 0, 12, 16))
    number = draw.choice((0, 1, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1))
    return content[:place] + struct.pack(draw.choice((">I", "<I")), number) + content[place + 4 :]


def repeat(content: bytes, draw: random.Random) -> bytes:
    """Insert a piece of the file, or of noise, at another place."""
    start = draw.randrange(len(content))
    piece = content[start : start + draw.choice((8, 100, 2000))]
    if draw.random() < 0.5:
        piece = draw.randbytes(len(piece))
    place = draw.randrange(len(content))
    return content[:place] + piece + content[place:]


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (truncate, flip, blank, swap, resize, repeat)


def atom_starts(content: bytes) -> list[int]:
    """Where an mp4's atoms begin, and where the last one ends."""
    starts = [0]
    while starts[-1] + 8 <= len(content):
        size = struct.unpack(">I", content[starts[-1] : starts[-1] + 4])[0]
        if size < 8 or starts[-1] + size > len(content):
            break
        starts.append(starts[-1] + size)
    return starts


def write_mutants(folder: Path, seed: int) -> list[Path]:
    """Damaged videos of every container, by every mutation in turn."""
    draw = random.Random(seed)
    originals = {suffix: write_video(folder / f"whole.{suffix}") for suffix in CONTAINERS}
    paths = []
    for number in range(MUTANTS):
        suffix = list(CONTAINERS)[number % len(CONTAINERS)]
        mutation = MUTATIONS[number // len(CONTAINERS) % len(MUTATIONS)]
        path = folder / f"{number:03}-{mutation.__name__}.{suffix}"
        path.write_bytes(mutation(originals[suffix], draw))
        paths.append(path)
    return paths


def read_all(paths: list[Path]) -> list[dict]:
    """What reading each file came to; the process that reads them has to outlive them all."""
    done = subprocess.run(
        [sys.executable, "-c", READER],
        cwd=ROOT,
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        timeout=60 + SLOWEST * 4,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    begun = [line["begin"] for line in lines if "begin" in line]
    assert done.returncode == 0, f"exit code {done.returncode} at {begun[-1:]}: {done.stderr[-2000:]}"
    return [line for line in lines if "begin" not in line]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_damaged_video_is_read_whole_or_refused_by_name(tmp_path: Path) -> None:
    whole = [tmp_path / f"whole.{suffix}" for suffix in CONTAINERS]
    paths = write_mutants(tmp_path, seed=0)
    began = time.monotonic()
    results = read_all([*whole, *paths])
    counts: Counter[str] = Counter()
    for path, result in zip([*whole, *paths], results, strict=True):
        kind = path.stem.split("-")[-1]
        assert result["seconds"] < SLOWEST, path.name
        if "error" in result:
            counts[f"{kind}, refused"] += 1
            assert path.name in result["error"], result["error"]
            assert len(result["error"].splitlines()) == 1, result["error"]
            continue
        counts[f"{kind}, read"] += 1
        assert result["type"] == "uint8" and result["ordered"], (path.name, result)
        assert result["times"] == result["indices"] == result["shape"][0] == 8, (path.name, result)
        if kind == "truncate" and path.suffix != ".gif":  # a GIF does not say how long it is
            assert result["count"] >= MOST_FRAMES, (path.name, "a part of a video is read as a shorter one")
        assert result["shape"][3] == 3 and result["count"] >= 1, (path.name, result)
    print(f"\n{len(paths)} damaged videos in {time.monotonic() - began:.0f} s: {dict(counts)}")
    assert counts["whole, read"] == len(CONTAINERS)
    assert all(counts[f"{mutation.__name__}, refused"] for mutation in MUTATIONS)
