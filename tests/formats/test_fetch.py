"""`isrdpo fetch` by the real huggingface_hub from a local server: real archives, connections that break."""

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

from isrdpo.core import params, pipeline, records, rules
from isrdpo.core.clips import find_clip
from isrdpo.core.errors import RunError, RunLocked
from isrdpo.core.folders import hold_lock
from isrdpo.formats import archives, fetch, hub
from isrdpo.stages import data
from tests.hub_server import Hub

ROOT = Path(__file__).parents[2]
TEST = f"datasets/{fetch.TEST}"
TRAIN = f"datasets/{fetch.TRAIN}"
MODEL = "models/someone/tiny"
MSVD = "video_data/test/msvd.tar.gz"
JPEG = (b"\xff\xd8\xff" + bytes(200)) * 4
JUNK = b"junk" * 400
TOKEN = "hf_" + "x" * 30


def pack(names: list[str], extra: bytes = b"") -> bytes:
    """A .tar.gz with a picture under each name."""
    content = JPEG + extra
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def row_lines(videos: list[str], **more: str) -> bytes:
    rows = [
        {"id": f"q{n}", "video": name, "prompt": "What?", "answer": "That."} for n, name in enumerate(videos)
    ]
    return "".join(json.dumps(row | more) + "\n" for row in rows).encode()


def evaluation_repository() -> dict[str, bytes]:
    rows = "video_instruction/test"
    return {
        "README.md": b"x",
        "compile_test_result.tar.gz": JUNK,
        f"{rows}/test_result.tar.gz": JUNK,
        f"{rows}/msvd.qa.jsonl": row_lines(["test/msvd/v1"]),
        f"{rows}/msvd.qa.official.jsonl": row_lines(["test/msvd/v1"] * 2),
        f"{rows}/tgif.qa.jsonl": row_lines(["test/tgif/g1"]),
        f"{rows}/ssv2.qa.jsonl": row_lines(["test/ssv2/s1"] * 50),
        MSVD: pack(["msvd/v1/c01_0001.jpeg", "msvd/v1/c01_0002.jpeg"]),
        "video_data/test/ssv2.tar.gz": pack(
            ["video_data/test/ssv2/s1/c01_0001.jpeg"]
        ),  # with all folders around
        "video_data/test/tgif.tar.gz": pack(["g1/c01_0001.jpeg"]),  # without the set's own folder
    }


def train_repository() -> dict[str, bytes]:
    rows = "video_instruction/train"
    return {
        f"{rows}/dpo/sft_dpo_17k.jsonl": row_lines(["id0", "id1"], chosen="a", rejected="b"),
        f"{rows}/sft/video_caption_300k.jsonl": b"{}\n",
        "train_600k/chunk_0.tar.gz": JUNK,
        "train_300k/chunk_0.tar.gz": pack(["./id0/c01_0001.jpeg"]),
        "train_300k/chunk_10.tar.gz": pack(["./id1/c01_0001.jpeg"]),
    }


def model_repository() -> dict[str, bytes]:
    return {
        "config.json": b"{}",
        "tokenizer.model": b"t" * 2000,
        "model-00001-of-00001.safetensors": random.Random(1).randbytes(5000),
        "pytorch_model.bin": b"not wanted",
        "README.md": b"not wanted",
    }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The two repositories in their documented layout, small, with what is beside the data; and a model."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    repos = {TEST: evaluation_repository(), TRAIN: train_repository(), MODEL: model_repository()}
    local_hub = Hub(repos)
    yield local_hub
    local_hub.close()


def fetch_sets(server: Hub, folder: Path, *names: str, keep: bool = False) -> fetch.Plan:
    downloads = fetch.plan(fetch.sets(list(names)), [], server.url)
    fetch.fetch(downloads, folder, yes=True, keep=keep, endpoint=server.url)
    return downloads


