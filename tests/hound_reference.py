"""LLaVA-Hound's rules in plain torch, and random checkpoints in its original layout to try them on."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from isrdpo.core import prompts
from tests.miniature import train_tokenizer

SELECTED_LAYER = -2
QUESTIONS = ("What is moving?", "Describe  the scene,\nthen count: é 12!", " a leading space")
TOKENIZER = train_tokenizer(
    prompts.SYSTEM + " USER: ASSISTANT: the red square moves left while a cat, 12 dogs and Björn watch it. ",
    vocab_size=400,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    character_coverage=1.0,
)
PIECES = sentencepiece.SentencePieceProcessor(model_proto=TOKENIZER)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a checkpoint; no two that could be mistaken for each other are equal."""

    width: int = 32
    layers: int = 2
    heads: int = 4
    key_heads: int = 2
    middle: int = 48
    vocab: int = PIECES.vocab_size()
    tower: int = 24
    tower_layers: int = 3
    tower_heads: int = 3
    frames: int = 5
    image_patch: int = 10
    video_patch: int = 8
    image: int = 40

    def patch(self, tower: str) -> int:
        return self.image_patch if tower == "image" else self.video_patch


SIZE = Sizes()


# Checkpoints on disk


def original_shapes(size: Sizes, image_tower: bool = True) -> dict[str, tuple[int, ...]]:
    """Key -> shape in the original layout, written down from the released checkpoints' index."""
    d = size.width
    shapes = {
        "lm_head.weight": (size.vocab, d),
        "model.embed_tokens.weight": (size.vocab, d),
        "model.norm.weight": (d,),
        "model.mm_projector.0.weight": (d, size.tower),
        "model.mm_projector.0.bias": (d,),
        "model.mm_projector.2.weight": (d, d),
        "model.mm_projector.2.bias": (d,),
    }
    for n in range(size.layers):
        at = f"model.layers.{n}"
        keys = d // size.heads * size.key_heads
        shapes |= {f"{at}.input_layernorm.weight": (d,), f"{at}.post_attention_layernorm.weight": (d,)}
        shapes |= {f"{at}.self_attn.{p}_proj.weight": (d, d) for p in "qo"}
        shapes |= {f"{at}.self_attn.{p}_proj.weight": (keys, d) for p in "kv"}
        shapes |= {f"{at}.mlp.{p}_proj.weight": (size.middle, d) for p in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (d, size.middle)}
    for tower in ("image", "video") if image_tower else ("video",):
        prefix = f"model.{tower}_tower.{tower}_tower."
        shapes |= {prefix + key: shape for key, shape in tower_shapes(size, tower).items()}
    return shapes


