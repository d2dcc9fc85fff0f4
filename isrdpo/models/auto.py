"""Video language models of transformers, through AutoProcessor and their chat templates.

LLaVA-NeXT-Video, LLaVA-OneVision, Qwen2.5-VL, Qwen3-VL, SmolVLM2, Video-LLaVA, and what else takes
`mm_encoder_outputs`; a family that cannot be used is refused by name when it is loaded. LLaVA-Hound's
checkpoints are `hound`'s.

A clip goes through the model's own processor and frozen tower once. What the language model takes of it is
kept, with the text that the processor puts in place of the video (placeholders, for some families with
times). Prompts are the chat template's, with that text in them. Shapes: B videos, L tokens, N video tokens,
D width of the language model.
"""

import inspect
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures
from transformers.utils import is_bitsandbytes_available
from transformers.video_utils import VideoMetadata

from isrdpo.core.special_tokens import harmless_text
from isrdpo.formats.video import Clip
from isrdpo.models.config_limits import check_sizes
from isrdpo.models.interface import CheckpointError, EncodedVideo, quiet_transformers
from isrdpo.models.packing import until_end

FRAMES = 8  # as LLaVA-Hound
# Modules that stay as they are when the language model is quantized.
NOT_QUANTIZED = r"(?!model\.(?:language_model|text_model)\.).*"
# What a processor returns that is not kept: features replace it, or each prompt has its own.
NOT_KEPT = re.compile("pixel|input_ids|attention|mm_token")
TOKEN_TYPES = "mm_token_type_ids"  # an argument of families whose positions in a video are three-dimensional


