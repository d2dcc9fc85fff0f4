"""TRL's DPOTrainer on video preferences: a collator, the smallest subclass, checkpoints that are whole. Used by `train`.

Towers and projector are frozen (as in LLaVA-Hound), so a clip's projected features never change: they are computed once
and enter the model through `mm_encoder_outputs`, the same for chosen and rejected, for policy and reference.
Shapes: B pairs, L tokens. A batch is [2B, ...]: B chosen, then the same B rejected.
"""

import copy
import hashlib
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.params import Train
from isrdpo.core.records import Preference
from isrdpo.models import auto
from isrdpo.models.hound_model import LLM, HoundForConditionalGeneration, HoundProcessor, Video, quiet

LORA_TARGETS = r"model\.(language_model|text_model)\.layers\..*_proj"  # TRL refuses an adapter on lm_head
LN2 = math.log(2)
FIRST_LOSS = {"sigmoid": LN2, "sigmoid_norm": LN2}  # what identical policy and reference give, by loss type
TOLERANCE = 1e-4
WHOLE = "whole.json"
Reader = HoundProcessor | auto.Processor


class TrainError(RunError):
    """Training that must not go on; one line that says what is wrong and what to do."""


def row(preference: Preference, processor: Reader, video: Video) -> dict[str, Any]:
    """A preference about `video` as the collator takes it: prompt ids as in generation, each answer's ids with its EOS."""
    return {
        "prompt_ids": processor.request_ids(preference.question, video),
        "chosen_ids": processor.answer_ids(preference.chosen),
        "rejected_ids": processor.answer_ids(preference.rejected),
        "video": preference.video,
        "chosen_words": len(preference.chosen.split()),
        "rejected_words": len(preference.rejected.split()),
    }


def text_tokens(row: dict[str, Any], processor: Reader) -> int:
    """Tokens of the longer of a row's two sequences, its video not counted."""
    prompt = sum(token != processor.video_token_id for token in row["prompt_ids"])
    return prompt + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


@dataclass
class VideoPreferenceCollator(DataCollatorForPreference):
    """TRL's collator plus `video.<name>`: the encoded videos of 2B rows (a pair's own video, twice), and the answers' words. Plain tensors:
    pinned memory breaks on a ModelOutput. `videos`: a video's name -> the video, encoded."""

    videos: Callable[[str], Video] | None = None
    processor: Reader | None = None

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        once = [self.videos(example["video"]) for example in examples]
        videos = {f"video.{name}": tensor for name, tensor in self.processor.collate(once + once).items()}
        words = {name: torch.tensor([float(e[name]) for e in examples]) for name in ("chosen_words", "rejected_words")}
        return {**batch, **words, **videos}


class VideoDPOTrainer(DPOTrainer):
    """DPOTrainer whose batches carry `video.<name>` and words; the dataset is tokenized already (see `row`). `length_alpha`: R-DPO's margin."""

    length_alpha: float | None = None
    reader: Reader | None = None

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name in ("chosen_words", "rejected_words"):
            metrics[name].append(self.accelerator.gather(inputs[name]).mean().item())
        if self.length_alpha:
            inputs, margin = self._with_margin(inputs)
            metrics["length_margin"].append(self.accelerator.gather(margin).mean().item())
        return super().compute_loss(model, _model_inputs(inputs, self.reader), *args, **kwargs)

    def _with_margin(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """The batch with reference log-probabilities in it from which length_alpha / beta a token is taken, and the margin float [B]. The
        loss is then -log sigmoid(beta * (log-ratios' difference) + length_alpha * (|y_w| - |y_l|)): R-DPO (arXiv:2403.19159)
        and iLR-DPO (arXiv:2406.11817), which is DPO against a reference that likes each token exp(-length_alpha / beta) as much."""
        chosen, rejected = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        long, short = inputs["completion_mask"].sum(1).chunk(2)
        price = self.length_alpha / self.beta
        self.precompute_ref_logps = True  # TRL takes them from the batch then
        references = {"ref_chosen_logps": chosen - price * long, "ref_rejected_logps": rejected - price * short}
        return {**inputs, **references}, self.length_alpha * (long - short).float()

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return super().compute_ref_log_probs(model, _model_inputs(inputs, self.reader))


def _model_inputs(batch: dict[str, Any], processor: Reader) -> dict[str, Any]:
    """The batch as TRL's loss forwards it: everything but the masks goes to the model."""
    kept = {name: value for name, value in batch.items() if not name.startswith("video.") and name not in ("chosen_words", "rejected_words")}
    videos = {name.removeprefix("video."): value for name, value in batch.items() if name.startswith("video.")}
    return kept | processor.inputs(videos, batch["input_ids"])


def trainer(
    model: HoundForConditionalGeneration | auto.Model,
    processor: Reader,
    rows: list[dict[str, Any]],
    videos: Callable[[str], Video],
    settings: Train,
    folder: Path,
    seed: int,
) -> VideoDPOTrainer:
    """A trainer whose policy is `model` and whose reference is `model` as it is now: a frozen copy (full), or the model
    with its new adapter off (LoRA). Checkpoints go to `folder`."""
    lora = settings.method == "lora"
    if model.device.type != "cuda" and not getattr(model, "is_quantized", False):
        model.float()
    model.name_or_path = ""  # a name is looked up on the hub by PEFT at every save
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not lora and name.startswith(LLM))
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # a learning rate of 5e-7 is lost in bfloat16 weights
    frozen = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    adapter = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    with quiet():
        made = VideoDPOTrainer(
            model=model,
            # a copy, never None: TRL would load another one from the config's path; frozen towers are shared
            ref_model=None if lora else copy.deepcopy(model, frozen).requires_grad_(False).eval(),
            args=arguments(settings, folder, seed, model.device),
            train_dataset=Dataset.from_list(rows),
            data_collator=VideoPreferenceCollator(pad_token_id=processor.pad_id, videos=videos, processor=processor),
            processing_class=processor.tokenizer,
            peft_config=adapter if lora else None,
        )
    made.length_alpha, made.reader = settings.length_alpha, processor
    made.remove_callback(PrinterCallback)
    return made


