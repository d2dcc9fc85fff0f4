"""LLaVA-Hound's own layout: between its keys and config.json, and this model's.

Released checkpoints hold `config.json` (model_type llava_llama, no sizes of the towers), the weights under
LLaVA's keys, and `tokenizer.model`. Their towers' head count and activation are in LanguageBind's
repositories, and sometimes the towers too.
"""

import math
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig

from isrdpo.core.hub_ids import is_hub_id
from isrdpo.models.hound_files import local_folder, read_json, read_tensors
from isrdpo.models.hound_model import HoundConfig
from isrdpo.models.interface import CheckpointError

MODEL_TYPE = "llava_llama"
VIT_L = {
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}  # LanguageBind's towers: ViT-L/14
TEXT_KEYS = (
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "hidden_act",
    "attention_bias",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
SIZE_KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
# The released config.json's settings that this model takes for granted.
REQUIRED = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch"}
FROM_ORIGINAL = (
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^model\.(image|video)_tower\.\1_tower\.", r"model.\1_tower."),
    (r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
)
TO_ORIGINAL = (
    (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"^model\.(image|video)_tower\.", r"model.\1_tower.\1_tower."),
    (r"^model\.language_model\.", "model."),
)
BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|position_ids)$")  # what old versions saved, and nobody reads


def read_original(
    folder: Path,
    raw: dict[str, Any],
    state: dict[str, Tensor],
    image_tower: str | Path | None,
    video_tower: str | Path | None,
) -> tuple[HoundConfig, dict[str, Tensor]]:
    """Return the config and the tensors, under this model's keys, of a checkpoint in the original layout.

    `raw` is the content of its config.json, `state` what its files hold. The towers are folders or hub ids
    of LanguageBind's repositories, None: those that `raw` names. Raises CheckpointError.
    """
    for key, value in REQUIRED.items():
        if raw.get(key, value) != value:
            raise CheckpointError(
                f"{folder}/config.json: {key} {raw[key]!r} is not supported, only {value!r}"
            )
    sources = {
        "image": _tower_source(folder, raw, "image", image_tower),
        "video": _tower_source(folder, raw, "video", video_tower),
    }
    state = from_original_keys(state)
    for name, source in sources.items():
        if source and not _has_tower(state, name):
            state |= _language_bind_tower(source, name)
    return _original_config(folder, raw, state, sources), state


def from_original_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the original layout under this model's keys, without buffers."""
    return {_renamed(key, FROM_ORIGINAL): tensor for key, tensor in state.items() if not BUFFERS.search(key)}


def to_original_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return this model's tensors under the original layout's keys."""
    return {_renamed(key, TO_ORIGINAL): tensor for key, tensor in state.items()}


def make_config(
    text: dict[str, Any],
    video: dict[str, Any],
    image: dict[str, Any] | None,
    frames: int,
    temporal_attention: bool = True,
    feature_layer: int = -2,
) -> HoundConfig:
    """Make the model's config from its parts; placeholder ids and counts follow from the sizes.

    `text` holds LlamaConfig's arguments (None: its default), `video` and `image` CLIPVisionConfig's.
    """
    vocab = text["vocab_size"]
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = special | {key: value for key, value in text.items() if value is not None}
    return HoundConfig(
        text_config=LlamaConfig(**text),
        vision_config=CLIPVisionConfig(**video),
        frames=frames,
        temporal_attention=temporal_attention,
        image_config=CLIPVisionConfig(**image) if image else None,
        vision_feature_layer=feature_layer,
        image_token_index=vocab,
        video_token_index=vocab + 1,
        video_seq_length=frames * _patches(video),
        image_seq_length=_patches(image or video),
    )


def original_config_json(config: HoundConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Return config.json in the original layout. The towers' configs are in `<name>_tower/`."""
    text = config.text_config.to_dict()
    rope = text["rope_parameters"]
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    has_scaling = scaling.get("rope_type", "default") != "default"
    towers = _towers(config)
    return {
        **{key: text[key] for key in TEXT_KEYS if key in text},
        **{key: text[key] for key in SIZE_KEYS},
        "mm_image_tower": "image_tower" if "image" in towers else None,
        "mm_video_tower": "video_tower",
        "X": [name.title() for name in towers],
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_hidden_size": config.vision_config.hidden_size,
        **REQUIRED,
        "mm_vision_select_layer": config.vision_feature_layer,
        "model_type": MODEL_TYPE,
        "rope_scaling": scaling if has_scaling else None,
        "rope_theta": rope["rope_theta"],
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def language_bind_json(config: HoundConfig) -> dict[str, dict[str, Any]]:
    """Return LanguageBind's config.json of each tower that the model has, by the tower's name."""
    contents = {}
    for name, tower in _towers(config).items():
        vision = tower.to_dict()
        vision.pop("dtype", None)  # whatever it was last loaded in
        vision["add_time_attn"] = name == "video" and config.temporal_attention
        vision["num_frames"] = config.frames if name == "video" else 1
        contents[name] = {"vision_config": vision}
    return contents


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _towers(config: HoundConfig) -> dict[str, CLIPVisionConfig]:
    image = {"image": config.image_config} if config.image_config else {}
    return image | {"video": config.vision_config}


def _prefix(name: str) -> str:
    return f"model.{name}_tower."


def _has_tower(state: dict[str, Tensor], name: str) -> bool:
    return any(key.startswith(_prefix(name)) for key in state)


def _patches(tower: dict[str, Any]) -> int:
    """Patches of one frame."""
    return (tower["image_size"] // tower["patch_size"]) ** 2


def _tower_source(folder: Path, raw: dict[str, Any], name: str, choice: str | Path | None) -> str:
    """The folder or hub id of a tower's LanguageBind repository, "" where there is none.

    It is `choice`, else the one that config.json names: inside the checkpoint's folder, or on the hub.
    """
    if choice:
        return str(choice)
    source = str(raw.get(f"mm_{name}_tower") or "")
    return str(folder / source) if source and (folder / source).is_dir() else source


def _original_config(
    folder: Path, raw: dict[str, Any], state: dict[str, Tensor], sources: dict[str, str]
) -> HoundConfig:
    """The config: sizes from the tensors (under this model's keys), the rest from the config.json files."""
    if not _has_tower(state, "video"):
        raise CheckpointError(
            f"{folder}: no video tower in it; pass video_tower=FOLDER (LanguageBind_Video_merge)"
        )
    image = None
    if _has_tower(state, "image"):
        image = _tower_config(state, "image", _language_bind_config(sources["image"]))
    published = _language_bind_config(sources["video"])
    lengths = [tensor.shape[1] for key, tensor in state.items() if key.endswith(".temporal_embedding")]
    return make_config(
        text={key: raw.get(key) for key in TEXT_KEYS} | _text_sizes(folder, state),
        video=_tower_config(state, "video", published),
        image=image,
        frames=lengths[0] if lengths else published.get("num_frames", 8),
        # where these tensors are lost, the model still wants them, and they are then named as missing
        temporal_attention=bool(lengths) or published.get("add_time_attn", True),
        feature_layer=raw.get("mm_vision_select_layer", -2),
    )


def _language_bind_tower(source: str, name: str) -> dict[str, Tensor]:
    """The vision tower of a LanguageBind repository, under this model's keys."""
    inside = "vision_model."
    repository = read_tensors(local_folder(source))
    keys = [key for key in repository if key.startswith(inside) and not BUFFERS.search(key)]
    return {_prefix(name) + key.removeprefix(inside): repository[key] for key in keys}


def _language_bind_config(source: str) -> dict[str, Any]:
    """`vision_config` of a LanguageBind repository: a folder, else in the hub's cache; else {}."""
    path = Path(source) / "config.json"
    if not (source and path.exists()):
        cached = try_to_load_from_cache(source, "config.json") if is_hub_id(source) else None
        if not isinstance(cached, str):
            return {}
        path = Path(cached)
    content = read_json(path)
    return content.get("vision_config", content)


def _tower_config(state: dict[str, Tensor], name: str, published: dict[str, Any]) -> dict[str, Any]:
    """CLIPVisionConfig's arguments: sizes from the tensors, the rest as `published`, else ViT-L/14's."""
    prefix = _prefix(name)
    tower = prefix.rstrip(".")
    try:
        width, _, patch, _ = state[f"{prefix}embeddings.patch_embedding.weight"].shape
        grid = math.isqrt(state[f"{prefix}embeddings.position_embedding.weight"].shape[0] - 1)
        middle = state[f"{prefix}encoder.layers.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"tower {tower}: missing {error.args[0]}") from error
    if not published and width != 1024:
        warnings.warn(
            f"{prefix}: no LanguageBind config at hand, assuming {VIT_L} at width {width}", stacklevel=2
        )
    rest = {key: published.get(key, default) for key, default in VIT_L.items()}
    if width % rest["num_attention_heads"]:
        heads = rest["num_attention_heads"]
        raise CheckpointError(f"tower {tower}: {heads} heads do not divide its width {width}")
    # a size that patches do not divide is known to LanguageBind's config only
    size = published.get("image_size", 0)
    return rest | {
        "hidden_size": width,
        "intermediate_size": middle,
        "num_hidden_layers": _count_layers(state, f"{prefix}encoder.layers."),
        "patch_size": patch,
        "image_size": size if size // patch == grid else grid * patch,
    }


def _text_sizes(folder: Path, state: dict[str, Tensor]) -> dict[str, int]:
    """LlamaConfig's sizes, from the tensors."""
    prefix = "model.language_model."
    try:
        vocab, width = state[f"{prefix}embed_tokens.weight"].shape
        middle = state[f"{prefix}layers.0.mlp.gate_proj.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"{folder}: missing {error.args[0]}") from error
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": middle,
        "num_hidden_layers": _count_layers(state, f"{prefix}layers."),
    }


def _count_layers(state: dict[str, Tensor], prefix: str) -> int:
    """Return how many layers lie under `prefix`, by the highest number."""
    numbers = [int(key.removeprefix(prefix).split(".")[0]) for key in state if key.startswith(prefix)]
    return 1 + max(numbers, default=-1)
