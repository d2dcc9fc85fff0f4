"""Kills of every command on its way, after which the same command has to leave the same bytes.

    python -m tests.kill_harness --kills 200 --seed 0           # all cases, an hour or two on one core
    python -m tests.kill_harness --kills 20 --seed 3 train run  # some of them

Each case is a command on a work folder. It runs once undisturbed. Then it is started, killed on its way,
started again, perhaps killed again, and so on until it is through. Then every file has to be as the
undisturbed command left it, apart from times and machine (see `comparable`): not a byte else, not a file more
or less. No process may be left, and a command that Ctrl-C ends says so with exit code 130.

A kill (SIGKILL, SIGTERM, SIGINT by turns) comes right before a step in the file system, such as the rename
that ends the writing of a policy, or at a moment of the command's time. Kinds of steps, steps and moments are
drawn by the seed.
"""

import argparse
import csv
import itertools
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.kill_cases import CASES, Case, servers
from tests.kill_processes import End, Kill, Processes

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
INTERRUPTED = (130, -signal.SIGINT)  # the second while Python still starts
MOMENTS = 0.3  # share of the kills that come at a moment, not at a step
IMPORTS = 0.1  # share of them that hit a process which imports everything by itself, among those moments
IMPORT_SECONDS = 8.0
TIMES = ("seconds", "peak_rss_mb", "unpacked")  # values that no two runs share
BY_NAME = (
    "cost.png",
    ".html",
    ".ipynb",
    ".log",
    ".lock",
    ".pid",
    ".metadata",
    "provenance.json",
    ".scores.jsonl.journal",
)


def comparable(path: Path) -> bytes:
    """A file's content without what no two runs share: times, process numbers, the order of scores."""
    if path.name.endswith(BY_NAME):
        return b""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = [{key: row[key] for key in row if key not in TIMES} for row in csv.DictReader(file)]
        return json.dumps(rows).encode()
    if path.suffix == ".json":
        values = json.loads(path.read_bytes())
        kept = (
            {key: values[key] for key in values if key not in TIMES} if isinstance(values, dict) else values
        )
        return json.dumps(kept).encode()
    if path.name == "scores.jsonl":
        return b"".join(sorted(path.read_bytes().splitlines(keepends=True)))
    return path.read_bytes()


def contents(work: Path) -> dict[str, bytes]:
    """Every file below the work folder, and every folder, by its name.

    What huggingface_hub leaves in its own cache is left out: it is not ours to remove.
    """
    present = {}
    for path in sorted(work.rglob("*")):
        if path.is_relative_to(work / "hf") and re.match(r"tmp|.*\.incomplete$", path.name):
            continue
        present[str(path.relative_to(work))] = comparable(path) if path.is_file() else b"a folder"
    return present


def differences(reference: dict[str, bytes], killed: dict[str, bytes]) -> list[str]:
    """A line for each file that is missing, left over, or not the same."""
    lines = [f"{name} is missing" for name in reference.keys() - killed.keys()]
    lines += [f"{name} is left over" for name in killed.keys() - reference.keys()]
    for name in reference.keys() & killed.keys():
        if reference[name] != killed[name]:
            sizes = f"{len(killed[name])} for {len(reference[name])} bytes"
            lines.append(f"{name} differs ({sizes})")
    return sorted(lines)


@dataclass
class Reference:
    """An undisturbed command: what it left, the folders before and after it, its steps and its seconds."""

    start: Path
    end: Path
    files: dict[str, bytes]
    steps: Counter[str]
    seconds: float


