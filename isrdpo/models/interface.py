"""The interface between the stages and a video language model, and what every model family shares.

A stage talks to a `Policy`. `local.LocalPolicy` is the one that runs in this process; it talks to a
transformers model and to that family's `Processor`. To add a family, write a processor and a loader, and
choose the loader in `local.open_policy`; nothing asks which class a processor is.

Shapes: B videos (or prompts), L tokens, T frames, S image size, N video tokens, D width of the LLM.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from isrdpo.core import prompts
from isrdpo.core.errors import IsrdpoError
from isrdpo.formats.video import Clip

# The language model's parameters in every family. They are trained; the rest (towers, projector) is frozen.
LANGUAGE_MODEL = ("model.language_model.", "model.text_model.", "lm_head.")

FEATURES = "features"
DEEP = "features.deep."
EXTRA = "extra."


class CheckpointError(IsrdpoError, ValueError):
    """A checkpoint cannot be used. The line names its folder or hub id, and says what is wrong."""


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """A video as the language model takes it. Two are equal only if they are the same object.

    `features`: [N, D], the projected features that stand at the N video tokens.
    `deep`: features [N, D] for deeper layers, in the order of the layers; empty for most families.
    `extra`: what `forward` takes beside the features, by argument name; its first dimension counts videos.
    `text`: what stands for the video in a prompt; empty where the family's prompts have a place for it.
    `stacked`: whether several videos enter as one tensor [B, N, D], else as a list of tensors [N, D].
    """

    features: Tensor
    deep: tuple[Tensor, ...] = ()
    extra: dict[str, Tensor] = field(default_factory=dict)
    text: str = ""
    stacked: bool = True

    @property
    def nbytes(self) -> int:
        """The memory that it takes, in bytes."""
        tensors = (self.features, *self.deep, *self.extra.values())
        return sum(tensor.nbytes for tensor in tensors) + len(self.text)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors, as the cache on disk holds them.

        `features`, `features.deep.<k>` and `extra.<name>`; where there is a text, also `text` (UTF-8,
        uint8) and `stacked` (bool).
        """
        named = {FEATURES: self.features}
        for number, layer in enumerate(self.deep):
            named[f"{DEEP}{number}"] = layer
        for name, tensor in self.extra.items():
            named[f"{EXTRA}{name}"] = tensor
        if self.text or not self.stacked:
            named["text"] = torch.tensor(list(self.text.encode()), dtype=torch.uint8)
            named["stacked"] = torch.tensor(self.stacked)
        return named

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "EncodedVideo":
        """Build a video from what `tensors` returned. Raises KeyError where the features are missing."""
        layers = sum(name.startswith(DEEP) for name in tensors)
        extra = {
            name.removeprefix(EXTRA): tensor for name, tensor in tensors.items() if name.startswith(EXTRA)
        }
        text = bytes(tensors["text"].tolist()).decode() if "text" in tensors else ""
        return cls(
            features=tensors[FEATURES],
            deep=tuple(tensors[f"{DEEP}{number}"] for number in range(layers)),
            extra=extra,
            text=text,
            stacked=bool(tensors.get("stacked", True)),
        )


@dataclass(frozen=True)
class LoadOptions:
    """The parameters that a loader may need. See the sections `model` and `video` of params/base.yaml."""

    dtype: torch.dtype
    device: str
    quantize: str = "none"
    frames: int | None = None
    image_tower: str | None = None
    video_tower: str | None = None


class Processor(Protocol):
    """Requests, answers and clips as one family's model takes them."""

    frames: int
    """T, the frames that are read of a clip."""

    image_size: int | None
    """S where frames enter as squares of S x S pixels; None where the family cuts them up in another way."""

    explains: bool
    """Whether heat maps can be drawn. Such a processor has also `pixels(frames)`: uint8 [T, H, W, 3] to the
    float32 [T, 3, S, S] that `model.model.get_video_features` takes as [B, T, 3, S, S]."""

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer, for trainers that want one."""

    @property
    def pad_id(self) -> int:
        """The id that fills up shorter rows."""

    @property
    def end_ids(self) -> list[int]:
        """The ids that end an answer; the first one is what an answer is trained to end with."""

    @property
    def video_token_id(self) -> int:
        """The id that stands N times in a prompt, once for each video token."""

    def encode(self, model: PreTrainedModel, clip: Clip) -> EncodedVideo:
        """Send a clip of T frames through the frozen tower of `model`; the result is on the CPU."""

    def collate(self, videos: list[EncodedVideo]) -> dict[str, Tensor]:
        """Join B videos into plain tensors, by name.

        Plain, since a collator's output may be pinned in memory. Names of features begin with `features`.
        """

    def inputs(self, collated: dict[str, Tensor], ids: Tensor) -> dict[str, Any]:
        """Return what `forward` takes beside the ids [B, L], from what `collate` returned for their B
        videos.
        """

    def shares(self, ids: list[int], begin: int) -> bool:
        """Whether prompts that agree up to `begin` can share what the model read up to there.

        It takes the whole video before `begin`, and positions that do not depend on what follows. A family
        that can never share answers False even for a prompt without ids.
        """

    def request_ids(self, request: str, video: EncodedVideo) -> list[int]:
        """Return the ids of the whole prompt in which the user asks `request` about the video."""

    def answer_ids(self, text: str) -> list[int]:
        """Return the ids of an answer as it follows a prompt, with one of `end_ids` at its end."""

    def decode(self, ids: list[int]) -> str:
        """Return the text of an answer's ids, without special tokens and outer spaces."""

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write weights, config and processor as the family's loader reads them."""


class Policy(Protocol):
    """A video language model that answers requests and chooses between replies.

    `videos[i]` belongs to `requests[i]`. A request is what the user says about the video, without any
    template.
    """

    positions: int
    """The tokens that the model has positions for: a prompt with its video, and what follows."""

    def encode(self, paths: list[Path]) -> list[EncodedVideo]:
        """Encode each clip; a clip that is named twice, once.

        Raises VideoError where one cannot be read, or where the family's processor fails at it.
        """

    def generate(
        self,
        videos: list[EncodedVideo],
        requests: list[str],
        *,
        max_new_tokens: int,
        seeds: list[int] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> list[str]:
        """Return one answer per request: greedy at temperature 0, else drawn under the row's own seed."""

    def choose(
        self, videos: list[EncodedVideo], requests: list[str], replies: tuple[str, str] = prompts.REPLIES
    ) -> Tensor:
        """Return float [B, 2]: the log-probabilities of the first token in which the two replies differ."""

    def room(self, request: str, video: EncodedVideo) -> int:
        """Return how many tokens the model has positions for behind the request; below 1, it does not fit."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars for files, and its warnings about names that only TRL uses."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*is deprecated", FutureWarning)
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
