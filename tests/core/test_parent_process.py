"""A child ends with its parent also where the parent is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
CHILD = """
import time
from isrdpo.core import parent_process
parent_process.end_with_parent()
time.sleep(60)
"""
PARENT = f"""
import os, subprocess, sys, time
from isrdpo.core import parent_process
environment = os.environ | parent_process.child_environment()
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], env=environment)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_killed_parent(number: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(1)
        assert child.is_running(), "its parent lives"
        os.kill(parent.pid, number)
        assert psutil.wait_procs([child], timeout=10)[1] == []


def test_a_process_that_nobody_marked_goes_on() -> None:
    code = "from isrdpo.core import parent_process as p; p.end_with_parent(); import time; time.sleep(1)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
