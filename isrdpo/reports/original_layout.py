"""A checkpoint of LLaVA-Hound's family in the layout of LLaVA-Hound's own code, with the names that its
loader asks for.
"""

import json
import os
from pathlib import Path

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path

MODEL_TYPES = ("llava_llama", "llava_hound")  # in the original layout, and in that of a run's policies
TOWERS = {"image": "LanguageBind/LanguageBind_Image", "video": "LanguageBind/LanguageBind_Video_merge"}
TOKENIZER = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "add_eos_token": False,
    "legacy": False,
    "padding_side": "right",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<unk>",
}


def write_original_layout(
    source: Path, target: Path, image_tower: str | None = None, video_tower: str | None = None
) -> str:
    """Rewrite a checkpoint tensor by tensor in the precision that it is stored in, and return that
    precision's name.

    Raises RunError for a checkpoint of another family.
    """
    _require_family(source)
    from isrdpo.models import hound

    dtype = hound.stored_dtype(source)
    model, processor = hound.load(source, image_tower=image_tower, video_tower=video_tower, dtype=dtype)
    hound.save_original(model, processor, target, dtype)
    _name_towers_as_upstream(target)
    # Without this file, upstream's AutoTokenizer does not know the class.
    records.write_json(target / "tokenizer_config.json", TOKENIZER)
    return str(dtype).removeprefix("torch.")


def _require_family(source: Path) -> None:
    """Raise RunError where a checkpoint is not of LLaVA-Hound's family, or its config.json cannot be read."""
    try:
        family = json.loads((source / "config.json").read_text()).get("model_type")
    except (OSError, ValueError) as error:
        raise RunError(f"{display_path(source)}/config.json: not readable ({error})") from error
    if family not in MODEL_TYPES:
        raise RunError(
            f"{display_path(source)}: model_type {family!r} is not LLaVA-Hound's; "
            f"only that family has this layout, use the folder as it is"
        )


def _name_towers_as_upstream(folder: Path) -> None:
    """Name the towers LanguageBind_Image and LanguageBind_Video_merge where both are there.

    LLaVA-Hound's loader needs both, by these names (RifleZhang/LLaVA-Hound-DPO at ec2381f6,
    llava_hound_dpo/llava/model: builder.py, multimodal_encoder/builder.py). `hound.load` finds the towers'
    configs in this folder by the same names.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if not all(config.get(f"mm_{name}_tower") for name in TOWERS):
        return
    (folder / "LanguageBind").mkdir()
    for name, official_name in TOWERS.items():
        os.replace(folder / config[f"mm_{name}_tower"], folder / official_name)
        config[f"mm_{name}_tower"] = official_name
    records.write_json(path, config)
