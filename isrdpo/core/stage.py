"""A running stage: what it writes, what it counts, and the one way in which it walks its rows."""

import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from isrdpo.core import inputs, records
from isrdpo.core.errors import BadShare
from isrdpo.core.folders import display_path
from isrdpo.core.left_out import BadItem, LeftOutLog, left_out_path
from isrdpo.core.params import Params
from isrdpo.core.pipeline import TABLE, dependencies, stage_key, upstream
from isrdpo.core.progress import progress_bar

if TYPE_CHECKING:
    from isrdpo.core.runs import Run

Item = TypeVar("Item")


@dataclass
class Marker:
    """What the marker of a finished stage holds at least; pages read all of it."""

    stage: str
    iteration: int
    key: str
    total: int
    counts: dict[str, int]
    bad: dict[str, int]
    warnings: list[str]
    seconds: float
    peak_rss_mb: int


@dataclass
class Batches(Generic[Item]):
    """The batches of one output file: which are done, and those that are left to do.

    `label` is the text of the progress bar. `left_out` lists the items that have no row.
    """

    log: records.BatchLog
    items: list[list[Item]]
    label: str
    left_out: LeftOutLog

    @property
    def complete(self) -> bool:
        """Whether every batch is on disk; then nothing needs a model."""
        return self.log.done >= len(self.items)

    def __iter__(self) -> Iterator[list[Item]]:
        """The batches that are left, under a progress bar.

        The caller appends the rows of each before it takes the next.
        """
        waiting = self.items[self.log.done :]
        bar = progress_bar(waiting, len(waiting), self.label)
        for number, batch in enumerate(bar, self.log.done + 1):
            yield batch
            if self.log.done != number:
                raise RuntimeError(f"{self.log.path}: the rows of batch {number} were not appended")

    def append(self, rows: list[Any]) -> None:
        """The output rows of the batch that was taken last."""
        self.log.append(rows)

    def leave_out(self, item_id: str, error: BadItem) -> None:
        """Note that an item of the batch that was taken last has no row."""
        self.left_out.add(self.log.done + 1, item_id, error)

    def rows(self) -> list[Any]:
        """All output rows on disk, in order."""
        return self.log.rows()


