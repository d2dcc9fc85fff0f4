"""Bounds on what a checkpoint's config.json may state, checked before anything is built from it."""

import re
from pathlib import Path
from typing import Any

from isrdpo.models.hound_files import read_json
from isrdpo.models.interface import CheckpointError

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
