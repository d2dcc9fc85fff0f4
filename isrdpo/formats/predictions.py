"""Prediction files in LLaVA-Hound's row format: ours for its scripts, its own for our scorers.

The format is that of llava_hound_dpo/test/inference/inference_test_qa.py.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from isrdpo.core.records import Answer, RecordError, Sample, read_jsonl, write_jsonl
from isrdpo.formats.files import ENDINGS

FIELDS = "id, modal_path, query, answer, model_prediction: {status, message}"


@dataclass(frozen=True)
class Prediction:
    """An answer to be scored. `set` is the test set's name; `caption` is empty where the set has none."""

    id: str
    set: str
    question: str
    answer: str
    response: str
    caption: str


def video_id(path: str) -> str:
    """Return the name by which a video's caption is looked up (get_id_from_frame_path).

    That is the last part of its path up to the first dot.
    """
    return path.split("/")[-1].split(".")[0]


def set_from_kind(kind: str) -> str:
    """Return the test set of a kind of question, fit for a file's name: `kind` may be any text."""
    return re.sub(r"[^\w.-]", "_", kind).lstrip(".")[:80] or "test"


def set_from_file(name: str) -> str:
    """Return the test set that a file's name stands for.

    That is msvd for `msvd.qa.jsonl`, and msvd.official for `msvd.qa.official.jsonl`.
    """
    last = PurePath(name).name
    for ending in ENDINGS:
        last = last.removesuffix(ending)
    return ".".join(part for part in last.split(".") if part != "qa") or last


def write_predictions(
    folder: Path,
    answers: Iterable[Answer],
    samples: Iterable[Sample],
    max_new_tokens: int,
) -> None:
    """Write `<set>.jsonl` for each kind of question; ids are those of the test file.

    The reference calls greedy decoding temperature 0.0, and writes a top_p that has no effect then.
    """
    videos = {sample.id: sample.video for sample in samples}
    rows: dict[str, list[dict[str, Any]]] = {}
    for answer in answers:
        row = {
            "id": answer.id.removeprefix(f"{answer.kind}/"),
            "modal_path": videos[answer.id],
            "query": answer.question,
            "answer": answer.reference,
            "modal_type": "VIDEO",
            "video_decode_backend": "frames",
            "temperature": 0.0,
            "top_p": 0.9,
            "max_new_tokens": max_new_tokens,
            "model_prediction": {"status": "success", "message": answer.response},
        }
        rows.setdefault(set_from_kind(answer.kind), []).append(row)
    for name, rows_of_set in rows.items():
        write_jsonl(folder / f"{name}.jsonl", rows_of_set)


def read_predictions(path: Path, name: str, captions: Mapping[str, str]) -> tuple[list[Prediction], int]:
    """Return the predictions of a file for the test set `name`, and how many of its rows were left out.

    Left out are those that the reference leaves out: rows without success, and rows whose video has no
    caption where others have one. `captions` are by `video_id`. Raises RecordError, which names the row.
    """
    predictions = []
    left_out = 0
    for number, row in enumerate(read_jsonl(path, dict), 1):
        try:
            prediction = _prediction(row, name, captions)
        except (KeyError, TypeError, AttributeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            what = f"row {number}: not a prediction ({why}); its fields are: {FIELDS}"
            raise RecordError(f"{path}: {what}") from None
        if prediction is None or (captions and not prediction.caption):
            left_out += 1
        else:
            predictions.append(prediction)
    return predictions, left_out


def _prediction(row: dict[str, Any], name: str, captions: Mapping[str, str]) -> Prediction | None:
    """A row as a Prediction; None where it has no success.

    Raises KeyError, TypeError or AttributeError for another form.
    """
    output = row["model_prediction"]
    success = output["status"] == "success"
    prediction = Prediction(
        id=_text(row.get("id", row.get("idx"))),
        set=name,
        question=_text(row["query"]),
        answer=_text(row["answer"]),
        response=_text(output["message"]) if success else "",
        caption=captions.get(video_id(_text(row["modal_path"])), ""),
    )
    return prediction if success else None


def _text(value: Any) -> str:
    """A text, or a whole number as one; what cannot be written is replaced."""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:40]!r} is not text")
    return str(value).encode(errors="replace").decode()
