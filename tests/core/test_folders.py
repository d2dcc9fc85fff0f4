"""Paths that can be none, and files that are whole or not there: on a full disk, and after dead processes."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isrdpo.core import errors, folders
from isrdpo.core.errors import RunError

DIE_WRITING = """
import os, sys
from pathlib import Path
from isrdpo.core import folders

with folders.atomic_folder(Path(sys.argv[1]) / "policy") as part, folders.atomic_file(part / "rows") as file:
    file.write_text("half")
    os.kill(os.getpid(), 9)
"""
ON_A_SMALL_DISK = """
import resource, sys
from pathlib import Path
from isrdpo.core import errors, folders
{imports}

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
path = Path(sys.argv[1]) / "it"
try:
    with folders.name_disk_errors(path):
        {write}
except Exception as error:
    print(errors.is_expected(error), errors.message_of(error), sep="|")
"""
WRITERS = {
    "safetensors": ("import torch\nfrom safetensors.torch import save_file", "save_file(T, path)"),
    "torch": ("import torch", "torch.save(T, path)"),
    "text": ("", "path.write_text('x' * 100_000)"),
}


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.part"))


def test_what_a_dead_process_left_goes_and_a_live_ones_stays(tmp_path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", DIE_WRITING, str(tmp_path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(parts(tmp_path)) == 2
    (tmp_path / "policy.part").write_text("a user's own file")
    (tmp_path / f".eval.json.{os.getpid()}@00000000.part").write_text("another machine's")
    (tmp_path / f".eval.json.{os.getppid()}.part").write_text("a live process's")
    with folders.atomic_file(tmp_path / "rows.jsonl") as mine:
        mine.write_text("being written")
        folders.remove_dead_parts(tmp_path)
        assert mine.read_text() == "being written"
    assert (tmp_path / "rows.jsonl").read_text() == "being written"
    live = [f".eval.json.{os.getpid()}@00000000.part", f".eval.json.{os.getppid()}.part", "policy.part"]
    assert parts(tmp_path) == sorted(live)


def test_a_part_of_an_earlier_process_with_the_same_number_goes(tmp_path: Path) -> None:
    part = tmp_path / f".rows.jsonl.{os.getpid()}.part"
    part.write_text("before a restart of the machine")
    os.utime(part, (1, 1))
    folders.remove_dead_parts(tmp_path)
    assert parts(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_cannot_grow_is_one_line_of_any_library(tmp_path: Path, writer: str) -> None:
    imports, write = WRITERS[writer]
    tensors = "\nT = {'a': torch.zeros(30_000)}" if "torch" in imports else ""
    code = ON_A_SMALL_DISK.format(imports=imports + tensors, write=write)
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    is_expected, message = process.stdout.strip().split("|")
    assert is_expected == "True", process.stdout + process.stderr
    assert message.startswith(f"{tmp_path / 'it'}: ")


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "policy" / "model.safetensors"
    target.parent.mkdir()
    target.write_text("old")
    with pytest.raises(OSError, match="No space left") as caught, folders.atomic_file(target) as part:
        part.write_text("half")
        with open("/dev/full", "w") as device:
            device.write("x")
    assert errors.message_of(caught.value) == (
        f"{target}: No space left on device; make room, then the same command goes on from here"
    )
    assert target.read_text() == "old"
    assert parts(tmp_path) == []


def test_only_errors_of_the_disk_are_renamed(tmp_path: Path) -> None:
    for error in (
        ValueError("x"),
        errors.VideoError("a.mp4: Permission denied"),
        FileNotFoundError(2, "no", "b"),
    ):
        with pytest.raises(type(error)) as caught, folders.name_disk_errors(tmp_path):
            raise error
        assert caught.value is error
    with pytest.raises(OSError, match="Disk quota exceeded") as renamed, folders.name_disk_errors(tmp_path):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert renamed.value.filename == str(tmp_path)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "an empty path"),
        ("~nobody-here/x", "~nobody-here is no user's folder; write the path out, or ./~nobody-here/x"),
        ("a\0b", r"'a\x00b': no path"),
        ("a\ud800b", r"'a\ud800b': no path"),
    ],
)
def test_what_can_be_no_path_is_one_line(path: str, says: str) -> None:
    with pytest.raises(RunError) as error:
        folders.resolve(path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_folder_or_a_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/null")):
        with (
            pytest.raises(RunError, match="not a file, so nothing is written there"),
            folders.atomic_file(path),
        ):
            pass
    assert Path("/dev/null").is_char_device() and tmp_path.is_dir()
