"""The base model: branches are what they would be alone, batches follow from the step, the log repeats."""

import dataclasses
import json
import random
from itertools import islice
from pathlib import Path

import pytest
import torch

from isrdpo.core import prompts
from isrdpo.core.folders import TOYBOX_BASE
from isrdpo.models import hound, packing
from isrdpo.toybox import base_model, losses, patches, recipe, training_batches, training_texts, world
from isrdpo.toybox.facts import Scene

TINY = dataclasses.replace(
    recipe.Recipe(),
    clips=4,
    width=32,
    tower_width=32,
    layers=2,
    tower_layers=2,
    phases=(
        recipe.Phase(1, 2, recipe.SEEING),
        recipe.Phase(1, 2, (), (recipe.TERSE_PAIRS, recipe.PAIRS_WITHOUT), 1),
        recipe.Phase(2, 2, ("describe", "again", "judge_with"), longer=0.8),
    ),
)
Tiny = tuple[hound.HoundForConditionalGeneration, hound.HoundProcessor]


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    tokenizer = TOYBOX_BASE / "tokenizer.model"
    processor = hound.HoundProcessor.from_tokenizer(tokenizer, TINY.frames, TINY.image_size, TINY.patch_size)
    return base_model.new_model(TINY, len(processor.tokenizer)).eval(), processor


def first_scene(seed: int) -> Scene:
    return next(world.scenes("base", seed, world.Difficulty()))


@pytest.mark.parametrize("video", [True, False])
def test_a_branch_gives_the_logits_it_would_give_alone(tiny: Tiny, video: bool) -> None:
    model, processor = tiny
    tasks = ("describe", "again", "judge_with") if video else ("claim", "pair_with", "claim")
    tokens = training_texts.Tokens(processor)
    sequence = tokens.sequence(first_scene(0), tasks, random.Random(0), 0.5, video)
    vision = {"pixel_values_videos": torch.randn(1, TINY.frames, 3, 48, 48)} if video else {}
    packed = training_batches.text_batch([sequence], [tasks], None, processor.pad_id).packed
    with torch.no_grad():
        together = model(
            input_ids=packed.input_ids,
            attention_mask=packed.attention_mask,
            position_ids=packed.position_ids,
            **vision,
        ).logits[0]
        start = len(sequence.prefix)
        for branch in sequence.branches:
            ids = torch.tensor([sequence.prefix + branch.prompt + branch.reply])
            alone = model(input_ids=ids, **vision).logits[0]
            end = start + len(branch.prompt) + len(branch.reply)
            assert torch.allclose(together[start:end], alone[len(sequence.prefix) :], atol=1e-5)
            start = end


def test_branches_are_packed_side_by_side() -> None:
    packed = packing.pack([([1, 2], [[10], [11, 12]]), ([3], [[13]])], pad=0)
    assert packed.input_ids.tolist() == [[1, 2, 10, 11, 12], [3, 13, 0, 0, 0]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 2, 3], [0, 1, 0, 0, 0]]
    assert packed.part.tolist() == [[0, 0, 1, 2, 2], [0, 1, -1, -1, -1]]
    assert packed.attention_mask.shape == (2, 1, 5, 5)
    assert packed.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


def test_labels_weights_and_tasks_lie_on_their_branches() -> None:
    branches = [
        training_texts.TokenBranch([5], [6, 7], [0.5, 1.0]),
        training_texts.TokenBranch([], [8], [1.0]),
    ]
    sequence = training_texts.TokenSequence([1, 2], branches)
    batch = training_batches.text_batch([sequence], [("again", "copy")], torch.tensor([3]), pad=0)
    assert batch.labels.tolist() == [[-100, -100, -100, 6, 7, 8]]
    assert batch.weights.tolist() == [[0, 0, 0, 0.5, 1, 1]]
    assert batch.task.tolist() == [[-1, -1, 1, 1, 1, 4]]
    assert batch.clips.tolist() == [3]


def test_prompts_are_tokenized_as_when_the_model_is_used(tiny: Tiny) -> None:
    _, processor = tiny
    scene = first_scene(1)
    for video in (True, False):
        tasks = ("answer", "judge_without") if video else recipe.PAIRS
        tokens = training_texts.Tokens(processor)
        prefix, branches = tokens.sequence(scene, tasks, random.Random(3), 0.5, video)
        rng = random.Random(3)
        for task, (prompt, reply, _) in zip(tasks, branches, strict=True):
            branch = training_texts.draw_branch(task, scene, rng, 0.5)
            assert prefix + prompt == processor.prompt_ids(prompts.conversation(branch.request, video))
            assert processor.decode(reply[:-1]).strip() == branch.reply


def test_what_is_said_over_and_over_is_one_piece(tiny: Tiny) -> None:
    pieces = [tiny[1].pieces.encode(phrase) for phrase in training_texts.PHRASES]
    assert [len(ids) for ids in pieces] == [1] * len(training_texts.PHRASES)


def test_copying_asks_for_the_pieces_that_stood_there_before(tiny: Tiny) -> None:
    _, ((prompt, reply, weights),) = training_texts.Tokens(tiny[1]).copying(random.Random(0))
    assert prompt[: len(reply)] == reply
    assert len(set(reply)) == len(reply)
    assert min(reply) >= 259
    assert weights == [0.0] + [1.0] * (len(reply) - 1)


