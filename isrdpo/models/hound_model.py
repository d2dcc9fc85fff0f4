"""LLaVA-Hound's model and processor: Video-LLaVA with LanguageBind's towers. `isrdpo.hound` loads and saves them.

Shapes: B videos, T frames, S image size, P = (S / patch)^2 patches a frame, N = T * P video tokens, D width of the LLM
(inside a tower: of the tower). References: github.com/RifleZhang/LLaVA-Hound-DPO, github.com/PKU-YuanGroup/LanguageBind.
"""

import math
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sentencepiece
import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    LlamaTokenizer,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaModel,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer
from transformers.models.video_llava.modeling_video_llava import VideoLlavaMultiModalProjector
from transformers.utils import logging as transformers_logging

from isrdpo.core import prompts
from isrdpo.core.errors import IsrdpoError
from isrdpo.formats.video import Clip

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, of red, green, blue


Video = dict[str, Tensor]  # an encoded video, by name; `features` [N, D] are what enters the LLM
LLM = ("model.language_model.", "model.text_model.", "lm_head.")  # what is trained, in every family; the rest (towers, projector) is frozen


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars for every file read or written and its warnings about names that only TRL uses."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*is deprecated", FutureWarning)
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


class CheckpointError(IsrdpoError, ValueError):
    """A checkpoint that cannot be read as LLaVA-Hound's; one line that names the folder and what is wrong."""


class HoundConfig(VideoLlavaConfig):
    """Video-LLaVA's config (`vision_config` is the video tower) plus what LLaVA-Hound's towers need."""

    model_type = "llava_hound"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "text_config": SubConfigSpec(config_class=LlamaConfig),
        "vision_config": SubConfigSpec(config_class=CLIPVisionConfig),
        "image_config": SubConfigSpec(config_class=CLIPVisionConfig, optional=True),
    }
    image_config: dict | CLIPVisionConfig | None = None  # None: a video-only checkpoint
    frames: int = 8
    temporal_attention: bool = True


class TemporalLayer(CLIPEncoderLayer):
    """A CLIP layer that first attends over the frames, at each patch and at CLS (LanguageBind, `add_time_attn`)."""

    def __init__(self, config: CLIPVisionConfig, frames: int) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.temporal_embedding = nn.Parameter(torch.randn(1, frames, width) * width**-0.5)
        self.temporal_attn = CLIPAttention(config)
        self.temporal_layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """hidden_states [B*T, 1+P, D] -> the same shape."""
        rows, places, width = hidden_states.shape
        frames = self.temporal_embedding.shape[1]
        over_time = hidden_states.reshape(-1, frames, places, width).transpose(1, 2).reshape(-1, frames, width)
        over_time = over_time + self.temporal_embedding
        over_time = over_time + self.temporal_attn(self.temporal_layer_norm1(over_time))[0]
        over_space = over_time.reshape(-1, places, frames, width).transpose(1, 2).reshape(rows, places, width)
        return super().forward(over_space, attention_mask, **kwargs)


class PlaceholderEmbedding(nn.Embedding):
    """An embedding that accepts the two placeholder ids (rows, rows + 1); what it gives for them is overwritten."""

    def forward(self, input: Tensor) -> Tensor:
        placeholder = (input == self.num_embeddings) | (input == self.num_embeddings + 1)
        return super().forward(input.masked_fill(placeholder, 0))


