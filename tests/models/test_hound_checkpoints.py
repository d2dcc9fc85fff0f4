"""LLaVA-Hound's checkpoints on disk: both layouts, towers from elsewhere, and faults that are named."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from isrdpo.models import hound, hound_layout
from isrdpo.models.hound_model import HoundForConditionalGeneration
from isrdpo.models.hound_processor import HoundProcessor
from isrdpo.models.interface import CheckpointError
from tests.hound_reference import (
    SIZE,
    TOKENIZER,
    Original,
    Sizes,
    make_original,
    original_shapes,
    random_state,
    write_language_bind,
    write_original,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return make_original(tmp_path_factory.mktemp("original"))


def same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_towers_from_elsewhere(original: Original, tmp_path: Path) -> None:
    towers = {
        f"{name}_tower": write_language_bind(tmp_path / name, SIZE, name, original.stored)
        for name in ("image", "video")
    }
    rest = {key: tensor for key, tensor in original.stored.items() if "_tower." not in key}
    folder = write_original(tmp_path / "hound", SIZE, rest, shards=1)
    model, _ = hound.load(folder, **towers)
    whole, _ = hound.load(original.folder, **original.towers)
    assert same_tensors(model.state_dict(), whole.state_dict())


def test_a_checkpoint_without_a_video_tower_is_named(original: Original, tmp_path: Path) -> None:
    rest = {key: tensor for key, tensor in original.stored.items() if "_tower." not in key}
    folder = write_original(tmp_path / "bare", SIZE, rest, mm_video_tower=None, mm_image_tower=None)
    with pytest.raises(CheckpointError, match=r"bare: no video tower in it; pass video_tower=FOLDER"):
        hound.load(folder)


class Payload:
    """A pickle that makes a folder when it is loaded as code."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("pwned",)


def test_a_pickle_with_code_is_refused(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rest = {key: tensor for key, tensor in original.stored.items() if "video_tower" not in key}
    folder = write_original(tmp_path / "hound", SIZE, rest)
    tower = write_language_bind(tmp_path / "video", SIZE, "video")
    torch.save({"vision_model.x": Payload()}, tower / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: not readable \(UnpicklingError"):
        hound.load(folder, image_tower=original.towers["image_tower"], video_tower=tower)
    assert not (tmp_path / "pwned").exists()


def test_video_only_checkpoint_with_its_tower_config_inside(tmp_path: Path) -> None:
    state = random_state(SIZE, image_tower=False)
    config = {"X": ["Video"], "mm_image_tower": None, "mm_video_tower": "video_tower"}
    folder = write_original(tmp_path / "hound", SIZE, state, **config)
    write_language_bind(folder / "video_tower", SIZE, "video")
    model, _ = hound.load(folder)
    assert model.model.image_tower is None
    assert model.config.vision_config.num_attention_heads == SIZE.tower_heads


LOST_TEMPORAL_TENSORS = {key: None for key in original_shapes(SIZE) if "temporal" in key}


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"model.layers.1.mlp.up_proj.weight": None},
            "1 missing: model.language_model.layers.1.mlp.up_proj.weight",
        ),
        ({"model.extra.weight": (2,)}, "1 unexpected: model.extra.weight"),
        ({"model.norm.weight": (7,)}, "1 of a wrong shape: model.language_model.norm.weight"),
        ({"model.embed_tokens.weight": None}, "missing model.language_model.embed_tokens.weight"),
        (LOST_TEMPORAL_TENSORS, "33 missing: model.video_tower.encoder.layers.0.temporal"),
    ],
)
def test_faulty_keys_are_named(
    original: Original, tmp_path: Path, change: dict[str, tuple | None], message: str
) -> None:
    state = dict(original.stored)
    for key, shape in change.items():
        state.pop(key, None)
        if shape:
            state[key] = torch.zeros(shape)
    folder = write_original(tmp_path / "hound", SIZE, state)
    with pytest.raises(CheckpointError, match=message) as error:
        hound.load(folder, **original.towers)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        hound.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "config, message",
    [
        (
            {"model_type": "llama"},
            "model_type 'llama' is not LLaVA-Hound's \\('llava_llama' or 'llava_hound'\\)",
        ),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear' is not supported, only 'mlp2x_gelu'"),
    ],
)
def test_another_architecture_is_refused(
    original: Original, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    folder = write_original(tmp_path / "hound", SIZE, original.stored, **config)
    with pytest.raises(CheckpointError, match=message):
        hound.load(folder, **original.towers)


def test_a_torn_or_missing_shard_is_named(original: Original, tmp_path: Path) -> None:
    folder = write_original(tmp_path / "torn", SIZE, original.stored)
    shard = next(folder.glob("*-00002-*"))
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=f"{shard.name}: not readable"):
        hound.load(folder, **original.towers)
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name}: not readable"):
        hound.load(folder, **original.towers)


