"""Prediction files in LLaVA-Hound's row format: ours for its scripts, its own for our scorers.

The format is that of llava_hound_dpo/test/inference/inference_test_qa.py.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from isrdpo.core.records import Answer, RecordError, Sample, read_jsonl, write_jsonl
from isrdpo.core.replies import without_thoughts
from isrdpo.core.text_files import text_fault
from isrdpo.formats.captions import Captions
from isrdpo.formats.files import ENDINGS
from isrdpo.formats.turns import scalar_text

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


@dataclass(frozen=True)
class Predictions:
    """The predictions of a file.

    `rows` are scored. `left_out` has the id of each other one and why it is not: it has no success, or no
    caption where others of its test set have one. `by_name` are the ids whose caption was found by the
    clip's bare name, which no other clip of the test set has.
    """

    rows: list[Prediction]
    left_out: list[tuple[str, str]]
    by_name: list[str]


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


def read_predictions(path: Path, name: str, captions: Captions) -> Predictions:
    """Return the predictions of a file for the test set `name`.

    Left out are those that the reference leaves out: rows without success, and rows whose video has no
    caption where others have one. Thoughts before an answer are not part of it; an answer that is only an
    unfinished thought is no success. Raises RecordError, which names the row.
    """
    rows: list[Prediction] = []
    left_out: list[tuple[str, str]] = []
    by_name: list[str] = []
    for number, row in enumerate(read_jsonl(path, dict), 1):
        try:
            prediction, fault, is_by_name = _prediction(row, name, captions)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            what = f"row {number}: not a prediction ({why}); its fields are: {FIELDS}"
            raise RecordError(f"{path}: {what}") from None
        if fault:
            left_out.append((prediction.id, fault))
            continue
        rows.append(prediction)
        if is_by_name:
            by_name.append(prediction.id)
    return Predictions(rows, left_out, by_name)


def _prediction(row: dict[str, Any], name: str, captions: Captions) -> tuple[Prediction, str, bool]:
    """A row as a Prediction; why it is left out, if so; and whether its caption was found by a bare name.

    Raises KeyError, TypeError, ValueError or AttributeError for another form.
    """
    output = row["model_prediction"]
    success = output["status"] == "success"
    response = without_thoughts(_text(output["message"])) if success else ""
    identity = _text(row.get("id", row.get("idx")))
    question = _text(row["query"])
    match = captions.find(identity, _text(row["modal_path"]), question)
    fault = match.fault if captions.any else ""
    if not success:
        fault = "no success"
    elif response is None:
        fault = "an unfinished thought"
    prediction = Prediction(
        id=identity,
        set=name,
        question=question,
        answer=_text(row["answer"]),
        response=response or "",
        caption=match.caption,
    )
    return prediction, fault, match.by_name and not fault


def _text(value: Any) -> str:
    """A text, or a number as one.

    Raises ValueError for anything else, and for half of a surrogate pair. A response may hold NUL: some
    models have a token for it.
    """
    text = scalar_text(value)
    if fault := text_fault(text.replace("\0", "")):
        raise ValueError(f"it holds {fault}")
    return text
