"""LLaVA-Hound / ISR-DPO checkpoints, exact, in transformers: python -c "from isrdpo import hound; hound.load('FOLDER')"

What differs from transformers' Video-LLaVA (each one changes the answers): temporal attention in every layer of the
video tower, CLS dropped for videos, `gelu` towers, a sentencepiece prefix on both sides of the video, resizing without
antialias after normalization, and placeholder ids outside the vocabulary. The model itself is in `isrdpo.hound_model`.
Shapes: B videos, T frames, S image size, P = (S / patch)^2 patches a frame, N = T * P video tokens, D width of the LLM.
"""

import json
import math
import re
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig

from isrdpo.models.hound_model import CheckpointError, HoundConfig, HoundForConditionalGeneration, HoundProcessor, quiet, video_inputs

__all__ = ["CheckpointError", "HoundConfig", "HoundForConditionalGeneration", "HoundProcessor", "video_inputs"]

MODEL_TYPES = ("llava_llama", HoundConfig.model_type)  # in config.json: the original layout, and that of `save`
VIT_L = {"num_attention_heads": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-5}  # LanguageBind's towers: ViT-L/14
TEXT_KEYS = (
    "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling",
    "hidden_act", "attention_bias", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
ORIGINAL = (  # this model's keys to the checkpoints' own
    (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"^model\.(image|video)_tower\.", r"model.\1_tower.\1_tower."),
    (r"^model\.language_model\.", "model."),
)
RENAMES = (  # and back
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^model\.(image|video)_tower\.\1_tower\.", r"model.\1_tower."),
    (r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DROPPED = re.compile(r"\.(rotary_emb\.inv_freq|position_ids)$")


@torch.no_grad()
def encode_videos(model: nn.Module, pixels: Tensor) -> Tensor:
    """pixels [B, T, 3, S, S] -> projected features [B, N, D], on the model's device. Takes a PEFT model too."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.model.get_video_features(pixels.to(base.device)).pooler_output


def build(vocab: int, text: dict[str, Any], tower: dict[str, Any], frames: int) -> HoundForConditionalGeneration:
    """A fresh video-only model, drawn from torch's global seed: `text` has LlamaConfig's sizes, `tower` CLIPVisionConfig's."""
    config = _config({"rms_norm_eps": 1e-5} | text | {"vocab_size": vocab}, VIT_L | tower, None, frames)
    return _finished(HoundForConditionalGeneration(config))


def load(
    path: str | Path,
    *,
    image_tower: str | Path | None = None,
    video_tower: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> tuple[HoundForConditionalGeneration, HoundProcessor]:
    """A checkpoint (folder or hub id), in LLaVA-Hound's own layout or in that of `save`, ready for inference.

    Towers that the checkpoint lacks, and the head count and activation of those it has, come from LanguageBind's
    repositories: `image_tower` and `video_tower` (folders or hub ids), else those that its config.json names.
    Raises CheckpointError where a key is missing, unexpected or of a wrong shape.
    """
    folder = _folder(str(path))
    raw, state = _json(folder / "config.json"), _tensors(folder)
    if raw.get("model_type") == HoundConfig.model_type:
        config = HoundConfig.from_dict(raw)
    elif raw.get("model_type") == "llava_llama":
        state = _renamed(state)
        config = _original_config(folder, raw, state, {"image": image_tower, "video": video_tower})
    else:
        known = f"'llava_llama' or {HoundConfig.model_type!r}"
        raise CheckpointError(f"{folder}: model_type {raw.get('model_type')!r} is not LLaVA-Hound's ({known})")
    model = _filled(folder, config, state, dtype).to(device)
    video, rows = config.vision_config, config.text_config.vocab_size
    made = HoundProcessor.from_tokenizer(
        folder / "tokenizer.model", config.frames, video.image_size, video.patch_size, rows
    )
    still = config.image_config and (config.image_config.image_size, config.image_config.patch_size)
    return model, replace(made, still=None if still == (made.image_size, made.patch_size) else still)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _folder(name: str) -> Path:
    """A local folder, or the local copy of a hub repository's configs, tokenizer and weights (safetensors if it has any)."""
    if Path(name).is_dir():
        return Path(name)
    if not HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "tokenizer.model"]))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "pytorch_model*.bin", "tokenizer.model"]))
        return folder
    except Exception as error:
        raise CheckpointError(f"{name}: no such folder, and not to be had from the hub ({_line(error)})") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({_line(error)})") from error


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor in a folder, mapped from its files (read when used): safetensors, else pickles of tensors only."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = [folder / Path(name).name for name in sorted(set(_json(index).get("weight_map", {}).values()))]
    else:
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(f"{folder}: no *.safetensors and no pytorch_model.bin in it")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                state |= load_file(file)
            else:
                state |= torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        except Exception as error:
            raise CheckpointError(f"{file}: not readable ({_line(error)})") from error
    return state


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Original keys to this model's; buffers that old versions saved are dropped."""
    renamed = {}
    for key, tensor in state.items():
        if not DROPPED.search(key):
            for pattern, target in RENAMES:
                key = re.sub(pattern, target, key)
            renamed[key] = tensor
    return renamed


