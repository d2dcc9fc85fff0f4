"""A tiny random LLaVA-Hound with its processor, three encoded videos and preferences about them."""

import io
from typing import Any

import sentencepiece
import torch

from isrdpo.core import prompts
from isrdpo.core.records import Preference
from isrdpo.core.schema import Train
from isrdpo.models import hound
from isrdpo.models.hound_model import HoundForConditionalGeneration
from isrdpo.models.hound_processor import HoundProcessor
from isrdpo.models.interface import EncodedVideo

FRAMES = 2
SIZE = 16
PATCH = 8
WIDTH = 32
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "initializer_range": 0.2,  # a wide draw: with the usual one a random model hardly sees its video
    "max_position_embeddings": 4096,
}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
}
ANSWERS = (
    "red moves left and then it stops",
    "The red square moves left.",
    "a cat",
    "12 dogs watch the red square while it moves left",
    "it is red",
    "the cat and the dogs move left",
    "red",
    "left, then left again",
)
TRAIN = {
    "method": "full",
    "beta": 0.1,
    "learning_rate": 1e-3,
    "epochs": 1,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "schedule": "linear",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_length": 2048,
    "loss_type": "sigmoid",
    "ld_alpha": None,
    "length_alpha": None,
    "bf16": "auto",
    "gradient_checkpointing": False,
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.05,
    "save_steps": 50,
    "report_to": "none",
}


def train_tokenizer(text: str, vocab_size: int, **options: Any) -> bytes:
    """Return a sentencepiece `tokenizer.model` that knows every byte, learned from a text's words."""
    words = text.split()
    lines = [" ".join(words[n:] + words[:n]) for n in range(len(words))] * 4
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        pad_id=-1,
        **options,
    )
    return model.getvalue()


def make_processor() -> HoundProcessor:
    """Return the processor, whose tokenizer knows the words of the answers."""
    text = f"{prompts.SYSTEM} USER: ASSISTANT: the red square moves left while a cat and 12 dogs watch it. "
    tokenizer_model = train_tokenizer(text, vocab_size=380)
    rows = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model).vocab_size()
    return HoundProcessor(tokenizer_model, FRAMES, SIZE, PATCH, rows)


def make_video(seed: int) -> EncodedVideo:
    """Return random features [N, D] as an encoded video."""
    generator = torch.Generator().manual_seed(seed)
    return EncodedVideo(torch.randn(PROCESSOR.video_tokens, WIDTH, generator=generator))


PROCESSOR = make_processor()
VIDEOS = {name: make_video(seed) for seed, name in enumerate(("one", "two", "three"))}


def make_model() -> HoundForConditionalGeneration:
    """Return the model; it is the same one at every call."""
    torch.manual_seed(7)
    return hound.build(PROCESSOR.vocab_size, TEXT, TOWER, FRAMES)


def preferences(count: int = 8) -> list[Preference]:
    """Return preferences about the three videos in turn."""
    names = list(VIDEOS)
    return [
        Preference(
            id=f"p{n}",
            video=names[n % 3],
            question=f"What moves {n}?",
            chosen=ANSWERS[n % 8],
            rejected=ANSWERS[(n + 3) % 8],
            margin=None,
        )
        for n in range(count)
    ]


def train_settings(**changes: Any) -> Train:
    """Return `train.*` for a training of two steps, with changes."""
    return Train(**(TRAIN | changes))
