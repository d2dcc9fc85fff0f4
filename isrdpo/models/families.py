"""The table of model families: the loader of each `model_type`; `auto` loads all that are not listed."""

from collections.abc import Callable

from transformers import PreTrainedModel

from isrdpo.models import auto, hound
from isrdpo.models.interface import CheckpointError, LoadOptions, Processor

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
    """Load a folder or a hub repository by the loader of its family. Raises CheckpointError."""
    loader = FAMILIES.get(auto.model_type(path), load_auto)
    return loader(path, options)
