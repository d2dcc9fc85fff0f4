"""The presets for real models, run on miniatures in the exact formats: the folder that `isrdpo fetch`
leaves, a checkpoint in the original layout.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from isrdpo.core import records, rules
from isrdpo.core.folders import TOYBOX_BASE
from isrdpo.models import hound
from isrdpo.scoring import protocol, scores
from isrdpo.toybox import world
from tests import families
from tests.scorer_server import serving

ROOT = Path(__file__).parent.parent
TRAIN_ROWS = "video_instruction/train/dpo/sft_dpo_17k.jsonl"


def write_frames(clip: Path, folder: Path) -> None:
    """A clip as LLaVA-Hound's archives have it: `<video>/c01_%04d.jpeg`."""
    from PIL import Image

    from isrdpo.formats import video

    if folder.exists():
        return
    folder.mkdir(parents=True)
    for number, frame in enumerate(video.read_clip(clip, 8).frames, 1):
        Image.fromarray(frame).save(folder / f"c01_{number:04d}.jpeg", quality=95)


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_row(sample: records.Sample) -> dict:
    return {
        "id": sample.id,
        "video": Path(sample.video).stem,
        "prompt": f"<video>\n{sample.question}",
        "chosen": sample.answer,
        "rejected": "A green star.",
    }


def evaluation_row(sample: records.Sample, name: str) -> dict:
    return {
        "id": f"q-{sample.id}",
        "video": f"test/{name}/{Path(sample.video).stem}",
        "caption": sample.caption,
        "conversations": [
            {"from": "human", "value": f"<video>\n{sample.question}"},
            {"from": "gpt", "value": sample.answer},
        ],
    }


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `isrdpo fetch params/paper.yaml` leaves it: rows where the repositories have them, and frames."""
    folder = tmp_path_factory.mktemp("data")
    samples = world.samples("loop", 24, 7, world.Difficulty(), folder / "clips")
    for sample in samples:
        for kind in ("", *(f"test/{name}" for name in rules.TEST_SETS)):
            place = folder / "video_data" / kind / Path(sample.video).stem
            write_frames(folder / "clips" / sample.video, place)
    write_rows(folder / TRAIN_ROWS, map(train_row, samples))
    for name in rules.TEST_SETS:
        rows = [evaluation_row(sample, name) for sample in samples[:3]]
        write_rows(folder / f"video_instruction/test/{name}.qa.jsonl", rows)
        if name in rules.OFFICIAL_SETS:
            for row in rows:
                del row["caption"]
            write_rows(folder / f"video_instruction/test/{name}.qa.official.jsonl", rows)
    return folder


def isrdpo(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "isrdpo", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("preset", ["paper", "eval_released"])
def test_data_that_were_not_fetched_are_said_so(preset: str, tmp_path: Path) -> None:
    done = isrdpo("check", f"params/{preset}.yaml", f"data={tmp_path}", f"model.path={TOYBOX_BASE}")
    advice = r"fetch it first \(`isrdpo fetch PARAMS`, as for this run\), or give data=FOLDER"
    assert done.returncode == 1
    assert re.fullmatch(rf"isrdpo: .*\.jsonl: no such dataset file; {advice}\n", done.stderr)


@pytest.mark.slow
def test_the_papers_preset_goes_through_two_iterations_on_a_miniature_of_the_original_layout(
    fetched: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    small = [f"run={run}", f"data={fetched}", f"model.path={TOYBOX_BASE}", "model.dtype=float32"]
    small += ["iterations=2", "respond.max_new_tokens=48", "respond.context_max_new_tokens=64"]
    small += ["evaluate.max_new_tokens=48", "train.gradient_accumulation=1", "max_bad_share=0.5"]
    check = isrdpo("check", "params/paper.yaml", *small)
    assert check.returncode == 0, check.stdout + check.stderr
    assert "train rows: 24" in check.stdout and "evaluation rows: 9" in check.stdout
    done = isrdpo("run", "params/paper.yaml", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = records.read_jsonl(run / "iter_02/answers.jsonl", records.Answer)
    assert {answer.kind for answer in answers} == {"msvd", "msrvtt", "tgif"} and len(answers) == 9
    assert records.read_json(run / "iter_02/.done/train.json")["counts"]["pairs"] > 0
    policy, _ = hound.load(run / "iter_02/policy")
    assert policy.config.frames == hound.load(TOYBOX_BASE)[0].config.frames
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_the_single_gpu_preset_runs_on_a_miniature_of_its_family(fetched: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    model = families.write("qwen3_vl", tmp_path / "qwen3_vl")
    small = [f"run={run}", f"data={fetched}", f"data.train={TRAIN_ROWS}", "data.videos=video_data"]
    small += ["data.test=video_instruction/test/msvd.qa.jsonl", "data.samples=8", "iterations=1"]
    small += [f"model.path={model}", "model.dtype=float32", "respond.max_new_tokens=6"]
    small += ["respond.context_max_new_tokens=6", "respond.context_temperature=1.0"]
    small += ["evaluate.max_new_tokens=6", "train.gradient_accumulation=1", "max_bad_share=0.5"]
    small += ["judge.orders=1"]  # random weights prefer a place, not a response
    done = isrdpo("run", "params/single_gpu.yaml", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert records.read_json(run / "iter_01/.done/train.json")["counts"]["pairs"] > 0
    page = (run / "iter_01/reports/03_judging.html").read_text()
    assert "heat maps are drawn for LLaVA-Hound checkpoints only" in page


def scorer_reply(body: dict) -> str:
    """A scorer's reply under each protocol."""
    request = body["messages"][-1]["content"]
    if "Python dictionary" in request:
        return "{'pred': 'yes', 'score': 4}"
    return "unsupported: x" if "unsupported" in request else "Score: 2"


@pytest.mark.slow
def test_the_evaluation_preset_scores_all_ten_sets_beside_the_published_numbers(
    fetched: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    small = [f"run={run}", f"data={fetched}", f"model.path={TOYBOX_BASE}", "model.dtype=float32"]
    small += ["evaluate.max_new_tokens=12", "data.questions=2"]
    refused = isrdpo("run", "params/eval_released.yaml", *small)
    assert refused.returncode == 1 and "OPENAI_API_KEY holds no key" in refused.stderr and not run.exists()
    assert "OPENAI_API_KEY holds no key" in isrdpo("check", "params/eval_released.yaml", *small).stderr
    with serving(scorer_reply) as server:
        server.version = "gpt-3.5-turbo-1106"
        scorer = [f"score.base_url={server.url}", "score.retries=0"]
        done = isrdpo("run", "params/eval_released.yaml", *small, *scorer)
    assert done.returncode == 0, done.stdout + done.stderr
    sets = {*rules.TEST_SETS, *(f"{name}.official" for name in rules.OFFICIAL_SETS)}
    assert {path.stem for path in (run / "iter_00/predictions").iterdir()} == sets
    table = scores.read_scores(run / "iter_00/scores.csv").set_index("set")
    assert sets < set(table.index)
    assert set(table[table["protocol"] == protocol.OFFICIAL]["accuracy"]) == {1.0}
    assert set(table[table["protocol"] == protocol.OWN]["score"]) == {2.0}
    page = (run / "iter_00/reports/05_evaluation.html").read_text()
    assert "LLaVA-Hound-DPO (published)" in page and "86.05" in page and "100.00 [" in page