def arguments(settings: Train, folder: Path, seed: int, device: torch.device) -> DPOConfig:
    """TRL's arguments for `train.*`. Seeds and order follow from `seed` (below 2^32); one process uses one GPU."""
    cuda = device.type == "cuda"
    if settings.bf16 is True and not cuda:
        raise TrainError(f"train.bf16=true: needs a CUDA device, this is {device.type}; leave it auto")
    made = DPOConfig(
        output_dir=str(folder),
        beta=settings.beta,
        loss_type=settings.loss_type,
        ld_alpha=settings.ld_alpha,
        max_length=None,  # TRL would cut from the end, where the answer is, and counts the video's tokens
        # it would zero lora_dropout too; the LLM has none of its own
        disable_dropout=settings.method == "full",
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        lr_scheduler_type=settings.schedule,
        warmup_steps=min(
            settings.warmup_ratio, 1 - 1e-9
        ),  # below 1: a share of all steps, rounded up; else their number
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        activation_checkpointing=settings.gradient_checkpointing,
        bf16=cuda if settings.bf16 == "auto" else settings.bf16,
        use_cpu=device.type == "cpu",
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would log a broken loss as a mean of earlier ones
        save_strategy="steps",
        save_steps=settings.save_steps,
        report_to=settings.report_to,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,  # else `video` never reaches the collator
        disable_tqdm=not sys.stderr.isatty(),
    )
    made._n_gpu = min(made.n_gpu, 1)  # Trainer would split the batch by DataParallel, which TRL refuses
    return made


def spare_gpus(device: torch.device) -> int:
    """How many visible GPUs this process leaves idle; under a launcher every process has its own."""
    launched = "LOCAL_RANK" in os.environ
    return 0 if launched or device.type != "cuda" else torch.cuda.device_count() - 1


def fit(made: VideoDPOTrainer, key: str) -> list[dict[str, Any]]:
    """Trains, from the newest whole checkpoint of the same `key` if there is one; the log, one entry a step."""
    made.add_callback(Watch(key))
    found = newest_whole(Path(made.args.output_dir), key)
    with quiet():
        made.train(resume_from_checkpoint=str(found) if found else None)
    return [entry for entry in made.state.log_history if "loss" in entry]


def trained(made: VideoDPOTrainer, unquantized: Callable[[], auto.Model] | None = None) -> HoundForConditionalGeneration | auto.Model:
    """The policy after `fit`, its adapter merged: the next iteration's reference is this model, not the base's. An adapter on quantized weights goes
    into the `unquantized` ones (QLoRA, arXiv:2305.14314): merging into the quantized ones would round it away."""
    model = made.accelerator.unwrap_model(made.model)
    if not isinstance(model, PeftModel):
        return model
    if getattr(model.get_base_model(), "is_quantized", False):
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            model = PeftModel.from_pretrained(unquantized(), folder)
    return model.merge_and_unload()


class Watch(TrainerCallback):
    """Stops a run whose losses cannot be right, and seals each checkpoint once all its files are on disk."""

    def __init__(self, key: str) -> None:
        self.key = key

    def on_log(
        self, args: DPOConfig, state: TrainerState, control: TrainerControl, logs: dict | None = None, **kwargs: Any
    ) -> None:
        if logs and "loss" in logs:
            check(state.global_step, logs, args.loss_type)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        seal(folder, self.key)
        for other in _checkpoints(folder.parent):
            if other != folder:
                shutil.rmtree(other)


def check(step: int, logs: dict[str, float], loss_types: list[str]) -> None:
    """Raises TrainError unless the losses are finite and the first one, before any update, is that of equal models."""
    loss, margin = logs["loss"], logs["rewards/margins"] - logs.get("length_margin", 0.0)
    if not math.isfinite(loss) or not math.isfinite(logs.get("grad_norm", 0.0)):
        raise TrainError(f"step {step}: loss {loss}, gradient norm {logs.get('grad_norm')}; lower train.learning_rate")
    wanted = FIRST_LOSS.get(loss_types[0], loss) if len(loss_types) == 1 and "length_margin" not in logs else loss
    if step == 1 and (abs(loss - wanted) > TOLERANCE or abs(margin) > 2 * TOLERANCE):
        raise TrainError(
            f"first loss {loss:.6f} with margin {margin:.6f}, not {wanted:.6f} with 0: policy and reference differ "
            "before the first update; one of them is not this iteration's policy"
        )


def seal(folder: Path, key: str) -> None:
    """Marks a checkpoint as whole: every file is flushed to disk, then their digests are written, last."""
    records.write_json(folder / WHOLE, {"key": key, "files": {name: _digest(folder / name) for name in _names(folder)}})


def newest_whole(folder: Path, key: str) -> Path | None:
    """The last checkpoint in `folder` that is whole and of this `key`; those after it, torn or foreign, are removed."""
    for checkpoint in _checkpoints(folder):
        if _whole(checkpoint, key):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _whole(checkpoint: Path, key: str) -> bool:
    try:
        marker = records.read_json(checkpoint / WHOLE)
        names = {name for name in _names(checkpoint) if name != WHOLE}
        digests = {name: _digest(checkpoint / name) for name in names}
        return marker == {"key": key, "files": digests}
    except (OSError, ValueError):
        return False


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
