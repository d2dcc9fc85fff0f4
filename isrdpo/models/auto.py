"""Any video language model of transformers, through AutoProcessor and its chat template: LLaVA-NeXT-Video, LLaVA-OneVision, Qwen2.5-VL, Qwen3-VL,
SmolVLM2, Video-LLaVA and what else takes `mm_encoder_outputs`. LLaVA-Hound's checkpoints are `isrdpo.hound`'s.

A clip goes through the model's own processor and its frozen tower once; what the LLM takes of it is kept, with the text that the processor puts in place of
the video (placeholders, for some families with times). Prompts are the chat template's, with that text in them.
Shapes: B videos, T frames, N video tokens, D width of the LLM. A family that cannot be used so is refused by name when it is loaded.
"""

import inspect
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures
from transformers.utils import is_bitsandbytes_available
from transformers.video_utils import VideoMetadata

from isrdpo.formats.video import Clip
from isrdpo.models.hound_model import CheckpointError, Video, quiet

Model = PreTrainedModel
FRAMES = 8  # as LLaVA-Hound
NOT_LLM = r"(?!model\.(?:language_model|text_model)\.).*"  # modules that stay as they are when the LLM is quantized


class Processor:
    """Requests, answers and clips to what the model takes, by the checkpoint's own processor `inner`. `generation`: the checkpoint's own settings,
    kept to be saved again; of them only the ends of an answer are used."""

    image_size = None

    def __init__(self, inner: ProcessorMixin, model: Model, frames: int, generation: GenerationConfig) -> None:
        self.inner, self.tokenizer, self.frames, self.generation = inner, inner.tokenizer, frames, generation
        self.modality = "video" if hasattr(model.model, "get_video_features") else "image"
        self.video_token_id: int = getattr(model.config, f"{self.modality}_token_id")
        self.taken = set(inspect.signature(model.forward).parameters)
        self.one_dimensional = "mm_token_type_ids" not in self.taken  # else positions in the video are three-dimensional
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        ends = generation.eos_token_id
        self.end_ids: list[int] = list(dict.fromkeys([self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends] if ends is not None else [])]))
        self.pad_id: int = self.tokenizer.pad_token_id

    def encode(self, model: Model, clip: Clip) -> Video:
        """A clip as the LLM takes it, on the CPU: `features` [N, D] (and `features.deep.<k>` [N, D] where deeper layers take some), `extra.<name>` that
        `forward` takes beside them, `text` that stands for the video in a prompt (UTF-8, uint8), `stacked`: whether several videos' features go in as one tensor."""
        height, width = clip.frames.shape[1:3]
        known = VideoMetadata(clip.count, clip.rate or None, width, height, clip.count / clip.rate if clip.rate else None, clip.decoder, clip.indices.tolist())
        made = self.inner(
            text=[self.inner.video_token], videos=[clip.frames], video_metadata=[known], do_sample_frames=False, return_tensors="pt",
            return_text_replacement_offsets=True, add_special_tokens=False,
        )  # fmt: skip
        given = {name: value.to(model.device, model.dtype if value.is_floating_point() else None) for name, value in made.items() if isinstance(value, Tensor)}
        tower = model.model.get_video_features if self.modality == "video" else model.model.get_image_features
        seen = tower(**{name: given[name] for name in inspect.signature(tower).parameters if name in given}, return_dict=True)
        pooled = seen.pooler_output
        text = made["text_replacement_offsets"][0][0]["replacement"]
        deep = {f"features.deep.{k}": layer[0] for k, layer in enumerate(getattr(seen, "deepstack_features", None) or [])}
        beside = {f"extra.{name}": value for name, value in given.items() if name in self.taken and not re.match("pixel|input_ids|attention|mm_token", name)}
        features = pooled.flatten(0, -2) if isinstance(pooled, Tensor) else torch.cat(list(pooled))
        spelled = torch.tensor(list(text.encode()), dtype=torch.uint8)
        found = {"features": features, **deep, **beside, "text": spelled, "stacked": torch.tensor(isinstance(pooled, Tensor))}
        return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}

    def collate(self, videos: list[Video]) -> dict[str, Tensor]:
        """Several encoded videos as plain tensors: everything concatenated along its first dimension, with `lengths` [B], the N of each."""
        lengths = torch.tensor([len(video["features"]) for video in videos])
        joined = {name: torch.cat([video[name] for video in videos]) for name in videos[0] if name not in ("text", "stacked")}
        return joined | {"lengths": lengths, "stacked": videos[0]["stacked"]}

    def inputs(self, collated: dict[str, Tensor], ids: Tensor) -> dict[str, Any]:
        """What `forward` takes beside `ids` [B, L], from B videos."""
        parts = {name: tensor.split(collated["lengths"].tolist()) for name, tensor in collated.items() if name.startswith("features")}
        pooled = torch.stack(parts["features"]) if collated["stacked"] else list(parts["features"])
        deep = [list(part) for name, part in parts.items() if name != "features"]
        seen = BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=deep) if deep else BaseModelOutputWithPooling(pooler_output=pooled)
        beside = {name.removeprefix("extra."): tensor for name, tensor in collated.items() if name.startswith("extra.")}
        if not self.one_dimensional:
            beside["mm_token_type_ids"] = torch.tensor(self.inner.create_mm_token_type_ids(ids.tolist()), device=ids.device)
        return {"mm_encoder_outputs": {self.modality: seen}, **beside}

    def shares(self, ids: list[int], begin: int) -> bool:
        """Whether prompts that are alike up to `begin` can share what the LLM read up to there: the whole video, at positions in one dimension."""
        return self.one_dimensional and self.video_token_id not in ids[begin:]

    def request_ids(self, request: str, video: Video) -> list[int]:
        """A user's turn about a video to the whole prompt's ids: the chat template's, the video in it as the processor spells it out."""
        return self._ids(self._rendered(request).replace(self.inner.video_token, bytes(video["text"].tolist()).decode(), 1))

    def answer_ids(self, text: str) -> list[int]:
        """An answer to ids as the chat template continues a prompt with it, up to the end of the turn (the tokens that DPO scores)."""
        before, whole = self._ids(self._rendered("")), self._ids(self._rendered("", text))
        ids = whole[len(before) :] if whole[: len(before)] == before else self.tokenizer(self._plain(text), add_special_tokens=False)["input_ids"]
        end = next((at for at, token in enumerate(ids) if token in self.end_ids), len(ids))
        return [*ids[:end], *(ids[end : end + 1] or self.end_ids[:1])]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _rendered(self, request: str, answer: str | None = None) -> str:
        """The chat template's text of one turn, the video as its single token; with the answer's turn, or up to where it begins."""
        request = request.replace("<video>", "").replace("<image>", "").strip()
        turns = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": self._plain(request)}]}]
        if answer is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": self._plain(answer)}]})
        return self.inner.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)

    def _ids(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token
        return self.tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"]

    @cached_property
    def _special(self) -> re.Pattern:
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        tokens = {*self.tokenizer.all_special_tokens, *added, self.inner.video_token, getattr(self.inner, "image_token", None) or "<image>"}
        return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))

    def _plain(self, text: str) -> str:
        """Text that cannot end a turn, begin one or stand for a video: a special token's name in it gets a space."""
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def model_type(path: str) -> str:
    """What config.json of a folder or hub repository says the model is. Raises CheckpointError."""
    if Path(path).is_dir() and not (Path(path) / "config.json").exists():
        raise CheckpointError(f"{path}: no config.json in it; model.path is a checkpoint's folder or a hub id")
    try:
        return str(PreTrainedConfig.get_config_dict(path)[0].get("model_type"))
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: no such checkpoint, and not to be had from the hub ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})") from error