def _original_config(folder: Path, raw: dict, state: dict[str, Tensor], given: dict[str, Any]) -> HoundConfig:
    """Sizes from the tensors, the rest from config.json and LanguageBind's; puts towers from elsewhere into `state`."""
    for key, wanted in (("mm_projector_type", "mlp2x_gelu"), ("mm_vision_select_feature", "patch")):
        if raw.get(key, wanted) != wanted:
            raise CheckpointError(f"{folder}/config.json: {key} {raw[key]!r} is not supported, only {wanted!r}")
    sizes: dict[str, dict[str, Any] | None] = {"image": None, "video": None}
    known: dict[str, Any] = {}
    for name in sizes:
        source, inside = str(given[name] or raw.get(f"mm_{name}_tower") or ""), f"model.{name}_tower."
        if not given[name] and source and (folder / source).is_dir():
            source = str(folder / source)
        if source and not any(key.startswith(inside) for key in state):
            state |= _language_bind(source, inside)
        if any(key.startswith(inside) for key in state):
            known = _tower_config(source)  # after the loop: the video tower's
            sizes[name] = _tower_sizes(state, inside, known)
    if sizes["video"] is None:
        raise CheckpointError(f"{folder}: no video tower in it; pass video_tower=FOLDER (LanguageBind_Video_merge)")
    text = {key: raw.get(key) for key in TEXT_KEYS} | _text_sizes(folder, state)
    times = [tensor.shape[1] for key, tensor in state.items() if key.endswith(".temporal_embedding")]
    frames = times[0] if times else known.get("num_frames", 8)
    temporal = bool(times) or known.get("add_time_attn", True)  # lost tensors are then named as missing
    return _config(text, sizes["video"], sizes["image"], frames, temporal, raw.get("mm_vision_select_layer", -2))


def _language_bind(source: str, inside: str) -> dict[str, Tensor]:
    """The vision tower of a LanguageBind repository under this model's keys."""
    tower, prefix = _tensors(_folder(source)), "vision_model."
    kept = {key: tensor for key, tensor in tower.items() if key.startswith(prefix) and not DROPPED.search(key)}
    return {inside + key.removeprefix(prefix): tensor for key, tensor in kept.items()}


def _tower_config(source: str) -> dict[str, Any]:
    """`vision_config` of LanguageBind's config.json: in a folder, else in the hub cache; {} where neither has it."""
    path = Path(source) / "config.json"
    if not (source and path.exists()):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source, "config.json") if HUB_ID.fullmatch(source) else None
        if not isinstance(cached, str):
            return {}
        path = Path(cached)
    raw = _json(path)
    return raw.get("vision_config", raw)


def _layers(state: dict[str, Tensor], prefix: str) -> int:
    """How many layers lie under `prefix`."""
    return 1 + max((int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)), default=-1)


