"""LLaVA-Hound's processor: text to ids and frames to pixels, exactly as the reference makes them.

Shapes: T frames, S image size, N video tokens, D width of the LLM.
Reference: github.com/RifleZhang/LLaVA-Hound-DPO.
"""

import math
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sentencepiece
import torch
from torch import Tensor, nn
from transformers import LlamaTokenizer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from isrdpo.core import prompts
from isrdpo.formats.video import Clip
from isrdpo.models.hound_files import write_checkpoint
from isrdpo.models.hound_model import HoundForConditionalGeneration
from isrdpo.models.interface import CheckpointError, EncodedVideo

VIDEO_TAG = "<video>"
# CLIP's, of red, green and blue
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class HoundProcessor:
    """Text to ids, ids to text and frames to pixels, for one checkpoint.

    `tokenizer_model` holds the bytes of its sentencepiece `tokenizer.model`, `vocab_size` the rows of its
    embedding. The video's placeholder is no token: its id lies outside the vocabulary.
    """

    explains: ClassVar[bool] = True  # frames enter as squares, so heat maps can be laid over them

    tokenizer_model: bytes
    frames: int
    image_size: int
    patch_size: int
    vocab_size: int

    @classmethod
    def from_tokenizer(
        cls, path: Path, frames: int, image_size: int, patch_size: int, vocab_size: int = 0
    ) -> "HoundProcessor":
        """Read a `tokenizer.model`; `vocab_size` defaults to its number of pieces. Raises CheckpointError."""
        if not path.is_file():
            raise CheckpointError(
                f"{path}: no such file; a checkpoint needs its sentencepiece tokenizer.model"
            )
        tokenizer_model = path.read_bytes()
        try:
            pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model).vocab_size()
        except Exception as error:
            raise CheckpointError(f"{path}: not a sentencepiece model") from error
        if not pieces:
            raise CheckpointError(f"{path}: a sentencepiece model without pieces")
        return cls(tokenizer_model, frames, image_size, patch_size, vocab_size or pieces)

    @cached_property
    def pieces(self) -> sentencepiece.SentencePieceProcessor:
        """The tokenizer that all ids come from."""
        return sentencepiece.SentencePieceProcessor(model_proto=self.tokenizer_model)

    @cached_property
    def tokenizer(self) -> LlamaTokenizer:
        """A tokenizer for trainers that want one. It loses leading spaces, so all ids come from `pieces`."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "tokenizer.model").write_bytes(self.tokenizer_model)
            return LlamaTokenizer.from_pretrained(
                folder, pad_token="<unk>", legacy=False, trust_remote_code=False
            )

    @property
    def video_tokens(self) -> int:
        """N, the placeholders of one video."""
        return self.frames * (self.image_size // self.patch_size) ** 2

    @property
    def video_token_id(self) -> int:
        """The placeholder's id; the id before it is the image's in the model's config."""
        return self.vocab_size + 1

    @property
    def pad_id(self) -> int:
        """LLaVA pads with <unk>."""
        return self.pieces.unk_id()

    @property
    def end_ids(self) -> list[int]:
        """The ids that end an answer."""
        return [self.pieces.eos_id()]

    def prompt_ids(self, prompt: str) -> list[int]:
        """Map a full prompt to ids: BOS, each side of its <video> tokenized apart, N placeholders between.

        Raises ValueError for a prompt with several tags.
        """
        before, *after = prompt.split(VIDEO_TAG)
        if len(after) > 1:
            raise ValueError(
                f"a prompt holds one {VIDEO_TAG} at most, this one {len(after)}: {prompt[:80]!r}"
            )
        ids = [self.pieces.bos_id(), *self.pieces.encode(before)]
        for text in after:
            ids += [self.video_token_id] * self.video_tokens + self.pieces.encode(text)
        return ids

    def request_ids(self, request: str, video: EncodedVideo | None = None) -> list[int]:
        """Map a user's turn about a video to the whole prompt's ids; they are the same for every video."""
        return self.prompt_ids(prompts.conversation(request))

    def answer_ids(self, text: str) -> list[int]:
        """Map an answer to ids: no BOS, EOS at the end. These are the tokens that DPO scores."""
        return [*self.pieces.encode(text), self.pieces.eos_id()]

    def decode(self, ids: list[int] | Tensor) -> str:
        """Map ids to text without special tokens and outer spaces, as the reference prints it."""
        special = {self.pieces.unk_id(), self.pieces.bos_id(), self.pieces.eos_id()}
        ordinary = [int(i) for i in ids if int(i) not in special and int(i) < self.pieces.vocab_size()]
        return self.pieces.decode(ordinary).strip()

    def encode(self, model: HoundForConditionalGeneration, clip: Clip) -> EncodedVideo:
        """Encode a clip of `frames` frames as the LLM takes it: features [N, D], on the CPU."""
        pixels = self.pixels(clip.frames)[None].to(model.device, model.dtype)
        return EncodedVideo(model.model.get_video_features(pixels).pooler_output[0].cpu().clone())

    def collate(self, videos: list[EncodedVideo]) -> dict[str, Tensor]:
        """Stack several encoded videos as plain tensors."""
        return {"features": torch.stack([video.features for video in videos])}

    def inputs(self, collated: dict[str, Tensor], ids: Tensor) -> dict[str, Any]:
        """Return what `forward` takes beside `ids` [B, L], from B collated videos."""
        return video_inputs(collated["features"])

    def shares(self, ids: list[int], begin: int) -> bool:
        """Whether prompts that are alike up to `begin` can share it: the whole video lies in it."""
        return self.video_token_id not in ids[begin:]

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Map frames uint8 [T, H, W, 3] to float32 [T, 3, S, S]: normalized, then resized, then cropped."""
        return resize_and_crop(normalize(unit_scale(frames)), self.image_size, "bilinear")

    def save(self, model: HoundForConditionalGeneration, folder: Path) -> None:
        """Write a checkpoint in transformers' own layout, with its tokenizer; `hound.load` reads it."""
        config = model.config.to_dict() | {"architectures": [type(model).__name__]}
        config.pop("_name_or_path", None)
        write_checkpoint(folder, config, model.state_dict(), self.tokenizer_model)


def video_inputs(features: Tensor) -> dict[str, Any]:
    """Return projected features [B, N, D] as the keyword that `forward` and `generate` take."""
    return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=features)}}


def unit_scale(frames: np.ndarray) -> Tensor:
    """Map frames uint8 [T, H, W, 3] to float32 [T, 3, H, W] between 0 and 1."""
    return torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 255


def normalize(frames: Tensor) -> Tensor:
    """Shift and scale frames [T, 3, H, W] by CLIP's mean and deviation of each color."""
    return (frames - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


def resize_and_crop(frames: Tensor, size: int, mode: str) -> Tensor:
    """Map [T, 3, H, W] to [T, 3, size, size]: the short side to `size`, then the center.

    As in the reference there is no antialias, and the long side, in proportion, is rounded down.
    """
    height, width = frames.shape[-2:]
    if height <= width:
        shape = (size, math.floor(width / height * size))
    else:
        shape = (math.floor(height / width * size), size)
    frames = nn.functional.interpolate(frames, size=shape, mode=mode, align_corners=False)
    top = round((shape[0] - size) / 2)
    start = round((shape[1] - size) / 2)
    return frames[:, :, top : top + size, start : start + size].contiguous()
