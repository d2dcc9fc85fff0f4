"""A video language model as four calls: encode a video once, generate several continuations of it, score a choice, load for training.

Videos are encoded (projected features [N, D]: N video tokens of the LLM's width D, and what else the family's LLM takes): towers and projector
are frozen, so they stay valid over the iterations. Requests are what the user says about the video; the family's processor makes the prompt.
`videos[i]` belongs to `requests[i]`. Families: LLaVA-Hound (`hound`), any other of transformers (`auto`).
"""

import hashlib
import os
import sys
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from isrdpo.core import prompts, records
from isrdpo.core.folders import TOYBOX_BASE, resolve
from isrdpo.core.params import Params
from isrdpo.formats import video
from isrdpo.models import auto, hound
from isrdpo.models.hound_model import LLM, CheckpointError, HoundForConditionalGeneration, HoundProcessor, Video

HELD = 2**30  # bytes of features kept in memory, so that a stage's next questions about a clip find it encoded


class KeyedNoise(LogitsProcessor):
    """Gumbel-max sampling: argmax(scores + noise) is a draw from softmax(scores). Each row's noise is its own seed's, so a draw
    does not depend on its batch mates, nor on their number."""

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.stack([torch.rand(scores.shape[1], generator=g, dtype=torch.float64) for g in self.generators])
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        return scores + gumbel.to(scores.device, scores.dtype)