@dataclass
class Tally:
    """What came out: kills by case and signal, and what was wrong."""

    kills: dict[str, Counter[signal.Signals]] = field(default_factory=lambda: defaultdict(Counter))
    compared: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def count(self, case: str) -> int:
        """The kills of a case so far."""
        return sum(self.kills[case].values())

    def table(self) -> str:
        """Kills by case and signal, files compared, and what was wrong, as text."""
        names = [number.name for number in SIGNALS]
        lines = [f"{'killed':<16}" + "".join(f"{name:>9}" for name in [*names, "all", "compared", "wrong"])]
        total: Counter[str] = Counter()
        for case, kills in self.kills.items():
            values = [kills[number] for number in SIGNALS]
            row = dict(zip(names, values, strict=True))
            row |= {"all": sum(values), "compared": self.compared[case], "wrong": len(self.problems[case])}
            total.update(row)
            lines.append(f"{case:<16}" + "".join(f"{value:>9}" for value in row.values()))
        lines.append(f"{'all':<16}" + "".join(f"{value:>9}" for value in total.values()))
        lines += [f"{case}: {problem}" for case in self.problems for problem in self.problems[case]]
        return "\n".join(lines)


class Harness:
    """The cases on one work folder below `folder`, and their kills drawn by `seed`."""

    def __init__(self, folder: Path, seed: int, environment: dict[str, str], scorer: str) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.processes = Processes(self.work, environment)
        self.random = random.Random(seed)
        self.signals = itertools.cycle(SIGNALS)
        self.tally = Tally()
        self.scorer = scorer
        self.references: dict[str, Reference] = {}
        self.last_end: Path | None = None  # what the last undisturbed command left

    def fill_work(self, source: Path | None) -> None:
        """Make the work folder what `source` is; empty without one."""
        shutil.rmtree(self.work, ignore_errors=True)
        if source:
            shutil.copytree(source, self.work, symlinks=True)
        else:
            self.work.mkdir()

    def run_undisturbed(self, case: Case) -> Reference:
        """Run a case as it is, from the end of the case before it or from what it prepares."""
        start = self.last_end
        if case.prepare:
            self.fill_work(None)
            case.prepare(self.work, self.scorer)
            start = self.folder / f"{case.name}.start"
            shutil.copytree(self.work, start, symlinks=True)
        self.fill_work(start)
        ended = self.processes.fork(case.arguments)
        if ended.code != 0 or ended.orphans:
            raise SystemExit(f"{case.name} fails undisturbed: {ended.code} {ended.orphans}\n{ended.output}")
        end = self.folder / f"{case.name}.end"
        shutil.copytree(self.work, end, symlinks=True)
        self.last_end = end
        reference = Reference(start, end, contents(end), self.processes.steps(), ended.seconds)
        self.references[case.name] = reference
        say(f"{case.name}: {ended.seconds:.1f} s, {sum(reference.steps.values())} steps")
        return reference

    def run_killed(self, case: Case, kills: int) -> None:
        """Kill a case again and again until it was hit so many times, and compare what it leaves."""
        tries = 0
        while self.tally.count(case.name) < kills and tries < 3 * kills:
            tries += 1
            missing = kills - self.tally.count(case.name)
            self.run_chain(case, min(missing, case.longest_chain))

    def run_chain(self, case: Case, kills: int) -> None:
        """Start a case, kill it, start it again, until it is through; then compare every file."""
        reference = self.references[case.name]
        self.fill_work(reference.start)
        history: list[str] = []
        problems: list[str] = []
        is_through = False
        for number in range(kills if case.only_moments else self.random.randint(1, kills)):
            kill = self.draw_kill(case, reference, number)
            ended = self.kill(case, kill)
            history.append(f"{kill}: {ended.code}")
            problems += self.problems_of_kill(case, kill, ended)
            is_through = ended.code == 0
            if is_through:
                break
        if not is_through:
            problems += problems_of_end(case, self.processes.fork(case.arguments))
        problems += differences(reference.files, contents(self.work))
        self.tally.compared[case.name] += len(reference.files)
        self.tally.problems[case.name] += [f"{problem}; after {history}" for problem in problems]
        say(f"{case.name}: {', '.join(history)}: {problems or 'the same bytes'}")

    def draw_kill(self, case: Case, reference: Reference, number: int) -> Kill:
        """The kill of the `number`-th start in a chain: the later, the less is left to do, so the earlier."""
        name = next(self.signals)
        if case.only_moments:  # it is long: all its kills come on one way
            return Kill(name, seconds=self.random.uniform(0.02, 0.45) * reference.seconds)
        share = 1 / (number + 1)
        way = self.random.random()
        if way < IMPORTS:
            seconds = self.random.uniform(0.1, IMPORT_SECONDS)
            return Kill(name, seconds=seconds, with_imports=True)
        if way < MOMENTS:
            return Kill(name, seconds=0.02 + self.random.uniform(0, share) * reference.seconds)
        kind = self.random.choice(sorted(reference.steps))
        return Kill(name, kind, self.random.randint(1, max(1, round(share * reference.steps[kind]))))

    def kill(self, case: Case, kill: Kill) -> End:
        """Start a case and kill it."""
        start = self.processes.start if kill.with_imports else self.processes.fork
        return start(case.arguments, kill)

    def problems_of_kill(self, case: Case, kill: Kill, ended: End) -> list[str]:
        """Count a kill that hit, and say what is wrong with how the command ended."""
        if ended.code != 0:
            self.tally.kills[case.name][kill.signal] += 1
        problems = []
        expected = INTERRUPTED if kill.signal == signal.SIGINT else (-kill.signal,)
        if ended.code not in (0, *expected):
            problems.append(f"{kill} ends it with {ended.code}: {ended.output[-2000:]}")
        if ended.code == INTERRUPTED[0] and "Traceback" in ended.output:
            problems.append(f"{kill} leaves a traceback: {ended.output[-2000:]}")
        if ended.orphans:
            problems.append(f"{kill} leaves {len(ended.orphans)} processes: {ended.orphans}")
        return problems


