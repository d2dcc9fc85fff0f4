"""What `isrdpo check` looks at before a long run: rows, bad rows by cause, the model's place, the space a run needs. Loads no model."""

import re
import shutil
from pathlib import Path
from typing import Any

from isrdpo.folders import resolve
from isrdpo.params import Params

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SEVEN_B = 7_000_000_000  # weights assumed of a hub id, whose files are not at hand
OPTIMIZER = 4  # a full trainer checkpoint beside the policy: weights, two moments in float32


def inspect(params: Params) -> tuple[list[str], list[str]]:
    """(what was found, what is wrong)."""
    lines, problems = _data(params)
    weights, origin, wrong = _model(params)
    lines.append(f"model: {origin}, {_size(weights)} of weights")
    needed, detail = space(params, weights)
    free = shutil.disk_usage(_existing(resolve(params.run))).free
    lines.append(f"space: about {_size(needed)} ({detail}); {_size(free)} free")
    if needed > free:
        wrong.append(f"{params.run}: the run needs about {_size(needed)}, {_size(free)} are free; see keep_policies, or choose another run=...")
    return lines, problems + wrong


def _data(params: Params) -> tuple[list[str], list[str]]:
    from isrdpo import data

    found = data.inspect(params)
    bad: dict[str, list[str]] = found.pop("bad")
    total, missed = sum(n for n in found.values() if isinstance(n, int)), sum(map(len, bad.values()))
    lines = [f"{name}: {value}" for name, value in found.items()]
    lines += [f"bad: {len(details)} {cause}; first: {details[0]}" for cause, details in bad.items()]
    problems = [f"{name}: none" for name, value in found.items() if value == 0]
    if missed > params.max_bad_share * total:
        problems.append(f"{missed} of {total} rows are bad, above max_bad_share={params.max_bad_share}; mend them, or raise max_bad_share")
    return lines, problems


def _model(params: Params) -> tuple[int, str, list[str]]:
    """(bytes of weights, where they come from, what is wrong)."""
    from isrdpo.toybox import BASE

    path = params.model.path
    folder = BASE if path == "toybox" else resolve(path)
    if folder.is_dir():
        weights = sum(p.stat().st_size for pattern in ("*.safetensors", "pytorch_model*.bin") for p in folder.glob(pattern))
        return weights, path, [] if weights else [f"model.path: {path} holds no weights (*.safetensors or pytorch_model*.bin)"]
    if path == "toybox":
        return 0, path, [f"{BASE}: the base model that ships with the package is missing; install the package anew"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        return SEVEN_B * BYTES[params.model.dtype], f"{path} from the hub, taken as 7 B", []
    return 0, path, [f"model.path: {path} is neither toybox, a folder, nor a hub id such as ShareGPTVideo/LLaVA-Hound-SFT"]


def space(params: Params, weights: int) -> tuple[int, str]:
    """(bytes a run takes on disk, of what): kept policies, one being written, a trainer checkpoint while training."""
    keep = params.keep_policies
    kept = params.iterations if keep == "all" else 2 if keep == "last" else min(int(keep) + 1, params.iterations)
    checkpoint = weights * OPTIMIZER if params.train.method == "full" else weights // 10
    return kept * weights + weights + 2 * checkpoint, f"{kept} policies and trainer checkpoints"


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return path if path.is_dir() else _existing(path.parent)


def _size(count: Any) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
