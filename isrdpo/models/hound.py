"""LLaVA-Hound / ISR-DPO checkpoints, exact.

    python -c "from isrdpo.models import hound; hound.load('FOLDER')"

Each difference from transformers' Video-LLaVA changes the answers. In `hound_model`: temporal attention in
every layer of the video tower, CLS dropped for videos, `gelu` towers. In `hound_processor`: a sentencepiece
prefix on both sides of the video, resizing without antialias after normalization, and placeholder ids outside
the vocabulary.
"""

from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from isrdpo.models import hound_layout
from isrdpo.models.config_limits import check_sizes
from isrdpo.models.hound_files import local_folder, read_json, read_tensors, write_checkpoint, write_json
from isrdpo.models.hound_model import HoundConfig, HoundForConditionalGeneration
from isrdpo.models.hound_processor import HoundProcessor
from isrdpo.models.interface import CheckpointError, quiet_transformers

# in config.json: the original layout, and that of HoundProcessor.save
MODEL_TYPES = (hound_layout.MODEL_TYPE, HoundConfig.model_type)


def build(
    vocab: int, text: dict[str, Any], tower: dict[str, Any], frames: int
) -> HoundForConditionalGeneration:
    """Make a fresh video-only model, drawn from torch's global seed.

    `text` holds LlamaConfig's sizes, `tower` CLIPVisionConfig's.
    """
    text = {"rms_norm_eps": 1e-5} | text | {"vocab_size": vocab}
    config = hound_layout.make_config(text, hound_layout.VIT_L | tower, None, frames)
    return _with_greedy_generation(HoundForConditionalGeneration(config))


def load(
    path: str | Path,
    *,
    image_tower: str | Path | None = None,
    video_tower: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> tuple[HoundForConditionalGeneration, HoundProcessor]:
    """Load a checkpoint (folder or hub id) in the original layout, or in that of `HoundProcessor.save`.

    Towers that the checkpoint lacks, and the head count and activation of those it has, come from
    LanguageBind's repositories: `image_tower` and `video_tower` (folders or hub ids), else those that its
    config.json names. Raises CheckpointError where a key is missing, unexpected or of a wrong shape.
    """
    folder = local_folder(str(path))
    check_sizes(str(folder))
    raw = read_json(folder / "config.json")
    state = read_tensors(folder)
    if raw.get("model_type") == HoundConfig.model_type:
        config = HoundConfig.from_dict(raw)
    elif raw.get("model_type") == hound_layout.MODEL_TYPE:
        config, state = hound_layout.read_original(folder, raw, state, image_tower, video_tower)
    else:
        names = " or ".join(map(repr, MODEL_TYPES))
        raise CheckpointError(
            f"{folder}: model_type {raw.get('model_type')!r} is not LLaVA-Hound's ({names})"
        )
    _check_keys(folder, config, state)
    model = _fill(config, state, dtype)
    model.config.name_or_path = str(folder)
    processor = HoundProcessor.from_tokenizer(
        folder / "tokenizer.model",
        config.frames,
        config.vision_config.image_size,
        config.vision_config.patch_size,
        config.text_config.vocab_size,
    )
    return model.to(device), processor


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the narrowest precision that holds all of a checkpoint's tensors as they are."""
    state = hound_layout.from_original_keys(read_tensors(folder))
    return reduce(torch.promote_types, {tensor.dtype for tensor in state.values()})


def save_original(
    model: HoundForConditionalGeneration, processor: HoundProcessor, folder: Path, dtype: torch.dtype
) -> None:
    """Write the original layout: its config.json and keys, and LanguageBind's config of each tower.

    The towers' configs lie in `image_tower/` and `video_tower/`.
    """
    for name, content in hound_layout.language_bind_json(model.config).items():
        write_json(folder / f"{name}_tower" / "config.json", content)
    state = {key: tensor.to(dtype) for key, tensor in model.state_dict().items()}
    config = hound_layout.original_config_json(model.config, dtype)
    write_checkpoint(folder, config, hound_layout.to_original_keys(state), processor.tokenizer_model)


def _check_keys(folder: Path, config: HoundConfig, state: dict[str, Tensor]) -> None:
    """Raise CheckpointError unless `state` has exactly the model's keys, in exactly their shapes."""
    with torch.device("meta"):
        model = HoundForConditionalGeneration(config)
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    faults = {
        "missing": shapes.keys() - state.keys(),
        "unexpected": state.keys() - shapes.keys(),
        "of a wrong shape": {key for key in shapes.keys() & state.keys() if state[key].shape != shapes[key]},
    }
    for fault, keys in faults.items():
        if keys:
            names = ", ".join(sorted(keys)[:5]) + (", ..." if len(keys) > 5 else "")
            raise CheckpointError(f"{folder}: not LLaVA-Hound's keys, {len(keys)} {fault}: {names}")


def _fill(config: HoundConfig, state: dict[str, Tensor], dtype: torch.dtype) -> HoundForConditionalGeneration:
    """Make the model with `state` in it."""
    # copied, since a tensor that is mapped from its file would change or die with the file
    state = {key: tensor.to(dtype, copy=True) for key, tensor in state.items()}
    with quiet_transformers():
        model = HoundForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, trust_remote_code=False
        )
    return _with_greedy_generation(model)


def _with_greedy_generation(model: HoundForConditionalGeneration) -> HoundForConditionalGeneration:
    """Make `generate` greedy by default, with the LLM's own special tokens."""
    text = model.config.text_config
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        do_sample=False,
    )
    return model
