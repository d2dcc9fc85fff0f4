"""`isrdpo fetch` against a server with the hub's shape: the real huggingface_hub client, real archives, real connections that break."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isrdpo.core import params, records
from isrdpo.core.clips import find_clip
from isrdpo.core.errors import RunError
from isrdpo.formats import fetch, hub
from isrdpo.stages import data
from tests.hub_server import Hub

ROOT = Path(__file__).parents[2]
TEST, TRAIN, MODEL = f"datasets/{fetch.TEST}", f"datasets/{fetch.TRAIN}", "models/someone/tiny"
JPEG = (b"\xff\xd8\xff" + bytes(200)) * 4


def packed(names: list[str], mode: str = "w:gz", extra: bytes = b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(JPEG + extra)
            archive.addfile(member, io.BytesIO(JPEG + extra))
    return out.getvalue()


def rows(videos: list[str], **more: str) -> bytes:
    return "".join(json.dumps({"id": f"q{n}", "video": name, "prompt": "What?", "answer": "That.", **more}) + "\n" for n, name in enumerate(videos)).encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The two repositories in their documented layout, small, with what is beside the data; and a model."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    msvd = packed(["msvd/v1/c01_0001.jpeg", "msvd/v1/c01_0002.jpeg"])
    made = Hub({
        TEST: {
            "README.md": b"x", "compile_test_result.tar.gz": b"junk" * 400, "video_instruction/test/test_result.tar.gz": b"junk" * 400,
            "video_instruction/test/msvd.qa.jsonl": rows(["test/msvd/v1"]), "video_instruction/test/msvd.qa.official.jsonl": rows(["test/msvd/v1"] * 2),
            "video_instruction/test/tgif.qa.jsonl": rows(["test/tgif/g1"]), "video_instruction/test/ssv2.qa.jsonl": rows(["test/ssv2/s1"] * 50),
            "video_data/test/msvd.tar.gz": msvd, "video_data/test/ssv2.tar.gz.partab": b"", "video_data/test/ssv2.tar.gz.partaa": b"",
            "video_data/test/tgif.tar.gz": packed(["g1/c01_0001.jpeg"]),  # without the set's own folder
        },
        TRAIN: {
            "video_instruction/train/dpo/sft_dpo_17k.jsonl": rows(["id0", "id1"], chosen="a", rejected="b"),
            "video_instruction/train/sft/video_caption_300k.jsonl": b"{}\n", "train_600k/chunk_0.tar.gz": b"junk" * 400,
            "train_300k/chunk_0.tar.gz": packed(["./id0/c01_0001.jpeg"]), "train_300k/chunk_10.tar.gz": packed(["./id1/c01_0001.jpeg"]),
        },
        MODEL: {
            "config.json": b"{}", "tokenizer.model": b"t" * 2000, "model-00001-of-00001.safetensors": random.Random(1).randbytes(5000),
            "pytorch_model.bin": b"not wanted", "README.md": b"not wanted",
        },
    })  # fmt: skip
    whole = packed(["ssv2/s1/c01_0001.jpeg"])
    made.repos[TEST]["video_data/test/ssv2.tar.gz.partaa"], made.repos[TEST]["video_data/test/ssv2.tar.gz.partab"] = whole[:150], whole[150:]
    yield made
    made.released.set()
    made.shutdown()
    made.server_close()


def get(server: Hub, folder: Path, *names: str, keep: bool = False) -> fetch.Plan:
    made = fetch.plan(fetch.sets(list(names)), [], server.url)
    fetch.fetch(made, folder, yes=True, keep=keep, endpoint=server.url)
    return made


def command(server: Hub, tmp_path: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    clean = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    env = clean | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)} | environment
    line = [sys.executable, "-m", "isrdpo", "fetch", *arguments]
    return subprocess.Popen(line, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)  # noqa: S603


def test_what_is_fetched_is_what_a_run_reads(server: Hub, tmp_path: Path) -> None:
    made = get(server, tmp_path / "hound", "msvd", "tgif", "ssv2", "train")
    said = dict(text.split("=") for text in fetch.parameters(made).split())
    assert [Path(name).name for name in said["data.test"].split(",")] == ["msvd.qa.jsonl", "msvd.qa.official.jsonl", "tgif.qa.jsonl", "ssv2.qa.jsonl"]
    root = tmp_path / "hound" / said["data.videos"]
    for file in (said["data.train"], *(f"video_instruction/test/{name}.jsonl" for name in ("msvd.qa", "msvd.qa.official", "tgif.qa", "ssv2.qa"))):
        found = list(data.read_rows(data.Source(tmp_path / "hound" / file), tmp_path))
        assert found and all(isinstance(row, records.Sample) for row in found)
        for row in found:
            assert sorted(p.name for p in find_clip(root, row.video).iterdir())[0] == "c01_0001.jpeg"
    assert not [p for p in (tmp_path / "hound").rglob("*.tar.gz*")], "archives go once they are unpacked"
    asked = {path.split("/main/")[-1] for _, path, _ in server.log if "/resolve/" in path}
    assert not {path for path in asked if "600k" in path or "result" in path or "caption" in path}


def test_the_evaluation_preset_asks_what_the_test_sets_hold(server: Hub, tmp_path: Path) -> None:
    for name in params.TEST_SETS:
        for ending in ("qa", "qa.official") if name in params.OFFICIAL_SETS else ("qa",):
            server.repos[TEST][f"video_instruction/test/{name}.{ending}.jsonl"] = rows([f"test/{name}/v1"])
        server.repos[TEST] = {path: content for path, content in server.repos[TEST].items() if not path.startswith(f"video_data/test/{name}.")}
        server.repos[TEST][f"video_data/test/{name}.tar.gz"] = packed([f"{name}/v1/c01_0001.jpeg"])
    settings = params.load(ROOT / "params/eval_released.yaml", [f"data={tmp_path / 'hound'}"])
    wanted, models = fetch.needs(settings)
    assert models == [settings.model.path]
    made = get(server, tmp_path / "hound", *wanted)
    asked = {name.strip() for name in settings.data.test.split(",")}
    assert {file.path for file in made.rows} == asked and len(asked) == 10
    found = data.inspect(settings)
    assert found.counts == {"evaluation rows": 10} and not found.bad and len(found.clips) == len(params.TEST_SETS)


def test_a_rerun_fetches_nothing_and_kept_archives_stay(server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    get(server, tmp_path / "hound", "msvd", keep=True)
    assert (tmp_path / "hound/archives/msvd.tar.gz").read_bytes() == server.repos[TEST]["video_data/test/msvd.tar.gz"]
    server.log.clear()
    capsys.readouterr()
    get(server, tmp_path / "hound", "msvd")
    assert "everything is there already" in capsys.readouterr().out and not [path for _, path, _ in server.log if "/resolve/" in path]
    server.repos[TEST]["video_instruction/test/msvd.qa.jsonl"] = rows(["test/msvd/v1"] * 3)
    get(server, tmp_path / "hound", "msvd")
    assert len((tmp_path / "hound/video_instruction/test/msvd.qa.jsonl").read_text().splitlines()) == 3, "a changed file is fetched anew"
    assert not server.asked("msvd.tar.gz")


@pytest.fixture
def large(server: Hub) -> bytes:
    """msvd's archive as 25 MB that do not compress: the client writes in pieces of 10 MiB."""
    server.repos[TEST]["video_data/test/msvd.tar.gz"] = packed(["msvd/v1/c01_0001.jpeg"], extra=random.Random(0).randbytes(25_000_000))
    return server.repos[TEST]["video_data/test/msvd.tar.gz"]