def _tower_sizes(state: dict[str, Tensor], inside: str, known: dict[str, Any]) -> dict[str, Any]:
    """CLIPVisionConfig's arguments: sizes from the tensors, the rest from LanguageBind's config or ViT-L/14."""
    try:
        width, _, patch, _ = state[f"{inside}embeddings.patch_embedding.weight"].shape
        grid = math.isqrt(state[f"{inside}embeddings.position_embedding.weight"].shape[0] - 1)
        middle = state[f"{inside}encoder.layers.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"tower {inside.rstrip('.')}: missing {error.args[0]}") from error
    if not known and width != 1024:
        warnings.warn(f"{inside}: no LanguageBind config at hand, assuming {VIT_L} at width {width}", stacklevel=2)
    heads = known.get("num_attention_heads", VIT_L["num_attention_heads"])
    if width % heads:
        raise CheckpointError(f"tower {inside.rstrip('.')}: {heads} heads do not divide its width {width}")
    size = known.get("image_size", 0)
    return {key: known.get(key, default) for key, default in VIT_L.items()} | {
        "hidden_size": width,
        "intermediate_size": middle,
        "num_hidden_layers": _layers(state, f"{inside}encoder.layers."),
        "patch_size": patch,
        "image_size": size if size // patch == grid else grid * patch,
    }


def _text_sizes(folder: Path, state: dict[str, Tensor]) -> dict[str, int]:
    inside = "model.language_model."
    try:
        rows, width = state[f"{inside}embed_tokens.weight"].shape
        middle = state[f"{inside}layers.0.mlp.gate_proj.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"{folder}: missing {error.args[0]}") from error
    layers = _layers(state, f"{inside}layers.")
    return {"vocab_size": rows, "hidden_size": width, "intermediate_size": middle, "num_hidden_layers": layers}


def _filled(
    folder: Path, config: HoundConfig, state: dict[str, Tensor], dtype: torch.dtype
) -> HoundForConditionalGeneration:
    """The model with `state` in it: exactly its keys, in exactly their shapes."""
    with torch.device("meta"):
        wanted = {key: tensor.shape for key, tensor in HoundForConditionalGeneration(config).state_dict().items()}
    wrong = {key for key in wanted.keys() & state.keys() if state[key].shape != wanted[key]}
    faults = {
        "missing": wanted.keys() - state.keys(),
        "unexpected": state.keys() - wanted.keys(),
        "of a wrong shape": wrong,
    }
    for fault, keys in faults.items():
        if keys:
            names = ", ".join(sorted(keys)[:5]) + (", ..." if len(keys) > 5 else "")
            raise CheckpointError(f"{folder}: not LLaVA-Hound's keys, {len(keys)} {fault}: {names}")
    # copied, since a tensor mapped from its file would change or die with the file
    state = {key: tensor.to(dtype, copy=True) for key, tensor in state.items()}
    with quiet():
        model = HoundForConditionalGeneration.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    model.config.name_or_path = str(folder)
    return _finished(model)


def save(model: HoundForConditionalGeneration, processor: HoundProcessor, folder: Path) -> None:
    """Writes the model as transformers holds it: config.json, model*.safetensors, tokenizer.model; `load` reads it."""
    model.config.architectures = [type(model).__name__]
    config = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    _write(folder, config, model.state_dict(), processor)


def save_original(
    model: HoundForConditionalGeneration, processor: HoundProcessor, folder: Path, dtype: torch.dtype
) -> None:
    """Writes LLaVA-Hound's own layout: its config.json and keys, and LanguageBind's config of each tower in `*_tower/`."""
    config, text = model.config, model.config.text_config.to_dict()
    towers = {"image": config.image_config, "video": config.vision_config}
    rope = text["rope_parameters"]
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    raw = {key: text[key] for key in TEXT_KEYS if key in text} | {
        **{key: text[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")},
        **{f"mm_{name}_tower": f"{name}_tower" if tower else None for name, tower in towers.items()},
        "X": [name.title() for name, tower in towers.items() if tower],
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": config.vision_feature_layer,
        "model_type": "llava_llama",
        "rope_scaling": scaling if scaling.get("rope_type", "default") != "default" else None,
        "rope_theta": rope["rope_theta"],
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    for name, tower in towers.items():
        if tower:
            time = name == "video" and config.temporal_attention
            kept = {key: value for key, value in tower.to_dict().items() if key != "dtype"}  # whatever it was last loaded in
            vision = kept | {"add_time_attn": time, "num_frames": config.frames if name == "video" else 1}
            (folder / f"{name}_tower").mkdir(parents=True, exist_ok=True)
            _write_json(folder / f"{name}_tower" / "config.json", {"vision_config": vision})
    _write(folder, raw, {_original_key(key): tensor.to(dtype) for key, tensor in model.state_dict().items()}, processor)


def _original_key(key: str) -> str:
    for pattern, original in ORIGINAL:
        key = re.sub(pattern, original, key)
    return key


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")


def _write(folder: Path, config: dict[str, Any], state: dict[str, Tensor], processor: HoundProcessor) -> None:
    """Weights (in shards of at most 5 GB), then the tokenizer, then config.json: a torn folder is not a checkpoint."""
    from huggingface_hub import save_torch_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    state = {key: tensor.detach().cpu() for key, tensor in state.items()}
    save_torch_state_dict(
        state, folder, filename_pattern="model{suffix}.safetensors", max_shard_size="5GB", metadata={"format": "pt"}
    )
    (folder / "tokenizer.model").write_bytes(processor.model)
    _write_json(folder / "config.json", config)


def _config(
    text: dict, video: dict, image: dict | None, frames: int, temporal: bool = True, layer: int = -2
) -> HoundConfig:
    """The model's config from its parts; placeholder ids and lengths follow from the sizes."""
    patches = (video["image_size"] // video["patch_size"]) ** 2
    vocab = text["vocab_size"]
    text = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0} | {k: v for k, v in text.items() if v is not None}
    return HoundConfig(
        text_config=LlamaConfig(**text), vision_config=CLIPVisionConfig(**video), frames=frames, temporal_attention=temporal,
        image_config=CLIPVisionConfig(**image) if image else None, vision_feature_layer=layer,
        image_token_index=vocab, video_token_index=vocab + 1, video_seq_length=frames * patches,
        image_seq_length=(image["image_size"] // image["patch_size"]) ** 2 if image else patches,
    )  # fmt: skip


def _finished(model: HoundForConditionalGeneration) -> HoundForConditionalGeneration:
    """Greedy by default, with the LLM's own special tokens."""
    text = model.config.text_config
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id, do_sample=False
    )
    return model
