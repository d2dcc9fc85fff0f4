"""`isrdpo check`: it sees what the stages will count, without opening a model."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from isrdpo import checks
from isrdpo.core import params, runs
from isrdpo.formats import video
from isrdpo.stages import data

ROOT = Path(__file__).parent.parent
PRESET = ROOT / "params" / "toybox.yaml"
GOOD = {"id": "a", "video": "{0}", "prompt": "What?", "chosen": "A red circle.", "rejected": "Nothing."}


def inspected(folder: Path, *overrides: str) -> tuple[list[str], str]:
    lines, problems = checks.inspect(params.load(PRESET, [f"data={folder}", *overrides]))
    return lines, "\n".join(problems)


def test_it_counts_what_the_stage_will_and_loads_nothing_heavy(own_data: Callable, tmp_path: Path) -> None:
    gone = GOOD | {"id": "gone", "video": "nowhere"}
    folder, _ = own_data([GOOD, GOOD, gone, gone | {"id": "too"}, GOOD | {"id": "silent", "prompt": ""}, GOOD | {"id": "torn", "video": "torn.mp4"}])
    (folder / "clips" / "torn.mp4").write_bytes(b"no video at all")
    code = (
        "import json, sys; from isrdpo import checks; from isrdpo.core import params; from pathlib import Path\n"
        "print(json.dumps(checks.inspect(params.load(Path(sys.argv[1]), ['data=' + sys.argv[2]]))))\n"
        "assert not {'torch', 'transformers', 'decord', 'pandas', 'datasets'} & set(sys.modules)"
    )
    made = subprocess.run([sys.executable, "-c", code, PRESET, folder], capture_output=True, text=True, check=True, env=os.environ)  # noqa: S603
    lines, problems = json.loads(made.stdout)
    assert lines[:3] == [f"source: {folder}", "train rows: 6", "evaluation rows: 6"]
    seen = {cause: int(line.split()[1]) for line in lines if line.startswith("bad:") for cause in [line.split(";")[0].split(" ", 2)[2]]}
    assert seen == {"duplicate id": 2, "missing video": 4, "empty question": 2, "broken video": 2} and "10 of 12 rows are bad" in problems[0]
    run = runs.Run.create(params.load(PRESET, [f"data={folder}", f"run={tmp_path / 'run'}", "max_bad_share=1.0"]))
    data.run(run, 1)
    assert {cause: 2 * n for cause, n in run.done("data", 1)["bad"].items()} == seen


def test_durations_are_those_of_the_files(own_data: Callable) -> None:
    folder, names = own_data([GOOD, GOOD | {"id": "b", "video": "frames"}])
    (folder / "clips" / "frames").mkdir()
    for number in range(9):
        Image.new("RGB", (64, 48)).save(folder / "clips" / "frames" / f"c01_{number:04d}.jpeg")
    clip = folder / "clips" / f"{names[0]}.mp4"
    last = video.read(clip, 400).times[-1]
    assert last < video.seconds(clip) < last + 0.5 and video.seconds(folder / "clips" / "frames") == 4.5
    lines, problems = inspected(folder)
    shortest, longest = sorted((video.seconds(clip), 4.5))
    assert f"durations of 2 distinct videos: {shortest:.1f} / {(shortest + longest) / 2:.1f} / {longest:.1f} s" in "\n".join(lines) and not problems


def test_it_says_how_many_of_many_clips_it_looked_at(own_data: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = own_data([GOOD | {"id": str(n), "video": f"{{{n}}}"} for n in range(3)])
    monkeypatch.setattr(checks, "SAMPLED", 2)
    assert any("durations of 2 of 3 distinct videos, evenly spaced by name" in line for line in inspected(folder)[0])


def test_pairs_that_lack_an_answer_matter_to_the_arm_given_only(own_data: Callable) -> None:
    folder, _ = own_data([GOOD, GOOD | {"id": "b", "rejected": ""}, GOOD | {"id": "c", "rejected": "A red circle. "}])
    lines, problems = inspected(folder, "judge.method=given")
    assert "bad: 1 no chosen or no rejected; first: b" in lines and "bad: 1 chosen equals rejected; first: c" in lines
    assert "judge.method: given, but 2 of 3 training rows are no pair" in problems
    lines, problems = inspected(folder)
    assert not problems and not any(line.startswith("bad:") for line in lines)


def test_long_answers_are_counted_with_the_models_own_tokenizer_or_estimated_by_name(own_data: Callable, random_base: Path, tmp_path: Path) -> None:
    from isrdpo.core import records
    from isrdpo.models import dpo, hound

    texts = ("A red circle.", " ".join(["The red circle moves to the left."] * 9))
    folder, _ = own_data([GOOD, GOOD | {"id": "b", "chosen": texts[1]}])
    processor = hound.HoundProcessor.from_tokenizer(random_base / "tokenizer.model", 8, 32, 8)
    pairs = [records.Preference("x", "v", "What?", text, "Nothing.", None) for text in texts]
    short, long = (dpo.text_tokens(dpo.row(pair, processor, {}), processor) for pair in pairs)
    for limit, over in ((long, 0), (long - 1, 1), (short, 1), (short - 1, 2)):
        lines, _ = inspected(folder, f"model.path={random_base}", f"train.max_length={limit}")
        assert f"longer than train.max_length={limit} with their answers: {over} of 2 (tokens of its tokenizer.model)" in lines
    assert "longer than train.max_length=2048 with their answers: 0 of 2 (none has as many bytes)" in inspected(folder)[0]
    lines, _ = inspected(folder, "model.path=some/model", "train.max_length=100")
    assert any("1 of 2 (estimated, 4 characters a token; some/model has no tokenizer here)" in line for line in lines)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "tokenizer.model").write_bytes(b"no model")
    lines, _ = inspected(folder, f"model.path={tmp_path / 'odd'}", "train.max_length=100")
    assert any("estimated, 4 characters a token; the tokenizer in" in line and "cannot be read" in line for line in lines)