class Stage:
    """A running stage: where it writes, and what it counts."""

    def __init__(self, run: "Run", name: str, t: int) -> None:
        self.run = run
        self.name = name
        self.t = t
        self.key = stage_key(run.params, name, t)
        self.total = 0  # samples that the stage was given
        self.counts: dict[str, int] = {}
        self.warnings: list[str] = []
        self.bad_samples: list[dict] = []
        self.inputs: dict[inputs.Key, inputs.InputFile] = {}
        self._started = time.monotonic()

    @property
    def params(self) -> Params:
        """The run's parameters."""
        return self.run.params

    def path(self, name: str) -> Path:
        """A file of the stage's iteration."""
        return self.run.file(self.t, name)

    def batches(
        self, name: str, row_type: type, items: list[list[Item]], size: int, label: str
    ) -> Batches[Item]:
        """The way in which a stage walks its rows: by batches, each appended to the file `name` as soon as
        it is done.

        `items` are cut into batches already (see `records.cut_batches`), of at most `size` input rows. What
        is on disk is not done again; rows that were made with another batch size are, and the marker says
        so. Batches from the first one on that left out a clip which has changed since are done again, too.
        """
        log = records.BatchLog(self.path(name), row_type, size)
        if log.dropped:
            self.warn(
                f"{name}: {log.dropped} batches of another size than {size} were on disk and are made again"
            )
        left_out = LeftOutLog(self.path(name))
        outdated = [item.batch for item in left_out.items if item.is_outdated]
        if outdated:
            log.keep(min(outdated) - 1)
        left_out.keep(log.done)
        return Batches(log, items, f"iteration {self.t}: {label}", left_out)

    def bad(self, sample: str, cause: str, detail: str = "") -> None:
        """List a sample that is left out, under the cause that it is counted by."""
        self.bad_samples.append({"id": sample, "cause": cause, "detail": detail})

    def bad_left_out(self, batches: Batches[Any], count: str = "left_out") -> None:
        """List the items that a file leaves out as bad samples; their number, if any, is noted as `count`."""
        items = batches.left_out.items
        for item in items:
            self.bad(item.id, item.cause, item.detail)
        if items:
            self.count(count, self.counts.get(count, 0) + len(items))

    def count(self, name: str, number: int) -> None:
        """Note a number for the marker and the pages."""
        self.counts[name] = number

    def warn(self, text: str) -> None:
        """Note a sentence that pages show."""
        self.warnings.append(text)

    def read_input(self, root: str, name: str) -> None:
        """Note that the stage reads a file from outside the run, before it does.

        `root` and `name` are those of `inputs.InputFile`; a file that is not there is noted too.
        """
        if (root, name, "file") not in self.inputs:
            earlier = self._earlier_inputs.get((root, name, "file"))
            self._note([inputs.fingerprint(self.run, root, name, earlier)])

    def read_listing(self, root: str, name: str = ".") -> None:
        """Note that the stage reads what files there are in a folder."""
        self._note([inputs.listing(self.run, root, name)])

    def read_model(self, parameter: str) -> None:
        """Note that the stage reads the model that a parameter names, and write it down before its rows."""
        self._note(inputs.model_inputs(self.run, parameter, self._earlier_inputs))
        self._save_inputs()

    def _note(self, files: Iterable[inputs.InputFile]) -> None:
        """Keep the first record of each file: rows may have been made from it."""
        for file in files:
            self.inputs.setdefault(file.key, file)

    def _save_inputs(self) -> None:
        path = inputs.record_path(self.run, self.name, self.t)
        records.write_jsonl(path, self.inputs.values())

    @cached_property
    def _earlier_inputs(self) -> dict[inputs.Key, inputs.InputFile]:
        """What the run's stages read, so that a file that stayed the same is not digested again."""
        earlier: dict[inputs.Key, inputs.InputFile] = {}
        for name, t in self.run.finished():
            earlier |= inputs.read_record(self.run, name, t)
        return earlier

    def begin(self) -> None:
        """Remove rows that were made under another key (they are never mixed in), and the marker."""
        key_file = self.path(f".{self.name}.key")
        self.run.marker_path(self.name, self.t).unlink(missing_ok=True)
        for torn in self.path("").glob(".*.part"):
            shutil.rmtree(torn) if torn.is_dir() else torn.unlink()
        is_begun = self.run.key_on_disk(self.name, self.t) == self.key
        if is_begun and TABLE[self.name].resumes:
            self.inputs = inputs.read_record(self.run, self.name, self.t)
            return
        if is_begun:
            return
        inputs.record_path(self.run, self.name, self.t).unlink(missing_ok=True)
        for name in (*TABLE[self.name].files, f"bad_{self.name}.jsonl"):
            path = self.path(name)
            path.with_name(f".{name}.journal").unlink(missing_ok=True)
            left_out_path(path).unlink(missing_ok=True)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        records.write_text(key_file, self.key)

    def finish(self) -> None:
        """List the bad samples and write the marker, last. Raises BadShare where too many are bad."""
        causes = dict(Counter(bad["cause"] for bad in self.bad_samples))
        path = self.path(f"bad_{self.name}.jsonl")
        records.write_jsonl(path, self.bad_samples)
        share = len({bad["id"] for bad in self.bad_samples}) / max(self.total, 1)
        allowed = self.params.max_bad_share
        if share > allowed:
            first = self.bad_samples[0]
            kinds = ", ".join(f"{count} {cause}" for cause, count in causes.items())
            raise BadShare(
                f"{display_path(path)}: {share:.0%} of {self.total} samples are bad ({kinds}), "
                f"above max_bad_share={allowed}; mend them, or raise max_bad_share; "
                f"first: {first['id']}: {first['detail'] or first['cause']}"
            )
        inputs.require_unchanged(self.run, self.name, self.t, self.inputs)
        self._save_inputs()
        marker = {
            "stage": self.name,
            "iteration": self.t,
            "key": self.key,
            "version": TABLE[self.name].version,
            "params": dependencies(self.params, self.name, self.t),
            "upstream": upstream(self.params, self.name, self.t),
            "total": self.total,
            "counts": self.counts,
            "bad": causes,
            "warnings": self.warnings,
            "seconds": round(time.monotonic() - self._started, 1),
            "peak_rss_mb": _peak_memory(),
        }
        records.write_json(self.run.marker_path(self.name, self.t), marker)


def _peak_memory() -> int:
    """The most memory that this process ever held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024**2 if sys.platform == "darwin" else 1024)
