"""`isrdpo check`: it sees what the stages will count, without opening a model."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from isrdpo import checks
from isrdpo.core import params, records, runs
from isrdpo.formats import video
from isrdpo.stages import data

ROOT = Path(__file__).parent.parent
PRESET = ROOT / "params" / "toybox.yaml"
GOOD = {"id": "a", "video": "{0}", "prompt": "What?", "chosen": "A red circle.", "rejected": "Nothing."}


def inspect(folder: Path, *overrides: str) -> tuple[list[str], str]:
    lines, problems = checks.inspect(params.load(PRESET, [f"data={folder}", *overrides]))
    return lines, "\n".join(problems)


def counts_by_cause(lines: list[str]) -> dict[str, int]:
    """The bad rows by cause, as the lines say them."""
    counts = {}
    for line in lines:
        if line.startswith("bad:"):
            _, count, cause = line.split(";")[0].split(" ", 2)
            counts[cause] = int(count)
    return counts


def test_it_counts_what_the_stage_will_and_loads_nothing_heavy(own_data: Callable, tmp_path: Path) -> None:
    missing = GOOD | {"id": "gone", "video": "nowhere"}
    silent = GOOD | {"id": "silent", "prompt": ""}
    torn = GOOD | {"id": "torn", "video": "torn.mp4"}
    folder, _ = own_data([GOOD, GOOD, missing, missing | {"id": "too"}, silent, torn])
    (folder / "clips" / "torn.mp4").write_bytes(b"no video at all")
    code = (
        "import json, sys\nfrom pathlib import Path\n"
        "from isrdpo import checks\nfrom isrdpo.core import params\n"
        "print(json.dumps(checks.inspect(params.load(Path(sys.argv[1]), ['data=' + sys.argv[2]]))))\n"
        "assert not {'torch', 'transformers', 'decord', 'pandas', 'datasets'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, PRESET, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines, problems = json.loads(done.stdout)
    assert lines[:3] == [f"source: {folder}", "train rows: 6", "evaluation rows: 6"]
    counts = counts_by_cause(lines)
    assert counts == {"duplicate id": 2, "missing video": 4, "empty question": 2, "broken video": 2}
    assert "10 of 12 rows are bad" in problems[0]
    settings = params.load(PRESET, [f"data={folder}", f"run={tmp_path / 'run'}", "max_bad_share=1.0"])
    run = runs.Run.create(settings)
    data.run(run, 1)
    assert {cause: 2 * count for cause, count in run.done("data", 1)["bad"].items()} == counts


def test_durations_are_those_of_the_files(own_data: Callable) -> None:
    folder, names = own_data([GOOD, GOOD | {"id": "b", "video": "frames"}])
    (folder / "clips" / "frames").mkdir()
    for number in range(9):
        Image.new("RGB", (64, 48)).save(folder / "clips" / "frames" / f"c01_{number:04d}.jpeg")
    clip = folder / "clips" / f"{names[0]}.mp4"
    last = video.read_clip(clip, 400).times[-1]
    assert last < video.clip_seconds(clip) < last + 0.5
    assert video.clip_seconds(folder / "clips" / "frames") == 4.5
    lines, problems = inspect(folder)
    shortest, longest = sorted((video.clip_seconds(clip), 4.5))
    spread = f"{shortest:.1f} / {(shortest + longest) / 2:.1f} / {longest:.1f} s"
    assert f"durations of 2 distinct videos: {spread}" in "\n".join(lines) and not problems


def test_it_says_how_many_of_many_clips_it_looked_at(
    own_data: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = own_data([GOOD | {"id": str(n), "video": f"{{{n}}}"} for n in range(3)])
    monkeypatch.setattr(checks, "SAMPLED", 2)
    text = "\n".join(inspect(folder)[0])
    assert "durations of 2 of 3 distinct videos, evenly spaced by name" in text


def test_pairs_that_lack_an_answer_matter_to_the_arm_given_only(own_data: Callable) -> None:
    same = GOOD | {"id": "c", "rejected": "A red circle. "}
    folder, _ = own_data([GOOD, GOOD | {"id": "b", "rejected": ""}, same])
    lines, problems = inspect(folder, "judge.method=given")
    assert "bad: 1 no chosen or no rejected; first: b" in lines
    assert "bad: 1 chosen equals rejected; first: c" in lines
    assert "judge.method: given, but 2 of 3 training rows are no pair" in problems
    lines, problems = inspect(folder)
    assert not problems and not any(line.startswith("bad:") for line in lines)


LONG = " ".join(["The red circle moves to the left."] * 9)


def test_long_answers_are_counted_with_the_models_own_tokenizer(
    own_data: Callable, random_base: Path
) -> None:
    from isrdpo.models import dpo, hound

    texts = ("A red circle.", LONG)
    folder, _ = own_data([GOOD, GOOD | {"id": "b", "chosen": LONG}])
    processor = hound.HoundProcessor.from_tokenizer(random_base / "tokenizer.model", 8, 32, 8)
    pairs = [records.Preference("x", "v", "What?", text, "Nothing.", None) for text in texts]
    short, long = (dpo.text_tokens(dpo.training_row(pair, processor, {}), processor) for pair in pairs)
    for limit, over in ((long, 0), (long - 1, 1), (short, 1), (short - 1, 2)):
        lines, _ = inspect(folder, f"model.path={random_base}", f"train.max_length={limit}")
        count = f"{over} of 2 (tokens of its tokenizer.model)"
        assert f"longer than train.max_length={limit} with their answers: {count}" in lines
    count = "0 of 2 (none has as many bytes)"
    assert f"longer than train.max_length=2048 with their answers: {count}" in inspect(folder)[0]


def test_long_answers_are_estimated_by_name_without_a_tokenizer(own_data: Callable, tmp_path: Path) -> None:
    folder, _ = own_data([GOOD, GOOD | {"id": "b", "chosen": LONG}])
    lines, _ = inspect(folder, "model.path=some/model", "train.max_length=100")
    count = "1 of 2 (estimated, 4 characters a token; some/model has no tokenizer here)"
    assert any(count in line for line in lines)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "tokenizer.model").write_bytes(b"no model")
    lines, _ = inspect(folder, f"model.path={tmp_path / 'odd'}", "train.max_length=100")
    line = next(line for line in lines if line.startswith("longer than"))
    assert "estimated, 4 characters a token; the tokenizer in" in line and "cannot be read" in line


@pytest.mark.parametrize(
    ("overrides", "memory"),
    [
        ((), "140.0 GB on one device (weights, gradients, two moments, reference in float32)"),
        (("train.method=lora",), "14.0 GB on one device (the frozen base)"),
        (("train.method=lora", "model.quantize=4bit"), "3.5 GB on one device (the frozen base)"),
    ],
)
def test_the_memory_of_a_model_on_the_hub_is_that_of_7_b(
    own_data: Callable, overrides: tuple[str, ...], memory: str
) -> None:
    folder, _ = own_data([GOOD])
    lines, _ = inspect(folder, "model.path=some/model", "model.dtype=bfloat16", *overrides)
    assert "model: some/model from the hub, taken as 7 B, 14.0 GB of weights" in lines
    assert any(line.startswith(f"training memory: about {memory}") for line in lines), lines


def test_what_will_stop_the_run_is_said_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    settings = ["model.device=cuda:999", "train.report_to=wandbb", "respond.temperature=0"]
    settings += [f"run={tmp_path / 'full'}", "train.method=lora", "train.lora_r=129"]
    _, problems = checks.inspect(params.load(PRESET, settings))
    for says in (
        "model.device: cuda:999 is not here",
        "train.report_to: 'wandbb' is not one of",
        "respond.temperature: at 0 both responses are the same",
        "train.lora_r: 129 is more than the model's width 128",
        "full: not a run (it holds thesis.tex)",
    ):
        assert sum(says in problem for problem in problems) == 1, says
    assert len(problems) == 5


def test_a_limit_that_leaves_no_row_is_a_problem(own_data: Callable) -> None:
    folder, _ = own_data([GOOD])
    _, problems = inspect(folder, "train.max_length=3")
    assert problems.startswith("train.max_length: 3 leaves no row to train on, all 1 are longer")
