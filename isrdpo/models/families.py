"""The table of model families: the loader of each `model_type`; `auto` loads all that are not listed.

A checkpoint is data from strangers. None of its code is run, none of its pickles is unpickled but for
tensors, its sizes are bounded before anything is built, and whatever is wrong with it is one CheckpointError.
"""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from isrdpo.models import auto, hound
from isrdpo.models.hound_files import first_line
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
    """Load a folder or a hub repository by the loader of its family.

    Raises CheckpointError for whatever is wrong with it. What a device lacks in memory is no fault of the
    checkpoint, so that error stays what it is.
    """
    try:
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
