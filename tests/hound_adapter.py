"""The protocol of LLaVA-Hound's golden checker; every answer comes from `isrdpo`.

The checker also asks about an image, which nothing in the library does. The model reads images through
transformers' own code; only an image's pixels, by LLaVA-Hound's rule, and its placeholders are made here.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from isrdpo.core import params, prompts
from isrdpo.formats import video
from isrdpo.models import dpo, hound
from isrdpo.models.hound_model import HoundConfig
from isrdpo.models.hound_processor import normalize, resize_and_crop, unit_scale
from isrdpo.models.interface import EncodedVideo

# what the checker puts in the place of all placeholders of an image or a video
IMAGE = -200
VIDEO = -201


def image_pixels(image: np.ndarray, size: int) -> torch.Tensor:
    """Map an image uint8 [H, W, 3] to float32 [3, S, S]: resized (bicubic) and cropped, then normalized."""
    return normalize(resize_and_crop(unit_scale(image[None]), size, "bicubic"))[0]


def collapse(ids: list[int], config: HoundConfig, marker: int) -> list[int]:
    """Put one marker in the place of a video's placeholders."""
    if config.video_token_id not in ids:
        return ids
    start = ids.index(config.video_token_id)
    return [*ids[:start], marker, *ids[start + config.video_seq_length :]]


def expand(ids: list[int], config: HoundConfig) -> list[int]:
    """Put the placeholders of an image or a video in the place of its marker."""
    placeholders = {
        IMAGE: [config.image_token_id] * config.image_seq_length,
        VIDEO: [config.video_token_id] * config.video_seq_length,
    }
    expanded = []
    for token in ids:
        expanded += placeholders.get(token, [token])
    return expanded


class Adapter:
    """The seven methods that the checker calls; `ref_ids` hold a marker in the place of all placeholders."""

    def load(self, ckpt_dir: str, tower_dirs: dict[str, str]) -> None:
        self.model, self.processor = hound.load(ckpt_dir, **tower_dirs)

    def input_ids(self, question: str, modal: str) -> list[int]:
        ids = self.processor.prompt_ids(prompts.conversation(question, video=modal != "TEXT"))
        return collapse(ids, self.model.config, IMAGE if modal == "IMAGE" else VIDEO)

    def pixel_values(self, media_path: str, backend: str | None) -> torch.Tensor:
        if backend is None:
            image = np.array(Image.open(media_path).convert("RGB"))
            return image_pixels(image, self.model.config.image_config.image_size)
        span = "first_10s" if backend == "decord" else "whole"
        clip = video.read_clip(Path(media_path), self.processor.frames, span)
        return self.processor.pixels(clip.frames).transpose(0, 1)

    def _inputs(self, ref_ids: list[int], pixels: torch.Tensor | None, modal: str) -> dict[str, Any]:
        ids = torch.tensor([expand(ref_ids, self.model.config)])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if modal == "VIDEO":
            inputs["pixel_values_videos"] = pixels.transpose(0, 1)[None]
        elif modal == "IMAGE":
            inputs["pixel_values"] = pixels[None]
        return inputs

    @torch.no_grad()
    def logits(self, ref_ids: list[int], pixels: torch.Tensor | None, modal: str) -> torch.Tensor:
        return self.model(**self._inputs(ref_ids, pixels, modal)).logits[0]

    @torch.no_grad()
    def features(self, pixels: torch.Tensor, modal: str) -> torch.Tensor:
        if modal == "VIDEO":
            return self.model.model.get_video_features(pixels.transpose(0, 1)[None]).pooler_output[0]
        return self.model.get_image_features(pixels[None]).pooler_output[0]

    def greedy(self, ref_ids: list[int], pixels: torch.Tensor | None, modal: str, n: int) -> list[int]:
        inputs = self._inputs(ref_ids, pixels, modal)
        return self.model.generate(**inputs, max_new_tokens=n)[0, inputs["input_ids"].shape[1] :].tolist()

    def dpo_logps(
        self, padded_ref_ids: torch.Tensor, expanded_labels: torch.Tensor, pixels: list[torch.Tensor]
    ) -> torch.Tensor:
        rows = []
        for number, (ids, labels) in enumerate(
            zip(padded_ref_ids.tolist(), expanded_labels.tolist(), strict=True)
        ):
            answer = [label for label in labels if label != -100]
            rows.append(
                dpo.TrainingRow(
                    prompt_ids=expand(ids, self.model.config)[: labels.index(answer[0])],
                    chosen_ids=answer,
                    rejected_ids=answer,
                    video=str(number),
                    chosen_words=0,
                    rejected_words=0,
                )
            )
        videos = {str(n): EncodedVideo(self.features(clip, "VIDEO")) for n, clip in enumerate(pixels)}
        settings = params.load(params.BASE, ["data=toybox", "train.batch_size=1"]).train
        totals = []
        with tempfile.TemporaryDirectory() as folder:
            trainer = dpo.make_trainer(
                self.model, self.processor, rows, videos.__getitem__, settings, Path(folder), seed=0
            )
            for row in rows:  # apart, since the trainer logs the mean over a batch
                trainer.compute_loss(trainer.model.eval(), trainer.data_collator([row]))
                totals.append(trainer._metrics["eval"]["logps/chosen"][-1])
        return torch.tensor(totals)
