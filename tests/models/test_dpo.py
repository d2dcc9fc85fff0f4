"""DPO on videos: what reaches the model, what the loss is, what is trained, with a test of each trap of
TRL.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from isrdpo.core import prompts
from isrdpo.core.records import Preference
from isrdpo.models import dpo, dpo_trainer, hound
from isrdpo.models.hound_model import HoundForConditionalGeneration
from isrdpo.models.hound_processor import video_inputs
from isrdpo.models.loss_checks import TrainError
from tests.miniature import PROCESSOR, VIDEOS, make_model, preferences, train_settings

METHODS = pytest.mark.parametrize("method", ["full", "lora"])


def training_rows(pairs: list[Preference]) -> list[dpo.TrainingRow]:
    return [dpo.training_row(pair, PROCESSOR, VIDEOS[pair.video]) for pair in pairs]


def make_trainer(
    folder: Path,
    model: HoundForConditionalGeneration | None = None,
    pairs: list[Preference] | None = None,
    **changes: Any,
) -> dpo.VideoDPOTrainer:
    return dpo.make_trainer(
        model or make_model(),
        PROCESSOR,
        training_rows(pairs or preferences()),
        VIDEOS.__getitem__,
        train_settings(**changes),
        folder,
        seed=3,
    )


def batch_of(trainer: dpo.VideoDPOTrainer) -> dict[str, Tensor]:
    return trainer.data_collator(list(trainer.train_dataset))


def move_policy(trainer: dpo.VideoDPOTrainer) -> None:
    """Change what is trained, the same way in every trainer."""
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            parameter.data += 0.05 * noise


def answer_tokens(trainer: dpo.VideoDPOTrainer) -> Tensor:
    """float [pairs, 2]: tokens of chosen and rejected, with their EOS."""
    rows = trainer.train_dataset
    return torch.tensor([[len(row["chosen_ids"]), len(row["rejected_ids"])] for row in rows]).float()


def log_prob_by_hand(
    model: HoundForConditionalGeneration, row: dpo.TrainingRow, answer: list[int], features: Tensor
) -> Tensor:
    """log pi(answer | video, prompt), with the video spliced into the embeddings, one token after another."""
    start = row["prompt_ids"].index(PROCESSOR.video_token_id)
    after = row["prompt_ids"][start + len(features) :]
    table = model.get_input_embeddings().weight
    parts = [table[row["prompt_ids"][:start]], features, table[after + answer]]
    hidden = model.model.language_model(inputs_embeds=torch.cat(parts)[None]).last_hidden_state[0]
    scores = F.log_softmax(hidden @ model.lm_head.weight.T, dim=-1)
    first = len(row["prompt_ids"])
    return sum(scores[first + n - 1, token] for n, token in enumerate(answer))


@torch.no_grad()
def log_probs_by_hand(model: HoundForConditionalGeneration, rows: list[dpo.TrainingRow], side: str) -> Tensor:
    plain = make_model()
    plain.load_state_dict(model.state_dict())
    return torch.stack(
        [log_prob_by_hand(plain, row, row[side], VIDEOS[row["video"]].features) for row in rows]
    )


@torch.no_grad()
def logits_about_one(model: HoundForConditionalGeneration) -> Tensor:
    ids = torch.tensor([PROCESSOR.prompt_ids(prompts.conversation("What moves?"))])
    return model.eval()(input_ids=ids, **video_inputs(VIDEOS["one"].features[None])).logits


# The loss


@torch.no_grad()
def test_log_probs_and_loss_equal_a_computation_by_hand(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, beta=0.3)
    reference = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    move_policy(trainer)
    batch = batch_of(trainer)
    rows = list(trainer.train_dataset)
    margins = []
    for model in (trainer.model, trainer.ref_model):
        chosen, rejected = trainer.compute_ref_log_probs(model, batch)
        expected_chosen = log_probs_by_hand(model, rows, "chosen_ids")
        expected_rejected = log_probs_by_hand(model, rows, "rejected_ids")
        assert torch.allclose(chosen, expected_chosen, atol=1e-4)
        assert torch.allclose(rejected, expected_rejected, atol=1e-4)
        margins.append(expected_chosen - expected_rejected)
    loss = trainer.compute_loss(trainer.model, batch)
    expected_loss = -F.logsigmoid(0.3 * (margins[0] - margins[1])).mean()
    assert loss.item() == pytest.approx(expected_loss.item(), abs=1e-4)
    assert all(torch.equal(value, reference[name]) for name, value in trainer.ref_model.state_dict().items())


@METHODS
def test_a_length_margin_inside_the_sigmoid(tmp_path: Path, method: str) -> None:
    """R-DPO: -log sigmoid(beta * difference of log-ratios + alpha * (|y_w| - |y_l|)), in tokens with EOS."""
    choice = {"pairs": preferences(5), "beta": 0.3, "method": method, "lora_dropout": 0.0}
    plain = make_trainer(tmp_path / "plain", **choice)
    priced = make_trainer(tmp_path / "priced", **choice, length_alpha=0.05)
    for trainer in (plain, priced):
        move_policy(trainer)
    batch = batch_of(plain)
    with torch.no_grad():
        plain.compute_loss(plain.model, batch)
        priced.compute_loss(priced.model, batch)
    lengths = answer_tokens(plain)
    margin = (0.05 * (lengths[:, 0] - lengths[:, 1])).mean().item()
    assert abs(margin) > 0.01
    without = plain._metrics["train"]
    metrics = priced._metrics["train"]
    assert metrics["length_margin"][-1] == pytest.approx(margin, abs=1e-6)
    difference = metrics["rewards/margins"][-1] - without["rewards/margins"][-1]
    assert difference == pytest.approx(margin, abs=1e-4)
    policy = without["logps/chosen"][-1]
    assert metrics["logps/chosen"][-1] == pytest.approx(policy, abs=1e-4), "the policy's are not touched"


def test_the_loss_of_a_length_margin_by_hand(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, beta=0.3, length_alpha=0.05)
    lengths = answer_tokens(trainer)
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch_of(trainer))  # equal models: the margin alone
    expected = -F.logsigmoid(0.05 * (lengths[:, 0] - lengths[:, 1])).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_length_margin_trains(tmp_path: Path) -> None:
    log = dpo.fit(make_trainer(tmp_path, length_alpha=0.05), "key")
    assert abs(log[0]["rewards/margins"] - log[0]["length_margin"]) < 1e-3


# What reaches the model


def test_chosen_and_rejected_see_the_same_video_and_it_is_their_own(tmp_path: Path) -> None:
    batch = batch_of(make_trainer(tmp_path))
    assert torch.equal(batch["video.features"][:8], batch["video.features"][8:])
    for features, preference in zip(batch["video.features"], preferences(), strict=False):
        assert torch.equal(features, VIDEOS[preference.video].features)
    assert all(isinstance(value, Tensor) for value in batch.values()), "what pinned memory can take"


def test_another_video_changes_both_log_probs_of_policy_and_reference(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    batch = batch_of(trainer)
    other = batch | {"video.features": batch["video.features"].roll(1, dims=1)}
    for model in (trainer.model, trainer.ref_model):
        now = torch.stack(trainer.compute_ref_log_probs(model, batch))
        then = torch.stack(trainer.compute_ref_log_probs(model, other))
        assert ((now - then).abs() > 1e-4).all()


def test_a_batch_without_its_video_is_an_error(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    batch = batch_of(trainer)
    del batch["video.features"]
    with pytest.raises(KeyError, match="features"):
        trainer.compute_loss(trainer.model, batch)


def test_the_processor_is_at_hand_while_trl_builds_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL may ask for the reference's log-probabilities inside its own __init__."""
    calls = []
    plain = dpo_trainer.DPOTrainer.__init__

    def ask_within(self: dpo.VideoDPOTrainer, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        calls.append(self.compute_ref_log_probs(self.ref_model, batch_of(self)))

    monkeypatch.setattr(dpo_trainer.DPOTrainer, "__init__", ask_within)
    trainer = make_trainer(tmp_path)
    after = trainer.compute_ref_log_probs(trainer.ref_model, batch_of(trainer))
    assert torch.equal(torch.stack(calls[0]), torch.stack(after))


def test_training_sees_the_tokens_of_generation_and_the_answer_ends() -> None:
    question = "What  moves?\n<video>"
    pair = Preference("a", "one", question, "a \x00 cat", "a \x01 dog", None)
    row = dpo.training_row(pair, PROCESSOR, VIDEOS["one"])
    assert row["prompt_ids"] == PROCESSOR.prompt_ids(prompts.conversation(question))
    assert row["prompt_ids"].count(PROCESSOR.video_token_id) == PROCESSOR.video_tokens
    assert row["chosen_ids"][-1] == row["rejected_ids"][-1] == PROCESSOR.pieces.eos_id()
    assert PROCESSOR.decode(row["chosen_ids"]) == "a \x00 cat"
    assert (row["chosen_words"], row["rejected_words"]) == (3, 3)
    text = len(row["prompt_ids"]) - PROCESSOR.video_tokens
    assert dpo.text_tokens(row, PROCESSOR) == text + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def test_no_answer_is_cut(tmp_path: Path) -> None:
    long = Preference("long", "one", "What moves?", "cat " * 1500, "dog", None)
    trainer = make_trainer(tmp_path, pairs=[long])
    batch = batch_of(trainer)
    answer = PROCESSOR.answer_ids(long.chosen)
    assert len(answer) > 1024
    assert trainer.args.max_length is None
    assert batch["input_ids"][0, -len(answer) :].tolist() == answer
    assert batch["completion_mask"].sum(1).tolist() == [len(answer), len(PROCESSOR.answer_ids("dog"))]


def test_padding_changes_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    together = torch.stack(trainer.compute_ref_log_probs(trainer.model, batch_of(trainer)))
    alone = [
        torch.stack(trainer.compute_ref_log_probs(trainer.model, trainer.data_collator([row])))
        for row in trainer.train_dataset
    ]
    assert torch.allclose(together, torch.cat(alone, dim=1), atol=1e-4)


# Policy and reference


@METHODS
def test_first_loss_is_ln_2_and_the_next_reference_is_the_trained_policy(tmp_path: Path, method: str) -> None:
    model = make_model()
    first_log_probs = []
    for iteration in (1, 2):
        trainer = make_trainer(tmp_path / str(iteration), model, method=method, epochs=3)
        log = dpo.fit(trainer, "key")
        assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert log[-1]["loss"] < 0.69
        assert len(log) == 6
        model = dpo.trained_policy(trainer)
        assert type(model) is HoundForConditionalGeneration
        first_log_probs.append(log[0]["logps/chosen"])
        before_saving = logits_about_one(model)
        PROCESSOR.save(model, tmp_path / f"policy{iteration}")
        model, _ = hound.load(tmp_path / f"policy{iteration}")
        assert torch.allclose(logits_about_one(model), before_saving, atol=1e-5)
    assert abs(first_log_probs[0] - first_log_probs[1]) > 0.01, "the reference has moved on"


def test_the_reference_is_a_copy_of_the_policy_not_one_read_from_its_path(tmp_path: Path) -> None:
    PROCESSOR.save(make_model(), tmp_path / "old")
    model, _ = hound.load(tmp_path / "old")
    with torch.no_grad():
        model.lm_head.weight += 0.1
    trainer = make_trainer(tmp_path / "new", model)
    assert torch.equal(trainer.ref_model.lm_head.weight, model.lm_head.weight)
    assert trainer.ref_model.lm_head.weight is not model.lm_head.weight
    assert not any(parameter.requires_grad for parameter in trainer.ref_model.parameters())


def test_another_reference_than_the_policy_stops_the_training_at_the_first_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.ref_model.lm_head.weight.mul_(1.5)
    with pytest.raises(TrainError, match="policy and reference differ before the first update"):
        dpo.fit(trainer, "key")


@METHODS
def test_the_language_model_is_trained_and_nothing_else(tmp_path: Path, method: str) -> None:
    before = make_model().state_dict()
    trainer = make_trainer(tmp_path, method=method)
    dpo.fit(trainer, "key")
    after = dpo.trained_policy(trainer).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert after.keys() == before.keys()
    if method == "full":
        assert changed == {name for name in before if name.startswith(("model.language_model.", "lm_head."))}
    else:
        assert changed == {name for name in before if ".language_model.layers." in name and "_proj." in name}


# Steps, log and arguments


def test_eight_steps_of_accumulation_equal_one_batch_of_eight(tmp_path: Path) -> None:
    logs = []
    weights = []
    for batch, steps in ((1, 8), (8, 1)):
        choice = {"batch_size": batch, "gradient_accumulation": steps, "epochs": 2, "max_grad_norm": 1e9}
        trainer = make_trainer(tmp_path / str(batch), **choice)
        logs.append(dpo.fit(trainer, "key"))
        weights.append(dpo.trained_policy(trainer).state_dict())
    for one, eight in zip(*logs, strict=True):
        for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen", "chosen_words"):
            assert one[name] == pytest.approx(eight[name], rel=1e-4, abs=1e-5)
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-5) for name in weights[0])


