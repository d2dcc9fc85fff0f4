"""Tiny random checkpoints of transformers' video families, saved as the hub has them.

Each has its real model, processor and tokenizer classes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}VIDEO{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: "
    "{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}<video>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    " ASSISTANT:{% else %} {% for c in m['content'] %}{{ c['text'] }}{% endfor %}</s>{% endif %}{% endfor %}"
)
TEXT = (
    "a red circle moves to the left and stops. What moves in the video? Which response is better, A or B? "
    "My choice is A. My choice is B. seconds 0123456789:"
)
LLM = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
TOWER = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA_TOKENS = ["<unk>", "<s>", "</s>", "<image>", "<video>"]
ONEVISION_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
QWEN_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
QWEN_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
QWEN_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 8,
    "out_hidden_size": 32,
}
QWEN_SIZE = {"size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}}
SMOL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<global-img>",
    "<image>",
]


def tokenizer(kind: type, special: list[str], **options: Any) -> Any:
    """A byte-level BPE of a few hundred pieces in the family's own tokenizer class."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, special_tokens=special)
    bpe.train_from_iterator([TEXT] * 3, trainer)
    others = [token for token in special if token not in options.values()]
    return kind(tokenizer_object=bpe, extra_special_tokens=others, **options)


def llama_tokenizer() -> Any:
    return tokenizer(
        tf.PreTrainedTokenizerFast, LLAMA_TOKENS, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def qwen_tokenizer(special: list[str]) -> Any:
    return tokenizer(tf.Qwen2Tokenizer, special, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def clip_tower(**sizes: Any) -> Any:
    return tf.CLIPVisionConfig(**TOWER, image_size=32, patch_size=8, projection_dim=32, **sizes)


def clip_processing(kind: type) -> Any:
    return kind(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def image_and_video_index(words: Any) -> dict[str, int]:
    return {
        "image_token_index": words.convert_tokens_to_ids("<image>"),
        "video_token_index": words.convert_tokens_to_ids("<video>"),
    }


def llava_next_video() -> tuple[Any, Any]:
    words = llama_tokenizer()
    config = tf.LlavaNextVideoConfig(
        text_config=tf.LlamaConfig(**LLM, vocab_size=len(words)),
        vision_config=clip_tower(),
        image_grid_pinpoints=[[32, 32]],
        vision_feature_layer=-2,
        **image_and_video_index(words),
    )
    processor = tf.LlavaNextVideoProcessor(
        video_processor=clip_processing(tf.LlavaNextVideoVideoProcessor),
        image_processor=clip_processing(tf.LlavaNextImageProcessor),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=VICUNA,
    )
    return tf.LlavaNextVideoForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    words = qwen_tokenizer(ONEVISION_TOKENS)
    size = {"height": 32, "width": 32}
    config = tf.LlavaOnevisionConfig(
        text_config=tf.Qwen2Config(**LLM, vocab_size=len(words)),
        vision_config=tf.SiglipVisionConfig(**TOWER, image_size=32, patch_size=8),
        image_grid_pinpoints=[[32, 32]],
        **image_and_video_index(words),
    )
    processor = tf.LlavaOnevisionProcessor(
        image_processor=tf.LlavaOnevisionImageProcessor(size=size),
        video_processor=tf.LlavaOnevisionVideoProcessor(size=size),
        tokenizer=words,
        chat_template=CHATML.replace("VIDEO", "<video>\n"),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    return tf.LlavaOnevisionForConditionalGeneration(config), processor


def qwen_ids(words: Any) -> dict[str, int]:
    tokens = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: words.convert_tokens_to_ids(token) for name, token in tokens.items()}


def qwen2_5_vl() -> tuple[Any, Any]:
    words = qwen_tokenizer(QWEN_TOKENS)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = tf.Qwen2_5_VLConfig(
        text_config={**LLM, "vocab_size": len(words), "rope_parameters": rope},
        vision_config={**QWEN_VISION, "fullatt_block_indexes": [1], "window_size": 32},
        **qwen_ids(words),
    )
    processor = tf.Qwen2_5_VLProcessor(
        image_processor=tf.Qwen2VLImageProcessor(patch_size=8, **QWEN_SIZE),
        video_processor=tf.Qwen2VLVideoProcessor(patch_size=8, **QWEN_SIZE),
        tokenizer=words,
        chat_template=CHATML.replace("VIDEO", QWEN_VIDEO),
    )
    return tf.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    words = qwen_tokenizer(QWEN_TOKENS)
    rope = {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "rope_theta": 10000.0,
        "mrope_interleaved": True,
    }
    config = tf.Qwen3VLConfig(
        text_config={**LLM, "head_dim": 8, "vocab_size": len(words), "rope_parameters": rope},
        vision_config={**QWEN_VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 64},
        **qwen_ids(words),
    )
    video_size = {"shortest_edge": 16 * 16, "longest_edge": 8 * 64 * 64}
    processor = tf.Qwen3VLProcessor(
        image_processor=tf.Qwen2VLImageProcessor(patch_size=8, **QWEN_SIZE),
        video_processor=tf.Qwen3VLVideoProcessor(patch_size=8, size=video_size),
        tokenizer=words,
        chat_template=CHATML.replace("VIDEO", QWEN_VIDEO),
    )
    return tf.Qwen3VLForConditionalGeneration(config), processor


def smolvlm() -> tuple[Any, Any]:
    words = tokenizer(
        tf.PreTrainedTokenizerFast,
        SMOL_TOKENS,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )
    config = tf.SmolVLMConfig(
        text_config=tf.LlamaConfig(**LLM, vocab_size=len(words)),
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=words.pad_token_id,
    )
    edge = {"longest_edge": 32}
    sampling = {"fps": 1, "max_frames": 4, "video_size": edge}
    processor = tf.SmolVLMProcessor(
        image_processor=tf.SmolVLMImageProcessor(size=edge, max_image_size=edge),
        video_processor=tf.SmolVLMVideoProcessor(
            size=edge, max_image_size=edge, num_frames=4, fps=1, video_sampling=sampling
        ),
        tokenizer=words,
        image_seq_len=4,
        chat_template=DEFAULT_CHAT_TEMPLATE,
    )
    return tf.SmolVLMForConditionalGeneration(config), processor


def video_llava() -> tuple[Any, Any]:
    words = llama_tokenizer()
    config = tf.VideoLlavaConfig(
        text_config=tf.LlamaConfig(**LLM, vocab_size=len(words)),
        vision_config=clip_tower(),
        **image_and_video_index(words),
    )
    processor = tf.VideoLlavaProcessor(
        image_processor=clip_processing(tf.VideoLlavaImageProcessor),
        video_processor=clip_processing(tf.VideoLlavaVideoProcessor),
        tokenizer=words,
        patch_size=8,
        chat_template=VICUNA,
    )
    return tf.VideoLlavaForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava_next_video": llava_next_video,
    "llava_onevision": llava_onevision,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "smolvlm": smolvlm,
    "video_llava": video_llava,
}


def write(name: str, folder: Path) -> Path:
    """Save the checkpoint of a family, drawn from seed 0.

    Its weights are larger than usual, so that what it sees shows in what it says.
    """
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2 if "embed" not in key else 0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