def test_without_language_binds_config_vit_l_is_assumed(original: Original) -> None:
    divides = pytest.raises(CheckpointError, match="16 heads do not divide its width 24")
    with pytest.warns(UserWarning, match="no LanguageBind config at hand"), divides:
        hound.load(original.folder)


def test_round_trips_are_bit_equal(original: Original, tmp_path: Path) -> None:
    model, processor = hound.load(original.folder, **original.towers)
    hound.save_original(model, processor, tmp_path / "original", torch.bfloat16)
    assert same_tensors(load_file(tmp_path / "original" / "model.safetensors"), original.stored)
    processor.save(model, tmp_path / "own")
    for folder in (tmp_path / "original", tmp_path / "own"):
        copy, copied_processor = hound.load(folder)
        copied_processor.save(copy, folder)  # over the very files it was read from
        copy, copied_processor = hound.load(folder)
        assert copied_processor == processor
        differing = {"dtype": None, "_name_or_path": None, "architectures": None}
        assert copy.config.to_dict() | differing == model.config.to_dict() | differing
        assert same_tensors(copy.state_dict(), model.state_dict())


def test_the_stored_precision_holds_every_tensor(original: Original, tmp_path: Path) -> None:
    assert hound.stored_dtype(original.folder) == torch.bfloat16
    state = dict(original.stored)
    state["model.norm.weight"] = state["model.norm.weight"].half()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4, dtype=torch.float64)
    folder = write_original(tmp_path / "mixed", SIZE, state)
    assert hound.stored_dtype(folder) == torch.float32, "of bfloat16 and float16; a buffer is not read"


def test_build_is_fresh_and_follows_the_seed(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower = text | {"num_hidden_layers": 2, "image_size": 24, "patch_size": 12}
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(hound.build(SIZE.vocab, text, tower, frames=3))
    first, same, other = (model.state_dict() for model in models)
    assert same_tensors(first, same)
    assert not same_tensors(first, other)
    (tmp_path / "tokenizer.model").write_bytes(TOKENIZER)
    processor = HoundProcessor.from_tokenizer(tmp_path / "tokenizer.model", 3, 24, 12)
    hound.save_original(models[0], processor, tmp_path / "saved", torch.float32)
    model, loaded_processor = hound.load(tmp_path / "saved")
    assert loaded_processor == processor
    assert model.model.image_tower is None
    assert same_tensors(model.state_dict(), first)


def test_the_released_7b_keys_fit_one_to_one() -> None:
    """ViT-L/14 towers and Vicuna 7B on the meta device: no key is missing or unexpected, 264 are temporal."""
    size = Sizes(
        width=4096,
        layers=32,
        heads=32,
        key_heads=32,
        middle=11008,
        vocab=32000,
        tower=1024,
        tower_layers=24,
        tower_heads=16,
        frames=8,
        image_patch=14,
        video_patch=14,
        image=224,
    )
    stored = {key: torch.empty(shape, device="meta") for key, shape in original_shapes(size).items()}
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.empty(64, device="meta")
    raw = {"num_attention_heads": 32, "num_key_value_heads": 32, "mm_vision_select_layer": -2}
    config, state = hound_layout.read_original(Path("hound"), raw, stored, None, None)
    with torch.device("meta"):
        expected = HoundForConditionalGeneration(config).state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }
    assert sum("temporal" in key for key in expected) == 264
    assert (config.video_seq_length, config.image_seq_length, config.video_token_id) == (2048, 256, 32001)
    assert config.vision_config.hidden_act == "gelu"
    assert config.vision_config.num_attention_heads == 16