def problems_of_end(case: Case, ended: End) -> list[str]:
    """Say what is wrong with how a command ended that nobody killed this time."""
    is_done = ended.code == 0 or bool(case.refusal and case.refusal in ended.output)
    if is_done and not ended.orphans:
        return []
    last_line = ended.output.strip().splitlines()[-1:]
    return [f"it does not go on: exit code {ended.code}, {last_line} {ended.orphans}"]


def say(text: str) -> None:
    """Print a line of progress with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def kills_of_cases(cases: Sequence[Case], kills: int) -> Iterator[tuple[Case, int]]:
    """Share out the kills over the cases by their weights."""
    weights = sum(case.weight for case in cases)
    shared = 0.0
    for case in cases:
        before = round(shared)
        shared += kills * case.weight / weights
        yield case, round(shared) - before


def run_harness(names: Sequence[str], kills: int, seed: int, folder: Path) -> Tally:
    """Kill the cases of these names (all of them without a name) so many times in all."""
    chosen = [case for case in CASES if not names or case.name in names]
    last = CASES.index(chosen[-1])
    quotas = {case.name: number for case, number in kills_of_cases(chosen, kills)}
    with servers(folder / "work") as (environment, addresses):
        harness = Harness(folder, seed, environment, addresses["scorer"])
        try:
            for case in CASES[: last + 1]:
                if case.name not in quotas and not case.is_before(chosen):
                    continue
                filled = case.with_addresses(addresses)
                harness.run_undisturbed(filled)
                harness.run_killed(filled, quotas.get(case.name, 0))
        finally:
            harness.processes.close()
    return harness.tally


def main() -> None:
    """The command line; exits with 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill_harness", description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[[], *(case.name for case in CASES)])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the work folder here, instead of a temporary one")
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True)
        tally = run_harness(options.cases, options.kills, options.seed, options.folder.resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            tally = run_harness(options.cases, options.kills, options.seed, Path(folder).resolve())
    print(tally.table())
    sys.exit(bool(any(tally.problems.values())))


if __name__ == "__main__":
    main()