def test_a_broken_connection_goes_on_where_it_broke(server: Hub, large: bytes, tmp_path: Path) -> None:
    server.cut["video_data/test/msvd.tar.gz"] = 1
    get(server, tmp_path / "hound", "msvd", keep=True)
    assert (tmp_path / "hound/archives/msvd.tar.gz").read_bytes() == large
    assert server.asked("msvd.tar.gz") == [None, f"bytes={10 * 2**20}-"]


def test_a_killed_fetch_goes_on_in_another_process(server: Hub, large: bytes, tmp_path: Path) -> None:
    server.stall.add("video_data/test/msvd.tar.gz")
    child = command(server, tmp_path, "msvd", "--to", str(tmp_path / "hound"), "--yes")
    state = tmp_path / "hound" / fetch.STATE
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(p.stat().st_size >= 10 * 2**20 for p in state.glob("*.part")):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    server.stall.clear()
    server.released.set()
    assert sum(p.stat().st_size for p in state.glob("*.part")) == 10 * 2**20 and not (tmp_path / "hound" / fetch.VIDEOS).exists()
    server.log.clear()
    get(server, tmp_path / "hound", "msvd")
    assert server.asked("msvd.tar.gz") == [f"bytes={10 * 2**20}-"]
    assert (tmp_path / "hound/video_data/test/msvd/v1/c01_0001.jpeg").stat().st_size == 25_000_000 + len(JPEG)


