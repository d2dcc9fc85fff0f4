"""The world: deterministic, disjoint, real video files whose content is what the facts say."""

import itertools
import random

import numpy as np
import pytest

from isrdpo.formats import video
from isrdpo.toybox import claims, language, world

EASY = world.Difficulty(noise=0.0, occlusion=0.0, lookalike=0.0, crf=10)


def draw(split: str, count: int, seed: int = 0) -> list[dict]:
    return list(itertools.islice(world.scenes(split, seed, world.Difficulty()), count))


def test_splits_share_no_scene_whatever_the_seed() -> None:
    names = {split: {world.digest(s) for seed in range(3) for s in draw(split, 400, seed)} for split in world.SPLITS}
    for a, b in itertools.combinations(names, 2):
        assert not names[a] & names[b]


def test_scenes_and_pixels_are_deterministic_and_depend_on_the_seed() -> None:
    assert draw("loop", 50) == draw("loop", 50) != draw("loop", 50, seed=1)
    facts, hard = draw("loop", 1)[0], world.Difficulty()
    assert np.array_equal(world.render(facts, 0, hard), world.render(facts, 0, hard))
    assert not np.array_equal(world.render(facts, 0, hard), world.render(facts, 1, hard))


def test_every_nuisance_changes_the_pixels_and_the_name() -> None:
    facts = draw("loop", 1)[0]
    plain = world.render(facts, 0, EASY)
    for change in ({"noise": 9.0}, {"occlusion": 1.0}, {"lookalike": 1.0}):
        other = world.Difficulty(**{"noise": 0.0, "occlusion": 0.0, "lookalike": 0.0, "crf": 10} | change)
        assert not np.array_equal(plain, world.render(facts, 0, other))
        assert world.clip_name(facts, 0, other) != world.clip_name(facts, 0, EASY)


@pytest.mark.parametrize("motion", list(world.MOTIONS))
def test_a_clip_read_back_shows_its_color_and_motion(tmp_path, motion: str) -> None:
    facts = {"background": "black", "axis": "vertical", "objects": [{"shape": "circle", "color": "red", "size": "large", "motion": motion}]}
    (name,) = world.write_clips([facts], 0, EASY, tmp_path)
    clip = video.read(tmp_path / name, 4)
    assert clip.frames.shape == (4, world.SIZE, world.SIZE, 3) and clip.times[0] == 0 and 2 < clip.times[-1] <= 3
    red = (clip.frames[..., 0] > 120) & (clip.frames[..., 2] < 110)
    centers = np.array([[np.nonzero(frame)[1].mean(), np.nonzero(frame)[0].mean()] for frame in red])
    moved = centers[-1] - centers[0]
    assert np.array_equal(np.sign(np.where(abs(moved) > 5, moved, 0)), world.MOTIONS[motion])


def test_clips_are_written_once_and_hold_nothing_half_written(tmp_path) -> None:
    scenes = draw("loop", 3)
    names = world.write_clips(scenes, 0, EASY, tmp_path)
    stamps = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert sorted(stamps) == sorted(names)
    assert world.write_clips(scenes, 0, EASY, tmp_path) == names
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == stamps


def test_samples_ask_every_kind_and_their_reference_is_true(tmp_path) -> None:
    rows = world.samples("loop", 60, 0, EASY, tmp_path)
    assert {row.kind for row in rows} == set(language.KINDS) and len({row.id for row in rows}) == 60
    for row in rows:
        assert (tmp_path / row.video).stat().st_size > 500
        truth = claims.truth(row.answer, row.facts)
        assert truth.correct and truth.false == 0


def test_fixed_pairs_differ_in_truth_and_length_says_nothing(tmp_path) -> None:
    rows = world.fixed_pairs(60, 0, EASY, tmp_path)
    longer = 0
    for row in rows:
        right, wrong = (claims.truth(row.responses[i], row.facts) for i in (row.truer, 1 - row.truer))
        assert right.correct and not wrong.correct
        longer += len(row.responses[row.truer].split()) > len(row.responses[1 - row.truer].split())
    assert longer == 30 and 15 < sum(row.truer for row in rows) < 45


def test_corruption_reaches_every_kind_of_fact() -> None:
    rng, facts = random.Random(0), draw("loop", 40)
    changed = {"color": 0, "size": 0, "motion": 0, "shape": 0, "background": 0, "relation": 0}
    for scene in facts:
        other = language.corrupt(scene, 0.5, rng)
        for slot in ("color", "size", "motion", "shape"):
            changed[slot] += any(a[slot] != b[slot] for a, b in zip(scene["objects"], other["objects"], strict=True))
        changed["background"] += scene["background"] != other["background"]
        changed["relation"] += len(scene["objects"]) > 1 and language.relation(scene, 0, 1) != language.relation(other, 0, 1)
        assert len({o["shape"] for o in other["objects"]}) == len(other["objects"])
    assert all(changed.values())


def test_a_scene_gives_the_same_file_each_time_it_is_written(tmp_path) -> None:
    scenes = draw("loop", 12, seed=3)
    files = []
    for number in range(3):
        names = world.write_clips(scenes, 0, world.Difficulty(), tmp_path / str(number))
        files.append([(tmp_path / str(number) / name).read_bytes() for name in names])
    assert files[0] == files[1] == files[2]