class TransformersProcessor:
    """An `interface.Processor` on top of the checkpoint's own processor, `inner`.

    `generation`: the checkpoint's own settings, kept to be saved again; only the ends of an answer are used.
    """

    image_size = None
    explains = False

    def __init__(
        self, inner: ProcessorMixin, model: PreTrainedModel, frames: int, generation: GenerationConfig
    ) -> None:
        self.inner = inner
        self.tokenizer = inner.tokenizer
        self.frames = frames
        self.generation = generation
        # SmolVLM2 has no way of its own for videos: their frames are images to it
        self.modality = "video" if hasattr(model.model, "get_video_features") else "image"
        self.video_token_id: int = getattr(model.config, f"{self.modality}_token_id")
        self.forward_arguments = set(inspect.signature(model.forward).parameters)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.pad_id: int = self.tokenizer.pad_token_id
        self.end_ids = _end_ids(self.tokenizer.eos_token_id, generation.eos_token_id)

    def encode(self, model: PreTrainedModel, clip: Clip) -> EncodedVideo:
        """Send a clip through the model's frozen tower; the result is on the CPU."""
        batch = self._processed(clip)
        inputs = {}
        for name, value in batch.items():
            if isinstance(value, Tensor):
                inputs[name] = value.to(model.device, model.dtype if value.is_floating_point() else None)
        core = model.model
        tower = core.get_video_features if self.modality == "video" else core.get_image_features
        arguments = [name for name in inspect.signature(tower).parameters if name in inputs]
        output = tower(**{name: inputs[name] for name in arguments}, return_dict=True)
        pooled = output.pooler_output
        stacked = isinstance(pooled, Tensor)
        extra_names = [name for name in inputs if name in self.forward_arguments and not NOT_KEPT.match(name)]
        return EncodedVideo(
            features=_on_cpu(pooled.flatten(0, -2) if stacked else torch.cat(list(pooled))),
            deep=tuple(_on_cpu(layer[0]) for layer in getattr(output, "deepstack_features", None) or []),
            extra={name: _on_cpu(inputs[name]) for name in extra_names},
            text=batch["text_replacement_offsets"][0][0]["replacement"],
            stacked=stacked,
        )

    def _processed(self, clip: Clip) -> BatchFeature:
        """The clip after the checkpoint's own processor, with the text that takes the place of its token.

        Families that write times into that text (Qwen3-VL, SmolVLM2) get those of the frames themselves.
        Qwen2.5-VL has one interval for the whole clip: the mean one.
        """
        height, width = clip.frames.shape[1:3]
        metadata = VideoMetadata(
            width=width,
            height=height,
            duration=clip.count / clip.rate if clip.rate else None,
            video_backend=clip.decoder,
            **_timing(clip),
        )
        return self.inner(
            text=[self.inner.video_token],
            videos=[clip.frames],
            video_metadata=[metadata],
            do_sample_frames=False,
            return_tensors="pt",
            return_text_replacement_offsets=True,
            add_special_tokens=False,
        )

    def collate(self, videos: list[EncodedVideo]) -> dict[str, Tensor]:
        """Join B videos into plain tensors.

        Features and extras are concatenated along their first dimension; `lengths` [B] holds the N of each
        video, and `stacked` whether their features enter as one tensor.
        """
        named = [video.tensors() for video in videos]
        names = [name for name in named[0] if name not in ("text", "stacked")]
        collated = {name: torch.cat([tensors[name] for tensors in named]) for name in names}
        collated["lengths"] = torch.tensor([len(video.features) for video in videos])
        collated["stacked"] = torch.tensor(videos[0].stacked)
        return collated

    def inputs(self, collated: dict[str, Tensor], ids: Tensor) -> dict[str, Any]:
        """Return what `forward` takes beside the ids [B, L], from the B videos that `collate` joined."""
        lengths = collated["lengths"].tolist()
        features = collated["features"].split(lengths)
        pooled = torch.stack(features) if collated["stacked"] else list(features)
        deep = [list(collated[name].split(lengths)) for name in collated if name.startswith("features.deep.")]
        if deep:
            output = BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=deep)
        else:
            output = BaseModelOutputWithPooling(pooler_output=pooled)
        arguments: dict[str, Any] = {"mm_encoder_outputs": {self.modality: output}}
        for name, tensor in collated.items():
            if name.startswith("extra."):
                arguments[name.removeprefix("extra.")] = tensor
        if TOKEN_TYPES in self.forward_arguments:
            types = self.inner.create_mm_token_type_ids(ids.tolist())
            arguments[TOKEN_TYPES] = torch.tensor(types, device=ids.device)
        return arguments

    def shares(self, ids: list[int], begin: int) -> bool:
        """Whether prompts that agree up to `begin` can share what the model read up to there.

        That takes the whole video before `begin`, and positions in one dimension.
        """
        return TOKEN_TYPES not in self.forward_arguments and self.video_token_id not in ids[begin:]

    def request_ids(self, request: str, video: EncodedVideo) -> list[int]:
        """Return the ids of the whole prompt, in which the video stands as the processor spells it out."""
        return self._token_ids(self._rendered(request).replace(self.inner.video_token, video.text, 1))

    def answer_ids(self, text: str) -> list[int]:
        """Return the ids of an answer as the chat template goes on with it, up to the end of the turn.

        These are the tokens that DPO scores.
        """
        prompt = self._token_ids(self._rendered(""))
        ids = self._token_ids(self._rendered("", text))
        if ids[: len(prompt)] == prompt:
            ids = ids[len(prompt) :]
        else:
            ids = self.tokenizer(self._harmless(text), add_special_tokens=False)["input_ids"]
        answer = until_end(ids, self.end_ids)
        end = ids[len(answer) : len(answer) + 1] or self.end_ids[:1]
        return answer + end

    def decode(self, ids: list[int]) -> str:
        """Return the text of an answer's ids, without special tokens and outer spaces."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write weights, config and processor in transformers' layout, which `load` and AutoModel read."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet_transformers():
            model.save_pretrained(folder)
        self.inner.save_pretrained(folder)
        self.generation.save_pretrained(folder)

    def _rendered(self, request: str, answer: str | None = None) -> str:
        """The chat template's text of one turn, with the video as its single token.

        It ends with the answer's turn, or where that turn would begin.
        """
        request = request.replace("<video>", "").replace("<image>", "").strip()
        question = {"type": "text", "text": self._harmless(request)}
        turns = [{"role": "user", "content": [{"type": "video"}, question]}]
        if answer is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": self._harmless(answer)}]})
        return self.inner.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)

    def _token_ids(self, text: str) -> list[int]:
        """The ids of a rendered text.

        Some templates begin with the BOS token themselves; it must not stand twice.
        """
        bos = self.tokenizer.bos_token
        return self.tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"]

    def _harmless(self, text: str) -> str:
        return harmless_text(text, self._special_tokens)

    @cached_property
    def _special_tokens(self) -> frozenset[str]:
        """The names of all special tokens, those of videos and images among them."""
        tokenizer = self.tokenizer
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        media = {self.inner.video_token, getattr(self.inner, "image_token", None) or "<image>"}
        return frozenset(added | media | set(tokenizer.all_special_tokens))


def _timing(clip: Clip) -> dict[str, Any]:
    """The fields of VideoMetadata from which transformers computes times, as place / frames a second.

    Frames that stand where a constant rate puts them have their indices as places. Others (a screen
    recording, a phone's variable rate) have their own times as places, at one frame a second.
    """
    rate = clip.rate or 1.0
    if clip.rate and np.abs(clip.times - clip.indices / rate).max() <= 0.5 / rate:
        return {"fps": rate, "total_num_frames": clip.count, "frames_indices": clip.indices.tolist()}
    return {"fps": 1.0, "total_num_frames": clip.count / rate, "frames_indices": clip.times.tolist()}


def _on_cpu(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU, which shares no memory with what it was cut from."""
    return tensor.detach().cpu().clone()


def _end_ids(tokenizer_end: int, generation_ends: int | list[int] | None) -> list[int]:
    """The ids that end an answer, each once: the tokenizer's, then those of the generation settings."""
    if generation_ends is None:
        generation_ends = []
    elif isinstance(generation_ends, int):
        generation_ends = [generation_ends]
    return list(dict.fromkeys([tokenizer_end, *generation_ends]))


def _first_line(error: Exception) -> str:
    """The first line of an error's text; empty where it has none."""
    return (str(error).splitlines() or [""])[0]


def model_type(path: str) -> str:
    """Return the model type that config.json of a folder or hub repository states. Raises CheckpointError."""
    if Path(path).is_dir() and not (Path(path) / "config.json").exists():
        raise CheckpointError(
            f"{path}: no config.json in it; model.path is a checkpoint's folder or a hub id"
        )
    check_sizes(path)
    try:
        return str(PreTrainedConfig.get_config_dict(path, trust_remote_code=False)[0].get("model_type"))
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path}: no such checkpoint, and not to be had from the hub "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


