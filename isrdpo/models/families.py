"""The table of model families: the loader of each `model_type`; `auto` loads all that are not listed.

A checkpoint is data from strangers. None of its code is run, none of its pickles is unpickled but for
tensors, its sizes are bounded before anything is built, and whatever is wrong with it is one CheckpointError.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from isrdpo.models import auto, hound
from isrdpo.models.hound_files import first_line, read_json
from isrdpo.models.interface import CheckpointError, LoadOptions, Processor

# The largest values of sizes in a config.json, by what their names hold: far above those of any model.
SIZES = {
    r"^(num_hidden_layers|depth|num_layers|n_layers?)$": 2_000,
    r"^num_(attention|key_value)_heads$|^num_heads$": 10_000,
    r"^(vocab_size|max_position_embeddings)$": 100_000_000,
    r"^(image_size|patch_size)$": 100_000,
    r"^(hidden|intermediate|embed|out_hidden)_(size|dim)$": 10_000_000,
}
# Keys that choose an implementation; whatever is not transformers' own is fetched from the hub and run.
CODE = re.compile(r"^_?(attn|experts)_implementation")
BUILT_IN = re.compile(r"\w+")
Loader = Callable[[str, LoadOptions], tuple[PreTrainedModel, Processor]]


def load_hound(path: str, options: LoadOptions) -> tuple[PreTrainedModel, Processor]:
    """Load a LLaVA-Hound checkpoint. Raises CheckpointError, also where it is to be quantized."""
    if options.quantize != "none":
        raise CheckpointError(
            f"model.quantize={options.quantize}: LLaVA-Hound checkpoints are read exactly, "
            "not quantized; leave it none"
        )
    towers = {"image_tower": options.image_tower, "video_tower": options.video_tower}
    return hound.load(path, **towers, dtype=options.dtype, device=options.device)


def load_auto(path: str, options: LoadOptions) -> tuple[PreTrainedModel, Processor]:
    """Load a checkpoint of any family of transformers. Raises CheckpointError."""
    return auto.load(
        path,
        frames=options.frames,
        dtype=options.dtype,
        device=options.device,
        quantize=options.quantize,
    )


FAMILIES: dict[str, Loader] = {
    **dict.fromkeys(hound.MODEL_TYPES, load_hound),
}


def load_checkpoint(path: str, options: LoadOptions) -> tuple[PreTrainedModel, Processor]:
    """Load a folder or a hub repository by the loader of its family.

    Raises CheckpointError for whatever is wrong with it. What a device lacks in memory is no fault of the
    checkpoint, so that error stays what it is.
    """
    try:
        check_sizes(path)
        loader = FAMILIES.get(auto.model_type(path), load_auto)
        model, processor = loader(path, options)
    except (CheckpointError, MemoryError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        # damaged files make readers fail in ways of their own; a panic of a Rust library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path}: damaged, or not such a checkpoint ({first_line(error)})") from error
    check_finite(path, model)
    return model, processor


def check_sizes(path: str) -> None:
    """Raise CheckpointError where config.json of a folder states a size that no model has, or names code.

    Modules are built before weights are compared with them; a billion layers would take the memory.
    """
    for file in (Path(path) / "config.json", *Path(path).glob("*_tower/config.json")):
        if file.is_file():
            _check_sizes_in(file, read_json(file), depth=0)


def _check_sizes_in(file: Path, values: Any, depth: int) -> None:
    if not isinstance(values, dict):
        if depth == 0:
            raise CheckpointError(f"{file}: not a JSON object")
        return
    for name, value in values.items():
        _check_sizes_in(file, value, depth + 1)
        if CODE.search(name) and isinstance(value, str) and not BUILT_IN.fullmatch(value):
            raise CheckpointError(f"{file}: {name}={value[:80]!r} would fetch code from the hub; remove it")
        limit = next((limit for pattern, limit in SIZES.items() if re.search(pattern, name)), None)
        if limit is None or value is None or isinstance(value, (dict, list)):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            raise CheckpointError(f"{file}: {name}={str(value)[:40]!r} is not a number from 1 to {limit:,}")


def check_finite(path: str, model: PreTrainedModel) -> None:
    """Raise CheckpointError where weights are not finite: such a model says nothing.

    It reads each tensor once and allocates nothing of its size. Quantized tensors hold integers.
    """
    broken = []
    count = 0
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.is_meta:
            continue
        count += 1
        if not torch.stack(tensor.aminmax()).float().isfinite().all():
            broken.append(name)
    if broken:
        raise CheckpointError(
            f"{path}: {len(broken)} of {count} weight tensors are not finite, {broken[0]} first; "
            "the file is damaged, or a training broke it"
        )