class VideoModel:
    """One policy, ready for inference. `max_pixels`: larger frames are scaled down to so many before the processor sees them; 0: none are. `share`: whether
    prompts about the same video read it once (notebook 07 measures what that saves)."""

    def __init__(
        self, model: HoundForConditionalGeneration | auto.Model, processor: HoundProcessor | auto.Processor, span: str = "whole",
        cache: Path | None = None, max_pixels: int = 0, share: bool = True,
    ) -> None:  # fmt: skip
        self.model, self.processor, self.span, self.cache, self.max_pixels = model.eval(), processor, span, cache, max_pixels
        self.share = share
        self._digest, self._held = "", OrderedDict[Path, Video]()

    @torch.inference_mode()
    def encode(self, paths: list[Path]) -> list[Video]:
        """Each clip as the LLM takes it, on the CPU; a clip named twice is encoded once. Raises VideoError.

        Each clip goes through the tower alone: which others are cached already must not show in its last bits."""
        found = {path: self._encoded(path) for path in dict.fromkeys(paths)}
        for path, made in found.items():
            self._held[path] = made
            self._held.move_to_end(path)
        while sum(tensor.nbytes for made in self._held.values() for tensor in made.values()) > HELD:
            self._held.popitem(last=False)
        return [found[path] for path in paths]

    def _encoded(self, path: Path) -> Video:
        """From memory, from disk, or encoded (and then kept on disk, where there is a cache)."""
        if path in self._held:
            return self._held[path]
        stored = self._stored(path)
        if stored is not None and stored.exists():
            try:
                kept = load_file(stored)
                if "features" in kept:
                    return kept
            except SafetensorError:  # torn by a full disk or a crash of the machine
                stored.unlink(missing_ok=True)
        clip = video.smaller(video.read(path, self.processor.frames, self.span), self.max_pixels)
        made = self.processor.encode(self.model, clip)
        if stored is not None:
            stored.parent.mkdir(parents=True, exist_ok=True)
            part = stored.with_suffix(f".{os.getpid()}.part")
            save_file(made, part)
            part.replace(stored)
        return made

    def _stored(self, path: Path) -> Path | None:
        """Where an encoded clip lies on disk: by the weights that make it and the clip's content."""
        if self.cache is None or path.is_dir():
            return None
        if not self._digest:
            how = f"{self.processor.frames} {self.span} {self.model.dtype} {self.model.device.type}" + (f" {self.max_pixels}" if self.max_pixels else "")
            digest = hashlib.sha256(how.encode())
            for name, tensor in self.model.state_dict().items():
                if not name.startswith((*LLM, "model.image_tower.")):
                    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
            self._digest = digest.hexdigest()[:16]
        return self.cache / self._digest / f"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}.safetensors"

    def room(self, request: str, video: Video) -> int:
        """How many more tokens the model has positions for behind this request; below 1, it cannot read it whole."""
        text = self.model.config.get_text_config()
        positions = int(text.max_position_embeddings * (text.rope_parameters or {}).get("factor", 1))
        return positions - len(self.processor.request_ids(request, video))

    def _extra(self, videos: list[Video], ids: Tensor) -> dict:
        """What `forward` takes beside `ids` [B, L], from B videos, on the model's device and in its precision."""
        moved = {
            name: tensor.to(self.model.device, self.model.dtype if tensor.is_floating_point() and name.startswith("features") else None)
            for name, tensor in self.processor.collate(videos).items()
        }
        return self.processor.inputs(moved, ids)

    def _inputs(self, videos: list[Video], ids: list[list[int]]) -> dict:
        """What the model takes to go on from these prompts: input_ids and attention_mask [B, L], and past_key_values of the part that all
        prompts begin with, if the video is in it. That part is then read once a video (`videos[i] is videos[j]`: the same one) and shared
        through the cache; behind it, shorter prompts are padded. Otherwise prompts are padded on the left, and each reads its video."""
        same = next((i for i, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1), min(map(len, ids)))
        shared = min(same, min(map(len, ids)) - 1)
        longest, pad, device = max(map(len, ids)), self.processor.pad_id, self.model.device
        if not self.share or not all(self.processor.shares(row, shared) for row in ids):
            whole = torch.tensor([[pad] * (longest - len(row)) + row for row in ids], device=device)
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids], device=device)
            return {"input_ids": whole, "attention_mask": mask, **self._extra(videos, whole)}
        unique = {id(video): video for video in videos}
        prefix = torch.tensor([ids[0][:shared]] * len(unique), device=device)
        past = self.model.model(input_ids=prefix, use_cache=True, **self._extra(list(unique.values()), prefix)).past_key_values
        at = {key: row for row, key in enumerate(unique)}
        past.batch_select_indices(torch.tensor([at[id(video)] for video in videos], device=device))
        return {
            "input_ids": torch.tensor([row[:shared] + [pad] * (longest - len(row)) + row[shared:] for row in ids], device=device),
            "attention_mask": torch.tensor([[1] * shared + [0] * (longest - len(row)) + [1] * (len(row) - shared) for row in ids], device=device),
            "past_key_values": past,
        }  # fmt: skip

    @torch.inference_mode()
    def generate(
        self, videos: list[Video], requests: list[str], *, max_new_tokens: int, seeds: list[int] | None = None,
        temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0,
    ) -> list[str]:  # fmt: skip
        """One continuation a request: greedy at temperature 0, else sampled under `seeds`, one a row."""
        if not requests:
            return []
        inputs = self._inputs(videos, [self.processor.request_ids(*asked) for asked in zip(requests, videos, strict=True)])
        steps = LogitsProcessorList()
        if temperature > 0:
            if seeds is None or len(seeds) != len(requests):
                raise ValueError("sampling needs one seed a request")
            steps += [TemperatureLogitsWarper(temperature)]
            steps += [TopKLogitsWarper(top_k)] if top_k else []
            steps += [TopPLogitsWarper(top_p)] if top_p < 1 else []
            steps.append(KeyedNoise(seeds))
        ends = self.processor.end_ids
        made = self.model.generate(
            **inputs, logits_processor=steps, max_new_tokens=max_new_tokens, do_sample=False,
            eos_token_id=ends, pad_token_id=self.processor.pad_id,
        )[:, inputs["input_ids"].shape[1] :].tolist()  # fmt: skip
        return [self.processor.decode(row[: next((at for at, token in enumerate(row) if token in ends), len(row))]) for row in made]

    @torch.inference_mode()
    def choose(self, videos: list[Video], requests: list[str], replies: tuple[str, str] = prompts.REPLIES) -> Tensor:
        """float [B, 2]: log-probabilities of the two replies' first differing token, given the request and what they share."""
        first, second = (self.processor.answer_ids(reply) for reply in replies)
        shared = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        asked = zip(requests, videos, strict=True)
        inputs = self._inputs(videos, [self.processor.request_ids(request, video) + first[:shared] for request, video in asked])
        if "past_key_values" in inputs:
            done = inputs["past_key_values"].get_seq_length()
            positions = (inputs["attention_mask"].cumsum(-1) - 1)[:, done:]
            inputs |= {"input_ids": inputs["input_ids"][:, done:], "position_ids": positions}
        logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].float()
        return logits.log_softmax(-1)[:, [first[shared], second[shared]]].cpu()

    @property
    def explains(self) -> bool:
        """Whether `gradient` works: LLaVA-Hound's frames go in as squares, other families cut theirs up in ways of their own."""
        return isinstance(self.processor, HoundProcessor)

    def gradient(self, pixels: Tensor, blank: Tensor, request: str, grid: int, replies: tuple[str, str] = prompts.REPLIES) -> tuple[float, Tensor]:
        """(log-odds of the second reply over the first in nats, its gradient times input [T, grid, grid]): |d log-odds / d pixel x (pixel -
        blank)| summed over the cells of each frame. pixels and blank: float [T, 3, S, S] as the processor makes them, S divisible by grid."""
        first, second = (self.processor.answer_ids(reply) for reply in replies)
        shared = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        ids = torch.tensor([self.processor.request_ids(request) + first[:shared]], device=self.model.device)
        with torch.enable_grad():
            seen = pixels[None].to(self.model.device, self.model.dtype).requires_grad_()
            features = self.model.model.get_video_features(seen).pooler_output
            logits = self.model(input_ids=ids, **hound.video_inputs(features), logits_to_keep=1).logits[0, -1].float()
            odds = logits[second[shared]] - logits[first[shared]]
            (slope,) = torch.autograd.grad(odds, seen)
        effect = (slope[0].float().cpu() * (pixels - blank)).sum(1)  # [T, S, S]
        cells = effect.unflatten(1, (grid, -1)).unflatten(3, (grid, -1)).sum((2, 4)).abs()
        return round(odds.item(), 6), cells.double().round(decimals=6)


