"""What the golden checker asks of a port; every answer comes from `isrdpo`, nothing is computed here."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from isrdpo.core import prompts
from isrdpo.core.params import TrainParams
from isrdpo.formats import video
from isrdpo.models import hound

SETTINGS = TrainParams(
    method="full", beta=0.1, learning_rate=5e-7, epochs=1, batch_size=1, gradient_accumulation=1, schedule="linear",
    warmup_ratio=0.1, weight_decay=0.0, max_grad_norm=1.0, max_length=2048, loss_type="sigmoid", ld_alpha=None, length_alpha=None,
    bf16="auto", gradient_checkpointing=False, lora_r=64, lora_alpha=16, lora_dropout=0.05, save_steps=50, report_to="none",
)  # fmt: skip


class Adapter:
    """The protocol of check_port.py. `ref_ids` hold one -200 (image) or -201 (video) in the place of all placeholders."""

    def load(self, ckpt_dir: str, tower_dirs: dict[str, str]) -> None:
        self.model, self.processor = hound.load(ckpt_dir, **tower_dirs)

    def input_ids(self, question: str, modal: str) -> list[int]:
        prompt = prompts.conversation(question, video=modal == "VIDEO")
        if modal == "IMAGE":
            prompt = prompts.conversation(question).replace("<video>", "<image>")
        ids, result = self.processor.prompt_ids(prompt), []
        for position, token in enumerate(ids):
            if token < self.processor.vocab_size:
                result.append(token)
            elif token != ids[position - 1]:
                result.append(-200 if token == self.processor.image_token_id else -201)
        return result

    def pixel_values(self, media_path: str, backend: str | None) -> torch.Tensor:
        if backend is None:
            return self.processor.image_pixels(np.array(Image.open(media_path).convert("RGB")))
        span = "first_10s" if backend == "decord" else "whole"
        return self.processor.pixels(video.read(Path(media_path), self.processor.frames, span).frames).transpose(0, 1)

    def _expanded(self, ref_ids: list[int]) -> list[int]:
        ids, image, video_id = [], self.processor.image_token_id, self.processor.video_token_id
        places = {-200: [image] * self.processor.image_tokens, -201: [video_id] * self.processor.video_tokens}
        for token in ref_ids:
            ids += places.get(token, [token])
        return ids

    def _inputs(self, ref_ids: list[int], pixels: torch.Tensor | None, modal: str) -> dict:
        ids = self._expanded(ref_ids)
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        if modal == "VIDEO":
            inputs |= {"pixel_values_videos": pixels.transpose(0, 1)[None]}
        elif modal == "IMAGE":
            inputs |= {"pixel_values": pixels[None]}
        return inputs

    @torch.no_grad()
    def logits(self, ref_ids: list[int], pixels: torch.Tensor | None, modal: str) -> torch.Tensor:
        return self.model(**self._inputs(ref_ids, pixels, modal)).logits[0]

    @torch.no_grad()
    def features(self, pixels: torch.Tensor, modal: str) -> torch.Tensor:
        if modal == "VIDEO":
            return hound.encode_videos(self.model, pixels.transpose(0, 1)[None])[0]
        return self.model.get_image_features(pixels[None]).pooler_output[0]

    def greedy(self, ref_ids: list[int], pixels: torch.Tensor | None, modal: str, n: int) -> list[int]:
        inputs = self._inputs(ref_ids, pixels, modal)
        return self.model.generate(**inputs, max_new_tokens=n)[0, inputs["input_ids"].shape[1] :].tolist()

    def dpo_logps(
        self, padded_ref_ids: torch.Tensor, expanded_labels: torch.Tensor, pixels: list[torch.Tensor]
    ) -> torch.Tensor:
        from isrdpo.models import dpo

        rows = []
        for number, (ids, labels) in enumerate(zip(padded_ref_ids.tolist(), expanded_labels.tolist(), strict=True)):
            answer = [label for label in labels if label != -100]
            prompt = self._expanded(ids)[: labels.index(answer[0])]
            rows.append({"prompt_ids": prompt, "chosen_ids": answer, "rejected_ids": answer, "video": str(number)})
            rows[-1] |= {"chosen_words": 0, "rejected_words": 0}
        clips = {str(n): {"features": self.features(clip, "VIDEO")} for n, clip in enumerate(pixels)}
        with tempfile.TemporaryDirectory() as folder:
            made = dpo.trainer(self.model, self.processor, rows, clips.get, SETTINGS, Path(folder), seed=0)
            totals = []
            for row in rows:  # apart, since the trainer logs the mean over a batch
                made.compute_loss(made.model.eval(), made.data_collator([row]))
                totals.append(made._metrics["eval"]["logps/chosen"][-1])
        return torch.tensor(totals)