def test_what_arrives_damaged_is_not_used(server: Hub, tmp_path: Path) -> None:
    listed = next(file for file in hub.files(fetch.TEST, "dataset", server.url) if file.path.endswith("msvd.tar.gz"))
    part = tmp_path / "x.part"
    part.write_bytes(b"other bytes from before")
    with pytest.raises(RunError, match=r"msvd\.tar\.gz arrived damaged .* run the same command again"):
        hub.download(listed, tmp_path / "x.tar.gz", part, server.url)
    assert not part.exists() and not (tmp_path / "x.tar.gz").exists()
    hub.download(listed, tmp_path / "x.tar.gz", part, server.url)
    assert (tmp_path / "x.tar.gz").read_bytes() == server.repos[TEST]["video_data/test/msvd.tar.gz"]


def test_nobody_to_ask_is_a_refusal_with_the_size(server: Hub, large: bytes, tmp_path: Path) -> None:
    child = command(server, tmp_path, "msvd", "--to", str(tmp_path / "hound"))
    out, errors = child.communicate()
    assert child.returncode == 1 and errors.strip() == "isrdpo: 25.0 MB are to be fetched; say --yes to fetch them without being asked", errors
    assert f"{fetch.TEST}: 3 files, 25.0 MB" in out and "of disk" in out and not (tmp_path / "hound").exists()


def test_a_terminal_is_asked(server: Hub, tmp_path: Path) -> None:
    for answer, there in (("n", False), ("y", True)):
        ours, theirs = os.openpty()
        env = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
        line = [sys.executable, "-m", "isrdpo", "fetch", "msvd", "--to", str(tmp_path / "hound")]
        with subprocess.Popen(line, env=env, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as child:  # noqa: S603
            os.write(ours, f"{answer}\n".encode())
            out, errors = child.communicate()
        os.close(ours)
        os.close(theirs)
        assert "? [y/N]" in out and (child.returncode == 0) == there and ("nothing was fetched" in errors) != there
        assert (tmp_path / "hound/video_data/test/msvd/v1/c01_0001.jpeg").exists() == there


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line() -> None:
    with pytest.raises(RunError, match=r"^a/b: the disk is full; free some space and run the same command again"), hub.one_line("a/b"):
        Path("/dev/full").write_bytes(b"x" * 100_000)


def test_a_preset_that_needs_nothing_says_so(server: Hub, tmp_path: Path) -> None:
    child = command(server, tmp_path, str(ROOT / "params/toybox.yaml"), "--yes")
    out, errors = child.communicate()
    assert child.returncode == 0 and "needs nothing from the hub" in out and not server.log, errors
    child = command(server, tmp_path, "msvd", "--yes")
    assert child.communicate()[1].strip() == "isrdpo: fetch msvd: where to? give --to FOLDER" and child.returncode == 1


def test_a_disk_without_room_is_refused_before_anything_is_fetched(server: Hub, tmp_path: Path) -> None:
    real = fetch.plan(["msvd"], [], server.url)
    for file in (f for archive in real.packed for f in archive.files):
        object.__setattr__(file, "size", 10**15)
    with pytest.raises(RunError, match=r"about 2000000\.0 GB are needed, .* are free"):
        fetch.fetch(real, tmp_path / "hound", yes=True, endpoint=server.url)
    assert not server.asked("msvd.tar.gz") and not (tmp_path / "hound").exists()


@pytest.mark.parametrize("status, code, said", [
    (403, "GatedRepo", "gated, or not allowed to this token .* set HF_TOKEN in the environment"), (401, "GatedRepo", "gated, .* set HF_TOKEN"),
    (401, "", "no such repository .* or a private one"), (404, "RepoNotFound", "no such repository"), (500, "", "answered HTTP 500"),
])  # fmt: skip
def test_what_the_hub_refuses_is_one_line(server: Hub, status: int, code: str, said: str, tmp_path: Path) -> None:
    server.refused[TEST] = (status, code)
    with pytest.raises(RunError, match=f"^{fetch.TEST}: .*{said}") as error:
        get(server, tmp_path, "msvd")
    assert "\n" not in str(error.value)


def test_no_network_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"^{fetch.TEST}: no connection to .* run the same command again") as error:
        fetch.plan(["msvd"], [], "http://127.0.0.1:9")
    assert "\n" not in str(error.value)


