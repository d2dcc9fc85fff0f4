"""Where the judge looks, and the verdicts without the description: real clips, a real (random) model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isrdpo.core import pipeline as keys
from isrdpo.core import records
from isrdpo.formats import video
from isrdpo.models import local as vlmm
from isrdpo.stages import data, judge, look, respond

CALLS = "judgments_no_context.jsonl"


@pytest.fixture
def judged(make_run: Callable):
    def made(*overrides: str):
        run = make_run("one", *overrides)
        for stage in (data, respond, judge, look):
            stage.run(run, 1)
        return run

    return made


def test_the_same_pairs_without_the_description(judged: Callable) -> None:
    run = judged("judge.method=score")
    own, again = (
        records.read_jsonl(run.file(1, name), records.Judgment) for name in ("judgments.jsonl", CALLS)
    )
    assert {(c.id, c.order) for c in own} == {(c.id, c.order) for c in again} and own
    assert [c.scores for c in own] != [c.scores for c in again], "the description was read all the same"


def test_heat_maps_and_their_control(judged: Callable) -> None:
    run = judged("judge.method=score", "look.examples=2")
    rows = records.read_jsonl(run.file(1, "looks.jsonl"), dict)
    assert len({row["id"] for row in rows}) == 2 and len(rows) == 8
    for row in rows:
        heat = torch.tensor(row["heat"])
        assert heat.shape == (4, 12, 12) and (heat >= 0).all() and heat.max() > 0
        assert ("random_log_odds" in row) == row["judged"].endswith(", blanked")
        assert len(row.get("random_log_odds", [0] * look.DRAWS)) == look.DRAWS


def test_looking_touches_no_other_row(judged: Callable) -> None:
    run = judged()
    assert all(key(run.params, "train") == key(run.params.override("look", {"examples": 0, "without_context": False}), "train") for key in [
        lambda params, stage: keys.stage_key(params, stage, 2)])  # fmt: skip
    before = run.file(1, "judgments.jsonl").read_bytes()
    run.update(run.params.override("look", {"examples": 1}), redo=True)
    assert run.done("judge", 1) and not run.done("look", 1)
    look.run(run, 1)
    assert (
        run.file(1, "judgments.jsonl").read_bytes() == before
        and len({r["id"] for r in records.read_jsonl(run.file(1, "looks.jsonl"), dict)}) == 1
    )


def test_switched_off_it_leaves_nothing(judged: Callable) -> None:
    run = judged("look.examples=0", "look.without_context=false")
    assert run.done("look", 1) and not run.file(1, CALLS).exists() and not run.file(1, "looks.jsonl").exists()


def test_without_a_description_there_is_no_second_pass(judged: Callable) -> None:
    run = judged("respond.context=none")
    assert not run.file(1, CALLS).exists() and {
        row["judged"] for row in records.read_jsonl(run.file(1, "looks.jsonl"), dict)
    } == {"without", "without, blanked"}


def test_a_policy_that_is_gone_is_said(judged: Callable) -> None:
    run = judged("iterations=2")
    from isrdpo.stages import train

    train.run(run, 1)
    for stage in (data, respond, judge):
        stage.run(run, 2)
    shutil.rmtree(run.file(1, "policy"))
    look.run(run, 2)
    assert "policy that judged is gone" in run.done("look", 2)["warnings"][0]


def test_the_gradient_is_the_verdicts_own(judged: Callable) -> None:
    """To first order the log-odds move by what the map says, when a frame is moved a little towards blank."""
    run = judged()
    model = vlmm.open_policy(run.params.override("model", {"dtype": "float32"}), run.policy(1))
    sample = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[0]
    pixels = model.processor.pixels(video.read_clip(run.clip(sample.video), 4).frames)
    blank, prompt = torch.zeros_like(pixels), "Response A: x Response B: y Which response is better, A or B?"
    odds, whole = model.gradient(pixels, blank, prompt, 1)
    features = model.encode([Path(run.clip(sample.video))])
    chosen = model.choose(features, [prompt])[0]
    assert odds == pytest.approx(float(chosen[1] - chosen[0]), abs=1e-4)
    step = 1e-2
    for frame in range(4):
        moved = pixels.clone()
        moved[frame] *= 1 - step
        after, _ = model.gradient(moved, blank, prompt, 1)
        assert abs(after - odds) / step == pytest.approx(float(whole[frame, 0, 0]), rel=0.1, abs=2e-4)


def test_blanking_changes_the_asked_cells_only() -> None:
    pixels, blank = torch.rand(2, 3, 8, 8) + 1, torch.zeros(2, 3, 8, 8)
    made = look.blank_cells(pixels, blank, torch.tensor([0, 16 + 5]), 4)
    changed = (made != pixels).any(1)
    assert changed[0, :2, :2].all() and changed[1, 2:4, 2:4].all() and changed.sum() == 8
