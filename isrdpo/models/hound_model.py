"""LLaVA-Hound's model: Video-LLaVA with LanguageBind's towers. `hound` loads and saves it.

Shapes: B videos, T frames, S image size, P = (S / patch)^2 patches a frame, N = T * P video tokens, D width
of the LLM (inside a tower: of the tower). References: github.com/RifleZhang/LLaVA-Hound-DPO,
github.com/PKU-YuanGroup/LanguageBind.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaModel,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer
from transformers.models.video_llava.modeling_video_llava import VideoLlavaMultiModalProjector


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
    """A CLIP layer that first attends over the frames, at each patch and at CLS.

    LanguageBind calls this `add_time_attn`.
    """

    def __init__(self, config: CLIPVisionConfig, frames: int) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.temporal_embedding = nn.Parameter(torch.randn(1, frames, width) * width**-0.5)
        self.temporal_attn = CLIPAttention(config)
        self.temporal_layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Map hidden_states [B*T, 1+P, D] to the same shape."""
        rows, places, width = hidden_states.shape
        frames = self.temporal_embedding.shape[1]
        over_time = (
            hidden_states.reshape(-1, frames, places, width).transpose(1, 2).reshape(-1, frames, width)
        )
        over_time = over_time + self.temporal_embedding
        over_time = over_time + self.temporal_attn(self.temporal_layer_norm1(over_time))[0]
        over_space = over_time.reshape(-1, places, frames, width).transpose(1, 2).reshape(rows, places, width)
        return super().forward(over_space, attention_mask, **kwargs)


class PlaceholderEmbedding(nn.Embedding):
    """An embedding that accepts the two placeholder ids, which follow its last row.

    No row is added for them: a longer table would change every softmax. What is returned for them is
    overwritten by the features.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map ids [B, L] to embeddings [B, L, D]."""
        placeholder = (input == self.num_embeddings) | (input == self.num_embeddings + 1)
        return super().forward(input.masked_fill(placeholder, 0))


class HoundModel(VideoLlavaModel):
    """The towers, the projector and the LLM without its head.

    The image tower is there so that a checkpoint is saved with all its weights; nothing asks about images.
    """

    config: HoundConfig

    def __init__(self, config: HoundConfig) -> None:
        super(VideoLlavaModel, self).__init__(config)
        self.video_tower = CLIPVisionModel._from_config(config.vision_config)
        if config.temporal_attention:
            layers = (
                TemporalLayer(config.vision_config, config.frames) for _ in self.video_tower.encoder.layers
            )
            self.video_tower.encoder.layers = nn.ModuleList(layers)
        self.image_tower = CLIPVisionModel._from_config(config.image_config) if config.image_config else None
        self.multi_modal_projector = VideoLlavaMultiModalProjector(config)
        self.vocab_size = config.text_config.vocab_size
        self.language_model = LlamaModel._from_config(config.text_config)
        plain = self.language_model.embed_tokens
        self.language_model.embed_tokens = PlaceholderEmbedding(
            plain.num_embeddings, plain.embedding_dim, plain.padding_idx
        )
        self.post_init()

    def get_video_features(self, pixel_values_videos: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Map pixel_values_videos [B, T, 3, S, S] to pooler_output [B, N, D], what enters the LLM.

        The chosen hidden state goes through the projector without its CLS; layers above it do not run.
        """
        videos, frames = pixel_values_videos.shape[:2]
        if frames != self.config.frames:
            raise ValueError(f"this model reads {self.config.frames} frames a video, got {frames}")
        tower = self.video_tower
        hidden = tower.pre_layrnorm(tower.embeddings(pixel_values_videos.flatten(0, 1)))
        chosen = self.config.vision_feature_layer
        count = chosen if chosen >= 0 else len(tower.encoder.layers) + 1 + chosen
        for layer in tower.encoder.layers[:count]:
            hidden = layer(hidden, None)
        features = self.multi_modal_projector(hidden[:, 1:])
        return BaseModelOutputWithPooling(pooler_output=features.reshape(videos, -1, features.shape[-1]))

    def forward(
        self, input_ids: Tensor | None = None, mm_encoder_outputs: dict | None = None, **kwargs: Any
    ) -> Any:
        """As Video-LLaVA's, which would say nothing of video placeholders without a video.

        Raises ValueError for them.
        """
        has_video = (mm_encoder_outputs or {}).get("video") is not None
        has_video = has_video or kwargs.get("pixel_values_videos") is not None
        if not has_video and input_ids is not None and (input_ids == self.config.video_token_id).any():
            raise ValueError("the prompt holds video placeholders but no video was given")
        return super().forward(input_ids=input_ids, mm_encoder_outputs=mm_encoder_outputs, **kwargs)


class HoundForConditionalGeneration(VideoLlavaForConditionalGeneration):
    """LLaVA-Hound with its head; `forward` and `generate` as Video-LLaVA's."""

    config: HoundConfig

    def __init__(self, config: HoundConfig) -> None:
        super(VideoLlavaForConditionalGeneration, self).__init__(config)
        self.model = HoundModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()
