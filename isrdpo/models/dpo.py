"""DPO on video preferences: rows, a trainer with its arguments, training, and the policy that it leaves.

`dpo_trainer` holds TRL's trainer for videos, `checkpoints` and `loss_checks` what its callbacks do.
"""

import copy
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig

from isrdpo.core.records import Preference
from isrdpo.core.schema import Train
from isrdpo.models.checkpoints import newest_sealed_checkpoint, remove_other_checkpoints, seal_checkpoint
from isrdpo.models.dpo_trainer import TrainingRow, VideoDPOTrainer, VideoPreferenceCollator
from isrdpo.models.interface import LANGUAGE_MODEL, EncodedVideo, Processor, quiet_transformers
from isrdpo.models.loss_checks import TrainError, check_final_loss, check_losses, check_weights

# The linear layers of the LLM, in every family. Its head is left out: TRL refuses an adapter there.
LORA_TARGETS = "|".join(
    rf"{re.escape(prefix)}layers\..*_proj" for prefix in LANGUAGE_MODEL if prefix.startswith("model.")
)


def training_row(preference: Preference, processor: Processor, video: EncodedVideo) -> TrainingRow:
    """Tokenize a preference about `video`, with the prompt that generation reads."""
    return TrainingRow(
        prompt_ids=processor.request_ids(preference.question, video),
        chosen_ids=processor.answer_ids(preference.chosen),
        rejected_ids=processor.answer_ids(preference.rejected),
        video=preference.video,
        chosen_words=len(preference.chosen.split()),
        rejected_words=len(preference.rejected.split()),
    )


def text_tokens(row: TrainingRow, processor: Processor) -> int:
    """Return the tokens of the longer of a row's two sequences, without those of its video."""
    prompt = sum(token != processor.video_token_id for token in row["prompt_ids"])
    return prompt + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def make_trainer(
    model: PreTrainedModel,
    processor: Processor,
    rows: list[TrainingRow],
    videos: Callable[[str], EncodedVideo],
    settings: Train,
    folder: Path,
    seed: int,
) -> VideoDPOTrainer:
    """Make a trainer whose policy is `model` and whose reference is `model` as it is now.

    The reference is a frozen copy (method full), or the model with its new adapter off (lora). `videos`
    maps a video's name to the encoded video. Checkpoints go to `folder`. Raises TrainError.
    """
    is_lora = settings.method == "lora"
    _freeze(model, is_lora)
    collator = VideoPreferenceCollator(pad_token_id=processor.pad_id, processor=processor, videos=videos)
    with quiet_transformers():
        return VideoDPOTrainer(
            processor=processor,
            length_alpha=settings.length_alpha,
            model=model,
            ref_model=None if is_lora else _frozen_copy(model),
            args=training_arguments(settings, folder, seed, model.device),
            train_dataset=Dataset.from_list(rows),
            data_collator=collator,
            processing_class=processor.tokenizer,
            peft_config=_adapter(settings) if is_lora else None,
        )


def training_arguments(settings: Train, folder: Path, seed: int, device: torch.device) -> DPOConfig:
    """Return TRL's arguments for `train.*`. Seeds and order follow from `seed` (below 2^32)."""
    arguments = DPOConfig(
        output_dir=str(folder),
        beta=settings.beta,
        loss_type=settings.loss_type,
        ld_alpha=settings.ld_alpha,
        # TRL would cut from the end, where the answer is, and counts the video's tokens
        max_length=None,
        # it would zero lora_dropout too; the LLM has none of its own
        disable_dropout=settings.method == "full",
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        lr_scheduler_type=settings.schedule,
        # below 1 it is a share of all steps, else their number
        warmup_steps=min(settings.warmup_ratio, 1 - 1e-9),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        activation_checkpointing=settings.gradient_checkpointing,
        bf16=_uses_bf16(settings, device),
        use_cpu=device.type == "cpu",
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would log a broken loss as a mean of earlier ones
        save_strategy="steps",
        save_steps=settings.save_steps,
        report_to=settings.report_to,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,  # else `video` never reaches the collator
        disable_tqdm=not sys.stderr.isatty(),
    )
    # Trainer would split the batch by DataParallel over all visible GPUs, which TRL refuses
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def idle_gpus(device: torch.device) -> int:
    """Return how many visible GPUs this process leaves idle; under a launcher every process has its own."""
    is_launched = "LOCAL_RANK" in os.environ
    return 0 if is_launched or device.type != "cuda" else torch.cuda.device_count() - 1


def fit(trainer: VideoDPOTrainer, key: str) -> list[dict[str, Any]]:
    """Train, from the newest sealed checkpoint of this `key` if there is one.

    Return the log, an entry per step. Raises TrainError where losses or weights cannot be right.
    """
    trainer.add_callback(LossCheck())
    trainer.add_callback(CheckpointSeal(key))
    checkpoint = newest_sealed_checkpoint(Path(trainer.args.output_dir), key)
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        check_trained(trainer)
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def check_trained(trainer: VideoDPOTrainer) -> None:
    """Check the weights after the last step, and the loss of a pair under them. Raises TrainError."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    check_weights(model, trainer.args.learning_rate)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
    check_final_loss(loss.item(), trainer.args.learning_rate)


def trained_policy(
    trainer: VideoDPOTrainer, unquantized: Callable[[], PreTrainedModel] | None = None
) -> PreTrainedModel:
    """Return the policy after `fit`, its adapter merged: the next iteration's reference is this model.

    An adapter on quantized weights goes into the `unquantized` ones (QLoRA, arXiv:2305.14314): merging it
    into the quantized ones would round it away.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not isinstance(model, PeftModel):
        return model
    if getattr(model.get_base_model(), "is_quantized", False):
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            model = PeftModel.from_pretrained(unquantized(), folder)
    return model.merge_and_unload()


class LossCheck(TrainerCallback):
    """Stops a training whose losses cannot be right."""

    def on_log(
        self,
        args: DPOConfig,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check the losses of a step. Raises TrainError."""
        if logs and "loss" in logs:
            check_losses(state.global_step, logs, args.loss_type)


class CheckpointSeal(TrainerCallback):
    """Seals each checkpoint once all its files are on disk, and removes the one before."""

    def __init__(self, key: str) -> None:
        self.key = key

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal the checkpoint that the trainer has just written."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        seal_checkpoint(checkpoint, self.key)
        remove_other_checkpoints(checkpoint)


def _freeze(model: PreTrainedModel, is_lora: bool) -> None:
    """Leave the language model alone to be trained, in float32; for an adapter, nothing of the model."""
    if model.device.type != "cuda" and not getattr(model, "is_quantized", False):
        model.float()
    model.name_or_path = ""  # a name is looked up on the hub by PEFT at every save
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_lora and name.startswith(LANGUAGE_MODEL))
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # a learning rate of 5e-7 is lost in bfloat16 weights


def _frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The reference in full training, which shares the frozen towers.

    Given None, TRL would load one from the path in the config.
    """
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()


def _adapter(settings: Train) -> LoraConfig:
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )


def _uses_bf16(settings: Train, device: torch.device) -> bool:
    is_cuda = device.type == "cuda"
    if settings.bf16 is True and not is_cuda:
        raise TrainError(f"train.bf16=true: needs a CUDA device, this is {device.type}; leave it auto")
    return is_cuda if settings.bf16 == "auto" else settings.bf16
