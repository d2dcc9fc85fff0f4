"""A video language model in this process: `LocalPolicy`, and how it is opened and saved.

A clip goes through the frozen tower once, and its features stay valid over the iterations. Prompts about the
same video read it once and share it through the cache. A draw depends on its seed alone, never on its batch.
"""

import os
import sys
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, LogitsProcessorList, PreTrainedModel

from isrdpo.core import prompts
from isrdpo.core.errors import IsrdpoError, RunError, VideoError
from isrdpo.core.folders import checkpoint_path
from isrdpo.core.params import Model as ModelSettings
from isrdpo.core.params import Params
from isrdpo.core.readiness import missing_device
from isrdpo.formats import sampling, video
from isrdpo.models import features, packing
from isrdpo.models.families import load_checkpoint
from isrdpo.models.interface import EncodedVideo, LoadOptions, Processor
from isrdpo.models.resources import concerns_everything, first_line
from isrdpo.models.sampling import KeyedNoise, warpers

# Bytes of features that stay in memory, so that a stage's next question about a clip finds it encoded.
MEMORY = 2**30
# Positions of a model whose config states no limit: as many as today's video models commonly have.
POSITIONS = 32768


class LocalPolicy:
    """A transformers model and its processor as one `interface.Policy`.

    `span`: which part of a clip its frames are taken from (`video.span`).
    `cache`: the folder for encoded clips, if any.
    `max_pixels`: larger frames are scaled down to so many pixels before the processor sees them; 0: none are.
    `limits`: what decoding one clip may take; None: clips are trusted, and decoded in this process.
    `share`: whether prompts about the same video read it once (notebook 07 measures what that saves).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Processor,
        span: str = "whole",
        cache: Path | None = None,
        max_pixels: int = 0,
        share: bool = True,
        limits: video.DecodeLimits | None = video.DEFAULT_LIMITS,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.span = span
        self.cache = cache
        self.max_pixels = max_pixels
        self.share = share
        self.limits = limits
        self._memory: OrderedDict[Path, EncodedVideo] = OrderedDict()

    def summary(self) -> dict[str, int | None]:
        """Return what pages say of the model: frames, image_size, and the number of its parameters."""
        return {
            "frames": self.processor.frames,
            "image_size": self.processor.image_size,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }

    @property
    def cannot_share(self) -> str:
        """The reason why prompts about a video cannot share it, naming the family; empty if they can."""
        if self.processor.shares([], 0):
            return ""
        kind = self.model.config.model_type
        return f"{kind}: each prompt reads its video for itself (positions in a video are three-dimensional)"

    @property
    def cannot_explain(self) -> str:
        """The reason why `gradient` does not work, naming the family; empty if it does."""
        if self.processor.explains:
            return ""
        return f"{self.model.config.model_type}: heat maps are drawn for LLaVA-Hound checkpoints only"

    @torch.inference_mode()
    def encode(self, paths: list[Path]) -> list[EncodedVideo]:
        """Encode each clip, to tensors on the CPU; a clip that is named twice, once. Raises VideoError.

        Each clip goes through the tower alone: which others are in a cache must not show in its last bits.
        """
        encoded = {path: self._encode_one(path) for path in dict.fromkeys(paths)}
        for path, one in encoded.items():
            self._memory[path] = one
            self._memory.move_to_end(path)
        while sum(one.nbytes for one in self._memory.values()) > MEMORY:
            self._memory.popitem(last=False)
        return [encoded[path] for path in paths]

    def _encode_one(self, path: Path) -> EncodedVideo:
        """Take a clip from memory or from disk; else encode it, and keep it on disk where there is a cache.

        A clip that is a folder of frames is not kept on disk.
        """
        if path in self._memory:
            return self._memory[path]
        file = None
        if self.cache is not None and not path.is_dir():
            file = features.encoded_file(self.cache, self._encoder_digest, path)
        encoded = None if file is None else features.load_encoded(file)
        if encoded is None:
            encoded = self._encode_clip(path)
            if file is not None:
                features.save_encoded(encoded, file)
        return encoded

    def _encode_clip(self, path: Path) -> EncodedVideo:
        """Read a clip and send it through the tower.

        Raises VideoError also where the processor or the tower fails at it, in whatever way the family has.
        """
        clip = video.read_clip(path, self.processor.frames, self.span, self.limits)
        try:
            return self.processor.encode(self.model, video.shrink_clip(clip, self.max_pixels))
        except IsrdpoError:
            raise
        except Exception as error:
            if concerns_everything(error):
                raise
            kind = self.model.config.model_type
            raise VideoError(
                f"{path}: the processor of {kind} refuses this clip "
                f"({type(error).__name__}: {first_line(error)})"
            ) from error

    @cached_property
    def _encoder_digest(self) -> str:
        """The name on disk of everything but the clip that decides its features."""
        settings = f"{self.processor.frames} {self.span} {self.model.dtype} {self.model.device.type}"
        settings += f" reading {sampling.READING}"
        if self.max_pixels:
            settings += f" {self.max_pixels}"
        return features.encoder_digest(self.model, settings)

    @cached_property
    def positions(self) -> int:
        """The tokens that the model has positions for: a prompt with its video, and what follows."""
        return count_positions(self.model.config.get_text_config())

    def room(self, request: str, encoded: EncodedVideo) -> int:
        """Return how many tokens the model has positions for behind the request; below 1, it does not fit."""
        return self.positions - len(self.processor.request_ids(request, encoded))

    @torch.inference_mode()
    def generate(
        self,
        videos: list[EncodedVideo],
        requests: list[str],
        *,
        max_new_tokens: int,
        seeds: list[int] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> list[str]:
        """Return one answer per request: greedy at temperature 0, else drawn under the request's own seed."""
        if not requests:
            return []
        steps = LogitsProcessorList()
        if temperature > 0:
            if seeds is None or len(seeds) != len(requests):
                raise ValueError("sampling needs one seed per request")
            steps = LogitsProcessorList([*warpers(temperature, top_p, top_k), KeyedNoise(seeds)])
        inputs = self._inputs(videos, self._prompts(videos, requests))
        rows = self.model.generate(
            **inputs,
            logits_processor=steps,
            max_new_tokens=max_new_tokens,
            do_sample=False,  # the noise draws; transformers' own sampling has one stream for all rows
            eos_token_id=self.processor.end_ids,
            pad_token_id=self.processor.pad_id,
        )
        answers = rows[:, inputs["input_ids"].shape[1] :].tolist()
        return [self.processor.decode(packing.until_end(row, self.processor.end_ids)) for row in answers]

    @torch.inference_mode()
    def choose(
        self, videos: list[EncodedVideo], requests: list[str], replies: tuple[str, str] = prompts.REPLIES
    ) -> Tensor:
        """Return float [B, 2]: the log-probabilities of the first token in which the two replies differ.

        They are given the request and what the replies begin with alike.
        """
        beginning, candidates = self._reply_tokens(replies)
        rows = [row + beginning for row in self._prompts(videos, requests)]
        inputs = self._inputs(videos, rows)
        if "past_key_values" in inputs:  # `generate` does these two steps by itself
            begin = inputs["past_key_values"].get_seq_length()
            inputs["input_ids"] = inputs["input_ids"][:, begin:]
            inputs["position_ids"] = packing.positions(inputs["attention_mask"])[:, begin:]
        logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].float()
        return logits.log_softmax(-1)[:, candidates].cpu()

    def gradient(
        self,
        pixels: Tensor,
        blank: Tensor,
        request: str,
        grid: int,
        replies: tuple[str, str] = prompts.REPLIES,
    ) -> tuple[float, Tensor]:
        """Return the log-odds of the second reply over the first (nats), and their gradient times input.

        The latter is [T, grid, grid]: |d log-odds / d pixel x (pixel - blank)|, summed over the cells of each
        frame. `pixels` and `blank`: float [T, 3, S, S] as `processor.pixels` makes them, S divisible by grid.
        It works only where `cannot_explain` is empty.
        """
        beginning, (first, second) = self._reply_tokens(replies)
        with torch.enable_grad():
            leaf = pixels[None].to(self.model.device, self.model.dtype).requires_grad_()
            projected = self.model.model.get_video_features(leaf).pooler_output
            prompt = self.processor.request_ids(request, EncodedVideo(projected[0].detach()))
            ids = torch.tensor([prompt + beginning], device=self.model.device)
            inputs = self.processor.inputs({"features": projected}, ids)
            logits = self.model(input_ids=ids, **inputs, logits_to_keep=1).logits[0, -1].float()
            odds = logits[second] - logits[first]
            (slope,) = torch.autograd.grad(odds, leaf)
        effect = (slope[0].float().cpu() * (pixels - blank)).sum(1)  # [T, S, S]
        cells = effect.unflatten(1, (grid, -1)).unflatten(3, (grid, -1)).sum((2, 4)).abs()
        return round(odds.item(), 6), cells.double().round(decimals=6)

    def _prompts(self, videos: list[EncodedVideo], requests: list[str]) -> list[list[int]]:
        """The ids of each request's whole prompt."""
        return [self.processor.request_ids(*pair) for pair in zip(requests, videos, strict=True)]

    def _reply_tokens(self, replies: tuple[str, str]) -> tuple[list[int], list[int]]:
        """The ids that both replies begin with, and the two ids of which the choice is made."""
        first, second = (self.processor.answer_ids(reply) for reply in replies)
        place = packing.first_difference(first, second)
        return first[:place], [first[place], second[place]]

    def _inputs(self, videos: list[EncodedVideo], rows: list[list[int]]) -> dict[str, Any]:
        """Return what the model takes to go on from these prompts.

        input_ids and attention_mask [B, L], and one of two: where all prompts begin alike and the video is in
        that part, past_key_values of it, read once per video (the same object); else the videos themselves,
        each read by its own prompt, which is padded on the left.
        """
        shared = packing.shared_length(rows)
        if not self._can_share(rows, shared):
            inputs = self._padded(rows)
            return inputs | self._video_inputs(videos, inputs["input_ids"])
        return self._padded(rows, shared) | {"past_key_values": self._read_prefix(videos, rows[0][:shared])}

    def _can_share(self, rows: list[list[int]], shared: int) -> bool:
        return self.share and all(self.processor.shares(row, shared) for row in rows)

    def _padded(self, rows: list[list[int]], prefix: int = 0) -> dict[str, Tensor]:
        padded = packing.pad_rows(rows, self.processor.pad_id, prefix)
        return {name: tensor.to(self.model.device) for name, tensor in padded.items()}

    def _read_prefix(self, videos: list[EncodedVideo], prefix: list[int]) -> Cache:
        """The prefix's keys and values for each of the B rows, read once for each distinct video."""
        distinct = {one: place for place, one in enumerate(dict.fromkeys(videos))}
        ids = torch.tensor([prefix] * len(distinct), device=self.model.device)
        inputs = self._video_inputs(list(distinct), ids)
        cache = self.model.model(input_ids=ids, use_cache=True, **inputs).past_key_values
        cache.batch_select_indices(torch.tensor([distinct[one] for one in videos], device=self.model.device))
        return cache

    def _video_inputs(self, videos: list[EncodedVideo], ids: Tensor) -> dict[str, Any]:
        """Return what `forward` takes beside the ids [B, L], on the model's device and in its precision."""
        collated = {}
        for name, tensor in self.processor.collate(videos).items():
            is_features = name.startswith("features") and tensor.is_floating_point()
            collated[name] = tensor.to(self.model.device, self.model.dtype if is_features else None)
        return self.processor.inputs(collated, ids)


