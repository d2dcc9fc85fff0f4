"""Preferences in the formats of other tools.

| format | files |
|---|---|
| llava-hound | preferences.jsonl |
| hf | data/train-*.parquet, README.md |
| llama-factory | preferences.json, dataset_info.json |
| ms-swift | preferences.jsonl |

Their schemas are from:

* llava-hound: LLaVA-Hound's sft_dpo_17k.jsonl (llava_hound_dpo/dpo_scripts/run_dpo.py); stage data reads it
* hf: huggingface.co/docs/trl/dataset_formats (preference, conversational, explicit prompt); hub dataset cards
* llama-factory: hiyouga/LLaMA-Factory ff6d4d12: data/README.md, src/llamafactory/data (converter, mm_plugin)
* ms-swift: modelscope/ms-swift 3602360a: docs/source_en/Customization/Custom-dataset.md (RLHF, Multimodal)

Video paths count from the run's folder of videos; with copied videos, from the exported folder (in the
format of LLaVA-Hound, whose reader joins a folder of videos, from its videos/). LLaMA-Factory and ms-swift
take a folder of frames as a list of its pictures, and count the tags <video>, <image> and <audio> in all
texts: pairs that hold one are left out there, and counted. TRL 1.16's DPOTrainer trains on images only and
ignores `videos`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isrdpo.core import records
from isrdpo.core.clips import frame_files
from isrdpo.core.records import Preference
from isrdpo.core.runs import Run
from isrdpo.reports.repository_card import preferences_card

MEDIA_TAG = re.compile(r"<(video|image|audio)>")
ROWS_PER_FILE = 100_000  # of a parquet file


@dataclass(frozen=True)
class Export:
    """Pairs of iteration `t` on their way into `folder`.

    `videos` is the run's folder of clips; `copied` says whether they lie in the folder's videos/ too.
    """

    run: Run
    t: int
    pairs: list[Preference]
    folder: Path
    videos: Path
    copied: bool

    @property
    def prefix(self) -> str:
        """The part of a path before the clip's name, where it counts from the exported folder."""
        return "videos/" if self.copied else ""

    def media(self, name: str) -> str | list[str]:
        """A clip's path; of a folder of frames, the paths of the frames in order."""
        folder = self.videos / name
        if not folder.is_dir():
            return f"{self.prefix}{name}"
        return [f"{self.prefix}{name}/{frame.name}" for frame in frame_files(folder)]


@dataclass(frozen=True)
class Format:
    """How a format is written, and whether its reader counts media tags in texts."""

    write: Callable[[Export], None]
    counts_tags: bool


def holds_media_tag(pair: Preference) -> bool:
    """Whether a text of the pair holds <video>, <image> or <audio>."""
    return MEDIA_TAG.search(pair.question + pair.chosen + pair.rejected) is not None


def _write_llava_hound(export: Export) -> None:
    rows = [
        {
            "id": pair.id,
            "video": pair.video,
            "prompt": f"<video>\n{pair.question}",
            "chosen": pair.chosen,
            "rejected": pair.rejected,
        }
        for pair in export.pairs
    ]
    records.write_jsonl(export.folder / "preferences.jsonl", rows)


def _write_llama_factory(export: Export) -> None:
    rows = [
        {
            "conversations": [{"from": "human", "value": f"<video>{pair.question}"}],
            "chosen": {"from": "gpt", "value": pair.chosen},
            "rejected": {"from": "gpt", "value": pair.rejected},
            "videos": [export.media(pair.video)],
        }
        for pair in export.pairs
    ]
    records.write_json(export.folder / "preferences.json", rows)
    entry = {
        "file_name": "preferences.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {
            "messages": "conversations",
            "chosen": "chosen",
            "rejected": "rejected",
            "videos": "videos",
        },
    }
    name = re.sub(r"\W+", "_", export.run.folder.name).strip("_") or "run"
    records.write_json(export.folder / "dataset_info.json", {f"{name}_iteration_{export.t}": entry})


def _write_ms_swift(export: Export) -> None:
    rows = [
        {
            "messages": [_turn("user", f"<video>{pair.question}"), _turn("assistant", pair.chosen)],
            "rejected_response": pair.rejected,
            "videos": [export.media(pair.video)],
        }
        for pair in export.pairs
    ]
    records.write_jsonl(export.folder / "preferences.jsonl", rows)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _write_hf(export: Export) -> None:
    """Columns id, videos, prompt, chosen, rejected, margin.

    A folder of frames stays one path: a column has one type.
    """
    import pyarrow
    from pyarrow import parquet

    rows = [
        {
            "id": pair.id,
            "videos": [f"{export.prefix}{pair.video}"],
            "prompt": [_turn("user", pair.question)],
            "chosen": [_turn("assistant", pair.chosen)],
            "rejected": [_turn("assistant", pair.rejected)],
            "margin": None if pair.margin is None else float(pair.margin),
        }
        for pair in export.pairs
    ]
    folder = export.folder / "data"
    folder.mkdir()
    parts = records.cut_batches(rows, ROWS_PER_FILE)
    for number, part in enumerate(parts):
        table = pyarrow.Table.from_pylist(part, schema=_features().arrow_schema)
        parquet.write_table(table, folder / f"train-{number:05d}-of-{len(parts):05d}.parquet")
    card = preferences_card(export.run, export.t, export.pairs, export.copied)
    records.write_text(export.folder / "README.md", card)


def _features() -> Any:
    """The column types, as `datasets` notes them in the files."""
    from datasets import Features, List, Value

    text = Value("string")
    turns = List({"role": text, "content": text})
    return Features(
        {
            "id": text,
            "videos": List(text),
            "prompt": turns,
            "chosen": turns,
            "rejected": turns,
            "margin": Value("float64"),
        }
    )


FORMATS = {
    "llava-hound": Format(_write_llava_hound, counts_tags=False),
    "hf": Format(_write_hf, counts_tags=False),
    "llama-factory": Format(_write_llama_factory, counts_tags=True),
    "ms-swift": Format(_write_ms_swift, counts_tags=True),
}
