"""Prediction files in LLaVA-Hound's row format (llava_hound_dpo/test/inference/inference_test_qa.py): ours for old scripts, old ones for our scorers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from isrdpo.core import records
from isrdpo.formats import files as formats


@dataclass(frozen=True)
class Prediction:
    """An answer to be scored. `set`: the test set's name; `caption`: empty where the set has none."""

    id: str
    set: str
    question: str
    answer: str
    response: str
    caption: str


def video_id(path: str) -> str:
    """The last part of a video's path up to its first dot, by which captions are found (get_id_from_frame_path)."""
    return path.split("/")[-1].split(".")[0]


def set_of(kind: str) -> str:
    """A set's name as a file's: a data set may write anything into `kind`."""
    return re.sub(r"[^\w.-]", "_", kind).lstrip(".")[:80] or "test"


def set_name(name: str) -> str:
    """msvd of `msvd.qa.jsonl`, msvd.official of `msvd.qa.official.jsonl` (LLaVA-Hound's names of its test files)."""
    last = PurePath(name).name
    for ending in formats.ENDINGS:
        last = last.removesuffix(ending)
    return ".".join(part for part in last.split(".") if part != "qa") or last


def write(folder: Path, answers: Iterable[records.Answer], samples: Iterable[records.Sample], max_new_tokens: int) -> None:
    """`<set>.jsonl` for each kind of question; ids as in the test file. Greedy decoding is temperature 0.0 there, and top_p is said but has no effect."""
    videos, rows = {s.id: s.video for s in samples}, {}
    for a in answers:
        rows.setdefault(set_of(a.kind), []).append({
            "id": a.id.removeprefix(f"{a.kind}/"), "modal_path": videos[a.id], "query": a.question, "answer": a.reference, "modal_type": "VIDEO",
            "video_decode_backend": "frames", "temperature": 0.0, "top_p": 0.9, "max_new_tokens": max_new_tokens,
            "model_prediction": {"status": "success", "message": a.response},
        })  # fmt: skip
    for name, found in rows.items():
        records.write_jsonl(folder / f"{name}.jsonl", found)


def read(path: Path, name: str, captions: dict[str, str]) -> tuple[list[Prediction], int]:
    """The predictions of a file, and how many of its rows were left out as the reference leaves them out: no success, or a video without a caption where
    others have one. Raises RecordError naming the line."""
    made, left_out = [], 0
    for number, row in enumerate(records.read_jsonl(path, dict), 1):
        try:
            said = row["model_prediction"]
            success = said["status"] == "success"
            found = Prediction(_text(row.get("id", row.get("idx"))), name, _text(row["query"]), _text(row["answer"]), _text(said["message"]) if success else "",
                               captions.get(video_id(_text(row["modal_path"])), ""))  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            lacks = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise records.RecordError(
                f"{path}: row {number}: not a prediction ({lacks}); its fields are: id, modal_path, query, answer, model_prediction: {{status, message}}"
            ) from None
        if success and (found.caption or not captions):
            made.append(found)
        else:
            left_out += 1
    return made, left_out


def _text(value: Any) -> str:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:40]!r} is not text")
    return str(value).encode(errors="replace").decode()