def checkpoint(path: str) -> str:
    """What `model.path` stands for: the shipped base for `toybox`, a folder, or a hub id."""
    if path == "toybox":
        return str(TOYBOX_BASE)
    return str(resolve(path)) if resolve(path).exists() else path


def open_model(params: Params, path: str) -> VideoModel:
    """The policy at `path`, on the device and in the precision that `params.model` names. Raises CheckpointError."""
    settings, found = params.model, checkpoint(path)
    device = settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device == "auto" and device != "cpu" and sys.stderr.isatty():
        print(f"model.device=auto: {torch.cuda.get_device_name()}", file=sys.stderr)
    dtype = getattr(torch, settings.dtype)
    if auto.model_type(found) in hound.MODEL_TYPES:
        if settings.quantize != "none":
            raise CheckpointError(f"model.quantize={settings.quantize}: LLaVA-Hound checkpoints are read exactly, not quantized; leave it none")
        model, processor = hound.load(found, image_tower=settings.image_tower, video_tower=settings.video_tower, dtype=dtype, device=device)
    else:
        model, processor = auto.load(found, frames=params.video.frames, dtype=dtype, device=device, quantize=settings.quantize)
    note = resolve(params.run) / "model.json"  # what pages say of the model, and cut their frames by
    if not note.exists():
        size = processor.image_size if isinstance(processor, HoundProcessor) else None
        records.write_json(note, {"frames": processor.frames, "image_size": size, "parameters": sum(p.numel() for p in model.parameters())})
    cache = resolve(params.run).parent / ".cache" / "features" if params.video.cache else None
    return VideoModel(model, processor, params.video.span, cache, params.video.max_pixels or 0)


def save(model: HoundForConditionalGeneration | auto.Model, processor: HoundProcessor | auto.Processor, folder: Path) -> None:
    """The policy in transformers' own layout, with its processor; `open_model` reads it."""
    (hound if isinstance(processor, HoundProcessor) else auto).save(model, processor, folder)