class HoundModel(VideoLlavaModel):
    """The towers, the projector and the LLM without its head."""

    config: HoundConfig

    def __init__(self, config: HoundConfig) -> None:
        super(VideoLlavaModel, self).__init__(config)
        self.video_tower = CLIPVisionModel._from_config(config.vision_config)
        if config.temporal_attention:
            layers = (TemporalLayer(config.vision_config, config.frames) for _ in self.video_tower.encoder.layers)
            self.video_tower.encoder.layers = nn.ModuleList(layers)
        self.image_tower = CLIPVisionModel._from_config(config.image_config) if config.image_config else None
        self.multi_modal_projector = VideoLlavaMultiModalProjector(config)
        self.vocab_size = config.text_config.vocab_size
        self.language_model = LlamaModel._from_config(config.text_config)
        old = self.language_model.embed_tokens
        self.language_model.embed_tokens = PlaceholderEmbedding(old.num_embeddings, old.embedding_dim, old.padding_idx)
        self.post_init()

    def _project(self, tower: CLIPVisionModel, pixels: Tensor) -> Tensor:
        """pixels [R, 3, S, S] -> [R, P, D]: the chosen hidden state without CLS, projected; unused layers do not run."""
        choice, layers = self.config.vision_feature_layer, tower.encoder.layers
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer in layers[: choice if choice >= 0 else len(layers) + 1 + choice]:
            hidden = layer(hidden, None)
        return self.multi_modal_projector(hidden[:, 1:])

    def get_video_features(self, pixel_values_videos: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """pixel_values_videos [B, T, 3, S, S] -> pooler_output [B, N, D]."""
        videos, frames = pixel_values_videos.shape[:2]
        if frames != self.config.frames:
            raise ValueError(f"this model reads {self.config.frames} frames a video, got {frames}")
        features = self._project(self.video_tower, pixel_values_videos.flatten(0, 1))
        return BaseModelOutputWithPooling(pooler_output=features.reshape(videos, -1, features.shape[-1]))

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """pixel_values [B, 3, S, S] -> pooler_output [B, P, D]."""
        if self.image_tower is None:
            raise ValueError("this checkpoint has no image tower: it takes videos and text only")
        return BaseModelOutputWithPooling(pooler_output=self._project(self.image_tower, pixel_values))

    def forward(self, input_ids: Tensor | None = None, mm_encoder_outputs: dict | None = None, **kwargs: Any) -> Any:
        """As Video-LLaVA's, but a placeholder without its pixels or features is an error, not silence."""
        given = mm_encoder_outputs or {}
        for modality, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            token = getattr(self.config, f"{modality}_token_id")
            if (
                given.get(modality) is None
                and kwargs.get(pixels) is None
                and input_ids is not None
                and (input_ids == token).any()
            ):
                raise ValueError(f"the prompt holds {modality} placeholders but no {modality} was given")
        return super().forward(input_ids=input_ids, mm_encoder_outputs=mm_encoder_outputs, **kwargs)


class HoundForConditionalGeneration(VideoLlavaForConditionalGeneration):
    """LLaVA-Hound with its head; `forward` and `generate` as Video-LLaVA's."""

    config: HoundConfig

    def __init__(self, config: HoundConfig) -> None:
        super(VideoLlavaForConditionalGeneration, self).__init__(config)
        self.model = HoundModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


@dataclass(frozen=True)
class HoundProcessor:
    """Text to ids and frames to pixels as the reference does. `model`: the bytes of a sentencepiece `tokenizer.model`."""

    model: bytes
    frames: int
    image_size: int
    patch_size: int
    vocab_size: int  # rows of the embedding
    still: tuple[int, int] | None = (
        None  # (image size, patch size) of the image tower, where it differs from the video's
    )

    @classmethod
    def from_tokenizer(
        cls, path: Path, frames: int, image_size: int, patch_size: int, vocab_size: int = 0
    ) -> "HoundProcessor":
        """From a `tokenizer.model`; `vocab_size` defaults to its number of pieces."""
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; a checkpoint needs its sentencepiece tokenizer.model")
        model = path.read_bytes()
        rows = vocab_size or sentencepiece.SentencePieceProcessor(model_proto=model).vocab_size()
        return cls(model, frames, image_size, patch_size, rows)

    @cached_property
    def pieces(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    @cached_property
    def tokenizer(self) -> LlamaTokenizer:
        """For trainers that want one; ids are made by `pieces`, whose leading spaces the fast tokenizer loses."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.model"
            path.write_bytes(self.model)
            return LlamaTokenizer.from_pretrained(folder, pad_token="<unk>", legacy=False)

    @property
    def image_tokens(self) -> int:
        size, patch = self.still or (self.image_size, self.patch_size)
        return (size // patch) ** 2

    @property
    def video_tokens(self) -> int:
        return self.frames * (self.image_size // self.patch_size) ** 2

    @property
    def image_token_id(self) -> int:
        return self.vocab_size

    @property
    def video_token_id(self) -> int:
        return self.vocab_size + 1

    @property
    def pad_id(self) -> int:
        return self.pieces.unk_id()  # LLaVA pads with <unk>

    def prompt_ids(self, prompt: str) -> list[int]:
        """A full prompt to ids: BOS, each side of its tag tokenized apart, the tag as N (or P) placeholders."""
        parts = re.split(r"(<video>|<image>)", prompt)
        if len(parts) > 3:
            raise ValueError(
                f"a prompt holds one <video> or <image> at most, this one {len(parts) // 2}: {prompt[:80]!r}"
            )
        ids = [self.pieces.bos_id(), *self.pieces.encode(parts[0])]
        if len(parts) == 3:
            ids += {
                "<video>": [self.video_token_id] * self.video_tokens,
                "<image>": [self.image_token_id] * self.image_tokens,
            }[parts[1]] + self.pieces.encode(parts[2])
        return ids

    def request_ids(self, request: str, video: Video | None = None) -> list[int]:
        """A user's turn about a video to the whole prompt's ids; every video takes the same ones."""
        return self.prompt_ids(prompts.conversation(request))

    def answer_ids(self, text: str) -> list[int]:
        """An answer to ids: no BOS, EOS at the end (the tokens that DPO scores)."""
        return [*self.pieces.encode(text), self.pieces.eos_id()]

    @property
    def end_ids(self) -> list[int]:
        """What ends an answer."""
        return [self.pieces.eos_id()]

    def encode(self, model: "HoundForConditionalGeneration", clip: Clip) -> Video:
        """A clip of `frames` frames as the LLM takes it, on the CPU."""
        pixels = self.pixels(clip.frames)[None].to(model.device, model.dtype)
        return {"features": model.model.get_video_features(pixels).pooler_output[0].cpu().clone()}

    def shares(self, ids: list[int], begin: int) -> bool:
        """Whether prompts that are alike up to `begin` can share what the LLM read up to there: the whole video is in it."""
        return self.video_token_id not in ids[begin:]

    def collate(self, videos: list[Video]) -> dict[str, Tensor]:
        """Several encoded videos as plain tensors."""
        return {"features": torch.stack([video["features"] for video in videos])}

    def inputs(self, collated: dict[str, Tensor], ids: Tensor) -> dict[str, Any]:
        """What `forward` takes beside `ids` [B, L], from B videos."""
        return video_inputs(collated["features"])

    def decode(self, ids: list[int] | Tensor) -> str:
        """Ids to text without special tokens and outer spaces, as the reference prints it."""
        special = {self.pieces.unk_id(), self.pieces.bos_id(), self.pieces.eos_id()}
        kept = [int(i) for i in ids if int(i) not in special and int(i) < self.pieces.vocab_size()]
        return self.pieces.decode(kept).strip()

    def pixels(self, frames: np.ndarray | Tensor) -> Tensor:
        """A video's frames uint8 [T, H, W, 3] -> float32 [T, 3, S, S]: normalized, then resized (bilinear), cropped."""
        return _square((_unit(frames) - _channels(MEAN)) / _channels(STD), self.image_size, "bilinear")

    def image_pixels(self, image: np.ndarray | Tensor) -> Tensor:
        """An image uint8 [H, W, 3] -> float32 [3, S, S]: resized (bicubic) and cropped, then normalized."""
        size, _ = self.still or (self.image_size, self.patch_size)
        return ((_square(_unit(image[None]), size, "bicubic") - _channels(MEAN)) / _channels(STD))[0]


def video_inputs(features: Tensor) -> dict[str, Any]:
    """Projected features [B, N, D] as the keyword that `forward` and `generate` take."""
    return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=features)}}


def _unit(frames: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 255


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)


def _square(x: Tensor, size: int, mode: str) -> Tensor:
    """[T, 3, H, W] -> [T, 3, size, size]: short side to `size` without antialias, long side floored, then the center."""
    height, width = x.shape[-2:]
    shape = (size, math.floor(width / height * size)) if height <= width else (math.floor(height / width * size), size)
    x = nn.functional.interpolate(x, size=shape, mode=mode, align_corners=False)
    top, left = round((shape[0] - size) / 2), round((shape[1] - size) / 2)
    return x[:, :, top : top + size, left : left + size].contiguous()
