"""LLaVA-Hound checkpoints: a tiny random one in the original layout against a plain-torch reference written here."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from isrdpo.core import prompts
from isrdpo.models import hound
from isrdpo.models.hound_model import HoundForConditionalGeneration

SELECT = -2
QUESTIONS = ["What is moving?", "Describe  the scene,\nthen count: é 12!", " a leading space"]


@dataclass(frozen=True)
class Sizes:
    width: int = 32
    layers: int = 2
    heads: int = 4
    shared_heads: int = 2
    middle: int = 48
    vocab: int = 400
    tower: int = 24
    tower_layers: int = 3
    tower_heads: int = 3
    frames: int = 5
    patch: dict | tuple = (("image", 10), ("video", 8))
    image: int = 40


def shapes(size: Sizes, image_tower: bool = True) -> dict[str, tuple[int, ...]]:
    """Key -> shape in the original layout, written down from the released checkpoints' index."""
    d, m, w = size.width, size.middle, size.tower
    made = {"lm_head.weight": (size.vocab, d), "model.embed_tokens.weight": (size.vocab, d), "model.norm.weight": (d,)}
    made |= {"model.mm_projector.0.weight": (d, w), "model.mm_projector.0.bias": (d,)}
    made |= {"model.mm_projector.2.weight": (d, d), "model.mm_projector.2.bias": (d,)}
    for n in range(size.layers):
        at, shared = f"model.layers.{n}", d // size.heads * size.shared_heads
        made |= {f"{at}.input_layernorm.weight": (d,), f"{at}.post_attention_layernorm.weight": (d,)}
        made |= {f"{at}.self_attn.{p}_proj.weight": (d, d) for p in "qo"}
        made |= {f"{at}.self_attn.{p}_proj.weight": (shared, d) for p in "kv"}
        made |= {f"{at}.mlp.{p}_proj.weight": (m, d) for p in ("gate", "up")} | {f"{at}.mlp.down_proj.weight": (d, m)}
    for name, patch in dict(size.patch).items():
        if name == "video" or image_tower:
            inside = f"model.{name}_tower.{name}_tower."
            made |= {inside + key: shape for key, shape in tower_shapes(size, patch, name == "video").items()}
    return made


