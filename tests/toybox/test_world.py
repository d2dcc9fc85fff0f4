"""The world: deterministic, disjoint, real video files whose content is what the facts say."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from isrdpo.formats import video
from isrdpo.toybox import claims, facts, language, world, writers
from isrdpo.toybox.facts import Scene

CLEAR = {"noise": 0.0, "occlusion": 0.0, "lookalike": 0.0, "crf": 10}
EASY = world.Difficulty(**CLEAR)


def draw_scenes(split: str, count: int, seed: int = 0) -> list[Scene]:
    return list(itertools.islice(world.scenes(split, seed, world.Difficulty()), count))


def test_colors_motions_and_sizes_have_a_look_for_each_of_their_words() -> None:
    assert tuple(world.COLORS) == facts.COLORS == tuple(world.LOOKALIKE)
    assert tuple(world.BACKGROUNDS) == facts.BACKGROUNDS
    assert tuple(world.MOTIONS) == facts.MOTIONS
    assert tuple(world.RADII) == facts.SIZES


def test_splits_share_no_scene_whatever_the_seed() -> None:
    names = {}
    for split in world.SPLITS:
        scenes = itertools.chain.from_iterable(draw_scenes(split, 400, seed) for seed in range(3))
        names[split] = {world.digest(scene) for scene in scenes}
    for a, b in itertools.combinations(names, 2):
        assert not names[a] & names[b]


def test_scenes_and_pixels_are_deterministic_and_depend_on_the_seed() -> None:
    assert draw_scenes("loop", 50) == draw_scenes("loop", 50) != draw_scenes("loop", 50, seed=1)
    scene = draw_scenes("loop", 1)[0]
    hard = world.Difficulty()
    assert np.array_equal(world.render(scene, 0, hard), world.render(scene, 0, hard))
    assert not np.array_equal(world.render(scene, 0, hard), world.render(scene, 1, hard))


def test_the_shipped_base_s_world_is_still_drawn() -> None:
    """A clip's name is part of rows on disk, and its pixels are what the shipped base was trained on."""
    scene = draw_scenes("base", 1)[0]
    assert world.clip_name(scene, 0, world.Difficulty()) == "9a64b2209b1bf69af4bc04d9.mp4"
    means = world.render(scene, 0, world.Difficulty()).mean((0, 1, 2))
    assert means == pytest.approx([49.546, 41.420, 25.599], abs=2e-3)


@pytest.mark.parametrize("change", [{"noise": 9.0}, {"occlusion": 1.0}, {"lookalike": 1.0}])
def test_every_nuisance_changes_the_pixels_and_the_name(change: dict[str, float]) -> None:
    scene = draw_scenes("loop", 1)[0]
    other = world.Difficulty(**CLEAR | change)
    assert not np.array_equal(world.render(scene, 0, EASY), world.render(scene, 0, other))
    assert world.clip_name(scene, 0, other) != world.clip_name(scene, 0, EASY)


@pytest.mark.parametrize("motion", list(world.MOTIONS))
def test_a_clip_read_back_shows_its_color_and_motion(tmp_path: Path, motion: str) -> None:
    circle = {"shape": "circle", "color": "red", "size": "large", "motion": motion}
    scene = {"background": "black", "axis": "vertical", "objects": [circle]}
    (name,) = world.write_clips([scene], 0, EASY, tmp_path)
    clip = video.read_clip(tmp_path / name, 4)
    assert clip.frames.shape == (4, world.SIZE, world.SIZE, 3)
    assert clip.times[0] == 0
    assert 2 < clip.times[-1] <= 3
    red = (clip.frames[..., 0] > 120) & (clip.frames[..., 2] < 110)
    centers = np.array([[np.nonzero(frame)[1].mean(), np.nonzero(frame)[0].mean()] for frame in red])
    distance = centers[-1] - centers[0]
    assert np.array_equal(np.sign(np.where(abs(distance) > 5, distance, 0)), world.MOTIONS[motion])


def test_clips_are_written_once_and_hold_nothing_half_written(tmp_path: Path) -> None:
    scenes = draw_scenes("loop", 3)
    names = world.write_clips(scenes, 0, EASY, tmp_path)
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(stamps) == sorted(names)
    assert world.write_clips(scenes, 0, EASY, tmp_path) == names
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps


def test_a_clip_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "ENCODER", {"preset": "no such preset"})
    with pytest.raises(ValueError, match="Invalid argument"):
        world.write_clips(draw_scenes("loop", 1), 0, EASY, tmp_path)
    assert not list(tmp_path.iterdir())


def test_samples_ask_every_kind_and_their_reference_is_true(tmp_path: Path) -> None:
    rows = world.samples("loop", 60, 0, EASY, tmp_path)
    assert {row.kind for row in rows} == set(language.KINDS)
    assert len({row.id for row in rows}) == 60
    for row in rows:
        assert (tmp_path / row.video).stat().st_size > 500
        truth = claims.truth(row.answer, row.facts)
        assert truth.correct
        assert truth.false == 0


def test_samples_from_a_number_on_are_those_of_the_whole(tmp_path: Path) -> None:
    assert (
        world.samples("loop", 3, 0, EASY, tmp_path, start=4)
        == world.samples("loop", 7, 0, EASY, tmp_path)[4:]
    )


def test_fixed_pairs_differ_in_truth_and_length_says_nothing(tmp_path: Path) -> None:
    rows = world.fixed_pairs(60, 0, EASY, tmp_path)
    longer = 0
    for row in rows:
        better = row.responses[row.truer]
        worse = row.responses[1 - row.truer]
        assert claims.truth(better, row.facts).correct
        assert not claims.truth(worse, row.facts).correct
        longer += len(better.split()) > len(worse.split())
    assert longer == 30
    assert 15 < sum(row.truer for row in rows) < 45


def test_corruption_reaches_every_kind_of_fact() -> None:
    rng = random.Random(0)
    slots = ("color", "size", "motion", "shape")
    changes = dict.fromkeys([*slots, "background", "relation"], 0)
    for scene in draw_scenes("loop", 40):
        other = writers.corrupt_scene(scene, 0.5, rng)
        things = list(zip(scene["objects"], other["objects"], strict=True))
        for slot in slots:
            changes[slot] += any(a[slot] != b[slot] for a, b in things)
        changes["background"] += scene["background"] != other["background"]
        if len(scene["objects"]) > 1:
            changes["relation"] += language.relation(scene, 0, 1) != language.relation(other, 0, 1)
        assert len({thing["shape"] for thing in other["objects"]}) == len(other["objects"])
    assert all(changes.values())


def test_a_scene_gives_the_same_file_each_time_it_is_written(tmp_path: Path) -> None:
    scenes = draw_scenes("loop", 12, seed=3)
    files = []
    for number in range(3):
        folder = tmp_path / str(number)
        names = world.write_clips(scenes, 0, world.Difficulty(), folder)
        files.append([(folder / name).read_bytes() for name in names])
    assert files[0] == files[1] == files[2]