def load(
    path: str, *, frames: int | None, dtype: torch.dtype, device: str, quantize: str = "none"
) -> tuple[PreTrainedModel, TransformersProcessor]:
    """Load a checkpoint (folder or hub id) of any family, ready for inference. None of its own code is run.

    `frames` are read of a clip; None: 8. `quantize`: none, 8bit or 4bit, of the language model's layers
    (bitsandbytes, meant for CUDA). Raises CheckpointError, which says what the family or the folder lacks.
    """
    kind = model_type(path)
    options: dict[str, Any] = {"dtype": dtype}
    if quantize != "none":
        options |= {"quantization_config": _quantization(quantize, dtype), "device_map": {"": device}}
    try:
        with quiet_transformers():
            model, report = AutoModelForImageTextToText.from_pretrained(
                path, output_loading_info=True, trust_remote_code=False, use_safetensors=True, **options
            )
            inner = AutoProcessor.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # families fail in ways of their own
        raise CheckpointError(
            f"{path}: model_type {kind!r} is not to be loaded as a video language model "
            f"({type(error).__name__}: {_first_line(error)[:300]})"
        ) from error
    faults = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if faults:
        names = ", ".join(faults[:5])
        raise CheckpointError(f"{path}: {len(faults)} keys are missing or of a wrong shape: {names}")
    ignored = sorted(name for name in map(str, report["unexpected_keys"]) if ".layers." in name)
    if ignored:
        raise CheckpointError(
            f"{path}: config.json has no place for {len(ignored)} tensors of layers, {ignored[0]} first"
        )
    _check_usable(path, kind, model, inner)
    processor = TransformersProcessor(inner, model, frames or FRAMES, model.generation_config)
    # sampling is for the run's parameters: a checkpoint's penalty or temperature must not work behind them
    model.generation_config = GenerationConfig(
        eos_token_id=processor.end_ids,
        pad_token_id=processor.pad_id,
        bos_token_id=processor.tokenizer.bos_token_id,
        do_sample=False,
    )
    if quantize == "none":
        model = model.to(device)
    return model, processor


def _quantization(quantize: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """bitsandbytes' settings. Raises CheckpointError where it is not installed."""
    if not is_bitsandbytes_available():
        raise CheckpointError(
            f"model.quantize={quantize}: needs bitsandbytes, which is not installed "
            "(uv pip install bitsandbytes); or set it none"
        )
    options: dict[str, Any] = {"load_in_8bit": True}
    if quantize == "4bit":
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return BitsAndBytesConfig(**options, llm_int8_skip_modules=[NOT_QUANTIZED])


def _check_usable(path: str, kind: str, model: PreTrainedModel, inner: Any) -> None:
    """Raise CheckpointError, before any work, where the family lacks something that is needed here."""
    core = getattr(model, "model", None)
    forward_arguments = inspect.signature(model.forward).parameters
    needs = {
        "a processor with a tokenizer": getattr(inner, "tokenizer", None) is not None,
        "a video processor": getattr(inner, "video_processor", None) is not None,
        "a video token": bool(getattr(inner, "video_token", None)),
        "a chat template": bool(getattr(inner, "chat_template", None)),
        "features for its LLM (mm_encoder_outputs)": "mm_encoder_outputs" in forward_arguments,
        "an LLM under model.language_model or model.text_model": (
            hasattr(core, "language_model") or hasattr(core, "text_model")
        ),
    }
    lacks = [need for need, present in needs.items() if not present]
    if lacks:
        raise CheckpointError(f"{path}: {kind} is not supported: it has not {', nor '.join(lacks)}")