def tower_shapes(size: Sizes, patch: int, temporal: bool) -> dict[str, tuple[int, ...]]:
    w = size.tower
    made = {"embeddings.class_embedding": (w,), "embeddings.patch_embedding.weight": (w, 3, patch, patch)}
    made |= {"embeddings.position_embedding.weight": ((size.image // patch) ** 2 + 1, w)}
    norms, linears = ["pre_layrnorm", "post_layernorm"], {}
    for n in range(size.tower_layers):
        at = f"encoder.layers.{n}"
        norms += [f"{at}.layer_norm1", f"{at}.layer_norm2"]
        linears |= {f"{at}.mlp.fc1": (4 * w, w), f"{at}.mlp.fc2": (w, 4 * w)}
        linears |= {f"{at}.self_attn.{p}_proj": (w, w) for p in ("q", "k", "v", "out")}
        if temporal:
            norms += [f"{at}.temporal_layer_norm1"]
            linears |= {f"{at}.temporal_attn.{p}_proj": (w, w) for p in ("q", "k", "v", "out")}
            made[f"{at}.temporal_embedding"] = (1, size.frames, w)
    made |= {f"{name}.{part}": (w,) for name in norms for part in ("weight", "bias")}
    return (
        made | {f"{name}.weight": s for name, s in linears.items()} | {f"{n}.bias": s[:1] for n, s in linears.items()}
    )


def random_state(size: Sizes, image_tower: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes(size, image_tower).items():
        scale = shape[-1] ** -0.5 if len(shape) > 1 and "embed" not in key else 0.5
        state[key] = (key.endswith("norm.weight") or "norm1.w" in key) + scale * torch.randn(shape, generator=generator)
    return {key: tensor.bfloat16() for key, tensor in state.items()}


def language_bind(folder: Path, size: Sizes, name: str, state: dict | None = None) -> Path:
    """A LanguageBind repository: its config, and its weights where `state` is given."""
    folder.mkdir(parents=True, exist_ok=True)
    vision = {"num_attention_heads": size.tower_heads, "hidden_act": "gelu", "image_size": size.image}
    vision |= {"add_time_attn": name == "video", "num_frames": size.frames if name == "video" else 1}
    (folder / "config.json").write_text(json.dumps({"text_config": {}, "vision_config": vision}))
    if state is not None:
        inside = f"model.{name}_tower.{name}_tower."
        tower = {f"vision_model.{k.removeprefix(inside)}": v for k, v in state.items() if k.startswith(inside)}
        tower |= {"vision_model.embeddings.position_ids": torch.arange(4), "logit_scale": torch.tensor(1.0)}
        torch.save(tower | {"text_model.final_layer_norm.weight": torch.ones(3)}, folder / "pytorch_model.bin")
    return folder


def write_checkpoint(folder: Path, size: Sizes, state: dict, shards: int = 3, **config: object) -> Path:
    folder.mkdir(parents=True)
    keys = sorted(state)
    names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    for n, name in enumerate(names):
        save_file({key: state[key] for key in keys[n::shards]}, folder / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: names[n % shards] for n, key in enumerate(keys)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    raw = {"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"], "X": ["Image", "Video"]}
    raw |= {"hidden_size": size.width, "num_attention_heads": size.heads, "num_key_value_heads": size.shared_heads}
    raw |= {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "hidden_act": "silu", "pad_token_id": 0}
    raw |= {"mm_image_tower": "LanguageBind/LanguageBind_Image", "mm_projector_type": "mlp2x_gelu"}
    raw |= {"mm_video_tower": "LanguageBind/LanguageBind_Video_merge", "mm_vision_select_layer": SELECT}
    raw |= {"vocab_size": size.vocab, "max_position_embeddings": 4096, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(raw | config))
    (folder / "tokenizer.model").write_bytes(TOKENIZER)
    return folder


def make_tokenizer() -> bytes:
    import io

    words = (
        prompts.SYSTEM + " USER: ASSISTANT: the red square moves left while a cat, 12 dogs and Björn watch it. "
    ).split()
    lines, model = [" ".join(words[n:] + words[:n]) for n in range(len(words))] * 4, io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=400, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False, character_coverage=1.0, num_threads=1, minloglevel=2, pad_id=-1,
    )  # fmt: skip
    return model.getvalue()


TOKENIZER = make_tokenizer()
SIZE = Sizes(vocab=sentencepiece.SentencePieceProcessor(model_proto=TOKENIZER).vocab_size())


# The reference: LLaVA-Hound's and LanguageBind's rules in plain torch, on the original keys.


def norm(state: dict, key: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"], 1e-5)


def linear(state: dict, key: str, x: torch.Tensor) -> torch.Tensor:
    return x @ state[f"{key}.weight"].T + state.get(f"{key}.bias", torch.zeros(1))


def attend(state: dict, key: str, x: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = (linear(state, f"{key}.{p}_proj", x).unflatten(-1, (heads, -1)).transpose(-2, -3) for p in "qkv")
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return linear(state, f"{key}.out_proj", (weights @ v).transpose(-2, -3).flatten(-2))


def tower_features(state: dict, name: str, pixels: torch.Tensor, size: Sizes) -> torch.Tensor:
    """pixels [T, 3, S, S] of one video, or [1, 3, S, S] -> projected features [tokens, D]."""
    tower = {k.removeprefix(f"model.{name}_tower.{name}_tower."): v for k, v in state.items() if f"{name}_tower" in k}
    kernel = tower["embeddings.patch_embedding.weight"]
    x = F.conv2d(pixels, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([tower["embeddings.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = norm(tower, "pre_layrnorm", x + tower["embeddings.position_embedding.weight"])
    for n in range(size.tower_layers + 1 + SELECT):
        at = f"encoder.layers.{n}"
        if name == "video":
            x = x.transpose(0, 1) + tower[f"{at}.temporal_embedding"]  # [1 + P, T, D]: over time at each place, CLS too
            x = x + attend(tower, f"{at}.temporal_attn", norm(tower, f"{at}.temporal_layer_norm1", x), size.tower_heads)
            x = x.transpose(0, 1)
        x = x + attend(tower, f"{at}.self_attn", norm(tower, f"{at}.layer_norm1", x), size.tower_heads)
        hidden = linear(tower, f"{at}.mlp.fc1", norm(tower, f"{at}.layer_norm2", x))
        x = x + linear(tower, f"{at}.mlp.fc2", hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
    x = linear(state, "model.mm_projector.0", x[:, 1:].flatten(0, 1))
    return linear(state, "model.mm_projector.2", x * 0.5 * (1 + torch.erf(x / math.sqrt(2))))


def rms(state: dict, key: str, x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{key}.weight"]


def turn(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions on [heads, L, d]."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)


def language_logits(state: dict, x: torch.Tensor, size: Sizes) -> torch.Tensor:
    """embeddings [L, D] -> logits [L, vocab]."""
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    for n in range(size.layers):
        at = f"model.layers.{n}"
        y = rms(state, f"{at}.input_layernorm", x)
        q, k, v = (linear(state, f"{at}.self_attn.{p}_proj", y).unflatten(-1, (-1, 8)).transpose(0, 1) for p in "qkv")
        k, v = (t.repeat_interleave(size.heads // size.shared_heads, 0) for t in (k, v))
        weights = (turn(q) @ turn(k).transpose(-1, -2) / math.sqrt(8)).masked_fill(future, -math.inf).softmax(-1)
        x = x + linear(state, f"{at}.self_attn.o_proj", (weights @ v).transpose(0, 1).flatten(1))
        y = rms(state, f"{at}.post_attention_layernorm", x)
        gate, up = (linear(state, f"{at}.mlp.{p}_proj", y) for p in ("gate", "up"))
        x = x + linear(state, f"{at}.mlp.down_proj", gate * gate.sigmoid() * up)
    return linear(state, "lm_head", rms(state, "model.norm", x))


def reference_logits(
    state: dict, prompt: str, answer: list[int], pixels: torch.Tensor | None, size: Sizes
) -> torch.Tensor:
    """Each side of the tag tokenized apart, one BOS, the features spliced in between."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=TOKENIZER)
    tag = next((tag for tag in ("<video>", "<image>") if tag in prompt), "<none>")
    sides = [pieces.encode(side) for side in prompt.split(tag)]
    sides[0], sides[-1] = [1, *sides[0]], sides[-1] + answer if len(sides) > 1 else [1, *sides[-1], *answer]
    parts = [state["model.embed_tokens.weight"][torch.tensor(side)] for side in sides]
    if pixels is not None:
        parts.insert(1, tower_features(state, tag[1:-1], pixels, size))
    return language_logits(state, torch.cat(parts), size)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Checkpoint folder, tower folders (configs alone), state in float32."""
    folder, state = tmp_path_factory.mktemp("original"), random_state(SIZE)
    towers = {f"{name}_tower": language_bind(folder / name, SIZE, name) for name in ("image", "video")}
    write_checkpoint(folder / "hound", SIZE, state)
    return {
        "folder": folder / "hound",
        "towers": towers,
        "state": {k: v.float() for k, v in state.items()},
        "raw": state,
    }


@pytest.fixture(scope="module")
def loaded(original: dict) -> tuple:
    return hound.load(original["folder"], **original["towers"])


def frames(count: int = SIZE.frames, height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def inputs(processor: hound.HoundProcessor, prompt: str, answer: list[int]) -> torch.Tensor:
    return torch.tensor([processor.prompt_ids(prompt) + answer])


@pytest.mark.parametrize("question", QUESTIONS)
def test_video_logits_match_the_reference(original: dict, loaded: tuple, question: str) -> None:
    model, processor = loaded
    pixels, prompt, answer = processor.pixels(frames()), prompts.conversation(question), [3, 4, 30, 2]
    assert processor.video_tokens == SIZE.frames * 25
    with torch.no_grad():
        mine = model(input_ids=inputs(processor, prompt, answer), pixel_values_videos=pixels[None]).logits[0]
    wanted = reference_logits(original["state"], prompt, answer, pixels, SIZE)
    torch.testing.assert_close(mine, wanted, atol=2e-5, rtol=1e-4)


def test_image_and_text_logits_match_the_reference(original: dict, loaded: tuple) -> None:
    model, processor = loaded
    pixels, tagged = (
        processor.image_pixels(frames(1)[0])[None],
        prompts.conversation(QUESTIONS[0]).replace("video", "image"),
    )
    with torch.no_grad():
        mine = model(input_ids=inputs(processor, tagged, []), pixel_values=pixels).logits[0]
        text = model(input_ids=inputs(processor, QUESTIONS[1], [])).logits[0]
    torch.testing.assert_close(
        mine, reference_logits(original["state"], tagged, [], pixels, SIZE), atol=2e-5, rtol=1e-4
    )
    wanted = reference_logits(original["state"], QUESTIONS[1], [], None, SIZE)
    torch.testing.assert_close(text, wanted, atol=2e-5, rtol=1e-4)


def resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear without antialias, pixel centers at halves: [H, W] -> [height, width]."""

    def line(size: int, old: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, old - 1), at - low

    (y0, y1, dy), (x0, x1, dx) = line(height, frame.shape[0]), line(width, frame.shape[1])
    rows = frame[y0] * (1 - dy)[:, None] + frame[y1] * dy[:, None]
    return rows[:, x0] * (1 - dx) + rows[:, x1] * dx


@pytest.mark.parametrize("height, width, inner", [(60, 91, (40, 60)), (91, 60, (60, 40)), (20, 20, (40, 40))])
def test_pixels_follow_the_reference_rule(loaded: tuple, height: int, width: int, inner: tuple[int, int]) -> None:
    clip = frames(2, height, width)
    red = (clip[..., 0] / 255 - 0.48145466) / 0.26862954
    top, left = round((inner[0] - 40) / 2), round((inner[1] - 40) / 2)
    wanted = np.stack([resized(frame, *inner)[top : top + 40, left : left + 40] for frame in red])
    mine = loaded[1].pixels(clip)
    assert mine.shape == (2, 3, 40, 40) and mine.dtype == torch.float32
    np.testing.assert_allclose(mine[:, 0].numpy(), wanted, atol=5e-5)


def test_ids(loaded: tuple) -> None:
    processor, pieces = loaded[1], sentencepiece.SentencePieceProcessor(model_proto=TOKENIZER)
    space = pieces.piece_to_id("▁")
    ids = processor.prompt_ids("a <video>\ncat")
    assert ids[: len(pieces.encode("a ")) + 1] == [1, *pieces.encode("a ")]
    after = ids[len(ids) - len(pieces.encode("\ncat")) :]
    assert after == pieces.encode("\ncat") and after[0] == space  # both sides keep their sentencepiece prefix
    assert ids.count(processor.video_token_id) == processor.video_tokens and processor.video_token_id == SIZE.vocab + 1
    assert processor.prompt_ids("</s>")[1:] != [2]  # text never forms special tokens
    assert processor.answer_ids("a cat") == [*pieces.encode("a cat"), 2]
    assert processor.decode([1, *pieces.encode("a  cat é"), 2, 0, SIZE.vocab + 1]) == "a  cat é"
    assert len(processor.tokenizer) == SIZE.vocab and processor.tokenizer.pad_token_id == processor.pad_id == 0
    with pytest.raises(ValueError, match="one <video> or <image> at most, this one 2"):
        processor.prompt_ids("<video> and <image>")


def test_generate_is_the_same_from_pixels_features_and_in_a_padded_batch(loaded: tuple) -> None:
    model, processor = loaded
    pixels = torch.stack([processor.pixels(frames()), processor.pixels(255 - frames())])
    rows = [processor.prompt_ids(prompts.conversation(q)) for q in QUESTIONS[:2]]
    alone = [
        model.generate(input_ids=torch.tensor([row]), pixel_values_videos=clip[None], max_new_tokens=6)[0, len(row) :]
        for row, clip in zip(rows, pixels, strict=True)
    ]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    features = hound.encode_videos(model, pixels)
    assert features.shape == (2, processor.video_tokens, SIZE.width)
    made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, **hound.video_inputs(features))
    assert [row.tolist() for row in made[:, length:]] == [row.tolist() for row in alone]


def test_branches_that_share_a_video_see_only_their_own(loaded: tuple) -> None:
    """One video prefix, two continuations, a 4D mask and positions: each gives the logits it has alone."""
    model, processor = loaded
    clip = processor.pixels(frames())[None]
    prefix, branches = processor.prompt_ids("<video> what"), ([30, 31, 32], [40, 41])
    part = torch.tensor([0] * len(prefix) + [1] * 3 + [2] * 2)
    mask = torch.ones(len(part), len(part), dtype=torch.bool).tril() & ((part == 0) | (part == part[:, None]))
    places = [*range(len(prefix) + 3), *range(len(prefix), len(prefix) + 2)]
    ids = torch.tensor([prefix + branches[0] + branches[1]])
    for given in (mask[None, None], torch.zeros(1, 1, *mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)):
        with torch.no_grad():
            both = model(
                ids, pixel_values_videos=clip, attention_mask=given, position_ids=torch.tensor([places])
            ).logits[0]
            alone = model(torch.tensor([prefix + branches[1]]), pixel_values_videos=clip).logits[0]
        torch.testing.assert_close(both[-2:], alone[-2:], atol=1e-5, rtol=1e-4)


def test_a_video_is_never_ignored(loaded: tuple) -> None:
    model, processor = loaded
    ids = inputs(processor, "<video>\nwhat?", [])
    with pytest.raises(ValueError, match="video placeholders but no video was given"):
        model(input_ids=ids)
    with pytest.raises(ValueError, match="video placeholders but no video was given"):
        model.generate(input_ids=ids, max_new_tokens=1)
    with pytest.raises(ValueError, match="reads 5 frames a video, got 4"):
        hound.encode_videos(model, torch.zeros(1, 4, 3, 40, 40))
    with pytest.raises(ValueError, match="do not match"):
        model(input_ids=ids, **hound.video_inputs(torch.zeros(1, 7, SIZE.width)))
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[1, SIZE.vocab + 2]]))


def test_gradients_with_and_without_checkpointing(original: dict) -> None:
    model, processor = hound.load(original["folder"], **original["towers"])
    ids, clip, found = inputs(processor, "<video> what", [3, 4, 2]), processor.pixels(frames())[None], []
    for on in (False, True):
        model.train()
        if on:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(input_ids=ids, pixel_values_videos=clip, labels=ids.masked_fill(ids >= SIZE.vocab, -100)).loss.backward()
        layer = model.model.video_tower.encoder.layers[0].temporal_attn.q_proj.weight
        found.append((layer.grad.clone(), model.lm_head.weight.grad.clone()))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][0].abs().max() > 0


def test_peft_keeps_the_video(original: dict) -> None:
    from peft import LoraConfig, get_peft_model

    model, processor = hound.load(original["folder"], **original["towers"])
    clip, ids = processor.pixels(frames())[None], inputs(processor, "<video> what", [30])
    features = hound.encode_videos(model, clip)
    wanted = model(input_ids=ids, **hound.video_inputs(features)).logits
    wrapped = get_peft_model(
        model, LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj", init_lora_weights=False)
    )
    assert torch.equal(hound.encode_videos(wrapped, clip), features)
    changed = wrapped(input_ids=ids, **hound.video_inputs(features)).logits
    assert not torch.allclose(changed, wanted)
    merged = wrapped.merge_and_unload()
    assert isinstance(merged, HoundForConditionalGeneration)
    torch.testing.assert_close(
        merged(input_ids=ids, **hound.video_inputs(features)).logits, changed, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(original: dict, dtype: torch.dtype) -> None:
    model, processor = hound.load(original["folder"], **original["towers"], dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    prompt, clip = prompts.conversation(QUESTIONS[0]), processor.pixels(frames())
    with torch.no_grad():
        mine = model(input_ids=inputs(processor, prompt, []), pixel_values_videos=clip[None]).logits[0].float()
    wanted = reference_logits(original["state"], prompt, [], clip, SIZE)
    assert F.cosine_similarity(mine, wanted).min() > 0.99


def test_towers_from_elsewhere(original: dict, tmp_path: Path) -> None:
    state = original["raw"]
    towers = {f"{name}_tower": language_bind(tmp_path / name, SIZE, name, state) for name in ("image", "video")}
    rest = {key: tensor for key, tensor in state.items() if "_tower." not in key}
    folder = write_checkpoint(tmp_path / "hound", SIZE, rest, shards=1)
    model = hound.load(folder, **towers)[0]
    whole = hound.load(original["folder"], **original["towers"])[0].state_dict()
    assert model.state_dict().keys() == whole.keys()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in model.state_dict().items())
    bare = write_checkpoint(tmp_path / "bare", SIZE, rest, mm_video_tower=None, mm_image_tower=None)
    with pytest.raises(hound.CheckpointError, match=r"bare: no video tower in it; pass video_tower=FOLDER"):
        hound.load(bare)


class Payload:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("pwned",)


def test_a_pickle_with_code_is_refused(original: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rest = {key: tensor for key, tensor in original["raw"].items() if "video_tower" not in key}
    folder, tower = write_checkpoint(tmp_path / "hound", SIZE, rest), language_bind(tmp_path / "video", SIZE, "video")
    torch.save({"vision_model.x": Payload()}, tower / "pytorch_model.bin")
    with pytest.raises(hound.CheckpointError, match=r"pytorch_model.bin: not readable \(UnpicklingError"):
        hound.load(folder, image_tower=original["towers"]["image_tower"], video_tower=tower)
    assert not (tmp_path / "pwned").exists()


def test_video_only_checkpoint_with_its_tower_config_inside(tmp_path: Path) -> None:
    state = random_state(SIZE, image_tower=False)
    folder = write_checkpoint(
        tmp_path / "hound", SIZE, state, X=["Video"], mm_image_tower=None, mm_video_tower="video_tower"
    )
    language_bind(folder / "video_tower", SIZE, "video")
    model, processor = hound.load(folder)
    assert model.model.image_tower is None and model.config.vision_config.num_attention_heads == SIZE.tower_heads
    with pytest.raises(ValueError, match="no image tower"):
        model(input_ids=torch.tensor([processor.prompt_ids("<image>")]), pixel_values=torch.zeros(1, 3, 40, 40))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, "1 missing: model.language_model.layers.1.mlp.up_proj.weight"),
        ({"model.extra.weight": (2,)}, "1 unexpected: model.extra.weight"),
        ({"model.norm.weight": (7,)}, "1 of a wrong shape: model.language_model.norm.weight"),
        ({"model.embed_tokens.weight": None}, "missing model.language_model.embed_tokens.weight"),
        ({k: None for k in shapes(SIZE) if "temporal" in k}, "33 missing: model.video_tower.encoder.layers.0.temporal"),
    ],
)
def test_faulty_keys_are_named(original: dict, tmp_path: Path, change: dict, message: str) -> None:
    state = dict(original["raw"])
    for key, shape in change.items():
        state.pop(key, None)
        state |= {key: torch.zeros(shape)} if shape else {}
    folder = write_checkpoint(tmp_path / "hound", SIZE, state)
    with pytest.raises(hound.CheckpointError, match=message) as error:
        hound.load(folder, **original["towers"])
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_other_faults_are_named(original: dict, tmp_path: Path) -> None:
    with pytest.raises(hound.CheckpointError, match="nowhere: no such folder"):
        hound.load(tmp_path / "nowhere")
    for config, message in (
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"mm_projector_type": "linear"}, "'linear'"),
    ):
        folder = write_checkpoint(tmp_path / message.replace("'", ""), SIZE, original["raw"], **config)
        with pytest.raises(hound.CheckpointError, match=message):
            hound.load(folder, **original["towers"])
    folder = write_checkpoint(tmp_path / "torn", SIZE, original["raw"])
    shard = next(folder.glob("*-00002-*"))
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(hound.CheckpointError, match=f"{shard.name}: not readable"):
        hound.load(folder, **original["towers"])
    shard.unlink()
    with pytest.raises(hound.CheckpointError, match=f"{shard.name}: not readable"):
        hound.load(folder, **original["towers"])
    divides = pytest.raises(hound.CheckpointError, match="16 heads do not divide its width 24")
    with pytest.warns(UserWarning, match="no LanguageBind config at hand"), divides:
        hound.load(original["folder"])


def test_round_trips_are_bit_equal(original: dict, loaded: tuple, tmp_path: Path) -> None:
    model, processor = loaded
    hound.save_original(model, processor, tmp_path / "original", torch.bfloat16)
    written = load_file(tmp_path / "original" / "model.safetensors")
    assert written.keys() == original["raw"].keys()
    assert all(torch.equal(tensor, original["raw"][key]) for key, tensor in written.items())
    hound.save(model, processor, tmp_path / "own")
    for folder in (tmp_path / "original", tmp_path / "own"):
        again, same = hound.load(folder)
        hound.save(again, same, folder)  # over the very files it was read from
        again, same = hound.load(folder)
        assert same == processor
        ours = {"dtype": None, "_name_or_path": None, "architectures": None}
        assert again.config.to_dict() | ours == model.config.to_dict() | ours
        assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_a_trainer_checkpoint_has_the_models_own_keys(loaded: tuple, tmp_path: Path) -> None:
    loaded[0].save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == loaded[0].state_dict().keys()


def test_build_is_fresh_and_follows_the_seed(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(hound.build(SIZE.vocab, text, tower | {"image_size": 24, "patch_size": 12}, 3))
    first, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], same[key]) for key in first) and any(
        not torch.equal(first[k], other[k]) for k in first
    )
    (tmp_path / "tokenizer.model").write_bytes(TOKENIZER)
    processor = hound.HoundProcessor.from_tokenizer(tmp_path / "tokenizer.model", 3, 24, 12)
    hound.save_original(models[0], processor, tmp_path / "made", torch.float32)
    again, read = hound.load(tmp_path / "made")
    assert read == processor and again.model.image_tower is None
    assert all(torch.equal(first[key], tensor) for key, tensor in again.state_dict().items())


def test_the_released_7b_keys_fit_one_to_one() -> None:
    """ViT-L/14 towers and Vicuna 7B on the meta device: nothing missing, nothing unexpected, 264 temporal tensors."""
    size = Sizes(4096, 32, 32, 32, 11008, 32000, 1024, 24, 16, 8, (("image", 14), ("video", 14)), 224)
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes(size).items()}
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.empty(64, device="meta")
    state = hound._renamed(state)
    raw = {"num_attention_heads": 32, "num_key_value_heads": 32, "mm_vision_select_layer": -2}
    config = hound._original_config(Path("hound"), raw, state, {"image": None, "video": None})
    with torch.device("meta"):
        wanted = HoundForConditionalGeneration(config).state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == {key: tensor.shape for key, tensor in wanted.items()}
    assert sum("temporal" in key for key in wanted) == 264
    assert (config.video_seq_length, config.image_seq_length, config.video_token_id) == (2048, 256, 32001)
    assert config.vision_config.hidden_act == "gelu" and config.vision_config.num_attention_heads == 16