def load(path: str, *, frames: int | None, dtype: torch.dtype, device: str, quantize: str = "none") -> tuple[Model, Processor]:
    """A checkpoint (folder or hub id) of any family, ready for inference. `frames` a video, None: 8. `quantize`: none, 8bit or 4bit (the LLM's
    layers; bitsandbytes, meant for CUDA). No code of the checkpoint's own is run. Raises CheckpointError: what the family lacks, or what is missing in the folder."""
    kind = model_type(path)
    options: dict[str, Any] = {"dtype": dtype}
    if quantize != "none":
        if not is_bitsandbytes_available():
            raise CheckpointError(f"model.quantize={quantize}: needs bitsandbytes, which is not installed (uv pip install bitsandbytes); or set it none")
        bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype} if quantize == "4bit" else {"load_in_8bit": True}
        options |= {"quantization_config": BitsAndBytesConfig(**bits, llm_int8_skip_modules=[NOT_LLM]), "device_map": {"": device}}
    try:
        with quiet():
            model, found = AutoModelForImageTextToText.from_pretrained(path, output_loading_info=True, **options)
            inner = AutoProcessor.from_pretrained(path)
    except Exception as error:
        why = (str(error).splitlines() or [""])[0][:300]
        raise CheckpointError(f"{path}: model_type {kind!r} is not to be loaded as a video language model ({type(error).__name__}: {why})") from error
    lost = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if lost:
        raise CheckpointError(f"{path}: {len(lost)} keys are missing or of a wrong shape: {', '.join(lost[:5])}")
    _usable(path, kind, model, inner)
    generation = model.generation_config
    made = Processor(inner, model, frames or FRAMES, generation)
    # sampling is our parameters' business: a checkpoint's repetition penalty or temperature must not work behind them
    model.generation_config = GenerationConfig(eos_token_id=made.end_ids, pad_token_id=made.pad_id, bos_token_id=made.tokenizer.bos_token_id, do_sample=False)
    return (model if quantize != "none" else model.to(device)), made


def _usable(path: str, kind: str, model: Model, inner: Any) -> None:
    """Raises CheckpointError that says what of a family is not supported, before any work."""
    lacks = [
        what for what, there in {
            "a processor with a tokenizer": getattr(inner, "tokenizer", None) is not None,
            "a video processor": getattr(inner, "video_processor", None) is not None,
            "a video token": bool(getattr(inner, "video_token", None)),
            "a chat template": bool(getattr(inner, "chat_template", None)),
            "features for its LLM (mm_encoder_outputs)": "mm_encoder_outputs" in inspect.signature(model.forward).parameters,
            "an LLM under model.language_model or model.text_model": any(hasattr(getattr(model, "model", None), name) for name in ("language_model", "text_model")),
        }.items() if not there
    ]  # fmt: skip
    if lacks:
        raise CheckpointError(f"{path}: {kind} is not supported: it has not {', nor '.join(lacks)}")


def save(model: Model, processor: Processor, folder: Path) -> None:
    """Weights, config and processor in transformers' own layout; `load` reads it, as AutoModel and AutoProcessor do."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
    processor.inner.save_pretrained(folder)
    processor.generation.save_pretrained(folder)
