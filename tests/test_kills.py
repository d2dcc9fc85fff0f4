"""A sample of kills of every command: after them, the same command leaves the same bytes.

The harness is `tests/kill_harness.py`; `python -m tests.kill_harness --kills 200` is a large one. This sample
takes seven minutes and is run where ISRDPO_KILLS is set: in its last run no byte differed in 15 commands, but
files were left over or missing in five of 30 kills (see CONTRIBUTING.md).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kill_cases import CASES

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif("ISRDPO_KILLS" not in os.environ, reason="seven minutes; set ISRDPO_KILLS=1")
@pytest.mark.timeout(1800)
def test_killed_commands_end_with_the_same_bytes(tmp_path: Path) -> None:
    others = [case.name for case in CASES if case.name != "run"]
    halves = {"notebooks": ["--kills", "3", "run"], "others": ["--kills", "30", *others]}
    processes = []
    for name, arguments in halves.items():
        command = [sys.executable, "-m", "tests.kill_harness", "--folder", str(tmp_path / name), *arguments]
        processes.append(
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate() for process in processes]
    for table, _ in outputs:
        print(f"\n{table}")
    for process, (table, progress) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, f"{table}\n{progress}"
