"""The processes that decode videos: limits, crashes, interrupts and ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from isrdpo.core import params as parameters
from isrdpo.core.errors import RunError, VideoError
from isrdpo.formats import worker_pool
from isrdpo.formats.video import DecodeLimits, clip_seconds, decode_limits, read_clip
from tests.video_files import Kind, write_video

ROOT = Path(__file__).parents[2]
READ = "from pathlib import Path; from isrdpo.formats.video import read_clip; "


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_video(path, Kind("mp4", "libx264"), count=20)
    return path


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip that takes some seconds to decode: it allows no jumps."""
    path = tmp_path_factory.mktemp("clips") / "long.ts"
    write_video(path, Kind("mpegts", "mpeg2video"), count=9000)
    return path


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> worker_pool.WorkerPool:
    """A pool of this test's own."""
    own = worker_pool.WorkerPool()
    monkeypatch.setattr(worker_pool, "_pool", own)
    yield own
    own.stop()


def workers(pid: int | None = None) -> list[psutil.Process]:
    """The decoding processes of a process."""
    children = psutil.Process(pid).children()
    return [child for child in children if worker_pool.MODULE in child.cmdline()]


def wait_until(condition, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_worker_is_started_once_and_used_again(clip: Path, pool: worker_pool.WorkerPool) -> None:
    before = set(workers())
    first = read_clip(clip, 4)
    started = set(workers()) - before
    assert np.array_equal(read_clip(clip, 4).frames, first.frames) and clip_seconds(clip) == 0.8
    assert len(started) == 1 and set(workers()) - before == started
    here = read_clip(clip, 4, limits=None)
    assert np.array_equal(here.frames, first.frames) and here.times.tolist() == first.times.tolist()
    assert (here.count, here.rate, here.decoder) == (first.count, first.rate, first.decoder)
    first.frames[0] = 0  # the frames are the caller's own


def test_a_file_that_takes_too_long_is_one_clear_line(
    clip: Path, long_clip: Path, pool: worker_pool.WorkerPool
) -> None:
    begin = time.monotonic()
    with pytest.raises(VideoError, match=r"long\.ts: not decoded within 0.05 s \(video\.decode_seconds\)"):
        read_clip(long_clip, 8, limits=DecodeLimits(seconds=0.05))
    assert time.monotonic() - begin < 20
    assert read_clip(clip, 2).count == 20  # by a new process


def test_a_file_that_takes_too_much_memory_is_one_clear_line(
    tmp_path: Path, clip: Path, pool: worker_pool.WorkerPool
) -> None:
    from PIL import Image

    Image.new("1", (8000, 8000)).save(tmp_path / "frame_1.png")  # 8 KB on disk, 192 MB in colors
    (tmp_path / "frame_2.png").write_bytes((tmp_path / "frame_1.png").read_bytes())
    with pytest.raises(VideoError, match=r"needs more than 0.6 GB to decode \(video\.decode_memory\)"):
        read_clip(tmp_path, 2, limits=DecodeLimits(memory=0.6))
    assert read_clip(clip, 2).count == 20


@pytest.mark.parametrize(
    "end", [signal.SIGSEGV, pytest.param(signal.SIGABRT, marks=pytest.mark.slow)], ids=lambda end: end.name
)
def test_a_crash_of_the_decoder_is_one_clear_line(
    clip: Path, long_clip: Path, pool: worker_pool.WorkerPool, end: signal.Signals
) -> None:
    read_clip(clip, 2)
    (worker,) = pool._idle
    threading.Timer(0.05, os.kill, (worker._process.pid, end)).start()
    with pytest.raises(VideoError, match=rf"long\.ts: .*the decoder ended: signal {end.name}"):
        read_clip(long_clip, 8)
    assert read_clip(clip, 2).count == 20
    pool._idle[0]._process.kill()  # between two files: nobody's fault
    pool._idle[0]._process.wait()
    assert read_clip(clip, 2).count == 20


def test_a_decoder_that_does_not_start_says_so(
    clip: Path, pool: worker_pool.WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match=r"the process that decodes videos does not start \(exit code 1\)"):
        read_clip(clip, 2)


def test_threads_share_the_workers(clip: Path, pool: worker_pool.WorkerPool) -> None:
    with ThreadPoolExecutor(6) as threads:
        clips = list(threads.map(lambda _: read_clip(clip, 4), range(24)))
    assert len({one.frames.tobytes() for one in clips}) == 1
    assert 1 <= len(pool._idle) <= worker_pool.MOST_WORKERS


def test_a_forked_process_has_workers_of_its_own(clip: Path, pool: worker_pool.WorkerPool) -> None:
    expected = read_clip(clip, 2).frames.tobytes()
    child = os.fork()
    if child == 0:
        os._exit(0 if read_clip(clip, 2).frames.tobytes() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert read_clip(clip, 2).frames.tobytes() == expected


@pytest.mark.parametrize(
    "end",
    [signal.SIGINT, signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=lambda end: end.name,
)
def test_no_worker_outlives_its_parent(long_clip: Path, end: signal.Signals) -> None:
    """In the midst of a file."""
    code = f"{READ} read_clip(Path({str(long_clip)!r}), 8); read_clip(Path({str(long_clip)!r}), 8)"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: workers(parent.pid))
    (worker,) = workers(parent.pid)
    time.sleep(0.5)
    parent.send_signal(end)
    error = parent.communicate(timeout=30)[1]
    assert end != signal.SIGINT or "KeyboardInterrupt" in error
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_an_end_without_an_error_leaves_no_worker(clip: Path) -> None:
    code = (
        f"import psutil; {READ} read_clip(Path({str(clip)!r}), 2); print(psutil.Process().children()[0].pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not psutil.pid_exists(int(done.stdout))


def test_a_small_address_space_is_enough(clip: Path) -> None:
    code = f"{READ} print(read_clip(Path({str(clip)!r}), 2).count)"
    command = f'ulimit -v 9000000; exec "{sys.executable}" -c "{code}"'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "20\n"


def test_a_worker_holds_no_key_and_imports_nothing_from_the_data(
    tmp_path: Path, clip: Path, pool: worker_pool.WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the data')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-decoders")
    assert read_clip(clip, 2).count == 20
    environment = psutil.Process(pool._idle[0]._process.pid).environ()
    assert "OPENAI_API_KEY" not in environment


def test_limits_are_those_of_the_parameters(tmp_path: Path) -> None:
    preset = ROOT / "params" / "toybox.yaml"
    data = ["data=data", "judge.method=score"]
    params = parameters.load(preset, data)
    assert decode_limits(params) == DecodeLimits() == DecodeLimits(120, 4)
    assert decode_limits(parameters.load(preset)) is None  # this library's own clips
    small = parameters.load(preset, [*data, "video.decode_seconds=5", "video.decode_memory=0.5"])
    assert decode_limits(small) == DecodeLimits(5, 0.5)
    with pytest.raises(parameters.ParamsError, match=r"video\.decode_seconds: 0 is not a number above 0"):
        parameters.load(preset, ["video.decode_seconds=0"])
