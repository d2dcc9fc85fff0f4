"""Checkpoints from strangers: nothing of them is run, and what is wrong with one is said in one line."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from isrdpo.core.folders import PACKAGE, TOYBOX_BASE
from isrdpo.formats.video import Clip
from isrdpo.models import auto
from isrdpo.models.families import load_checkpoint
from isrdpo.models.interface import CheckpointError, LoadOptions
from tests import families

OPTIONS = LoadOptions(dtype=torch.float32, device="cpu", frames=4)
CONFIG = json.loads((TOYBOX_BASE / "config.json").read_text())
LOADERS = {"from_pretrained", "get_config_dict"}
OWN_FOLDER = {"PeftModel"}  # reads an adapter that this process has just written


def copy_of_base(folder: Path) -> Path:
    return Path(shutil.copytree(TOYBOX_BASE, folder / "base"))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(folder), OPTIONS)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


# No code, no pickles


def test_every_load_refuses_the_checkpoints_own_code() -> None:
    loads = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in LOADERS:
                loads.append((path.name, node))
    assert len(loads) >= 7
    for name, node in loads:
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        owner = ast.unparse(node.func).split(".")[0]
        assert owner in OWN_FOLDER or keywords.get("trust_remote_code") == "False", (
            f"{name}: {ast.unparse(node)}"
        )


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_code_of_a_checkpoint_is_not_run_wherever_it_is_offered(file: str, tmp_path: Path) -> None:
    folder = families.write("llava_onevision", tmp_path / "model")
    offers = {"AutoConfig": "evil.C", "AutoModelForImageTextToText": "evil.M", "AutoProcessor": "evil.P"}
    path = folder / file
    content = json.loads(path.read_text()) if path.exists() else {}
    changes: dict[str, Any] = {"auto_map": offers | {"AutoTokenizer": ["evil.T", None]}}
    if file == "config.json":
        changes["model_type"] = "evil"
    path.write_text(json.dumps(content | changes))
    (folder / "evil.py").write_text(f'open({str(tmp_path / "PWNED")!r}, "w")\n')
    try:
        load_checkpoint(str(folder), OPTIONS)
    except CheckpointError as error:
        assert "\n" not in str(error)
    assert not (tmp_path / "PWNED").exists()


def test_a_pickle_is_not_opened_by_transformers_families(tmp_path: Path) -> None:
    folder = families.write("llava_onevision", tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert "safetensors" in refusal(folder)


# Damaged folders


def test_layers_that_the_config_leaves_out_are_not_dropped(tmp_path: Path) -> None:
    folder = families.write("qwen3_vl", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 1
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert "config.json has no place for" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers='1000000000' is not a number from 1 to 2,000"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"num_attention_heads": 0}, "num_attention_heads='0'"),
        ({"hidden_size": "large"}, "hidden_size='large'"),
        ({"num_attention_heads": 3}, "base"),
        ({"hidden_act": "nope"}, "nope"),
        ({"_attn_implementation": "kernels/evil"}, "'kernels/evil' would fetch code from the hub"),
    ],
)
def test_impossible_sizes_are_named_before_anything_is_built(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = copy_of_base(tmp_path)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    assert words in refusal(folder)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("config.json", "[]", "config.json"),
        ("config.json", "[" * 100_000, "config.json"),
        ("model.safetensors.index.json", "[]", "no weight_map in it"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 5}}', "'5' is not the name of a file"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../x"}}', "'../x' is not the name of a file"),
        ("tokenizer.model", "hello", "not a sentencepiece model"),
        ("video_tower/config.json", '{"vision_config": []}', "base"),
    ],
)
def test_a_damaged_file_is_named(file: str, text: str, words: str, tmp_path: Path) -> None:
    folder = copy_of_base(tmp_path)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(text)
    assert words in refusal(folder)


def edit_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        state = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


@pytest.mark.parametrize("family", ["hound", "qwen3_vl"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(family: str, value: float, tmp_path: Path) -> None:
    folder = copy_of_base(tmp_path) if family == "hound" else families.write(family, tmp_path / "model")

    def spoil(state: dict[str, torch.Tensor]) -> None:
        name = next(name for name in sorted(state) if "language_model" in name or "embed_tokens" in name)
        state[name].view(-1)[-1] = value

    edit_weights(spoil)(folder)
    assert "1 of " in refusal(folder)
    assert "not finite" in refusal(folder)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(CONFIG)),
    value=st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**15), 10**15),
        st.floats(),
        st.text(max_size=5),
        st.lists(st.integers(), max_size=2),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    ),
)
def test_any_value_in_config_json_is_refused_in_one_line_or_loads(
    name: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mutated") / "base"
    folder.mkdir()
    for path in TOYBOX_BASE.iterdir():
        if path.is_file() and path.name != "config.json":
            (folder / path.name).symlink_to(path)
        elif path.is_dir():
            shutil.copytree(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(CONFIG | {name: value}))
    try:
        load_checkpoint(str(folder), OPTIONS)
    except CheckpointError as error:
        assert "\n" not in str(error)


# Times in prompts


def clip_at(times: list[float], indices: list[int], rate: float) -> Clip:
    frames = np.random.default_rng(0).integers(0, 255, (len(times), 48, 64, 3), dtype=np.uint8)
    return Clip(frames, np.array(times), "pyav", np.array(indices), indices[-1] + 1, rate)


def text_of(folder: Path, clip: Clip) -> str:
    model, processor = auto.load(str(folder), frames=len(clip.times), dtype=torch.float32, device="cpu")
    return processor.encode(model, clip).text


def test_qwen3_vl_is_told_the_frames_own_times(tmp_path: Path) -> None:
    folder = families.write("qwen3_vl", tmp_path / "model")
    uneven = clip_at([0.0, 0.2, 4.0, 9.0], [0, 6, 20, 39], 4.3)
    assert [text for text in ("<0.1 seconds>", "<6.5 seconds>") if text in text_of(folder, uneven)] == [
        "<0.1 seconds>",
        "<6.5 seconds>",
    ]
    even = clip_at([0.0, 1.0, 2.0, 3.0], [0, 4, 8, 12], 4.0)
    assert "<0.5 seconds>" in text_of(folder, even)
    assert "<2.5 seconds>" in text_of(folder, even)


def test_smolvlm_is_told_the_frames_own_times(tmp_path: Path) -> None:
    folder = families.write("smolvlm", tmp_path / "model")
    uneven = text_of(folder, clip_at([0.0, 1.2, 62.0, 70.0], [0, 6, 20, 39], 4.3))
    assert [time for time in ("00:00", "00:01", "01:02", "01:10") if time not in uneven] == []
