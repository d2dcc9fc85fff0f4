"""The presets for real models, run on miniatures in the exact formats: the folder that `isrdpo fetch` leaves, a checkpoint in the original layout."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from isrdpo.core import params, records
from isrdpo.core.folders import TOYBOX_BASE
from isrdpo.models import hound
from isrdpo.scoring import protocol, scores
from isrdpo.toybox import world
from tests import families
from tests.scorer_server import serving

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `isrdpo fetch params/paper.yaml` leaves it: rows where the repositories have them, frames as `<video>/c01_%04d.jpeg`."""
    from PIL import Image

    from isrdpo.formats import video

    folder, difficulty = tmp_path_factory.mktemp("data"), world.Difficulty()
    rows = world.samples("loop", 24, 7, difficulty, folder / "clips")
    for row in rows:
        for kind in ("", *(f"test/{name}/" for name in params.TEST_SETS)):
            place = folder / "video_data" / kind / Path(row.video).stem
            if not place.exists():
                place.mkdir(parents=True)
                for n, frame in enumerate(video.read(folder / "clips" / row.video, 8).frames, 1):
                    Image.fromarray(frame).save(place / f"c01_{n:04d}.jpeg", quality=95)
    train = [{"id": row.id, "video": Path(row.video).stem, "prompt": f"<video>\n{row.question}", "chosen": row.answer, "rejected": "A green star."} for row in rows]
    (folder / "video_instruction/train/dpo").mkdir(parents=True)
    (folder / "video_instruction/train/dpo/sft_dpo_17k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    (folder / "video_instruction/test").mkdir()
    for name in params.TEST_SETS:
        test = [
            {"id": f"q-{row.id}", "video": f"test/{name}/{Path(row.video).stem}", "caption": row.caption,
             "conversations": [{"from": "human", "value": f"<video>\n{row.question}"}, {"from": "gpt", "value": row.answer}]} for row in rows[:3]
        ]  # fmt: skip
        (folder / f"video_instruction/test/{name}.qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
        if name not in params.OFFICIAL_SETS:
            continue
        for row in test:
            del row["caption"]
        (folder / f"video_instruction/test/{name}.qa.official.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    return folder


def isrdpo(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "isrdpo", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("preset", ["paper", "eval_released"])
def test_data_that_were_not_fetched_are_said_so(preset: str, tmp_path: Path) -> None:
    found = isrdpo("check", f"params/{preset}.yaml", f"data={tmp_path}", f"model.path={TOYBOX_BASE}")
    assert found.returncode == 1 and re.fullmatch(r"isrdpo: .*\.jsonl: no such dataset file; fetch it first \(`isrdpo fetch PARAMS`, as for this run\), or give data=FOLDER\n", found.stderr)


@pytest.mark.slow
def test_the_papers_preset_goes_through_two_iterations_on_a_miniature_of_the_original_layout(fetched: Path, tmp_path: Path) -> None:
    small = [
        f"run={tmp_path / 'run'}", f"data={fetched}", f"model.path={TOYBOX_BASE}", "model.dtype=float32", "iterations=2", "respond.max_new_tokens=48", "respond.context_max_new_tokens=64",
        "evaluate.max_new_tokens=48", "train.gradient_accumulation=1", "max_bad_share=0.5",
    ]  # fmt: skip
    found = isrdpo("check", "params/paper.yaml", *small)
    assert found.returncode == 0 and "train rows: 24" in found.stdout and "evaluation rows: 9" in found.stdout, found.stdout + found.stderr
    made = isrdpo("run", "params/paper.yaml", *small)
    assert made.returncode == 0, made.stdout + made.stderr
    answers = records.read_jsonl(tmp_path / "run/iter_02/answers.jsonl", records.Answer)
    assert {a.kind for a in answers} == {"msvd", "msrvtt", "tgif"} and len(answers) == 9
    assert records.read_json(tmp_path / "run/iter_02/.done/train.json")["counts"]["pairs"] > 0
    policy, _ = hound.load(tmp_path / "run/iter_02/policy")
    assert policy.config.frames == hound.load(TOYBOX_BASE)[0].config.frames
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.slow
def test_the_single_gpu_preset_runs_on_a_miniature_of_its_family(fetched: Path, tmp_path: Path) -> None:
    folder = families.write("qwen3_vl", tmp_path / "qwen3_vl")
    small = [
        f"run={tmp_path / 'run'}", f"data={fetched}", "data.train=video_instruction/train/dpo/sft_dpo_17k.jsonl", "data.test=video_instruction/test/msvd.qa.jsonl", "data.videos=video_data",
        f"model.path={folder}", "model.dtype=float32", "iterations=1", "data.samples=8", "respond.max_new_tokens=6", "respond.context_max_new_tokens=6", "respond.context_temperature=1.0",
        "evaluate.max_new_tokens=6", "train.gradient_accumulation=1", "max_bad_share=0.5", "judge.orders=1",  # random weights prefer a place, not a response
    ]  # fmt: skip
    made = isrdpo("run", "params/single_gpu.yaml", *small)
    assert made.returncode == 0, made.stdout + made.stderr
    assert records.read_json(tmp_path / "run/iter_01/.done/train.json")["counts"]["pairs"] > 0
    assert "heat maps are drawn for LLaVA-Hound checkpoints only" in (tmp_path / "run/iter_01/reports/03_judging.html").read_text()


@pytest.mark.slow
def test_the_evaluation_preset_scores_all_ten_sets_beside_the_published_numbers(fetched: Path, tmp_path: Path) -> None:
    small = [f"run={tmp_path / 'run'}", f"data={fetched}", f"model.path={TOYBOX_BASE}", "model.dtype=float32", "evaluate.max_new_tokens=12", "data.questions=2"]
    unable = isrdpo("run", "params/eval_released.yaml", *small)
    assert unable.returncode == 1 and "OPENAI_API_KEY holds no key" in unable.stderr and not (tmp_path / "run").exists()
    assert "OPENAI_API_KEY holds no key" in isrdpo("check", "params/eval_released.yaml", *small).stderr

    def answer(body: dict) -> str:
        asked = body["messages"][-1]["content"]
        return "{'pred': 'yes', 'score': 4}" if "Python dictionary" in asked else "unsupported: x" if "unsupported" in asked else "Score: 2"

    with serving(answer) as server:
        server.version = "gpt-3.5-turbo-1106"
        made = isrdpo("run", "params/eval_released.yaml", *small, f"score.base_url={server.url}", "score.retries=0")
    assert made.returncode == 0, made.stdout + made.stderr
    sets = {*params.TEST_SETS, *(f"{name}.official" for name in params.OFFICIAL_SETS)}
    assert {path.stem for path in (tmp_path / "run/iter_00/predictions").iterdir()} == sets
    table = scores.read(tmp_path / "run/iter_00/scores.csv").set_index("set")
    assert sets < set(table.index) and set(table[table["protocol"] == protocol.OFFICIAL]["accuracy"]) == {1.0} and set(table[table["protocol"] == protocol.OWN]["score"]) == {2.0}
    page = (tmp_path / "run/iter_00/reports/05_evaluation.html").read_text()
    assert "LLaVA-Hound-DPO (published)" in page and "86.05" in page and "100.00 [" in page