def environment(server: Hub, tmp_path: Path, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    local = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return clean | local | {"PYTHONPATH": str(ROOT)} | more


def start(
    server: Hub, tmp_path: Path, *arguments: str, stdin: int = subprocess.DEVNULL, **more: str
) -> subprocess.Popen:
    """Start the command in a process of its own."""
    line = [sys.executable, "-m", "isrdpo", "fetch", *arguments]
    return subprocess.Popen(  # noqa: S603
        line,
        env=environment(server, tmp_path, **more),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )


def test_what_is_fetched_is_what_a_run_reads(server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "hound"
    downloads = fetch_sets(server, folder, "msvd", "tgif", "ssv2", "train")
    settings = dict(text.split("=") for text in fetch.parameters(downloads).split())
    names = [Path(name).name for name in settings["data.test"].split(",")]
    assert names == ["msvd.qa.jsonl", "msvd.qa.official.jsonl", "tgif.qa.jsonl", "ssv2.qa.jsonl"]
    for file in (settings["data.train"], *settings["data.test"].split(",")):
        rows = list(data.read_source(data.Source(folder / file), tmp_path))
        assert rows and all(isinstance(row, records.Sample) for row in rows)
        for row in rows:
            clip = find_clip(folder / settings["data.videos"], row.video)
            assert min(path.name for path in clip.iterdir()) == "c01_0001.jpeg"
    assert not list(folder.rglob("*.tar.gz*")), "archives go once they are unpacked"
    requests = [path for _, path, _ in server.log if "/resolve/" in path]
    assert not [path for path in requests if "600k" in path or "result" in path or "caption" in path]


def test_the_evaluation_preset_asks_what_the_test_sets_hold(server: Hub, tmp_path: Path) -> None:
    server.repos[TEST] = {}
    for name in rules.TEST_SETS:
        server.repos[TEST][f"video_instruction/test/{name}.qa.jsonl"] = row_lines([f"test/{name}/v1"])
        server.repos[TEST][f"video_data/test/{name}.tar.gz"] = pack([f"{name}/v1/c01_0001.jpeg"])
    for name in rules.OFFICIAL_SETS:
        server.repos[TEST][f"video_instruction/test/{name}.qa.official.jsonl"] = row_lines(
            [f"test/{name}/v1"]
        )
    settings = params.load(ROOT / "params/eval_released.yaml", [f"data={tmp_path / 'hound'}"])
    names, models = fetch.needs(settings)
    assert models == [settings.model.path]
    downloads = fetch_sets(server, tmp_path / "hound", *names)
    files = {name.strip() for name in settings.data.test.split(",")}
    assert {file.path for file in downloads.rows} == files
    assert len(files) == 10
    report = data.inspect(settings)
    assert report.counts == {"evaluation rows": 10}
    assert not report.bad
    assert len(report.clips) == len(rules.TEST_SETS)


def test_a_rerun_fetches_nothing_and_kept_archives_stay(
    server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "hound"
    fetch_sets(server, folder, "msvd", keep=True)
    archive = server.repos[TEST][MSVD]
    assert (folder / "archives/msvd.tar.gz").read_bytes() == archive
    server.log.clear()
    capsys.readouterr()
    fetch_sets(server, folder, "msvd")
    assert "everything is there already" in capsys.readouterr().out
    assert not [path for _, path, _ in server.log if "/resolve/" in path]
    server.repos[TEST]["video_instruction/test/msvd.qa.jsonl"] = row_lines(["test/msvd/v1"] * 3)
    fetch_sets(server, folder, "msvd")
    lines = (folder / "video_instruction/test/msvd.qa.jsonl").read_text().splitlines()
    assert len(lines) == 3, "a changed file is fetched anew"
    assert not server.ranges("msvd.tar.gz")
    assert (folder / "archives/msvd.tar.gz").read_bytes() == archive


@pytest.fixture
def large(server: Hub) -> bytes:
    """msvd's archive as 25 MB that do not compress: the client writes in pieces of 10 MiB."""
    archive = pack(["msvd/v1/c01_0001.jpeg"], extra=random.Random(0).randbytes(25_000_000))
    server.repos[TEST][MSVD] = archive
    return archive


@pytest.mark.parametrize("no_ranges", [False, True])
def test_a_broken_connection_goes_on_where_it_broke(
    no_ranges: bool, server: Hub, large: bytes, tmp_path: Path
) -> None:
    """A mirror may ignore the Range and send the whole file: then it arrives whole as well."""
    server.cut[MSVD] = 1
    server.no_ranges = no_ranges
    fetch_sets(server, tmp_path / "hound", "msvd", keep=True)
    assert (tmp_path / "hound/archives/msvd.tar.gz").read_bytes() == large
    assert server.ranges("msvd.tar.gz") == [None, f"bytes={10 * 2**20}-"]


def test_a_killed_fetch_loses_the_file_in_flight(server: Hub, large: bytes, tmp_path: Path) -> None:
    """huggingface_hub begins a file anew in each process; what was whole at the kill is not fetched again."""
    folder = tmp_path / "hound"
    state = folder / fetch.STATE
    server.stall.add(MSVD)
    child = start(server, tmp_path, "tgif", "msvd", "--to", str(folder), "--yes")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(
        path.stat().st_size for path in state.rglob("*.incomplete")
    ):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    server.stall.clear()
    server.released.set()
    assert list(state.rglob("*.incomplete"))
    assert (folder / "video_data/test/tgif/g1/c01_0001.jpeg").exists()
    assert not (folder / "video_data/test/msvd").exists()
    server.log.clear()
    fetch_sets(server, folder, "tgif", "msvd")
    assert not server.ranges("tgif.tar.gz")
    assert not server.ranges(".jsonl")
    assert server.ranges("msvd.tar.gz") == [None]
    size = (folder / "video_data/test/msvd/v1/c01_0001.jpeg").stat().st_size
    assert size == 25_000_000 + len(JPEG)
    assert not list(folder.rglob("*.incomplete")), "what a kill leaves does not fill up the disk"


def test_an_archive_is_not_fetched_again_to_be_unpacked(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hound"

    def die_half_way(archive: Path, target: Path) -> None:
        target.mkdir()
        (target / "half").write_bytes(b"1")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archives, "unpack", die_half_way)
        with pytest.raises(KeyboardInterrupt):
            fetch_sets(server, folder, "msvd")
    assert not (folder / "video_data").exists()
    server.log.clear()
    fetch_sets(server, folder, "msvd")
    assert not server.ranges("msvd.tar.gz")
    assert sorted(path.name for path in (folder / "video_data/test/msvd/v1").iterdir()) == [
        "c01_0001.jpeg",
        "c01_0002.jpeg",
    ]
    assert not list(folder.rglob("half"))


def test_one_process_at_a_time_writes_in_a_folder(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "hound" / fetch.STATE
    state.mkdir(parents=True)
    monkeypatch.setattr("isrdpo.core.folders.LOCK_SECONDS", 0.1)
    code = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire();"
    code += "print('held'); sys.stdin.read()"
    line = [sys.executable, "-u", "-c", code, str(state / "lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) as child:  # noqa: S603
        assert child.stdout.readline() == "held\n"
        with pytest.raises(RunLocked):
            fetch_sets(server, tmp_path / "hound", "msvd")
        child.communicate()
    with hold_lock(state / "lock"):
        fetch_sets(server, tmp_path / "hound", "msvd")


@pytest.mark.parametrize("how", ["damaged", "shortened"])
@pytest.mark.parametrize("name", [MSVD, "video_instruction/test/msvd.qa.jsonl"])
def test_what_arrives_damaged_is_not_used(how: str, name: str, server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "hound"
    getattr(server, how).add(name)
    with pytest.raises(RunError, match=rf"^{fetch.TEST}: .* arrived damaged .* run the same command again"):
        fetch_sets(server, folder, "msvd")
    assert not (folder / "video_data").exists()
    assert name.endswith(".gz") or not (folder / name).exists()
    getattr(server, how).clear()
    fetch_sets(server, folder, "msvd", keep=True)
    assert (folder / "archives/msvd.tar.gz").read_bytes() == server.repos[TEST][MSVD]
    assert (folder / "video_instruction/test/msvd.qa.jsonl").read_bytes() == row_lines(["test/msvd/v1"])


def test_a_model_that_arrives_damaged_is_not_used(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    downloads = fetch.plan([], ["someone/tiny"], server.url)
    assert len(downloads.models) == 3
    name = "model-00001-of-00001.safetensors"
    server.damaged.add(name)
    with pytest.raises(
        RunError, match=f"^someone/tiny: {name} arrived damaged .* run the same command again"
    ):
        fetch.fetch(downloads, tmp_path, yes=True, endpoint=server.url)
    server.damaged.clear()
    fetch.fetch(downloads, tmp_path, yes=True, endpoint=server.url)
    weights = next((tmp_path / "cache").rglob(name))
    assert weights.read_bytes() == server.repos[MODEL][name]
    assert server.ranges(name) == [None, None]


@pytest.mark.parametrize("how", ["endless", "bomb"])
@pytest.mark.parametrize("model", [False, True])
def test_no_more_bytes_are_written_than_the_list_says(
    how: str, model: bool, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    name = "model-00001-of-00001.safetensors" if model else MSVD
    getattr(server, how).add(name)
    downloads = fetch.plan(*(([], ["someone/tiny"]) if model else (["msvd"], [])), server.url)
    with pytest.raises(RunError, match=rf"{name} is larger than the \d+ bytes that the hub's list says"):
        fetch.fetch(downloads, tmp_path / "hound", yes=True, endpoint=server.url)
    largest = max(len(content) for content in {**server.repos[TEST], **server.repos[MODEL]}.values())
    assert max(path.stat().st_size for path in tmp_path.rglob("*")) <= max(largest, 2**16)


@pytest.mark.parametrize(
    "values",
    [
        {"size": None},
        {"size": -1},
        {"size": "12"},
        {"size": 2**60},
        {"blobId": None, "lfs": None},
        {"blobId": "../../etc", "lfs": None},
        {"rfilename": ""},
        {"rfilename": "a\0b"},
        {"rfilename": "a\ud800"},
        {"rfilename": "/etc/passwd"},
        {"rfilename": "a/" * 1000},
    ],
)
def test_a_list_with_impossible_values_is_refused_in_one_line(values: dict, server: Hub) -> None:
    server.listed["model-00001-of-00001.safetensors"] = values
    with pytest.raises(RunError, match="^someone/tiny: its list names .*nothing was fetched") as error:
        fetch.plan([], ["someone/tiny"], server.url)
    assert "\n" not in str(error.value)


def test_files_that_the_hub_offers_by_xet_come_by_plain_http_too(server: Hub, tmp_path: Path) -> None:
    server.xet = True
    child = start(server, tmp_path, "msvd", "--to", str(tmp_path / "hound"), "--yes", HF_HUB_DISABLE_XET="1")
    _, errors = child.communicate()
    assert child.returncode == 0, errors
    assert server.ranges("msvd.tar.gz") == [None]


def test_nobody_to_ask_is_a_refusal_with_the_size(server: Hub, large: bytes, tmp_path: Path) -> None:
    child = start(server, tmp_path, "msvd", "--to", str(tmp_path / "hound"))
    out, errors = child.communicate()
    assert child.returncode == 1
    assert errors.strip() == "isrdpo: 25.0 MB are to be fetched; say --yes to fetch them without being asked"
    assert f"{fetch.TEST}: 3 files, 25.0 MB" in out
    assert "of disk" in out
    assert not (tmp_path / "hound").exists()


@pytest.mark.parametrize("reply, fetches", [("n", False), ("y", True)])
def test_a_terminal_is_asked(reply: str, fetches: bool, server: Hub, tmp_path: Path) -> None:
    keyboard, terminal = os.openpty()
    with start(server, tmp_path, "msvd", "--to", str(tmp_path / "hound"), stdin=terminal) as child:
        os.write(keyboard, f"{reply}\n".encode())
        out, errors = child.communicate()
    os.close(keyboard)
    os.close(terminal)
    assert "? [y/N]" in out
    assert (child.returncode == 0) == fetches
    assert ("nothing was fetched" in errors) != fetches
    assert (tmp_path / "hound/video_data/test/msvd/v1/c01_0001.jpeg").exists() == fetches


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line() -> None:
    message = r"^a/b: the disk is full; free some space and run the same command again"
    with pytest.raises(RunError, match=message), hub.readable_errors("a/b"):
        Path("/dev/full").write_bytes(b"x" * 100_000)


def test_a_preset_that_needs_nothing_says_so(server: Hub, tmp_path: Path) -> None:
    child = start(server, tmp_path, str(ROOT / "params/toybox.yaml"), "--yes")
    out, errors = child.communicate()
    assert child.returncode == 0, errors
    assert "needs nothing from the hub" in out
    assert not server.log
    child = start(server, tmp_path, "msvd", "--yes")
    assert child.communicate()[1].strip() == "isrdpo: fetch msvd: where to? give --to FOLDER"
    assert child.returncode == 1


def test_a_disk_without_room_is_refused_before_anything_is_fetched(server: Hub, tmp_path: Path) -> None:
    downloads = fetch.plan(["msvd"], [], server.url)
    for archive in downloads.archives:
        object.__setattr__(archive.file, "size", 10**15)
    with pytest.raises(RunError, match=r"about 2000000\.0 GB are needed, .* are free"):
        fetch.fetch(downloads, tmp_path / "hound", yes=True, endpoint=server.url)
    assert not server.ranges("msvd.tar.gz")
    assert not (tmp_path / "hound").exists()


REFUSALS = [
    (403, "GatedRepo", "gated, or not allowed to this token .* set HF_TOKEN in the environment"),
    (401, "GatedRepo", "gated, .* set HF_TOKEN"),
    (401, "", "no such repository .* or a private one"),
    (404, "RepoNotFound", "no such repository"),
    (500, "", "answered HTTP 500"),
]


@pytest.mark.parametrize("status, code, message", REFUSALS)
def test_what_the_hub_refuses_is_one_line(
    server: Hub, status: int, code: str, message: str, tmp_path: Path
) -> None:
    server.refused[TEST] = (status, code)
    with pytest.raises(RunError, match=f"^{fetch.TEST}: .*{message}") as error:
        fetch_sets(server, tmp_path, "msvd")
    assert "\n" not in str(error.value)


def test_a_refusal_after_the_list_is_one_line_too(server: Hub, tmp_path: Path) -> None:
    downloads = fetch.plan(["msvd"], [], server.url)
    server.refused[TEST] = (403, "GatedRepo")
    with pytest.raises(RunError, match=f"^{fetch.TEST}: gated, or not allowed to this token") as error:
        fetch.fetch(downloads, tmp_path / "hound", yes=True, endpoint=server.url)
    assert "\n" not in str(error.value)


def test_no_network_is_one_line(server: Hub, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    with pytest.raises(
        RunError, match=f"^{fetch.TEST}: no connection to .* run the same command again"
    ) as error:
        fetch.plan(["msvd"], [], nowhere)
    assert "\n" not in str(error.value)


def test_a_layout_that_changed_is_said(server: Hub) -> None:
    del server.repos[TEST][MSVD]
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
        fetch_sets(server, tmp_path / "hound", "msvd")
    assert not list((tmp_path / "outside").iterdir())


def test_a_presets_model_and_data_by_one_command(server: Hub, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        f"model:\n  path: someone/tiny\ndata:\n  path: {tmp_path / 'hound'}\n  source: train, msvd\n"
    )
    child = start(server, tmp_path, str(preset), "--yes", HF_TOKEN=TOKEN)
    out, errors = child.communicate()
    assert child.returncode == 0, errors
    assert "data.videos=video_data data.train=video_instruction/train/dpo/sft_dpo_17k.jsonl" in out
    assert TOKEN not in out + errors
    assert f"Bearer {TOKEN}" in server.tokens
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()], "no token is written"
    snapshot = next((tmp_path / "hf/hub/models--someone--tiny/snapshots").iterdir())
    contents = {path.name: path.read_bytes() for path in snapshot.iterdir()}
    assert set(contents) == {"config.json", "tokenizer.model", "model-00001-of-00001.safetensors"}
    assert contents.items() <= server.repos[MODEL].items()
    assert server.ranges("00001.safetensors") == [None]
    assert (tmp_path / "hound/video_data/id1").is_dir()
    assert (tmp_path / "hound/video_data/test/msvd/v1").is_dir()
    patterns = "['*.json', '*.safetensors', 'tokenizer.model']"  # hound's
    code = "from huggingface_hub import snapshot_download as load;"
    code += f"print(load('someone/tiny', allow_patterns={patterns}))"
    offline = environment(server, tmp_path, HF_HUB_OFFLINE="1")
    line = [sys.executable, "-c", code]
    result = subprocess.run(line, env=offline, capture_output=True, text=True, check=False)  # noqa: S603
    assert result.stdout.strip() == str(snapshot), result.stderr
    server.log.clear()
    again = start(server, tmp_path, str(preset), "--yes")
    out, errors = again.communicate()
    assert "everything is there already" in out, errors
    assert not [path for _, path, _ in server.log if "/resolve/" in path]


def test_wrong_names_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^msdv: not a preset .* nor one of train, test, actnet"):
        fetch.sets(["msdv"])
    (tmp_path / "p.yaml").write_text("data:\n  path: x\n  source: train,msdv\n")
    with pytest.raises(params.ParamsError, match=r"data\.source: 'msdv' is not one of train, test"):
        params.load(tmp_path / "p.yaml")
    assert fetch.sets(["test", "msvd", "train"]) == [*rules.TEST_SETS, "train"]


def test_where_data_came_from_does_not_change_rows(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("data:\n  path: x\n")
    one = params.load(tmp_path / "p.yaml")
    other = params.load(tmp_path / "p.yaml", ["data.source=train"])
    for stage in pipeline.STAGES:
        assert pipeline.stage_key(one, stage, 1) == pipeline.stage_key(other, stage, 1)
