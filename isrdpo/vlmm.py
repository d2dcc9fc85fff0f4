"""A video language model as four calls: encode a video once, generate several continuations of it, score a choice, load for training.

Videos are projected features [N, D] (N video tokens of the LLM's width D): towers and projector are frozen, so they stay valid over the
iterations. Prompts are full prompts (`prompts.conversation`); `videos[i]` belongs to `prompts[i]`.
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

from isrdpo import hound, prompts, records, video
from isrdpo.params import Params
from isrdpo.runs import resolve
from isrdpo.toybox import BASE

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
    """One policy, ready for inference."""

    def __init__(self, model: hound.HoundForConditionalGeneration, processor: hound.HoundProcessor, span: str = "whole", cache: Path | None = None) -> None:
        self.model, self.processor, self.span, self.cache = model.eval(), processor, span, cache
        self._digest, self._held = "", OrderedDict[Path, Tensor]()

    @torch.inference_mode()
    def encode(self, paths: list[Path]) -> list[Tensor]:
        """Projected features [N, D] of each clip, on the CPU; a clip named twice is encoded once. Raises VideoError.

        Each clip goes through the tower alone: which others are cached already must not show in its last bits."""
        found = {path: self._feature(path) for path in dict.fromkeys(paths)}
        for path, feature in found.items():
            self._held[path] = feature
            self._held.move_to_end(path)
        while sum(feature.nbytes for feature in self._held.values()) > HELD:
            self._held.popitem(last=False)
        return [found[path] for path in paths]

    def _feature(self, path: Path) -> Tensor:
        """From memory, from disk, or encoded (and then kept on disk, where there is a cache)."""
        if path in self._held:
            return self._held[path]
        stored = self._stored(path)
        if stored is not None and stored.exists():
            try:
                return load_file(stored)["features"]
            except (SafetensorError, KeyError):  # torn by a full disk or a crash of the machine
                stored.unlink(missing_ok=True)
        pixels = self.processor.pixels(video.read(path, self.processor.frames, self.span).frames)
        feature = hound.encode_videos(self.model, pixels[None].to(self.model.device, self.model.dtype))[0].cpu().clone()
        if stored is not None:
            stored.parent.mkdir(parents=True, exist_ok=True)
            part = stored.with_suffix(f".{os.getpid()}.part")
            save_file({"features": feature}, part)
            part.replace(stored)
        return feature

    def _stored(self, path: Path) -> Path | None:
        """Where the features of a clip lie on disk: by the weights that make them and the clip's content."""
        if self.cache is None or path.is_dir():
            return None
        if not self._digest:
            digest = hashlib.sha256(f"{self.processor.frames} {self.span} {self.model.dtype} {self.model.device.type}".encode())
            for part in (self.model.model.video_tower, self.model.model.multi_modal_projector):
                for tensor in part.state_dict().values():
                    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
            self._digest = digest.hexdigest()[:16]
        return self.cache / self._digest / f"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}.safetensors"

    def room(self, prompt: str) -> int:
        """How many more tokens the model has positions for behind this prompt; below 1, it cannot read the prompt whole."""
        text = self.model.config.text_config
        positions = int(text.max_position_embeddings * (text.rope_parameters or {}).get("factor", 1))
        return positions - len(self.processor.prompt_ids(prompt))

    def _inputs(self, videos: list[Tensor], ids: list[list[int]]) -> dict:
        """What the model takes to go on from these prompts. The part that all prompts begin with, the video in it, is read once a video
        (`videos[i] is videos[j]`: the same one) and shared through the cache; behind it, shorter prompts are padded.
        input_ids and attention_mask [B, L] of the whole prompts, past_key_values of the first `shared` tokens."""
        shared = next((i for i, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1), min(map(len, ids)))
        shared = min(shared, min(map(len, ids)) - 1)
        longest, pad, device = max(map(len, ids)), self.processor.pad_id, self.model.device
        unique = {id(video): video for video in videos}
        past = self.model.model(
            input_ids=torch.tensor([ids[0][:shared]] * len(unique), device=device), use_cache=True,
            **hound.video_inputs(torch.stack(list(unique.values())).to(device, self.model.dtype)),
        ).past_key_values  # fmt: skip
        at = {key: row for row, key in enumerate(unique)}
        past.batch_select_indices(torch.tensor([at[id(video)] for video in videos], device=device))
        return {
            "input_ids": torch.tensor([row[:shared] + [pad] * (longest - len(row)) + row[shared:] for row in ids], device=device),
            "attention_mask": torch.tensor([[1] * shared + [0] * (longest - len(row)) + [1] * (len(row) - shared) for row in ids], device=device),
            "past_key_values": past,
        }  # fmt: skip

    @torch.inference_mode()
    def generate(
        self, videos: list[Tensor], prompts: list[str], *, max_new_tokens: int, seeds: list[int] | None = None,
        temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0,
    ) -> list[str]:  # fmt: skip
        """One continuation a prompt: greedy at temperature 0, else sampled under `seeds`, one a row."""
        if not prompts:
            return []
        inputs = self._inputs(videos, [self.processor.prompt_ids(prompt) for prompt in prompts])
        steps = LogitsProcessorList()
        if temperature > 0:
            if seeds is None or len(seeds) != len(prompts):
                raise ValueError("sampling needs one seed a prompt")
            steps += [TemperatureLogitsWarper(temperature)]
            steps += [TopKLogitsWarper(top_k)] if top_k else []
            steps += [TopPLogitsWarper(top_p)] if top_p < 1 else []
            steps.append(KeyedNoise(seeds))
        end = self.processor.pieces.eos_id()
        made = self.model.generate(
            **inputs, logits_processor=steps, max_new_tokens=max_new_tokens, do_sample=False,
            eos_token_id=end, pad_token_id=self.processor.pad_id,
        )[:, inputs["input_ids"].shape[1] :].tolist()  # fmt: skip
        return [self.processor.decode(row[: row.index(end)] if end in row else row) for row in made]

    @torch.inference_mode()
    def choose(self, videos: list[Tensor], prompts_: list[str], replies: tuple[str, str] = prompts.REPLIES) -> Tensor:
        """float [B, 2]: log-probabilities of the two replies' first differing token, given prompt and what they share."""
        first, second = (self.processor.answer_ids(reply) for reply in replies)
        shared = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        inputs = self._inputs(videos, [self.processor.prompt_ids(prompt) + first[:shared] for prompt in prompts_])
        done = inputs["past_key_values"].get_seq_length()
        positions = (inputs["attention_mask"].cumsum(-1) - 1)[:, done:]
        rest = inputs | {"input_ids": inputs["input_ids"][:, done:], "position_ids": positions}
        logits = self.model(**rest, logits_to_keep=1).logits[:, -1].float()
        return logits.log_softmax(-1)[:, [first[shared], second[shared]]].cpu()


    def gradient(self, pixels: Tensor, blank: Tensor, prompt: str, grid: int, replies: tuple[str, str] = prompts.REPLIES) -> tuple[float, Tensor]:
        """(log-odds of the second reply over the first in nats, its gradient times input [T, grid, grid]): |d log-odds / d pixel x (pixel -
        blank)| summed over the cells of each frame. pixels and blank: float [T, 3, S, S] as the processor makes them, S divisible by grid."""
        first, second = (self.processor.answer_ids(reply) for reply in replies)
        shared = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        ids = torch.tensor([self.processor.prompt_ids(prompt) + first[:shared]], device=self.model.device)
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
        return str(BASE)
    return str(resolve(path)) if resolve(path).exists() else path


def open_model(params: Params, path: str) -> VideoModel:
    """The policy at `path`, on the device and in the precision that `params.model` names."""
    settings = params.model
    device = settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device == "auto" and device != "cpu" and sys.stderr.isatty():
        print(f"model.device=auto: {torch.cuda.get_device_name()}", file=sys.stderr)
    model, processor = hound.load(
        checkpoint(path), image_tower=settings.image_tower, video_tower=settings.video_tower,
        dtype=getattr(torch, settings.dtype), device=device,
    )  # fmt: skip
    note = resolve(params.run) / "model.json"  # what pages say of the model, and cut their frames by
    if not note.exists():
        sizes = {"frames": processor.frames, "image_size": processor.image_size, "parameters": sum(p.numel() for p in model.parameters())}
        records.write_json(note, sizes)
    cache = resolve(params.run).parent / ".cache" / "features" if params.video.cache else None
    return VideoModel(model, processor, params.video.span, cache)
