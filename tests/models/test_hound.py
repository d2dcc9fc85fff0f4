"""LLaVA-Hound's model: a tiny random checkpoint in the original layout against a plain-torch reference."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from isrdpo.core import prompts
from isrdpo.models import hound
from isrdpo.models.hound_model import HoundForConditionalGeneration
from isrdpo.models.hound_processor import HoundProcessor, video_inputs
from tests import hound_adapter
from tests.hound_reference import QUESTIONS, SIZE, Original, make_original, random_frames, reference_logits

Loaded = tuple[HoundForConditionalGeneration, HoundProcessor]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return make_original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def loaded(original: Original) -> Loaded:
    return hound.load(original.folder, **original.towers)


def ids_of(processor: HoundProcessor, prompt: str, answer: list[int] | None = None) -> torch.Tensor:
    return torch.tensor([processor.prompt_ids(prompt) + (answer or [])])


def features_of(model: HoundForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.model.get_video_features(pixels).pooler_output


@pytest.mark.parametrize("question", QUESTIONS)
def test_video_logits_match_the_reference(original: Original, loaded: Loaded, question: str) -> None:
    model, processor = loaded
    pixels = processor.pixels(random_frames())
    prompt = prompts.conversation(question)
    answer = [3, 4, 30, 2]
    assert processor.video_tokens == SIZE.frames * 25
    with torch.no_grad():
        output = model(input_ids=ids_of(processor, prompt, answer), pixel_values_videos=pixels[None])
    expected = reference_logits(original.state, prompt, answer, pixels)
    torch.testing.assert_close(output.logits[0], expected, atol=2e-5, rtol=1e-4)


def test_text_logits_match_the_reference(original: Original, loaded: Loaded) -> None:
    model, processor = loaded
    with torch.no_grad():
        logits = model(input_ids=ids_of(processor, QUESTIONS[1])).logits[0]
    torch.testing.assert_close(logits, reference_logits(original.state, QUESTIONS[1]), atol=2e-5, rtol=1e-4)


def test_image_logits_match_the_reference(original: Original, loaded: Loaded) -> None:
    """Nothing asks about images, but a checkpoint is saved with its image tower, so it must be right."""
    model, processor = loaded
    pixels = hound_adapter.image_pixels(random_frames(1)[0], SIZE.image)[None]
    prompt = prompts.conversation(QUESTIONS[0])
    ids = hound_adapter.collapse(processor.prompt_ids(prompt), model.config, hound_adapter.IMAGE)
    ids = hound_adapter.expand(ids, model.config)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0]
    expected = reference_logits(original.state, prompt.replace("video", "image"), pixels=pixels)
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)


def test_generate_is_the_same_from_pixels_features_and_in_a_padded_batch(loaded: Loaded) -> None:
    model, processor = loaded
    pixels = torch.stack([processor.pixels(random_frames()), processor.pixels(255 - random_frames())])
    rows = [processor.prompt_ids(prompts.conversation(question)) for question in QUESTIONS[:2]]
    alone = []
    for row, clip in zip(rows, pixels, strict=True):
        ids = torch.tensor([row])
        alone.append(
            model.generate(input_ids=ids, pixel_values_videos=clip[None], max_new_tokens=6)[0, len(row) :]
        )
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    features = features_of(model, pixels)
    assert features.shape == (2, processor.video_tokens, SIZE.width)
    together = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, **video_inputs(features))
    assert [row.tolist() for row in together[:, length:]] == [row.tolist() for row in alone]


def test_branches_that_share_a_video_see_only_their_own(loaded: Loaded) -> None:
    """One video prefix, two continuations, a 4D mask and positions: each gives the logits it has alone."""
    model, processor = loaded
    clip = processor.pixels(random_frames())[None]
    prefix = processor.prompt_ids("<video> what")
    first = [30, 31, 32]
    second = [40, 41]
    part = torch.tensor([0] * len(prefix) + [1] * len(first) + [2] * len(second))
    can_see = (part == 0) | (part == part[:, None])
    mask = torch.ones(len(part), len(part), dtype=torch.bool).tril() & can_see
    start = len(prefix)
    positions = torch.tensor([[*range(start + len(first)), *range(start, start + len(second))]])
    ids = torch.tensor([prefix + first + second])
    added = torch.zeros(1, 1, *mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    with torch.no_grad():
        alone = model(torch.tensor([prefix + second]), pixel_values_videos=clip).logits[0]
    for attention_mask in (mask[None, None], added):
        with torch.no_grad():
            both = model(ids, pixel_values_videos=clip, attention_mask=attention_mask, position_ids=positions)
        torch.testing.assert_close(both.logits[0, -2:], alone[-2:], atol=1e-5, rtol=1e-4)


def test_a_video_is_never_ignored(loaded: Loaded) -> None:
    model, processor = loaded
    ids = ids_of(processor, "<video>\nwhat?")
    with pytest.raises(ValueError, match="video placeholders but no video was given"):
        model(input_ids=ids)
    with pytest.raises(ValueError, match="video placeholders but no video was given"):
        model.generate(input_ids=ids, max_new_tokens=1)
    with pytest.raises(ValueError, match="reads 5 frames a video, got 4"):
        model(input_ids=ids, pixel_values_videos=torch.zeros(1, 4, 3, 40, 40))
    with pytest.raises(ValueError, match="do not match"):
        model(input_ids=ids, **video_inputs(torch.zeros(1, 7, SIZE.width)))
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[1, SIZE.vocab + 2]]))


def test_gradients_with_and_without_checkpointing(original: Original) -> None:
    model, processor = hound.load(original.folder, **original.towers)
    ids = ids_of(processor, "<video> what", [3, 4, 2])
    labels = ids.masked_fill(ids >= SIZE.vocab, -100)
    clip = processor.pixels(random_frames())[None]
    tower_layer = model.model.video_tower.encoder.layers[0]
    gradients = []
    for checkpointing in (False, True):
        model.train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(input_ids=ids, pixel_values_videos=clip, labels=labels).loss.backward()
        tower = tower_layer.temporal_attn.q_proj.weight.grad.clone()
        gradients.append((tower, model.lm_head.weight.grad.clone()))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0][0].abs().max() > 0


def test_peft_keeps_the_video(original: Original) -> None:
    model, processor = hound.load(original.folder, **original.towers)
    clip = processor.pixels(random_frames())[None]
    ids = ids_of(processor, "<video> what", [30])
    features = features_of(model, clip)
    before = model(input_ids=ids, **video_inputs(features)).logits
    adapter = LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj", init_lora_weights=False)
    wrapped = get_peft_model(model, adapter)
    assert torch.equal(features_of(wrapped.get_base_model(), clip), features)
    changed = wrapped(input_ids=ids, **video_inputs(features)).logits
    assert not torch.allclose(changed, before)
    merged = wrapped.merge_and_unload()
    assert isinstance(merged, HoundForConditionalGeneration)
    logits = merged(input_ids=ids, **video_inputs(features)).logits
    torch.testing.assert_close(logits, changed, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(original: Original, dtype: torch.dtype) -> None:
    model, processor = hound.load(original.folder, **original.towers, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    prompt = prompts.conversation(QUESTIONS[0])
    clip = processor.pixels(random_frames())
    with torch.no_grad():
        logits = model(input_ids=ids_of(processor, prompt), pixel_values_videos=clip[None]).logits[0].float()
    expected = reference_logits(original.state, prompt, pixels=clip)
    assert F.cosine_similarity(logits, expected).min() > 0.99


def test_a_trainer_checkpoint_has_the_models_own_keys(loaded: Loaded, tmp_path: Path) -> None:
    model, _ = loaded
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