def test_every_phase_judges_with_and_without_a_description() -> None:
    for phase in recipe.Recipe().phases:
        tasks = set(phase.tasks).union(*phase.texts)
        judging = {task.split("_")[1] for task in tasks if task.startswith(("terse", "pair", "judge"))}
        assert judging in (set(), {"with", "without"})


def longer_share(task: str, scenes: list[Scene], rng: random.Random) -> float:
    """The share of pairs of unequal length in which the better answer is the longer one."""
    wins = []
    for scene in scenes:
        branch = training_texts.draw_branch(task, scene, rng, 0.8)
        answers = branch.request.split("Response A: ")[1].rsplit(" Which response", 1)[0]
        first, second = (len(answer.split()) for answer in answers.split(" Response B: "))
        if first != second:
            wins.append((first > second) == ("A" in branch.reply))
    return sum(wins) / len(wins)


def test_with_and_without_a_description_length_says_the_same() -> None:
    """No phase teaches the judge less length with a description than without one."""
    rng = random.Random(0)
    source = world.scenes("base", 2, world.Difficulty())
    tasks = ("pair_with", "pair_without", "judge_with", "judge_without")
    shares = [longer_share(task, list(islice(source, 1500)), rng) for task in tasks]
    assert max(shares) - min(shares) < 0.06
    assert 0.65 < min(shares)


def test_learning_rates_warm_up_and_decay_in_each_cycle() -> None:
    whole = recipe.Recipe()
    assert recipe.learning_rate_share(whole, 0) == 1 / 50
    assert recipe.learning_rate_share(whole, 49) > 0.94
    assert recipe.learning_rate_share(whole, 879) == pytest.approx(0.03, abs=0.002)
    assert recipe.learning_rate_share(whole, 880) == 0.5 / 50, "a restart at half of the rate"
    assert recipe.learning_rate_share(whole, 1080) > 0.25, "no restart"
    assert recipe.learning_rate_share(whole, 3379) == pytest.approx(0.015, abs=0.001)


def test_patches_are_labelled_with_what_covers_them() -> None:
    thing = {"shape": "square", "color": "red", "size": "large", "motion": "still"}
    scene = {"background": "gray", "axis": "vertical", "objects": [thing]}
    labels = patches.patch_labels(recipe.Recipe(), [scene])[0].view(4, 4, 4, 6)
    values = [patches.SLOTS[slot].index(thing[slot]) for slot in ("shape", "color", "size", "motion")]
    assert labels[:, 1, 1].tolist() == [[*values, 0, -1]] * 4
    assert labels[:, 0, 0].tolist() == [[-1] * 5 + [patches.SLOTS["background"].index("gray")]] * 4


def test_the_tower_learns_in_its_own_phase_only(tiny: Tiny) -> None:
    model, processor = tiny
    learner = losses.Learner(model)
    scenes = [first_scene(seed) for seed in range(4)]
    steps = training_batches.TrainingSteps(TINY, scenes, processor)
    pixels = torch.randn(4, TINY.frames, 3, 48, 48)
    labels = patches.patch_labels(TINY, scenes)
    for step, tower_learns in ((0, True), (2, False)):
        learner.zero_grad()
        losses.step_loss(learner, steps[step], pixels, labels)[0].backward()
        tower_gradients = [parameter.grad for parameter in model.model.video_tower.parameters()]
        assert any(gradient is not None for gradient in tower_gradients) == tower_learns
        assert model.model.multi_modal_projector.linear_1.weight.grad is not None
        assert (model.lm_head.weight.grad is None) == tower_learns
    learner.zero_grad()


def test_steps_are_a_pure_function_of_the_recipe(tiny: Tiny) -> None:
    scenes = [first_scene(seed) for seed in range(4)]
    one = training_batches.TrainingSteps(TINY, scenes, tiny[1])
    two = training_batches.TrainingSteps(TINY, scenes, tiny[1])
    assert two[3]
    assert torch.equal(one[0].clips, two[0].clips)
    assert torch.equal(one[2].packed.input_ids, two[2].packed.input_ids)
    assert torch.equal(one[2].labels, two[2].labels)
    assert torch.equal(one[2].clips, two[2].clips)


def test_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = base_model.train(TINY, tmp_path / "a", save_every=1)
    base_model.train(TINY, tmp_path / "b", stop=2, save_every=1)
    parts = base_model.train(TINY, tmp_path / "b", save_every=1)
    assert [row["loss"] for row in whole] == [row["loss"] for row in parts]
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    rows = (tmp_path / "b" / "model" / "training_log.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [0, 1, 2, 3]


@pytest.mark.slow
def test_the_shipped_log_begins_as_the_recipe_does_today(tmp_path: Path) -> None:
    lines = (TOYBOX_BASE / "training_log.jsonl").read_text().splitlines()[:20]
    shipped = [json.loads(line)["loss"] for line in lines]
    log = base_model.train(recipe.Recipe(), tmp_path / "base", stop=20)
    assert [row["loss"] for row in log] == pytest.approx(shipped, rel=2e-3)


def test_the_shipped_weights_are_small_and_their_recipe_is_this_one() -> None:
    assert sum(file.stat().st_size for file in TOYBOX_BASE.glob("*.safetensors")) <= 12_000_000
    shipped = (TOYBOX_BASE / "recipe.json").read_text()
    assert shipped == json.dumps(dataclasses.asdict(recipe.Recipe()), indent=1)