def tower_shapes(size: Sizes, tower: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape within a tower."""
    w = size.tower
    patch = size.patch(tower)
    shapes = {
        "embeddings.class_embedding": (w,),
        "embeddings.patch_embedding.weight": (w, 3, patch, patch),
        "embeddings.position_embedding.weight": ((size.image // patch) ** 2 + 1, w),
    }
    norms = ["pre_layrnorm", "post_layernorm"]
    linears = {}
    for n in range(size.tower_layers):
        at = f"encoder.layers.{n}"
        norms += [f"{at}.layer_norm1", f"{at}.layer_norm2"]
        linears |= {f"{at}.mlp.fc1": (4 * w, w), f"{at}.mlp.fc2": (w, 4 * w)}
        linears |= {f"{at}.self_attn.{p}_proj": (w, w) for p in ("q", "k", "v", "out")}
        if tower == "video":
            norms.append(f"{at}.temporal_layer_norm1")
            linears |= {f"{at}.temporal_attn.{p}_proj": (w, w) for p in ("q", "k", "v", "out")}
            shapes[f"{at}.temporal_embedding"] = (1, size.frames, w)
    for name in norms:
        shapes |= {f"{name}.weight": (w,), f"{name}.bias": (w,)}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def random_state(size: Sizes, image_tower: bool = True) -> dict[str, torch.Tensor]:
    """Random bfloat16 tensors in the original layout, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in original_shapes(size, image_tower).items():
        scale = shape[-1] ** -0.5 if len(shape) > 1 and "embed" not in key else 0.5
        mean = float(key.endswith("norm.weight") or "norm1.w" in key)
        state[key] = (mean + scale * torch.randn(shape, generator=generator)).bfloat16()
    return state


def write_language_bind(folder: Path, size: Sizes, tower: str, state: dict | None = None) -> Path:
    """Write a LanguageBind repository: its config, and its weights where `state` is given."""
    folder.mkdir(parents=True, exist_ok=True)
    vision = {
        "num_attention_heads": size.tower_heads,
        "hidden_act": "gelu",
        "image_size": size.image,
        "add_time_attn": tower == "video",
        "num_frames": size.frames if tower == "video" else 1,
    }
    (folder / "config.json").write_text(json.dumps({"text_config": {}, "vision_config": vision}))
    if state is not None:
        prefix = f"model.{tower}_tower.{tower}_tower."
        keys = [key for key in state if key.startswith(prefix)]
        tensors = {f"vision_model.{key.removeprefix(prefix)}": state[key] for key in keys}
        # what else such a repository holds
        tensors["vision_model.embeddings.position_ids"] = torch.arange(4)
        tensors["logit_scale"] = torch.tensor(1.0)
        tensors["text_model.final_layer_norm.weight"] = torch.ones(3)
        torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def write_original(folder: Path, size: Sizes, state: dict, shards: int = 3, **config: Any) -> Path:
    """Write a checkpoint in the original layout; `config` are changes of its config.json."""
    folder.mkdir(parents=True)
    keys = sorted(state)
    names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    for n, name in enumerate(names):
        save_file({key: state[key] for key in keys[n::shards]}, folder / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: names[n % shards] for n, key in enumerate(keys)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    raw = {
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "X": ["Image", "Video"],
        "hidden_size": size.width,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "hidden_act": "silu",
        "pad_token_id": 0,
        "mm_image_tower": "LanguageBind/LanguageBind_Image",
        "mm_projector_type": "mlp2x_gelu",
        "mm_video_tower": "LanguageBind/LanguageBind_Video_merge",
        "mm_vision_select_layer": SELECTED_LAYER,
        "vocab_size": size.vocab,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(raw | config))
    (folder / "tokenizer.model").write_bytes(TOKENIZER)
    return folder


@dataclass(frozen=True)
class Original:
    """A random checkpoint on disk, its towers' LanguageBind configs (for `hound.load`), and its tensors."""

    folder: Path
    towers: dict[str, Path]
    stored: dict[str, torch.Tensor]

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The tensors in float32, for the reference."""
        return {key: tensor.float() for key, tensor in self.stored.items()}


def make_original(folder: Path) -> Original:
    """Write a checkpoint with both towers in it, and beside it their configs."""
    towers = {f"{name}_tower": write_language_bind(folder / name, SIZE, name) for name in ("image", "video")}
    stored = random_state(SIZE)
    return Original(write_original(folder / "hound", SIZE, stored), towers, stored)


def random_frames(count: int = SIZE.frames, height: int = 60, width: int = 90) -> np.ndarray:
    """Frames uint8 [T, H, W, 3], the same at every call."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


# The model, on the original keys


def norm(state: dict, key: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"], 1e-5)


def linear(state: dict, key: str, x: torch.Tensor) -> torch.Tensor:
    return x @ state[f"{key}.weight"].T + state.get(f"{key}.bias", torch.zeros(1))


def attend(state: dict, key: str, x: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = (
        linear(state, f"{key}.{p}_proj", x).unflatten(-1, (heads, -1)).transpose(-2, -3) for p in "qkv"
    )
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return linear(state, f"{key}.out_proj", (weights @ v).transpose(-2, -3).flatten(-2))


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def tower_features(state: dict, name: str, pixels: torch.Tensor, size: Sizes) -> torch.Tensor:
    """pixels [T, 3, S, S] of one video, or [1, 3, S, S] -> projected features [tokens, D]."""
    prefix = f"model.{name}_tower.{name}_tower."
    tower = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    kernel = tower["embeddings.patch_embedding.weight"]
    x = F.conv2d(pixels, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([tower["embeddings.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = norm(tower, "pre_layrnorm", x + tower["embeddings.position_embedding.weight"])
    for n in range(size.tower_layers + 1 + SELECTED_LAYER):
        at = f"encoder.layers.{n}"
        if name == "video":
            x = (
                x.transpose(0, 1) + tower[f"{at}.temporal_embedding"]
            )  # [1 + P, T, D]: over time at each place, CLS too
            y = norm(tower, f"{at}.temporal_layer_norm1", x)
            x = x + attend(tower, f"{at}.temporal_attn", y, size.tower_heads)
            x = x.transpose(0, 1)
        x = x + attend(tower, f"{at}.self_attn", norm(tower, f"{at}.layer_norm1", x), size.tower_heads)
        hidden = linear(tower, f"{at}.mlp.fc1", norm(tower, f"{at}.layer_norm2", x))
        x = x + linear(tower, f"{at}.mlp.fc2", gelu(hidden))
    x = linear(state, "model.mm_projector.0", x[:, 1:].flatten(0, 1))
    return linear(state, "model.mm_projector.2", gelu(x))


def rms(state: dict, key: str, x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{key}.weight"]


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions on [heads, L, d]."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    first = x[..., :half]
    second = x[..., half:]
    return torch.cat(
        [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1
    )


def language_logits(state: dict, x: torch.Tensor, size: Sizes) -> torch.Tensor:
    """embeddings [L, D] -> logits [L, vocab]."""
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    for n in range(size.layers):
        at = f"model.layers.{n}"
        y = rms(state, f"{at}.input_layernorm", x)
        q, k, v = (
            linear(state, f"{at}.self_attn.{p}_proj", y).unflatten(-1, (-1, 8)).transpose(0, 1) for p in "qkv"
        )
        k, v = (heads.repeat_interleave(size.heads // size.key_heads, 0) for heads in (k, v))
        weights = (
            (rotate(q) @ rotate(k).transpose(-1, -2) / math.sqrt(8))
            .masked_fill(future, -math.inf)
            .softmax(-1)
        )
        x = x + linear(state, f"{at}.self_attn.o_proj", (weights @ v).transpose(0, 1).flatten(1))
        y = rms(state, f"{at}.post_attention_layernorm", x)
        gate = linear(state, f"{at}.mlp.gate_proj", y)
        up = linear(state, f"{at}.mlp.up_proj", y)
        x = x + linear(state, f"{at}.mlp.down_proj", gate * gate.sigmoid() * up)
    return linear(state, "lm_head", rms(state, "model.norm", x))


def reference_logits(
    state: dict, prompt: str, answer: list[int] | None = None, pixels: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits [L, vocab] of prompt and answer: each side of the tag tokenized apart, one BOS, features
    between.
    """
    table = state["model.embed_tokens.weight"]
    tag = "<image>" if "<image>" in prompt else "<video>"
    before, *after = prompt.split(tag)
    ids = [1, *PIECES.encode(before)]
    parts = [table[torch.tensor(ids)]]
    for text in after:
        parts.append(tower_features(state, tag[1:-1], pixels, SIZE))
        parts.append(table[torch.tensor(PIECES.encode(text))])
    parts.append(table[torch.tensor(answer or [], dtype=torch.long)])
    return language_logits(state, torch.cat(parts), SIZE)


# Pixels


def resize_by_hand(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear without antialias, pixel centers at halves: [H, W] -> [height, width]."""

    def neighbors(size: int, old: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, old - 1), at - low

    y0, y1, dy = neighbors(height, frame.shape[0])
    x0, x1, dx = neighbors(width, frame.shape[1])
    rows = frame[y0] * (1 - dy)[:, None] + frame[y1] * dy[:, None]
    return rows[:, x0] * (1 - dx) + rows[:, x1] * dx
