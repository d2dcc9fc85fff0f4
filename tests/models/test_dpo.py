"""DPO on videos: what reaches the model, what the loss is, what is trained; each trap that is known of TRL is a test."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from isrdpo.core import prompts
from isrdpo.core.params import Train
from isrdpo.core.records import Preference
from isrdpo.models import dpo, hound
from isrdpo.models.hound_model import HoundForConditionalGeneration, HoundProcessor

FRAMES, SIZE, PATCH, WIDTH = 2, 16, 8, 32
# a wide draw: with the usual one a random model hardly sees its video
TEXT = {
    "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "initializer_range": 0.2, "max_position_embeddings": 4096,
}  # fmt: skip
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ANSWERS = (
    "red moves left and then it stops",
    "The red square moves left.",
    "a cat",
    "12 dogs watch the red square while it moves left",
    "it is red",
    "the cat and the dogs move left",
    "red",
    "left, then left again",
)


def make_processor() -> HoundProcessor:
    words = (prompts.SYSTEM + " USER: ASSISTANT: the red square moves left while a cat and 12 dogs watch it. ").split()
    lines, model = [" ".join(words[n:] + words[:n]) for n in range(len(words))] * 4, io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=380, byte_fallback=True,
        hard_vocab_limit=False, num_threads=1, minloglevel=2, pad_id=-1,
    )  # fmt: skip
    rows = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()
    return HoundProcessor(model.getvalue(), FRAMES, SIZE, PATCH, rows)


PROCESSOR = make_processor()
VIDEOS = {
    name: torch.randn(PROCESSOR.video_tokens, WIDTH, generator=torch.Generator().manual_seed(n))
    for n, name in enumerate(("one", "two", "three"))
}


def make_model() -> HoundForConditionalGeneration:
    torch.manual_seed(7)
    tower = TOWER | {"image_size": SIZE, "patch_size": PATCH}
    return hound.build(PROCESSOR.vocab_size, TEXT, tower, FRAMES)


def preferences(count: int = 8) -> list[Preference]:
    names = list(VIDEOS)
    return [
        Preference(f"p{n}", names[n % 3], f"What moves {n}?", ANSWERS[n % 8], ANSWERS[(n + 3) % 8], None)
        for n in range(count)
    ]


def settings(**changes: Any) -> Train:
    plain = {
        "method": "full", "beta": 0.1, "learning_rate": 1e-3, "epochs": 1, "batch_size": 4, "gradient_accumulation": 1,
        "schedule": "linear", "warmup_ratio": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "max_length": 2048,
        "loss_type": "sigmoid", "ld_alpha": None, "length_alpha": None, "bf16": "auto", "gradient_checkpointing": False, "lora_r": 4, "lora_alpha": 8,
        "lora_dropout": 0.05, "save_steps": 50, "report_to": "none",
    }  # fmt: skip
    return Train(**(plain | changes))


def make_trainer(
    folder: Path, model: HoundForConditionalGeneration | None = None, rows: list[dict] | None = None, **changes: Any
) -> dpo.VideoDPOTrainer:
    rows = rows or [dpo.row(preference, PROCESSOR, {}) for preference in preferences()]
    return dpo.trainer(model or make_model(), PROCESSOR, rows, lambda name: {"features": VIDEOS[name]}, settings(**changes), folder, seed=3)


def batch_of(trainer: dpo.VideoDPOTrainer) -> dict[str, Tensor]:
    return trainer.data_collator(list(trainer.train_dataset))


def by_hand(model: HoundForConditionalGeneration, row: dict[str, Any], answer: list[int], video: Tensor) -> Tensor:
    """log pi(answer | video, prompt), with the video spliced into the embeddings, one token after another."""
    start = row["prompt_ids"].index(PROCESSOR.video_token_id)
    after = row["prompt_ids"][start + len(video) :]
    table = model.get_input_embeddings().weight
    parts = [table[row["prompt_ids"][:start]], video, table[after + answer]]
    hidden = model.model.language_model(inputs_embeds=torch.cat(parts)[None]).last_hidden_state[0]
    scores = F.log_softmax(hidden @ model.lm_head.weight.T, dim=-1)
    first = len(row["prompt_ids"])
    return sum(scores[first + n - 1, token] for n, token in enumerate(answer))


@torch.no_grad()
def test_log_probs_and_loss_equal_a_computation_by_hand(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, beta=0.3)
    reference = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for parameter in filter(lambda parameter: parameter.requires_grad, trainer.model.parameters()):
        parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    batch = batch_of(trainer)
    margins = []
    for model, found in ((trainer.model, trainer.compute_ref_log_probs(trainer.model, batch)),
                         (trainer.ref_model, trainer.compute_ref_log_probs(trainer.ref_model, batch))):  # fmt: skip
        plain = make_model()
        plain.load_state_dict(model.state_dict())
        rows = list(trainer.train_dataset)
        wanted = [
            torch.stack([by_hand(plain, row, row[side], VIDEOS[row["video"]]) for row in rows])
            for side in ("chosen_ids", "rejected_ids")
        ]
        assert torch.allclose(found[0], wanted[0], atol=1e-4) and torch.allclose(found[1], wanted[1], atol=1e-4)
        margins.append(wanted[0] - wanted[1])
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(-F.logsigmoid(0.3 * (margins[0] - margins[1])).mean().item(), abs=1e-4)
    assert all(torch.equal(value, reference[name]) for name, value in trainer.ref_model.state_dict().items())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_length_margin_inside_the_sigmoid(tmp_path: Path, method: str) -> None:
    """R-DPO: -log sigmoid(beta * difference of log-ratios + alpha * (|y_w| - |y_l|)), lengths in tokens with EOS."""
    rows = [dpo.row(preference, PROCESSOR, {}) for preference in preferences(5)]
    plain, priced = (make_trainer(tmp_path / name, rows=rows, beta=0.3, method=method, lora_dropout=0.0, length_alpha=alpha) for name, alpha in (("plain", None), ("priced", 0.05)))
    for trainer in (plain, priced):
        for parameter in filter(lambda parameter: parameter.requires_grad, trainer.model.parameters()):
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    batch = batch_of(plain)
    with torch.no_grad():
        plain.compute_loss(plain.model, batch)
        priced.compute_loss(priced.model, batch)
    lengths = torch.tensor([[len(row["chosen_ids"]), len(row["rejected_ids"])] for row in plain.train_dataset]).float()
    margin = 0.05 * (lengths[:, 0] - lengths[:, 1])
    assert abs(margin.mean()) > 0.01
    found, wanted = priced._metrics["train"], plain._metrics["train"]
    assert found["length_margin"][-1] == pytest.approx(margin.mean().item(), abs=1e-6)
    assert found["rewards/margins"][-1] - wanted["rewards/margins"][-1] == pytest.approx(margin.mean().item(), abs=1e-4)
    assert found["logps/chosen"][-1] == pytest.approx(wanted["logps/chosen"][-1], abs=1e-4), "the policy's are not touched"


def test_the_loss_of_a_length_margin_by_hand(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, beta=0.3, length_alpha=0.05)
    lengths = torch.tensor([[len(row["chosen_ids"]), len(row["rejected_ids"])] for row in trainer.train_dataset]).float()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch_of(trainer))  # equal models: the margin alone
    assert loss.item() == pytest.approx(-F.logsigmoid(0.05 * (lengths[:, 0] - lengths[:, 1])).mean().item(), abs=1e-5)


def test_a_length_margin_trains_and_is_checked(tmp_path: Path) -> None:
    log = dpo.fit(make_trainer(tmp_path, length_alpha=0.05), "key")
    assert abs(log[0]["rewards/margins"] - log[0]["length_margin"]) < 1e-3
    with pytest.raises(dpo.TrainError, match="policy and reference differ"):
        dpo.check(1, {"loss": 0.7, "rewards/margins": 0.5, "length_margin": 0.1}, ["sigmoid"])


def test_chosen_and_rejected_see_the_same_video_and_it_is_their_own(tmp_path: Path) -> None:
    batch = batch_of(make_trainer(tmp_path))
    assert torch.equal(batch["video.features"][:8], batch["video.features"][8:])
    for features, preference in zip(batch["video.features"], preferences(), strict=False):
        assert torch.equal(features, VIDEOS[preference.video])
    assert all(isinstance(value, Tensor) for value in batch.values())  # what pinned memory can take


def test_another_video_changes_both_log_probs_of_policy_and_reference(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    batch = batch_of(trainer)
    other = batch | {"video.features": batch["video.features"].roll(1, dims=1)}
    for model in (trainer.model, trainer.ref_model):
        for now, then in zip(
            trainer.compute_ref_log_probs(model, batch), trainer.compute_ref_log_probs(model, other), strict=True
        ):
            assert ((now - then).abs() > 1e-4).all()


def test_a_batch_without_its_video_is_an_error(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    batch = {name: value for name, value in batch_of(trainer).items() if name != "video.features"}
    with pytest.raises(KeyError, match="features"):
        trainer.compute_loss(trainer.model, batch)


def test_training_sees_the_tokens_of_generation_and_the_answer_ends() -> None:
    row = dpo.row(Preference("a", "one", "What  moves?\n<video>", "a \x00 cat", "a \x01 dog", None), PROCESSOR, {})
    assert row["prompt_ids"] == PROCESSOR.prompt_ids(prompts.conversation("What  moves?\n<video>"))
    assert row["prompt_ids"].count(PROCESSOR.video_token_id) == PROCESSOR.video_tokens
    assert row["chosen_ids"][-1] == row["rejected_ids"][-1] == PROCESSOR.pieces.eos_id()
    assert PROCESSOR.decode(row["chosen_ids"]) == "a \x00 cat"
    assert (row["chosen_words"], row["rejected_words"]) == (3, 3)
    text = len(row["prompt_ids"]) - PROCESSOR.video_tokens
    assert dpo.text_tokens(row, PROCESSOR) == text + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def test_no_answer_is_cut(tmp_path: Path) -> None:
    long = Preference("long", "one", "What moves?", "cat " * 1500, "dog", None)
    trainer = make_trainer(tmp_path, rows=[dpo.row(long, PROCESSOR, {})])
    batch = batch_of(trainer)
    answer = PROCESSOR.answer_ids(long.chosen)
    assert len(answer) > 1024 and trainer.args.max_length is None
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


@pytest.mark.parametrize("method", ["full", "lora"])
def test_first_loss_is_ln_2_and_the_next_reference_is_the_trained_policy(tmp_path: Path, method: str) -> None:
    model, first_log_probs = make_model(), []
    for iteration in (1, 2):
        trainer = make_trainer(tmp_path / str(iteration), model, method=method, epochs=3)
        log = dpo.fit(trainer, "key")
        assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert log[-1]["loss"] < 0.69 and len(log) == 6
        model = dpo.trained(trainer)
        assert type(model) is HoundForConditionalGeneration
        first_log_probs.append(log[0]["logps/chosen"])
        before_saving = hound_logits(model)
        hound.save(model, PROCESSOR, tmp_path / f"policy{iteration}")
        model, _ = hound.load(tmp_path / f"policy{iteration}")
        assert torch.allclose(hound_logits(model), before_saving, atol=1e-5)
    assert abs(first_log_probs[0] - first_log_probs[1]) > 0.01  # the reference has moved on


@torch.no_grad()
def hound_logits(model: HoundForConditionalGeneration) -> Tensor:
    ids = torch.tensor([PROCESSOR.prompt_ids(prompts.conversation("What moves?"))])
    return model.eval()(input_ids=ids, **hound.video_inputs(VIDEOS["one"][None])).logits


def test_the_reference_is_the_policy_given_not_one_read_from_its_path(tmp_path: Path) -> None:
    hound.save(make_model(), PROCESSOR, tmp_path / "old")
    model, _ = hound.load(tmp_path / "old")
    with torch.no_grad():
        model.lm_head.weight += 0.1
    trainer = make_trainer(tmp_path / "new", model)
    assert torch.equal(trainer.ref_model.lm_head.weight, model.lm_head.weight)
    assert trainer.ref_model.lm_head.weight is not model.lm_head.weight
    assert not any(parameter.requires_grad for parameter in trainer.ref_model.parameters())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_language_model_is_trained_and_nothing_else(tmp_path: Path, method: str) -> None:
    model, before = make_model(), make_model().state_dict()
    trainer = make_trainer(tmp_path, model, method=method)
    dpo.fit(trainer, "key")
    after = dpo.trained(trainer).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert after.keys() == before.keys()
    if method == "full":
        assert changed == {name for name in before if name.startswith(("model.language_model.", "lm_head."))}
    else:
        assert changed == {name for name in before if ".language_model.layers." in name and "_proj." in name}


def test_eight_steps_of_accumulation_equal_one_batch_of_eight(tmp_path: Path) -> None:
    logs, models = [], []
    for batch, steps in ((1, 8), (8, 1)):
        trainer = make_trainer(
            tmp_path / str(batch), batch_size=batch, gradient_accumulation=steps, epochs=2, max_grad_norm=1e9
        )
        logs.append(dpo.fit(trainer, "key"))
        models.append(dpo.trained(trainer).state_dict())
    for one, eight in zip(*logs, strict=True):
        for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen", "chosen_words"):
            assert one[name] == pytest.approx(eight[name], rel=1e-4, abs=1e-5)
    assert all(torch.allclose(models[0][name], models[1][name], atol=1e-5) for name in models[0])


def test_the_log_has_the_mean_words_of_each_batch(tmp_path: Path) -> None:
    log = dpo.fit(make_trainer(tmp_path, batch_size=8), "key")
    assert log[0]["chosen_words"] == sum(len(p.chosen.split()) for p in preferences()) / 8
    assert log[0]["rejected_words"] == sum(len(p.rejected.split()) for p in preferences()) / 8


def test_lora_dropout_is_not_switched_off(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, method="lora", lora_dropout=0.25)
    assert {m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


def test_loss_settings_reach_trl(tmp_path: Path) -> None:
    args = make_trainer(tmp_path, loss_type="ipo", ld_alpha=0.5, gradient_checkpointing=True).args
    assert (args.loss_type, args.ld_alpha, args.activation_checkpointing) == (["ipo"], 0.5, True)
    assert (args.bf16, args.dataloader_pin_memory, args.report_to) == (False, False, [])


def test_gradient_checkpointing_changes_no_value(tmp_path: Path) -> None:
    logs = [
        dpo.fit(
            make_trainer(tmp_path / f"{method}{on}", method=method, gradient_checkpointing=on, lora_dropout=0.0), "k"
        )
        for method in ("full", "lora")
        for on in (False, True)
    ]
    for plain, saving in (logs[:2], logs[2:]):
        assert [entry["loss"] for entry in plain] == pytest.approx([entry["loss"] for entry in saving], abs=1e-6)


def test_another_reference_than_the_policy_is_found_at_the_first_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.ref_model.lm_head.weight.mul_(1.5)
    with pytest.raises(dpo.TrainError, match="policy and reference differ before the first update"):
        dpo.fit(trainer, "key")


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    logs = {"loss": math.nan, "rewards/margins": 0.0, "grad_norm": 1.0}
    with pytest.raises(dpo.TrainError, match=r"step 4: loss nan.*learning_rate"):
        dpo.check(4, logs, ["sigmoid"])
    dpo.check(1, {"loss": 25.0, "rewards/margins": 0.0}, ["ipo"])


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["full", "lora"])
def test_resumed_in_the_middle_of_an_epoch_it_ends_the_same(tmp_path: Path, method: str) -> None:
    """Order, optimizer, schedule and dropout go on where they were; the last group of an epoch is a short one."""
    choice = {"method": method, "batch_size": 1, "gradient_accumulation": 3, "epochs": 3, "save_steps": 2}
    whole = make_trainer(tmp_path / "whole", **choice)
    log = dpo.fit(whole, "key")
    broken = make_trainer(tmp_path / "broken", **choice)
    broken.add_callback(Stop())
    with pytest.raises(KeyboardInterrupt):
        dpo.fit(broken, "key")
    assert (tmp_path / "broken" / "checkpoint-4").is_dir()
    again = make_trainer(tmp_path / "broken", **choice)
    resumed = dpo.fit(again, "key")
    assert len(log) == 9
    for name in ("loss", "grad_norm", "epoch", "rewards/margins", "chosen_words"):
        assert [entry[name] for entry in resumed] == [entry[name] for entry in log]
    one, two = dpo.trained(whole).state_dict(), dpo.trained(again).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_only_a_whole_checkpoint_of_this_key_is_resumed_from(tmp_path: Path) -> None:
    def checkpoint(step: int, key: str = "key") -> Path:
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights" * 100)
        (folder / "trainer_state.json").write_text("{}")
        dpo.seal(folder, key)
        return folder

    assert dpo.newest_whole(tmp_path / "none", "key") is None
    whole = checkpoint(2)
    (checkpoint(4) / "model.safetensors").write_bytes(b"weights" * 50)
    (checkpoint(6) / dpo.WHOLE).unlink()
    (checkpoint(8) / dpo.WHOLE).write_text('{"key": "k')
    (checkpoint(10) / "model.safetensors").write_bytes(b"wEights" * 100)
    (checkpoint(12) / "trainer_state.json").unlink()
    checkpoint(14, "another key")
    (tmp_path / "checkpoint-last").mkdir()
    assert dpo.newest_whole(tmp_path, "key") == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-last"]


def test_each_save_is_sealed_and_replaces_the_one_before(tmp_path: Path) -> None:
    dpo.fit(make_trainer(tmp_path, batch_size=2, save_steps=2), "key")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    marker = json.loads((tmp_path / "checkpoint-4" / dpo.WHOLE).read_text())
    assert marker["key"] == "key" and {"optimizer.pt", "trainer_state.json", "rng_state.pth"} < marker["files"].keys()


def test_bf16_is_refused_on_a_cpu_and_off_there_by_itself(tmp_path: Path) -> None:
    assert make_trainer(tmp_path).args.bf16 is False
    with pytest.raises(dpo.TrainError, match="train.bf16=true: needs a CUDA device, this is cpu"):
        make_trainer(tmp_path, bf16=True)
