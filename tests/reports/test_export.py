"""Exports, checked against what the other tools' documentation and code ask of a file (sources in isrdpo/export.py), and read back."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from isrdpo.core import records
from isrdpo.core.clips import find_clip
from isrdpo.core.errors import MissingStage, RunError
from isrdpo.core.records import Preference
from isrdpo.core.runs import Run
from isrdpo.reports import export
from isrdpo.stages import data
from tests.hub_server import Hub

ROOT = Path(__file__).parents[2]
FORMATS = ("llava-hound", "hf", "llama-factory", "ms-swift")


def reach(run: Run, *stages: str) -> None:
    """Marks stages of iteration 1 as done: an export reads nothing of theirs."""
    for name in stages:
        with run.stage(name, 1):
            pass


@pytest.fixture
def judged(own_data: Callable, make_run: Callable) -> Run:
    """A run on two clips and a folder of frames, with preferences as stage judge leaves them."""
    from PIL import Image

    folder, names = own_data([])
    frames = folder / "clips" / "deep" / "frames"
    frames.mkdir(parents=True)
    for n in range(3):
        Image.new("RGB", (8, 8), (n * 40, 0, 0)).save(frames / f"c01_{n + 1:04d}.jpeg")
    run = make_run("run", f"data.path={folder}")
    pairs = [
        Preference("a", f"{names[0]}.mp4", "What is “this”?", "A red disc.\nIt moves.", "A square.", 1.5),
        Preference("b", f"{names[1]}.mp4", "And this?", "Nothing \\ \"quoted\" ünï 视频", "A tag </s> in it", None),
        Preference("c", "deep/frames", "Frames?", "Three.", "", -0.25),
        Preference("d", f"{names[0]}.mp4", "Tag?", "it says <video> here", "no", 0.0),
    ]  # fmt: skip
    reach(run, "data", "respond")
    with run.stage("judge", 1) as stage:
        records.write_jsonl(stage.path("preferences.jsonl"), pairs)
    return run


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)


def pairs_of(run: Run) -> list[Preference]:
    return records.read_jsonl(run.file(1, "preferences.jsonl"), Preference)


def llama_factory_faults(row: dict, columns: dict, media_dir: Path) -> Iterator[str]:
    """data/README.md (sharegpt preference data), converter.py (roles alternate from the user, an odd count of turns), mm_plugin.py (tags)."""
    turns = row[columns["messages"]]
    if len(turns) % 2 != 1:
        yield "ranking data end with the user's turn"
    for n, turn in enumerate(turns):
        if turn["from"] != ("gpt" if n % 2 else "human") or not isinstance(turn["value"], str):
            yield f"turn {n}"
    for name in ("chosen", "rejected"):
        answer = row[columns[name]]
        if answer["from"] != "gpt" or not isinstance(answer["value"], str):
            yield name
    videos = row[columns["videos"]]
    texts = [turn["value"] for turn in (*turns, row["chosen"], row["rejected"])]
    if sum(text.count("<video>") for text in texts) != len(videos) or any("<image>" in text or "<audio>" in text for text in texts):
        yield "number of tags"
    for medium in videos:
        for path in medium if isinstance(medium, list) else [medium]:
            if not (media_dir / path).is_file():
                yield f"{path} is not a file"


def ms_swift_faults(row: dict, media_dir: Path) -> Iterator[str]:
    """Custom-dataset.md: `messages` with the chosen answer last, `rejected_response` another text, a <video> tag for each of `videos`."""
    allowed = {"messages", "rejected_response", "label", "images", "videos", "audios", "tools", "objects"}
    if set(row) - allowed:
        yield f"keys {set(row) - allowed}"
    if [turn["role"] for turn in row["messages"]] != ["user", "assistant"] or any(set(turn) != {"role", "content"} for turn in row["messages"]):
        yield "messages"
    if not isinstance(row["rejected_response"], str) or row["rejected_response"] == row["messages"][-1]["content"]:
        yield "rejected_response"
    if sum(turn["content"].count("<video>") for turn in row["messages"]) + row["rejected_response"].count("<video>") != len(row["videos"]):
        yield "number of tags"
    for medium in row["videos"]:
        for path in medium if isinstance(medium, list) else [medium]:
            if not (media_dir / path).is_file():
                yield f"{path} is not a file"


@pytest.mark.parametrize("copied", [False, True])
def test_llava_hound_is_read_back_equal(judged: Run, copied: bool, tmp_path: Path) -> None:
    said = export.preferences(judged, 1, tmp_path / "out", "llava-hound", copied)
    assert "4 pairs of iteration 1 as llava-hound" in said
    raw = [json.loads(line) for line in (tmp_path / "out/preferences.jsonl").read_text().splitlines()]
    assert all(list(row) == ["id", "video", "prompt", "chosen", "rejected"] and row["prompt"].count("<video>") == 1 for row in raw)
    back = list(data.read_rows(data.Source(tmp_path / "out/preferences.jsonl"), tmp_path))
    assert [(r.id, r.video, r.question, r.chosen, r.rejected) for r in back] == [(p.id, p.video, p.question, p.chosen, p.rejected) for p in pairs_of(judged)]
    root = tmp_path / "out/videos" if copied else judged.videos_folder()
    for row in back:
        found = find_clip(root, row.video)
        original = judged.videos_folder() / row.video
        assert found.is_dir() or found.read_bytes() == original.read_bytes()
    assert (tmp_path / "out/videos").exists() == copied


@pytest.mark.parametrize("copied", [False, True])
def test_llama_factory(judged: Run, copied: bool, tmp_path: Path) -> None:
    said = export.preferences(judged, 1, tmp_path / "out", "llama-factory", copied)
    assert "3 pairs" in said and "1 left out, their text holds a media tag" in said
    (name, info), = json.loads((tmp_path / "out/dataset_info.json").read_text()).items()
    assert re.fullmatch(r"\w+", name) and info["ranking"] is True and info["formatting"] == "sharegpt"
    assert set(info["columns"]) == {"messages", "chosen", "rejected", "videos"}
    rows = json.loads((tmp_path / "out" / info["file_name"]).read_text())
    media_dir = tmp_path / "out" if copied else judged.videos_folder()
    assert not [fault for row in rows for fault in llama_factory_faults(row, info["columns"], media_dir)]
    prefix = "videos/" if copied else ""
    assert rows[2]["videos"] == [[f"{prefix}deep/frames/c01_{n:04d}.jpeg" for n in (1, 2, 3)]]
    wanted = [(p.question, p.chosen, p.rejected) for p in pairs_of(judged)[:3]]
    assert [(r["conversations"][0]["value"].removeprefix("<video>"), r["chosen"]["value"], r["rejected"]["value"]) for r in rows] == wanted
    broken = rows[0] | {"conversations": [{"from": "gpt", "value": "<video><video>"}]}
    assert list(llama_factory_faults(broken, info["columns"], media_dir)) == ["turn 0", "number of tags"], "the validator sees faults"


@pytest.mark.parametrize("copied", [False, True])
def test_ms_swift(judged: Run, copied: bool, tmp_path: Path) -> None:
    export.preferences(judged, 1, tmp_path / "out", "ms-swift", copied)
    rows = [json.loads(line) for line in (tmp_path / "out/preferences.jsonl").read_text().splitlines()]
    media_dir = tmp_path / "out" if copied else judged.videos_folder()
    assert len(rows) == 3 and not [fault for row in rows for fault in ms_swift_faults(row, media_dir)]
    assert [(r["messages"][1]["content"], r["rejected_response"]) for r in rows] == [(p.chosen, p.rejected) for p in pairs_of(judged)[:3]]
    assert list(ms_swift_faults(rows[0] | {"videos": []}, media_dir)) == ["number of tags"], "the validator sees faults"


def test_hf_is_a_data_set_that_trl_takes(judged: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from huggingface_hub import DatasetCard
    from trl.data_utils import is_conversational

    monkeypatch.setattr(export, "SHARD", 3)
    export.preferences(judged, 1, tmp_path / "out", "hf")
    cache = str(tmp_path / "cache")
    found = datasets.load_dataset("parquet", data_files=str(tmp_path / "out/data/train-*.parquet"), split="train", cache_dir=cache)
    assert found.column_names == ["id", "videos", "prompt", "chosen", "rejected", "margin"]
    assert sorted(p.name for p in (tmp_path / "out/data").iterdir()) == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert all(is_conversational(row) for row in found)
    back = [(r["id"], *r["videos"], r["prompt"][0]["content"], r["chosen"][0]["content"], r["rejected"][0]["content"], r["margin"]) for r in found]
    assert back == [(p.id, p.video, p.question, p.chosen, p.rejected, p.margin) for p in pairs_of(judged)]
    assert {(r["prompt"][-1]["role"], r["chosen"][-1]["role"], r["rejected"][-1]["role"]) for r in found} == {("user", "assistant", "assistant")}
    card = DatasetCard.load(tmp_path / "out/README.md")
    assert card.data.license == "other" and card.data.configs[0]["data_files"][0]["path"] == "data/train-*.parquet"
    text = (tmp_path / "out/README.md").read_text()
    assert "| pairs | 4 |" in text and "| iteration | 1 of" in text and str(tmp_path) not in text and yaml.safe_load(text.split("---")[1])["license_name"] == "unspecified"
    assert "The base model answered each question twice; it judged its own answers itself" in text
    whole = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=cache)
    assert len(whole) == 4, "and by the folder, as from the hub"


def test_an_export_is_whole_or_not_there(judged: Run, tmp_path: Path) -> None:
    (judged.videos_folder() / "deep/frames/c01_0001.jpeg").rename(tmp_path / "away.jpeg")
    for picture in (judged.videos_folder() / "deep/frames").iterdir():
        picture.unlink()
    with pytest.raises(OSError, match="deep/frames"):
        export.preferences(judged, 1, tmp_path / "out", "ms-swift", copy_videos=True)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(RunError, match="something is there already; give a new or empty folder"):
        export.preferences(judged, 1, tmp_path / "out", "ms-swift")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_nothing_judged_yet_is_named(judged: Run, tmp_path: Path) -> None:
    with pytest.raises(MissingStage, match="iteration 2 has no finished preferences; run `isrdpo stage judge"):
        export.preferences(judged, 2, tmp_path / "out", "hf")
    with pytest.raises(MissingStage, match="the policy of iteration 1 is not trained"):
        export.policy(judged, 1, tmp_path / "out")


def test_a_push_goes_private_and_needs_a_token(judged: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export.preferences(judged, 1, tmp_path / "out", "hf")
    server = Hub({})
    with pytest.raises(RunError, match="no token; set HF_TOKEN in the environment"):
        export.push(tmp_path / "out", "someone/pairs", "dataset", endpoint=server.url)
    assert not server.log
    monkeypatch.setenv("HF_TOKEN", "hf_" + "y" * 30)
    assert export.push(tmp_path / "out", "someone/pairs", "dataset", endpoint=server.url).startswith("someone/pairs: uploaded")
    made, = server.created
    assert (made["name"], made["organization"], made["type"]) == ("pairs", "someone", "dataset")
    assert made.get("private", made.get("visibility") == "private") is True
    local = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert server.commits == [local]
    server.shutdown()
    server.server_close()
    with pytest.raises(RunError, match="not a repository's name"):
        export.may_push("only-a-name")


def test_the_command_says_what_it_did_and_refuses_in_one_line(judged: Run, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"} | {"PYTHONPATH": str(ROOT)}

    def said(*more: str) -> subprocess.CompletedProcess:
        line = [sys.executable, "-m", "isrdpo", "export", str(judged.folder), "--iteration", "1", "--to", str(tmp_path / "out"), *more]
        return subprocess.run(line, env=env, capture_output=True, text=True, check=False)  # noqa: S603

    refused = said("--format", "ms-swift", "--push", "someone/pairs")
    assert refused.returncode == 1 and refused.stderr.strip() == "isrdpo: --push someone/pairs: no token; set HF_TOKEN in the environment (one that may write)"
    assert not (tmp_path / "out").exists()
    done = said("--format", "ms-swift", "--copy-videos")
    assert done.returncode == 0 and "3 pairs of iteration 1 as ms-swift, videos copied into videos/" in done.stdout, done.stderr


def tensors(folder: Path) -> dict[str, tuple]:
    import torch
    from safetensors import safe_open

    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dictionary)
                tensor = file.get_tensor(key)
                found[key] = (tensor.dtype, tuple(tensor.shape), tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found


def test_a_policy_goes_round_bit_for_bit(random_base: Path, make_run: Callable, tmp_path: Path) -> None:
    import torch

    from isrdpo.models import hound

    run = make_run("trained")
    reach(run, "data", "respond", "judge")
    with run.stage("train", 1) as stage:
        model, processor = hound.load(random_base, dtype=torch.float16)
        hound.save(model, processor, stage.path("policy"))
    assert "float16" in export.policy(run, 1, tmp_path / "out")
    assert tensors(tmp_path / "out") == tensors(random_base) and len(tensors(random_base)) > 20
    files = ("tokenizer.model", "config.json", "video_tower/config.json")
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (random_base / name).read_bytes(), name
    assert str(tmp_path) not in (tmp_path / "out/README.md").read_text()
    export.original(tmp_path / "out", tmp_path / "again")
    assert tensors(tmp_path / "again") == tensors(random_base)


def test_a_policy_with_both_towers_is_named_as_upstream_names_it(random_base: Path, tmp_path: Path) -> None:
    """Both towers, one without its config at the checkpoint: the names that LLaVA-Hound's loader asks for, and the same weights again."""
    import dataclasses

    import torch

    from isrdpo.models import hound
    from isrdpo.models.hound_model import HoundForConditionalGeneration

    video_only, processor = hound.load(random_base, dtype=torch.bfloat16)
    config = video_only.config
    config.image_config = type(config.vision_config)(**config.vision_config.to_dict())
    model = HoundForConditionalGeneration(config).to(torch.bfloat16)
    hound.save(model, dataclasses.replace(processor), tmp_path / "policy")
    assert export.original(tmp_path / "policy", tmp_path / "one") == "bfloat16"
    written = json.loads((tmp_path / "one/config.json").read_text())
    assert (written["mm_image_tower"], written["mm_video_tower"]) == ("LanguageBind/LanguageBind_Image", "LanguageBind/LanguageBind_Video_merge")
    export.original(tmp_path / "one", tmp_path / "two")
    assert tensors(tmp_path / "one") == tensors(tmp_path / "two")
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json", *(f"{written[f'mm_{n}_tower']}/config.json" for n in ("image", "video"))):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    back, _ = hound.load(tmp_path / "two", dtype=torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), back.state_dict().values(), strict=True))
    assert back.config.vision_config.num_attention_heads == config.vision_config.num_attention_heads


def test_the_families_are_hounds_own() -> None:
    from isrdpo.models.hound_model import HoundConfig

    assert set(export.FAMILY) == {"llava_llama", HoundConfig.model_type}


@pytest.mark.parametrize("family", ["llava_onevision", None])
def test_another_family_is_refused_by_name(family: str | None, tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(RunError, match=f"model_type {family!r} is not LLaVA-Hound's"):
        export.original(tmp_path / "policy", tmp_path / "out")