def test_a_layout_that_changed_is_said(server: Hub) -> None:
    del server.repos[TEST]["video_data/test/msvd.tar.gz"]
    with pytest.raises(RunError, match="no archive of msvd among its"):
        fetch.plan(["msvd"], [], server.url)
    with pytest.raises(RunError, match="no rows of vidal among its"):
        fetch.plan(["vidal"], [], server.url)
    server.repos[TEST]["../../evil.jsonl"] = b"x"
    with pytest.raises(RunError, match="leads out of a folder; nothing was fetched"):
        fetch.plan(["tgif"], [], server.url)


def test_a_link_out_of_the_folder_is_not_followed(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "hound").mkdir()
    (tmp_path / "hound" / fetch.VIDEOS).symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match="a link leads out of"):
        get(server, tmp_path / "hound", "msvd")
    assert not list((tmp_path / "outside").iterdir())


def test_a_presets_model_and_data_by_one_command(server: Hub, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(f"model:\n  path: someone/tiny\ndata:\n  path: {tmp_path / 'hound'}\n  source: train, msvd\n")
    token = "hf_" + "x" * 30
    child = command(server, tmp_path, str(preset), "--yes", HF_TOKEN=token)
    out, errors = child.communicate()
    assert child.returncode == 0, errors
    assert "data.videos=video_data data.train=video_instruction/train/dpo/sft_dpo_17k.jsonl" in out and token not in out + errors
    assert f"Bearer {token}" in server.tokens
    snapshot = next((tmp_path / "hf/hub/models--someone--tiny/snapshots").iterdir())
    assert {p.name for p in snapshot.iterdir()} == {"config.json", "tokenizer.model", "model-00001-of-00001.safetensors"}
    assert {p.name: p.read_bytes() for p in snapshot.iterdir()}.items() <= server.repos[MODEL].items()
    assert server.asked("00001.safetensors") == [None], "fetched once, and named by huggingface_hub without being fetched again"
    assert (tmp_path / "hound/video_data/id1").is_dir() and (tmp_path / "hound/video_data/test/msvd/v1").is_dir()
    patterns = "['*.json', '*.safetensors', 'tokenizer.model']"  # hound's
    code = f"from huggingface_hub import snapshot_download; print(snapshot_download('someone/tiny', allow_patterns={patterns}))"
    env = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.stdout.strip() == str(snapshot), done.stderr


def test_wrong_names_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^msdv: not a preset .* nor one of train, test, actnet"):
        fetch.sets(["msdv"])
    (tmp_path / "p.yaml").write_text("data:\n  path: x\n  source: train,msdv\n")
    with pytest.raises(params.ParamsError, match=r"data\.source: 'msdv' is not one of train, test"):
        params.load(tmp_path / "p.yaml")
    assert fetch.sets(["test", "msvd", "train"]) == [*params.TEST_SETS, "train"]


def test_where_data_came_from_does_not_change_rows(tmp_path: Path) -> None:
    from isrdpo.core import pipeline as keys

    (tmp_path / "p.yaml").write_text("data:\n  path: x\n")
    one, other = params.load(tmp_path / "p.yaml"), params.load(tmp_path / "p.yaml", ["data.source=train"])
    assert all(keys.stage_key(one, stage, 1) == keys.stage_key(other, stage, 1) for stage in keys.STAGES)
