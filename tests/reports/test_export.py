"""Exports, checked against what other tools ask of a file (see preference_formats.py), and read back."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isrdpo.core import records, strict_yaml
from isrdpo.core.clips import find_clip
from isrdpo.core.errors import MissingStage, RunError
from isrdpo.core.records import Preference
from isrdpo.core.runs import Run
from isrdpo.reports import export, original_layout, preference_formats
from isrdpo.reports.repository_card import preferences_card
from isrdpo.stages import data
from tests.hub_server import Hub

ROOT = Path(__file__).parents[2]


def mark_done(run: Run, *stages: str) -> None:
    """Mark stages of iteration 1 as done: an export reads nothing of theirs."""
    for name in stages:
        with run.stage(name, 1):
            pass


@pytest.fixture
def judged_run(own_data: Callable, make_run: Callable) -> Run:
    """A run on two clips and a folder of frames, with preferences as stage judge leaves them."""
    from PIL import Image

    folder, names = own_data([])
    frames = folder / "clips" / "deep" / "frames"
    frames.mkdir(parents=True)
    for n in range(3):
        Image.new("RGB", (8, 8), (n * 40, 0, 0)).save(frames / f"c01_{n + 1:04d}.jpeg")
    run = make_run("run", f"data.path={folder}")
    quoted = 'Nothing \\ "quoted" ünï 视频'
    pairs = [
        Preference("a", f"{names[0]}.mp4", "What is “this”?", "A red disc.\nIt moves.", "A square.", 1.5),
        Preference("b", f"{names[1]}.mp4", "And this?", quoted, "A tag </s> in it", None),
        Preference("c", "deep/frames", "Frames?", "Three.", "", -0.25),
        Preference("d", f"{names[0]}.mp4", "Tag?", "it says <video> here", "no", 0.0),
    ]
    mark_done(run, "data", "respond")
    with run.stage("judge", 1) as stage:
        records.write_jsonl(stage.path("preferences.jsonl"), pairs)
    return run


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)


def pairs_of(run: Run) -> list[Preference]:
    return records.read_jsonl(run.file(1, "preferences.jsonl"), Preference)


def llama_factory_faults(row: dict, columns: dict, media_dir: Path) -> Iterator[str]:
    """Faults in a row of sharegpt preference data.

    By data/README.md, converter.py (roles alternate from the user, an odd count) and mm_plugin.py (tags).
    """
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
    whole = " ".join(texts)
    if whole.count("<video>") != len(videos) or "<image>" in whole or "<audio>" in whole:
        yield "number of tags"
    yield from missing_files(videos, media_dir)


def missing_files(media: list[str | list[str]], folder: Path) -> Iterator[str]:
    """A fault for each path, or each frame of a list, that is no file below `folder`."""
    for medium in media:
        for path in medium if isinstance(medium, list) else [medium]:
            if not (folder / path).is_file():
                yield f"{path} is not a file"


def ms_swift_faults(row: dict, media_dir: Path) -> Iterator[str]:
    """Faults in a row by Custom-dataset.md.

    `messages` end with the chosen answer, `rejected_response` is another text, each video has a <video> tag.
    """
    allowed = {"messages", "rejected_response", "label", "images", "videos", "audios", "tools", "objects"}
    if set(row) - allowed:
        yield f"keys {set(row) - allowed}"
    turns = row["messages"]
    rejected = row["rejected_response"]
    if [turn["role"] for turn in turns] != ["user", "assistant"]:
        yield "messages"
    if any(set(turn) != {"role", "content"} for turn in turns):
        yield "messages"
    if not isinstance(rejected, str) or rejected == turns[-1]["content"]:
        yield "rejected_response"
    texts = [*(turn["content"] for turn in turns), rejected]
    if sum(text.count("<video>") for text in texts) != len(row["videos"]):
        yield "number of tags"
    yield from missing_files(row["videos"], media_dir)


@pytest.mark.parametrize("copied", [False, True])
def test_llava_hound_is_read_back_equal(judged_run: Run, copied: bool, tmp_path: Path) -> None:
    sentence = export.export_preferences(judged_run, 1, tmp_path / "out", "llava-hound", copied)
    assert "4 pairs of iteration 1 as llava-hound" in sentence
    for row in records.read_jsonl(tmp_path / "out/preferences.jsonl", dict):
        assert list(row) == ["id", "video", "prompt", "chosen", "rejected"]
        assert row["prompt"].count("<video>") == 1
    samples = list(data.read_source(data.Source(tmp_path / "out/preferences.jsonl"), tmp_path))
    assert [(s.id, s.video, s.question, s.chosen, s.rejected) for s in samples] == [
        (p.id, p.video, p.question, p.chosen, p.rejected) for p in pairs_of(judged_run)
    ]
    root = tmp_path / "out/videos" if copied else judged_run.videos_folder()
    for sample in samples:
        clip = find_clip(root, sample.video)
        original = judged_run.videos_folder() / sample.video
        assert clip.is_dir() or clip.read_bytes() == original.read_bytes()
    assert (tmp_path / "out/videos").exists() == copied


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("form", preference_formats.FORMATS)
def test_every_format_is_read_back_equal(judged_run: Run, form: str, copied: bool, tmp_path: Path) -> None:
    export.export_preferences(judged_run, 1, tmp_path / "out", form, copied)
    file = next(
        path for path in (tmp_path / "out").rglob("*") if path.name.startswith(("preferences", "train-"))
    )
    root = judged_run.videos_folder()
    if copied:
        root = tmp_path / "out" / ("videos" if form == "llava-hound" else "")
    samples = list(data.read_source(data.Source(file), root))
    pairs = pairs_of(judged_run)
    if preference_formats.FORMATS[form].counts_tags:
        pairs = [pair for pair in pairs if not preference_formats.holds_media_tag(pair)]
        assert len({sample.id for sample in samples}) == len(pairs), (
            "ids by content, as these formats have none"
        )
    else:
        assert [sample.id for sample in samples] == [pair.id for pair in pairs]
    assert [(s.question, s.chosen, s.rejected) for s in samples] == [
        (p.question, p.chosen, p.rejected) for p in pairs
    ]
    for sample, pair in zip(samples, pairs, strict=True):
        assert find_clip(root, sample.video).name == Path(pair.video).name


@pytest.mark.parametrize("copied", [False, True])
def test_llama_factory(judged_run: Run, copied: bool, tmp_path: Path) -> None:
    sentence = export.export_preferences(judged_run, 1, tmp_path / "out", "llama-factory", copied)
    assert "3 pairs" in sentence
    assert "1 left out, their text holds a media tag" in sentence
    ((name, info),) = records.read_json(tmp_path / "out/dataset_info.json").items()
    assert re.fullmatch(r"\w+", name)
    assert info["ranking"] is True
    assert info["formatting"] == "sharegpt"
    assert set(info["columns"]) == {"messages", "chosen", "rejected", "videos"}
    rows = records.read_json(tmp_path / "out" / info["file_name"])
    media_dir = tmp_path / "out" if copied else judged_run.videos_folder()
    for row in rows:
        assert list(llama_factory_faults(row, info["columns"], media_dir)) == []
    prefix = "videos/" if copied else ""
    assert rows[2]["videos"] == [[f"{prefix}deep/frames/c01_{n:04d}.jpeg" for n in (1, 2, 3)]]
    for row, pair in zip(rows, pairs_of(judged_run)[:3], strict=True):
        assert row["conversations"][0]["value"].removeprefix("<video>") == pair.question
        assert row["chosen"]["value"] == pair.chosen
        assert row["rejected"]["value"] == pair.rejected
    broken = rows[0] | {"conversations": [{"from": "gpt", "value": "<video><video>"}]}
    faults = list(llama_factory_faults(broken, info["columns"], media_dir))
    assert faults == ["turn 0", "number of tags"], "the validator sees faults"


@pytest.mark.parametrize("copied", [False, True])
def test_ms_swift(judged_run: Run, copied: bool, tmp_path: Path) -> None:
    export.export_preferences(judged_run, 1, tmp_path / "out", "ms-swift", copied)
    rows = records.read_jsonl(tmp_path / "out/preferences.jsonl", dict)
    media_dir = tmp_path / "out" if copied else judged_run.videos_folder()
    for row, pair in zip(rows, pairs_of(judged_run)[:3], strict=True):
        assert list(ms_swift_faults(row, media_dir)) == []
        assert (row["messages"][1]["content"], row["rejected_response"]) == (pair.chosen, pair.rejected)
    faults = list(ms_swift_faults(rows[0] | {"videos": []}, media_dir))
    assert faults == ["number of tags"], "the validator sees faults"


def test_hf_is_a_data_set_that_trl_takes(
    judged_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from huggingface_hub import DatasetCard
    from trl.data_utils import is_conversational

    monkeypatch.setattr(preference_formats, "ROWS_PER_FILE", 3)
    export.export_preferences(judged_run, 1, tmp_path / "out", "hf")
    cache = str(tmp_path / "cache")
    files = sorted((tmp_path / "out/data").iterdir())
    assert [file.name for file in files] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    rows = datasets.load_dataset("parquet", data_files=list(map(str, files)), split="train", cache_dir=cache)
    assert rows.column_names == ["id", "videos", "prompt", "chosen", "rejected", "margin"]
    assert all(is_conversational(row) for row in rows)
    for row, pair in zip(rows, pairs_of(judged_run), strict=True):
        assert (row["id"], row["videos"], row["margin"]) == (pair.id, [pair.video], pair.margin)
        assert row["prompt"] == [{"role": "user", "content": pair.question}]
        assert row["chosen"] == [{"role": "assistant", "content": pair.chosen}]
        assert row["rejected"] == [{"role": "assistant", "content": pair.rejected}]
    whole = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=cache)
    assert len(whole) == 4, "and by the folder, as from the hub"
    card = DatasetCard.load(tmp_path / "out/README.md")
    assert card.data.license == "other"
    assert card.data.configs[0]["data_files"][0]["path"] == "data/train-*.parquet"
    text = (tmp_path / "out/README.md").read_text()
    assert "| pairs | 4 |" in text
    assert "| iteration | 1 of" in text
    assert str(tmp_path) not in text
    assert strict_yaml.parse(text.split("---")[1], "file")["license_name"] == "unspecified"
    assert "The base model answered each question twice; it judged its own answers itself" in text


@pytest.mark.parametrize(
    ("method", "t", "sentence"),
    [
        (
            "score",
            2,
            "The base model, trained for 1 iteration on its own preferences, answered each question twice;",
        ),
        (
            "truth",
            3,
            "trained for 2 iterations on its own preferences, answered each question twice; the known facts",
        ),
        ("random", 1, "a coin decided between them"),
        (
            "given",
            1,
            "The pairs are the data set's own `chosen` and `rejected`: no model answered or judged.",
        ),
    ],
)
def test_a_card_says_who_answered_and_who_judged(
    make_run: Callable, own_data: Callable, method: str, t: int, sentence: str
) -> None:
    folder, _ = own_data([])
    data_path = f"data={folder}" if method == "given" else "data=toybox"
    run = make_run("one", data_path, f"judge.method={method}")
    assert sentence in preferences_card(run, t, [], copied=False)


def test_an_export_is_whole_or_not_there(judged_run: Run, tmp_path: Path) -> None:
    (judged_run.videos_folder() / "deep/frames/c01_0001.jpeg").rename(tmp_path / "away.jpeg")
    for picture in (judged_run.videos_folder() / "deep/frames").iterdir():
        picture.unlink()
    with pytest.raises(OSError, match="deep/frames"):
        export.export_preferences(judged_run, 1, tmp_path / "out", "ms-swift", copy_videos=True)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/other.txt").write_text("other")
    with pytest.raises(RunError, match="something is there already; give a new or empty folder"):
        export.export_preferences(judged_run, 1, tmp_path / "out", "ms-swift")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["other.txt"]


def test_nothing_judged_yet_is_named(judged_run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        MissingStage, match="iteration 2 has no finished preferences; run `isrdpo stage judge"
    ):
        export.export_preferences(judged_run, 2, tmp_path / "out", "hf")
    with pytest.raises(MissingStage, match="the policy of iteration 1 is not trained"):
        export.export_policy(judged_run, 1, tmp_path / "out")


def test_a_push_goes_private_and_needs_a_token(
    judged_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.export_preferences(judged_run, 1, tmp_path / "out", "hf")
    server = Hub({})
    with pytest.raises(RunError, match="no token; set HF_TOKEN in the environment"):
        export.push_folder(tmp_path / "out", "someone/pairs", "dataset", endpoint=server.url)
    assert not server.log
    monkeypatch.setenv("HF_TOKEN", "hf_" + "y" * 30)
    sentence = export.push_folder(tmp_path / "out", "someone/pairs", "dataset", endpoint=server.url)
    assert sentence.startswith("someone/pairs: uploaded")
    (repository,) = server.created
    assert repository["name"] == "pairs"
    assert repository["organization"] == "someone"
    assert repository["type"] == "dataset"
    assert repository.get("private", repository.get("visibility") == "private") is True
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    local = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in files}
    assert server.commits == [local]
    server.shutdown()
    server.server_close()
    with pytest.raises(RunError, match="not a repository's name"):
        export.check_push("only-a-name")


def test_the_command_says_what_it_did_and_refuses_in_one_line(judged_run: Run, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"} | {
        "PYTHONPATH": str(ROOT)
    }
    command = [sys.executable, "-m", "isrdpo", "export", str(judged_run.folder), "--iteration", "1"]
    command += ["--to", str(tmp_path / "out"), "--format", "ms-swift"]

    def run_command(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *more], env=env, capture_output=True, text=True, check=False)  # noqa: S603

    refused = run_command("--push", "someone/pairs")
    assert refused.returncode == 1
    why = "no token; set HF_TOKEN in the environment (one that may write)"
    assert refused.stderr.strip() == f"isrdpo: --push someone/pairs: {why}"
    assert not (tmp_path / "out").exists()
    done = run_command("--copy-videos")
    assert done.returncode == 0, done.stderr
    assert "3 pairs of iteration 1 as ms-swift, videos copied into videos/" in done.stdout


def tensors(folder: Path) -> dict[str, tuple]:
    """The precision, shape and bytes of every tensor in a folder."""
    import torch
    from safetensors import safe_open

    contents = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dictionary)
                tensor = file.get_tensor(key)
                raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                contents[key] = (tensor.dtype, tuple(tensor.shape), raw)
    return contents


def test_a_policy_goes_round_bit_for_bit(random_base: Path, make_run: Callable, tmp_path: Path) -> None:
    import torch

    from isrdpo.models import hound

    run = make_run("trained")
    mark_done(run, "data", "respond", "judge")
    with run.stage("train", 1) as stage:
        model, processor = hound.load(random_base, dtype=torch.float16)
        processor.save(model, stage.path("policy"))
    assert "float16" in export.export_policy(run, 1, tmp_path / "out")
    assert tensors(tmp_path / "out") == tensors(random_base)
    assert len(tensors(random_base)) > 20
    files = ("tokenizer.model", "config.json", "video_tower/config.json")
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (random_base / name).read_bytes(), name
    assert str(tmp_path) not in (tmp_path / "out/README.md").read_text()
    original_layout.write_original_layout(tmp_path / "out", tmp_path / "again")
    assert tensors(tmp_path / "again") == tensors(random_base)


def test_a_policy_with_both_towers_is_named_as_upstream_names_it(random_base: Path, tmp_path: Path) -> None:
    """Both towers, one without its config at the checkpoint, get upstream's names and keep their weights."""
    import torch

    from isrdpo.models import hound
    from isrdpo.models.hound_model import HoundForConditionalGeneration

    video_only, processor = hound.load(random_base, dtype=torch.bfloat16)
    config = video_only.config
    config.image_config = type(config.vision_config)(**config.vision_config.to_dict())
    model = HoundForConditionalGeneration(config).to(torch.bfloat16)
    processor.save(model, tmp_path / "policy")
    assert original_layout.write_original_layout(tmp_path / "policy", tmp_path / "one") == "bfloat16"
    written = json.loads((tmp_path / "one/config.json").read_text())
    assert written["mm_image_tower"] == "LanguageBind/LanguageBind_Image"
    assert written["mm_video_tower"] == "LanguageBind/LanguageBind_Video_merge"
    original_layout.write_original_layout(tmp_path / "one", tmp_path / "two")
    assert tensors(tmp_path / "one") == tensors(tmp_path / "two")
    towers = [f"{written[f'mm_{name}_tower']}/config.json" for name in ("image", "video")]
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json", *towers):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    back, _ = hound.load(tmp_path / "two", dtype=torch.bfloat16)
    for before, after in zip(model.state_dict().values(), back.state_dict().values(), strict=True):
        assert torch.equal(before, after)
    assert back.config.vision_config.num_attention_heads == config.vision_config.num_attention_heads


def test_the_families_are_hounds_own() -> None:
    from isrdpo.models.hound_model import HoundConfig

    assert set(original_layout.MODEL_TYPES) == {"llava_llama", HoundConfig.model_type}


@pytest.mark.parametrize("family", ["llava_onevision", None])
def test_another_family_is_refused_by_name(family: str | None, tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(RunError, match=f"model_type {family!r} is not LLaVA-Hound's"):
        original_layout.write_original_layout(tmp_path / "policy", tmp_path / "out")