def test_the_log_has_the_mean_words_of_each_batch(tmp_path: Path) -> None:
    log = dpo.fit(make_trainer(tmp_path, batch_size=8), "key")
    assert log[0]["chosen_words"] == sum(len(pair.chosen.split()) for pair in preferences()) / 8
    assert log[0]["rejected_words"] == sum(len(pair.rejected.split()) for pair in preferences()) / 8


def test_lora_dropout_is_not_switched_off(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, method="lora", lora_dropout=0.25)
    dropouts = [module for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert {dropout.p for dropout in dropouts} == {0.25}


def test_loss_settings_reach_trl(tmp_path: Path) -> None:
    args = make_trainer(tmp_path, loss_type="ipo", ld_alpha=0.5, gradient_checkpointing=True).args
    assert (args.loss_type, args.ld_alpha, args.activation_checkpointing) == (["ipo"], 0.5, True)
    assert (args.bf16, args.dataloader_pin_memory, args.report_to) == (False, False, [])


@METHODS
def test_gradient_checkpointing_changes_no_value(tmp_path: Path, method: str) -> None:
    losses = []
    for checkpointing in (False, True):
        choice = {"method": method, "gradient_checkpointing": checkpointing, "lora_dropout": 0.0}
        log = dpo.fit(make_trainer(tmp_path / str(checkpointing), **choice), "key")
        losses.append([entry["loss"] for entry in log])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_bf16_is_refused_on_a_cpu_and_off_there_by_itself(tmp_path: Path) -> None:
    assert make_trainer(tmp_path).args.bf16 is False
    with pytest.raises(TrainError, match="train.bf16=true: needs a CUDA device, this is cpu"):
        make_trainer(tmp_path, bf16=True)


def test_no_gpu_is_idle_on_a_cpu_or_under_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert dpo.idle_gpus(torch.device("cpu")) == 0
    assert dpo.idle_gpus(torch.device("cuda")) == 3
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert dpo.idle_gpus(torch.device("cuda")) == 0


# Resuming


class StopAtStepFive(TrainerCallback):
    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


@METHODS
def test_resumed_in_the_middle_of_an_epoch_it_ends_the_same(tmp_path: Path, method: str) -> None:
    """Order, optimizer, schedule and dropout go on as they were; the last group of an epoch is short."""
    choice = {"method": method, "batch_size": 1, "gradient_accumulation": 3, "epochs": 3, "save_steps": 2}
    whole = make_trainer(tmp_path / "whole", **choice)
    log = dpo.fit(whole, "key")
    broken = make_trainer(tmp_path / "broken", **choice)
    broken.add_callback(StopAtStepFive())
    with pytest.raises(KeyboardInterrupt):
        dpo.fit(broken, "key")
    assert (tmp_path / "broken" / "checkpoint-4").is_dir()
    again = make_trainer(tmp_path / "broken", **choice)
    resumed = dpo.fit(again, "key")
    assert len(log) == 9
    for name in ("loss", "grad_norm", "epoch", "rewards/margins", "chosen_words"):
        assert [entry[name] for entry in resumed] == [entry[name] for entry in log]
    expected = dpo.trained_policy(whole).state_dict()
    weights = dpo.trained_policy(again).state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