def count_positions(config: Any) -> int:
    """Return the tokens that a language model has positions for; POSITIONS where its config does not say.

    Some configs state the limit before RoPE was stretched, others (llama3, longrope) the one after.
    """
    limit = getattr(config, "max_position_embeddings", None) or POSITIONS
    rope = getattr(config, "rope_parameters", None) or {}
    stretch = rope.get("factor") or 1
    return max(limit, int(rope.get("original_max_position_embeddings", limit) * stretch))


def device_of(settings: ModelSettings) -> str:
    """The device that `model.device` names. `auto`: a GPU where there is one, else the CPU.

    Under a launcher of several processes, each takes the GPU of its number. Raises RunError where the
    device is not there.
    """
    if problem := missing_device(settings.device):
        raise RunError(problem)
    if settings.device != "auto":
        return settings.device
    if not torch.cuda.is_available():
        return "cpu"
    rank = os.environ.get("LOCAL_RANK")
    return "cuda" if rank is None else f"cuda:{int(rank) % torch.cuda.device_count()}"


def open_policy(params: Params, path: str, cache: Path | None = None) -> LocalPolicy:
    """Open the policy at `path` (`toybox`, a folder, a hub id) as `params.model` and `params.video` say.

    `cache` is the folder for encoded clips. Raises CheckpointError.
    """
    settings = params.model
    device = device_of(settings)
    if settings.device == "auto" and device != "cpu" and sys.stderr.isatty():
        print(f"model.device=auto: {torch.cuda.get_device_name()}", file=sys.stderr)
    options = LoadOptions(
        dtype=getattr(torch, settings.dtype),
        device=device,
        quantize=settings.quantize,
        frames=params.video.frames,
        image_tower=settings.image_tower,
        video_tower=settings.video_tower,
    )
    model, processor = load_checkpoint(checkpoint_path(path), options)
    return LocalPolicy(
        model,
        processor,
        params.video.span,
        cache,
        params.video.max_pixels or 0,
        limits=video.decode_limits(params),
    )


def save_policy(model: PreTrainedModel, processor: Processor, folder: Path) -> None:
    """Write a policy in transformers' own layout, with its processor; `open_policy` reads it."""
    processor.save(model, folder)
