"""The base model's recipe: branches are what they would be alone, batches are a pure function of the step, the log repeats."""

import dataclasses
import json
import random

import pytest
import torch

from isrdpo.core import prompts
from isrdpo.core.folders import TOYBOX_BASE
from isrdpo.models import hound
from isrdpo.toybox import base_model, world

RECIPE = dataclasses.replace(
    base_model.Recipe(), clips=4, width=32, tower_width=32, layers=2, tower_layers=2,
    phases=(
        base_model.Phase(1, 2, base_model.SEE), base_model.Phase(1, 2, (), (base_model.TERSE, base_model.BARE_PAIRS), 1),
        base_model.Phase(2, 2, ("describe", "again", "judge_with"), longer=0.8),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> tuple[hound.HoundForConditionalGeneration, hound.HoundProcessor]:
    processor = hound.HoundProcessor.from_tokenizer(TOYBOX_BASE / "tokenizer.model", RECIPE.frames, RECIPE.image_size, RECIPE.patch_size)
    return base_model.new_model(RECIPE, len(processor.tokenizer)).eval(), processor


@pytest.mark.parametrize("video", [True, False])
def test_a_branch_gives_the_logits_it_would_give_alone(tiny, video: bool) -> None:
    model, processor = tiny
    scene = next(world.scenes("base", 0, world.Difficulty()))
    tasks = ("describe", "again", "judge_with") if video else ("claim", "pair_with", "claim")
    prefix, branches = base_model.Tokens(processor).sequence(scene, tasks, random.Random(0), 0.5, video)
    vision = {"pixel_values_videos": torch.randn(1, RECIPE.frames, 3, 48, 48)} if video else {}
    packed = base_model.pack([(prefix, branches)], processor.pad_id)
    with torch.no_grad():
        names = ("input_ids", "attention_mask", "position_ids")
        together = model(**{name: packed[name] for name in names}, **vision).logits[0]
        at = len(prefix)
        for prompt, reply, _ in branches:
            alone = model(input_ids=torch.tensor([prefix + prompt + reply]), **vision).logits[0]
            size = len(prompt) + len(reply)
            assert torch.allclose(together[at : at + size], alone[len(prefix) :], atol=1e-5)
            at += size


def test_prompts_are_tokenized_as_when_the_model_is_used(tiny) -> None:
    _, processor = tiny
    scene = next(world.scenes("base", 1, world.Difficulty()))
    for video in (True, False):
        tasks = base_model.PAIRS if not video else ("answer", "judge_without")
        prefix, branches = base_model.Tokens(processor).sequence(scene, tasks, random.Random(3), 0.5, video)
        rng = random.Random(3)
        for task, (prompt, reply, _) in zip(tasks, branches, strict=True):
            _, request, text = base_model.branch(task, scene, rng, 0.5)
            assert prefix + prompt == processor.prompt_ids(prompts.conversation(request, video))
            assert processor.decode(reply[:-1]).strip() == text


def test_what_is_said_over_and_over_is_one_piece(tiny) -> None:
    assert [len(tiny[1].pieces.encode(phrase)) for phrase in base_model.PHRASES] == [1] * len(base_model.PHRASES)


def test_copying_asks_for_the_pieces_that_stood_there_before(tiny) -> None:
    _, ((asked, reply, weights),) = base_model.Tokens(tiny[1]).copied(random.Random(0))
    assert asked[: len(reply)] == reply and len(set(reply)) == len(reply) and min(reply) >= 259
    assert weights == [0.0] + [1.0] * (len(reply) - 1)


def test_with_and_without_a_description_length_says_the_same_in_every_phase() -> None:
    """No phase teaches the judge less length with a description than without one."""
    for phase in base_model.Recipe().phases:
        tasks = set(phase.tasks) | {t for row in phase.texts for t in row}
        judging = {t.split("_")[1] for t in tasks if t.startswith(("terse", "pair", "judge"))}
        assert judging in (set(), {"with", "without"})
    rng, source = random.Random(0), world.scenes("base", 2, world.Difficulty())
    longer = {}
    for task in ("pair_with", "pair_without", "judge_with", "judge_without"):
        wins = []
        for _ in range(1500):
            _, request, reply = base_model.branch(task, next(source), rng, 0.8)
            first, second = (len(part.split()) for part in request.split("Response A: ")[1].rsplit(" Which response", 1)[0].split(" Response B: "))
            wins += [(first > second) == ("A" in reply)] if first != second else []
        longer[task] = sum(wins) / len(wins)
    assert max(longer.values()) - min(longer.values()) < 0.06 and 0.65 < min(longer.values())


def test_patches_are_labelled_with_what_covers_them() -> None:
    thing = {"shape": "square", "color": "red", "size": "large", "motion": "still"}
    scene = {"background": "gray", "axis": "vertical", "objects": [thing]}
    labels = base_model.patch_labels(base_model.Recipe(), [scene])[0].view(4, 4, 4, 6)
    named = [base_model.PATCH[slot].index(thing[slot]) for slot in ("shape", "color", "size", "motion")]
    assert labels[:, 1, 1].tolist() == [[*named, 0, -1]] * 4
    assert labels[:, 0, 0].tolist() == [[-1] * 5 + [base_model.PATCH["background"].index("gray")]] * 4


def test_the_tower_learns_in_its_own_phase_only(tiny) -> None:
    model, processor = tiny
    learner = base_model.Learner(model)
    scenes = [next(world.scenes("base", s, world.Difficulty())) for s in range(4)]
    steps = base_model.Steps(RECIPE, scenes, processor)
    pixels, labels = torch.randn(4, RECIPE.frames, 3, 48, 48), base_model.patch_labels(RECIPE, scenes)
    for step, learns in ((0, True), (2, False)):
        learner.zero_grad()
        base_model.loss_and_accuracy(learner, steps[step], pixels, labels)[0].backward()
        assert any(p.grad is not None for p in model.model.video_tower.parameters()) == learns
        assert model.model.multi_modal_projector.linear_1.weight.grad is not None
        assert (model.lm_head.weight.grad is None) == learns
    learner.zero_grad()


def test_steps_are_a_pure_function_of_the_recipe(tiny) -> None:
    scenes = [next(world.scenes("base", s, world.Difficulty())) for s in range(4)]
    one, two = (base_model.Steps(RECIPE, scenes, tiny[1]) for _ in range(2))
    two[3]
    assert torch.equal(one[0]["clips"], two[0]["clips"]) and all(torch.equal(one[2][k], two[2][k]) for k in ("input_ids", "labels", "clips"))


def test_training_resumes_to_the_same_weights(tmp_path) -> None:
    whole = base_model.train(RECIPE, tmp_path / "a", every=1)
    base_model.train(RECIPE, tmp_path / "b", stop=2, every=1)
    parts = base_model.train(RECIPE, tmp_path / "b", every=1)
    assert [row["loss"] for row in whole] == [row["loss"] for row in parts]
    files = ["model.safetensors"]
    assert all((tmp_path / "a/model" / f).read_bytes() == (tmp_path / "b/model" / f).read_bytes() for f in files)


@pytest.mark.slow
def test_the_shipped_log_begins_as_the_recipe_does_today(tmp_path) -> None:
    shipped = [json.loads(line) for line in (TOYBOX_BASE / "training_log.jsonl").read_text().splitlines()[:20]]
    log = base_model.train(base_model.Recipe(), tmp_path / "base", stop=20)
    assert [row["loss"] for row in log] == pytest.approx([row["loss"] for row in shipped], rel=2e-3)


def test_the_shipped_weights_are_small_and_their_recipe_is_this_one() -> None:
    assert sum(f.stat().st_size for f in TOYBOX_BASE.glob("*.safetensors")) <= 12_000_000
    assert json.loads((TOYBOX_BASE / "recipe.json").read_text()) == json.loads(json.dumps(dataclasses.asdict(base_model.Recipe())))
