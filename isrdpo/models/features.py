"""Encoded clips on disk, one file per clip: by the weights that encode it, and by its content."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from transformers import PreTrainedModel

from isrdpo.core.folders import atomic_file
from isrdpo.models.interface import LANGUAGE_MODEL, EncodedVideo

# Parameters that have no part in a video's features: a change in them leaves the files valid.
NOT_IN_FEATURES = (*LANGUAGE_MODEL, "model.image_tower.")


def encoder_digest(model: PreTrainedModel, settings: str) -> str:
    """Return a name for everything that decides the features beside the clip: settings and weights."""
    digest = hashlib.sha256(settings.encode())
    for name, tensor in model.state_dict().items():
        if not name.startswith(NOT_IN_FEATURES):
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def encoded_file(folder: Path, digest: str, clip: Path) -> Path:
    """Return the place of an encoded clip."""
    with clip.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    return folder / digest / f"{content}.safetensors"


def load_encoded(file: Path) -> EncodedVideo | None:
    """Read an encoded clip; None where there is none.

    A torn file (by a full disk or a crash of the machine) is removed, and counts as none.
    """
    if not file.exists():
        return None
    try:
        tensors = load_file(file)
    except SafetensorError:
        file.unlink(missing_ok=True)
        return None
    return EncodedVideo.from_tensors(tensors) if "features" in tensors else None


def save_encoded(video: EncodedVideo, file: Path) -> None:
    """Write an encoded clip, as a file that is whole or not there."""
    with atomic_file(file) as part:
        # not save_file: it writes to a temporary file of its own, which a kill would leave
        part.write_bytes(save(video.tensors()))
