"""Where the judge looks, and the verdicts without the description: real clips, a real (random) model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isrdpo.core import pipeline, records, runs
from isrdpo.formats import video
from isrdpo.models import local
from isrdpo.stages import data, judge, look, respond, train

NO_CONTEXT = "judgments_no_context.jsonl"


@pytest.fixture
def run_with_looks(make_run: Callable) -> Callable:
    """`run_with_looks("key=value", ...)`: a small run whose first iteration is judged and looked into."""

    def make(*overrides: str) -> runs.Run:
        run = make_run("one", *overrides)
        for stage in (data, respond, judge, look):
            stage.run(run, 1)
        return run

    return make


def read_looks(run: runs.Run) -> list[dict]:
    return records.read_jsonl(run.file(1, "looks.jsonl"), dict)


def test_the_same_pairs_without_the_description(run_with_looks: Callable) -> None:
    run = run_with_looks("judge.method=score")
    judgments = records.read_jsonl(run.file(1, "judgments.jsonl"), records.Judgment)
    repeats = records.read_jsonl(run.file(1, NO_CONTEXT), records.Judgment)
    assert judgments
    assert {(j.id, j.order) for j in judgments} == {(j.id, j.order) for j in repeats}
    scores = [judgment.scores for judgment in judgments]
    assert scores != [judgment.scores for judgment in repeats], "the description was read all the same"


def test_heat_maps_and_their_control(run_with_looks: Callable) -> None:
    run = run_with_looks("judge.method=score", "look.examples=2")
    rows = read_looks(run)
    assert len({row["id"] for row in rows}) == 2
    assert len(rows) == 8
    for row in rows:
        heat = torch.tensor(row["heat"])
        assert heat.shape == (4, 12, 12)
        assert (heat >= 0).all()
        assert heat.max() > 0
        assert ("random_log_odds" in row) == row["judged"].endswith(", blanked")
        assert len(row.get("random_log_odds", [0] * look.DRAWS)) == look.DRAWS


def test_looking_touches_no_other_row(run_with_looks: Callable) -> None:
    run = run_with_looks()
    without_looks = run.params.override("look", {"examples": 0, "without_context": False})
    assert pipeline.stage_key(run.params, "train", 2) == pipeline.stage_key(without_looks, "train", 2)
    before = run.file(1, "judgments.jsonl").read_bytes()
    run.update(run.params.override("look", {"examples": 1}), redo=True)
    assert run.done("judge", 1)
    assert not run.done("look", 1)
    look.run(run, 1)
    assert run.file(1, "judgments.jsonl").read_bytes() == before
    assert len({row["id"] for row in read_looks(run)}) == 1


def test_switched_off_it_leaves_nothing(run_with_looks: Callable) -> None:
    run = run_with_looks("look.examples=0", "look.without_context=false")
    assert run.done("look", 1)
    assert not run.file(1, NO_CONTEXT).exists()
    assert not run.file(1, "looks.jsonl").exists()


def test_without_a_description_there_is_no_second_pass(run_with_looks: Callable) -> None:
    run = run_with_looks("respond.context=none")
    assert not run.file(1, NO_CONTEXT).exists()
    assert {row["judged"] for row in read_looks(run)} == {"without", "without, blanked"}


def test_a_policy_that_is_gone_is_said(run_with_looks: Callable) -> None:
    run = run_with_looks("iterations=2")
    train.run(run, 1)
    for stage in (data, respond, judge):
        stage.run(run, 2)
    shutil.rmtree(run.file(1, "policy"))
    look.run(run, 2)
    assert "policy that judged is gone" in run.done("look", 2)["warnings"][0]


def test_the_gradient_is_the_verdicts_own(run_with_looks: Callable) -> None:
    """To first order the log-odds move by what the map says, when a frame is moved a little towards blank."""
    run = run_with_looks()
    model = local.open_policy(run.params.override("model", {"dtype": "float32"}), run.policy(1))
    sample = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[0]
    pixels = model.processor.pixels(video.read_clip(run.clip(sample.video), 4).frames)
    blank = torch.zeros_like(pixels)
    prompt = "Response A: x Response B: y Which response is better, A or B?"
    log_odds, heat = model.gradient(pixels, blank, prompt, 1)
    features = model.encode([Path(run.clip(sample.video))])
    scores = model.choose(features, [prompt])[0]
    assert log_odds == pytest.approx(float(scores[1] - scores[0]), abs=1e-4)
    step = 1e-2
    for frame in range(4):
        moved = pixels.clone()
        moved[frame] *= 1 - step
        log_odds_after, _ = model.gradient(moved, blank, prompt, 1)
        slope = abs(log_odds_after - log_odds) / step
        assert slope == pytest.approx(float(heat[frame, 0, 0]), rel=0.1, abs=2e-4)


def test_blanking_changes_the_asked_cells_only() -> None:
    pixels = torch.rand(2, 3, 8, 8) + 1
    blank = torch.zeros(2, 3, 8, 8)
    result = look.blank_cells(pixels, blank, torch.tensor([0, 16 + 5]), 4)
    changed = (result != pixels).any(1)
    assert changed[0, :2, :2].all()
    assert changed[1, 2:4, 2:4].all()
    assert changed.sum() == 8
