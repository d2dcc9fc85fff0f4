"""LLaVA-Hound's checkpoints as files: a folder or hub repository, its JSON, its tensors."""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict, snapshot_download
from safetensors.torch import load_file
from torch import Tensor

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.hub_ids import is_hub_id
from isrdpo.models.interface import CheckpointError


def local_folder(name: str) -> Path:
    """Return a local folder, or the local copy of a hub repository's configs, tokenizer and weights.

    Pickled weights are fetched only where there are no safetensors. Raises CheckpointError.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_id(name):
        raise CheckpointError(f"{name}: no such folder")
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "tokenizer.model"]))
        if not list(folder.glob("*.safetensors")):
            patterns = ["*.json", "pytorch_model*.bin", "tokenizer.model"]
            folder = Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        why = first_line(error)
        raise CheckpointError(f"{name}: no such folder, and not to be had from the hub ({why})") from error
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file. Raises CheckpointError where it is missing or broken, or too deep to be one."""
    try:
        return records.read_json(path)
    except (OSError, ValueError, RecursionError, RunError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({first_line(error)})") from error


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a config file; what JSON does not know (a dtype) is written as text."""
    records.write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read every tensor in a folder: from safetensors, else from pickles that hold tensors only.

    The tensors are mapped from their files, which are read when they are used. Raises CheckpointError.
    """
    state: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            if path.suffix == ".safetensors":
                state |= load_file(path)
            else:
                state |= torch.load(
                    path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
                )
        except Exception as error:
            raise CheckpointError(f"{path}: not readable ({first_line(error)})") from error
    return state


def write_checkpoint(
    folder: Path, config: dict[str, Any], state: dict[str, Tensor], tokenizer_model: bytes
) -> None:
    """Write weights (in shards of at most 5 GB), then the tokenizer, then config.json.

    config.json is removed first and written last, so that a torn folder is not a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    save_torch_state_dict(
        {key: tensor.detach().cpu() for key, tensor in state.items()},
        folder,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size="5GB",
        metadata={"format": "pt"},
    )
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    write_json(folder / "config.json", config)


def _weight_files(folder: Path) -> list[Path]:
    """The files that the index names, else those that look like weights."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return [folder / name for name in _names_in_index(index)]
    paths = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not paths:
        raise CheckpointError(f"{folder}: no *.safetensors and no pytorch_model.bin in it")
    return paths


def _names_in_index(index: Path) -> list[str]:
    """The names of the files in an index, each once. Raises CheckpointError unless they are plain names."""
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: no weight_map in it, which names the file of each tensor")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name:  # never a path out of the folder
            raise CheckpointError(f"{index}: {str(name)[:80]!r} is not the name of a file beside it")
    return sorted(set(weight_map.values()))


def first_line(error: BaseException) -> str:
    """Return an error's class and the first line of its text."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
