"""Commands as processes that can be killed at a step; `python -m tests.kill_processes` is their source.

Most of a command's time goes into imports. So one process imports everything, and forks a child for each
command, which then is a process of its own: with its own session, output, exit code and end.

A step is an event of the file system that Python audits in the child: a file is opened to be written,
flushed, renamed, removed, cut; a folder is made or removed. The child counts its steps below the work folder
by kind, and sends itself a signal right before one of them.
"""

import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
MARK = "ISRDPO_KILL_HARNESS"  # the variable that a command's children inherit; it names their command
KINDS = ("open", "flush", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
LONGEST = 900  # seconds after which a command counts as hanging
LINGER = 10  # seconds within which a killed command's children have to end
MODULES = (
    "av",
    "huggingface_hub.hf_api",
    "isrdpo.cli",
    "isrdpo.models.dpo",
    "isrdpo.models.local",
    "isrdpo.scoring.scorers",
    "isrdpo.stages.data",
    "isrdpo.stages.evaluate",
    "isrdpo.stages.judge",
    "isrdpo.stages.look",
    "isrdpo.stages.respond",
    "isrdpo.stages.score",
    "isrdpo.stages.train",
    "openai",
    "pandas",
    "papermill",
)


@dataclass(frozen=True)
class Kill:
    """A signal to a command: right before its `step`-th step of a `kind`, or (step 0) after `seconds`.

    `with_imports`: the command is no fork, and imports everything by itself.
    """

    signal: signal.Signals
    kind: str = ""
    step: int = 0
    seconds: float = 0.0
    with_imports: bool = False

    def __str__(self) -> str:
        where = f"before {self.kind} {self.step}" if self.step else f"after {self.seconds:.2f} s"
        imports = " with its imports" if self.with_imports else ""
        return f"{self.signal.name} {where}{imports}"


@dataclass(frozen=True)
class End:
    """How a command ended: its exit code (negative: the signal it died of; None: it hung), what it printed,
    its seconds, and the command lines of the children that it left.
    """

    code: int | None
    output: str
    seconds: float
    orphans: tuple[str, ...]


class Processes:
    """Commands on one work folder, one at a time. `environment` is added to that of this process."""

    def __init__(self, work: Path, environment: Mapping[str, str]) -> None:
        self.work = work
        self.output = work.with_name("output.txt")
        self.steps_file = work.with_name("steps.json")
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
        self.number = 0
        self.source: subprocess.Popen[str] | None = None
        # Where SIGINT is ignored, as in a shell's background, children would ignore it too.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def close(self) -> None:
        """End the source of forks."""
        if self.source:
            self.source.stdin.close()
            self.source.wait()

    def steps(self) -> Counter[str]:
        """The steps of the last forked command that came to its own end, by kind."""
        return Counter(json.loads(self.steps_file.read_text()))

    def fork(self, arguments: Sequence[str], kill: Kill | None = None) -> End:
        """Run a command line of isrdpo in a fork, and kill it on the way."""
        if self.source is None or self.source.poll() is not None:
            command = [sys.executable, "-m", "tests.kill_processes"]
            pipe = subprocess.PIPE
            self.source = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdin=pipe, stdout=pipe, text=True, bufsize=1
            )
            self.source.stdout.readline()  # everything is imported
        request = {
            "arguments": list(arguments),
            "mark": self._next_mark(),
            "work": str(self.work),
            "output": str(self.output),
            "steps": str(self.steps_file),
            "kind": kill.kind if kill else "",
            "step": kill.step if kill else 0,
            "signal": kill.signal if kill else 0,
        }
        began = time.monotonic()
        self.source.stdin.write(json.dumps(request) + "\n")
        pid = int(self.source.stdout.readline())
        if not self._ends_within(kill.seconds if kill and not kill.step else LONGEST):
            if kill and not kill.step:
                send(pid, kill.signal)
            if not self._ends_within(LONGEST):
                os.killpg(pid, signal.SIGKILL)
                self.source.stdout.readline()
                return self._end(pid, None, began)
        return self._end(pid, int(self.source.stdout.readline()), began)

    def _ends_within(self, seconds: float) -> bool:
        return bool(select.select([self.source.stdout], [], [], seconds)[0])

    def start(self, arguments: Sequence[str], kill: Kill) -> End:
        """Run a command line of isrdpo as a shell does, imports included, and kill it after some seconds."""
        environment = self.environment | {MARK: self._next_mark()}
        command = [sys.executable, "-m", "isrdpo", *arguments]
        began = time.monotonic()
        with self.output.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        code: int | None = None
        try:
            code = process.wait(kill.seconds)
        except subprocess.TimeoutExpired:
            send(process.pid, kill.signal)
            try:
                code = process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return self._end(process.pid, code, began)

    def _next_mark(self) -> str:
        self.number += 1
        return f"{self.work} {self.number}"

    def _end(self, pid: int, code: int | None, began: float) -> End:
        seconds = time.monotonic() - began
        orphans = end_orphans(pid, f"{self.work} {self.number}")
        return End(code, self.output.read_text(errors="replace"), seconds, orphans)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal: SIGINT to the whole process group, as a terminal does, others to the process alone."""
    try:
        if number == signal.SIGINT:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended in this very moment


def end_orphans(pid: int, mark: str) -> tuple[str, ...]:
    """Wait for what is left of a command to end, and kill what does not; returns their command lines."""
    deadline = time.monotonic() + LINGER
    left = children_of(pid, mark)
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = children_of(pid, mark)
    lines = []
    for process in left:
        try:
            lines.append(" ".join(process.cmdline()))
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return tuple(lines)


def children_of(pid: int, mark: str) -> list[psutil.Process]:
    """The living processes of a command: of its session, or with its mark in their environment."""
    living = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if os.getsid(process.pid) == pid or process.environ().get(MARK) == mark:
                living.append(process)
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return living


def watch_steps(request: Mapping[str, Any]) -> Counter[str]:
    """Count this process's steps from now on, and send it the signal of `request` before the one it names."""
    work = request["work"]
    counts: Counter[str] = Counter()

    def on_event(event: str, arguments: tuple) -> None:
        kind = step_kind(event, arguments, work)
        if not kind:
            return
        counts[kind] += 1
        if kind == request["kind"] and counts[kind] == request["step"]:
            os.kill(os.getpid(), request["signal"])

    sys.addaudithook(on_event)
    return counts


def step_kind(event: str, arguments: tuple, work: str) -> str:
    """The kind of step that an audit event is; empty where it is none below the work folder."""
    if event not in KINDS:
        return ""
    path = arguments[0]
    if isinstance(path, int) or not str(path).startswith((work, ".")) and os.path.isabs(path):
        return ""
    if event != "open":
        return event
    mode, flags = arguments[1:3]
    if mode is None:  # os.open: of our own code, to flush a file
        return "flush"
    return "open" if flags & (os.O_WRONLY | os.O_RDWR) else ""


def serve() -> None:
    """Fork a child for each line of standard input; print its process number, and then its exit code."""
    for name in MODULES:
        __import__(name)
    from isrdpo import cli

    gc.freeze()  # a fork would copy all of this memory in its collections, at its exit above all
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            counts = become_command(request)
            try:
                cli.main(request["arguments"])
            finally:
                Path(request["steps"]).write_text(json.dumps(counts))
            return
        print(pid, flush=True)
        status = os.waitpid(pid, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


def become_command(request: Mapping[str, Any]) -> Counter[str]:
    """Give this fork a session, an output and a mark of its own; returns the counts of its steps."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    os.environ[MARK] = request["mark"]
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    return watch_steps(request)


if __name__ == "__main__":
    serve()
