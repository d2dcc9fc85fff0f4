"""LLaVA-Hound's processor: token ids and pixels as the reference makes them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from isrdpo.formats.video import Clip
from isrdpo.models import hound
from isrdpo.models.hound_processor import HoundProcessor
from isrdpo.models.interface import CheckpointError
from tests.hound_reference import PIECES, SIZE, TOKENIZER, random_frames, resize_by_hand
from tests.miniature import PROCESSOR, VIDEOS, make_model

MEAN_OF_RED = 0.48145466
DEVIATION_OF_RED = 0.26862954


@pytest.fixture(scope="module")
def processor() -> HoundProcessor:
    return HoundProcessor(TOKENIZER, SIZE.frames, SIZE.image, SIZE.video_patch, SIZE.vocab)


@pytest.mark.parametrize("height, width, inner", [(60, 91, (40, 60)), (91, 60, (60, 40)), (20, 20, (40, 40))])
def test_pixels_follow_the_reference_rule(
    processor: HoundProcessor, height: int, width: int, inner: tuple[int, int]
) -> None:
    clip = random_frames(2, height, width)
    red = (clip[..., 0] / 255 - MEAN_OF_RED) / DEVIATION_OF_RED
    top = round((inner[0] - 40) / 2)
    start = round((inner[1] - 40) / 2)
    expected = np.stack([resize_by_hand(frame, *inner)[top : top + 40, start : start + 40] for frame in red])
    pixels = processor.pixels(clip)
    assert pixels.shape == (2, 3, 40, 40)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[:, 0].numpy(), expected, atol=5e-5)


def test_ids_of_a_prompt(processor: HoundProcessor) -> None:
    before = PIECES.encode("a ")
    after = PIECES.encode("\ncat")
    ids = processor.prompt_ids("a <video>\ncat")
    assert ids[: len(before) + 1] == [1, *before]
    assert ids[-len(after) :] == after
    assert after[0] == PIECES.piece_to_id("▁"), "both sides keep their sentencepiece prefix"
    assert ids.count(processor.video_token_id) == processor.video_tokens
    assert len(ids) == 1 + len(before) + processor.video_tokens + len(after)
    assert processor.video_token_id == SIZE.vocab + 1


def test_text_never_forms_special_tokens(processor: HoundProcessor) -> None:
    assert processor.prompt_ids("</s>")[1:] != [2]
    assert processor.video_token_id not in processor.prompt_ids("<image>")


def test_a_prompt_with_two_videos_is_refused(processor: HoundProcessor) -> None:
    with pytest.raises(ValueError, match="one <video> at most, this one 2: '<video> and <video>'"):
        processor.prompt_ids("<video> and <video>")


def test_ids_of_an_answer_and_back(processor: HoundProcessor) -> None:
    assert processor.answer_ids("a cat") == [*PIECES.encode("a cat"), 2]
    assert processor.decode([1, *PIECES.encode("a  cat é"), 2, 0, SIZE.vocab + 1]) == "a  cat é"


def test_the_trainers_tokenizer_has_the_same_vocabulary(processor: HoundProcessor) -> None:
    assert len(processor.tokenizer) == SIZE.vocab
    assert processor.tokenizer.pad_token_id == processor.pad_id == 0
    assert processor.end_ids == [2]


def test_an_encoded_clip_enters_the_model_as_its_pixels_do() -> None:
    model = make_model()
    frames = random_frames(PROCESSOR.frames)
    clip = Clip(frames, np.arange(2.0), "frames", np.arange(2), 2, 1.0)
    encoded = PROCESSOR.encode(model, clip)
    ids = torch.tensor([PROCESSOR.request_ids("What moves?", encoded)])
    collated = PROCESSOR.collate([encoded])
    with torch.no_grad():
        from_features = model(input_ids=ids, **PROCESSOR.inputs(collated, ids)).logits
        from_pixels = model(input_ids=ids, pixel_values_videos=PROCESSOR.pixels(frames)[None]).logits
    assert torch.equal(from_features, from_pixels)


def test_heat_maps_can_be_drawn_on_the_pixels() -> None:
    assert PROCESSOR.explains
    pixels = PROCESSOR.pixels(random_frames(PROCESSOR.frames))
    assert pixels.shape == (PROCESSOR.frames, 3, PROCESSOR.image_size, PROCESSOR.image_size)


def test_encoded_videos_are_stacked() -> None:
    collated = PROCESSOR.collate([VIDEOS["two"], VIDEOS["one"]])
    assert collated.keys() == {"features"}
    assert torch.equal(collated["features"][1], VIDEOS["one"].features)


def test_a_checkpoint_without_its_tokenizer_is_named(tmp_path: Path) -> None:
    PROCESSOR.save(make_model(), tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(
        CheckpointError, match=r"tokenizer.model: no such file; a checkpoint needs its sentencepiece"
    ):
        hound.load(tmp_path)
