"""The smallest subclass of TRL's DPOTrainer that learns from videos, and the collator of its batches.

Towers and projector are frozen (as in LLaVA-Hound), so an encoded video never changes: it is computed once
and enters the model through `mm_encoder_outputs`, the same for chosen and rejected, for policy and reference.

Shapes: B pairs, L tokens. A batch is [2B, ...]: B chosen, then the B rejected.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from isrdpo.models.interface import EncodedVideo, Processor

VIDEO = "video."  # begins the name of each of an encoded video's tensors in a batch
WORDS = ("chosen_words", "rejected_words")


class TrainingRow(TypedDict):
    """A preference as the collator takes it: answers' ids end with EOS, `video` is the video's name."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    video: str
    chosen_words: int
    rejected_words: int


@dataclass(kw_only=True)
class VideoPreferenceCollator(DataCollatorForPreference):
    """TRL's collator, which adds each pair's video and the words of its answers.

    `videos` maps a video's name to the encoded video. The batch holds plain tensors only, since pinned
    memory breaks on a ModelOutput: the encoded videos of 2B rows (a pair's own video, twice) as
    `video.<name>`.
    """

    processor: Processor
    videos: Callable[[str], EncodedVideo]

    def torch_call(self, examples: list[TrainingRow]) -> dict[str, Tensor]:
        """Collate B rows of the data set."""
        batch = super().torch_call(examples)
        for name in WORDS:
            batch[name] = torch.tensor([float(example[name]) for example in examples])
        videos = [self.videos(example["video"]) for example in examples]
        for name, tensor in self.processor.collate(videos + videos).items():
            batch[VIDEO + name] = tensor
        return batch


class VideoDPOTrainer(DPOTrainer):
    """DPOTrainer whose batches come from VideoPreferenceCollator and whose data set is tokenized already.

    `length_alpha` puts a margin of length_alpha * (|y_w| - |y_l|), in tokens, inside the sigmoid: R-DPO
    (arXiv:2403.19159) and iLR-DPO (arXiv:2406.11817).
    """

    def __init__(self, *, processor: Processor, length_alpha: float | None = None, **kwargs: Any) -> None:
        # before TRL's own __init__, which may call compute_ref_log_probs already
        self.video_processor = processor
        self.length_alpha = length_alpha
        super().__init__(**kwargs)
        # where the margin is put into the reference's log-probabilities, TRL takes them from the batch
        self.precompute_ref_logps = self.precompute_ref_logps or bool(length_alpha)
        # it prints the log as Python dictionaries
        self.remove_callback(PrinterCallback)

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset  # TRL would tokenize its texts

    def compute_loss(
        self,
        model: PreTrainedModel | PeftModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return TRL's loss of a batch, and log the words of its answers and its length margin."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name in WORDS:
            metrics[name].append(self.accelerator.gather(inputs[name]).mean().item())
        if self.length_alpha:
            inputs, margin = self._with_length_margin(inputs)
            metrics["length_margin"].append(self.accelerator.gather(margin).mean().item())
        return super().compute_loss(model, self._model_inputs(inputs), return_outputs, num_items_in_batch)

    def compute_ref_log_probs(
        self, model: PreTrainedModel | PeftModel, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of chosen and rejected under the reference, each float [B]."""
        return super().compute_ref_log_probs(model, self._model_inputs(inputs))

    def _with_length_margin(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Add the reference's log-probabilities, length_alpha / beta less per token; and return the margin.

        The loss is then -log sigmoid(beta * (difference of the log-ratios) + length_alpha * (|y_w| - |y_l|)).
        So R-DPO is DPO against a reference that likes each token exp(-length_alpha / beta) as much.
        """
        chosen, rejected = self.compute_ref_log_probs(self.ref_model or self.model, batch)
        chosen_tokens, rejected_tokens = batch["completion_mask"].sum(1).chunk(2)
        price = self.length_alpha / self.beta
        references = {
            "ref_chosen_logps": chosen - price * chosen_tokens,
            "ref_rejected_logps": rejected - price * rejected_tokens,
        }
        return batch | references, self.length_alpha * (chosen_tokens - rejected_tokens).float()

    def _model_inputs(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """The batch as TRL forwards it: all but the masks goes to the model, so the words are left out."""
        videos = {}
        inputs = {}
        for name, tensor in batch.items():
            if name.startswith(VIDEO):
                videos[name.removeprefix(VIDEO)] = tensor
            elif name not in WORDS:
                inputs[name] = tensor
        return inputs | self.video_processor.inputs(videos, batch["input_ids"])
