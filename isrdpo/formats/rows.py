"""One row of a data set, in any of its spellings, as a Sample.

| spelling | question | answers |
|---|---|---|
| LLaVA-Hound | prompt, or conversations of {from, value} | answer, chosen, rejected |
| TRL | prompt as text or turns, or what chosen and rejected begin with | answer, chosen, rejected |
| LLaMA-Factory | conversations; instruction and input | output, chosen, rejected |
| ms-swift | messages, or query | the last turn or response; rejected_response, rejected_messages |

(huggingface.co/docs/trl/dataset_formats; LLaMA-Factory's data/README.md; ms-swift's Custom-dataset.md.)
Everything that `isrdpo export` writes is read back. The text of a question loses its <video> and <image> tags
here.

One rule for all of them: a row is one question about one video, read whole or refused by name. Several
rounds, several answers, pictures or sound beside the video, and columns that contradict each other are
refused. System prompts do not count: the model's own is used.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from isrdpo.core.clips import PICTURES, frame_files
from isrdpo.core.records import Sample
from isrdpo.core.text_files import text_fault
from isrdpo.formats.turns import (
    Dialogue,
    RowError,
    is_absent,
    is_dialogue,
    parse_json,
    read_dialogue,
    scalar_text,
    text_of,
)

QUESTION_COLUMNS = ("prompt", "question", "query", "instruction")
DIALOGUE_COLUMNS = ("conversations", "messages", "rejected_messages")
ANSWER_COLUMNS = ("answer", "output", "response", "chosen", "rejected", "rejected_response")
REFUSED_COLUMNS = {  # what a Sample has no room for
    "image": "pictures beside the video",
    "images": "pictures beside the video",
    "audio": "sound beside the video",
    "audios": "sound beside the video",
    "history": "more than one question",
}
COLUMNS = (  # all that are read
    "id",
    "idx",
    "video",
    "videos",
    "input",
    "caption",
    "kind",
    *QUESTION_COLUMNS,
    *DIALOGUE_COLUMNS,
    *ANSWER_COLUMNS,
    *REFUSED_COLUMNS,
)


def row_id(row: Any) -> str:
    """Return a row's `id`, or its `idx`, fit to be shown; empty where it has neither, or is no object."""
    try:
        identity = _identity(row) if isinstance(row, dict) else ""
    except (ValueError, RecursionError):
        return ""
    return identity.encode(errors="backslashreplace").decode()


def _identity(row: dict[str, Any]) -> str:
    """The `id` or `idx` as text; empty where it has neither."""
    for name in ("id", "idx"):
        if not is_absent(row.get(name)):
            return scalar_text(row[name])
    return ""


def sample_from_row(row: Any, clips: Path | None = None) -> Sample:
    """Return one row of a data set as a Sample.

    A row that has neither `id` nor `idx` gets an id from its content: it stays when rows are put into another
    order, and equal rows are duplicates. `clips` is the folder of videos: a list of frames must be all of a
    folder's there.

    Raises RowError where the row cannot be used, and ValueError where a value has another form.
    """
    try:
        return _read_sample(row, clips)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _read_sample(row: Any, clips: Path | None) -> Sample:
    if not isinstance(row, dict):
        raise ValueError(f"{str(row)[:60]!r} is not an object with fields")
    for name, cause in REFUSED_COLUMNS.items():
        if not is_absent(row.get(name)):
            raise RowError(cause)
    rounds = _rounds(row)
    question = _question(rounds)
    if not question:
        raise RowError("empty question")
    video = _video_name(row, rounds, clips)
    sample = Sample(
        id=_identity(row),
        video=video,
        question=question,
        kind=text_of(row.get("kind")),
        caption=text_of(row.get("caption")),
        **_answers(row, rounds),
    )
    refuse_unwritable_text(sample)
    return sample if sample.id else replace(sample, id=_content_id(sample))


def refuse_unwritable_text(sample: Sample) -> None:
    """Raise ValueError where a text holds what no text can: half of a surrogate pair, or NUL."""
    for name, text in vars(sample).items():
        if isinstance(text, str) and (fault := text_fault(text)):
            raise ValueError(f"{name} holds {fault}")


def _content_id(sample: Sample) -> str:
    """An id that depends on what a row says, not on where it stands nor on its spelling."""
    content = json.dumps(vars(sample), sort_keys=True)
    return f"row-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _rounds(row: dict[str, Any]) -> dict[str, Dialogue]:
    """The columns of a row that hold a question or an answer, each as the round that it is."""
    rounds = {}
    for name in (*QUESTION_COLUMNS, *DIALOGUE_COLUMNS, *ANSWER_COLUMNS):
        value = row.get(name)
        if name in DIALOGUE_COLUMNS and isinstance(value, str):
            value = _parse_turns(name, value)
        if is_absent(value):
            continue
        if is_dialogue(value):
            rounds[name] = read_dialogue(value)
        elif name in DIALOGUE_COLUMNS:
            raise ValueError(f"{name} is no list of turns, each with its speaker and text")
        elif name in QUESTION_COLUMNS:
            rounds[name] = Dialogue(question=text_of(value))
        else:
            rounds[name] = Dialogue(answer=text_of(value))
    details = text_of(row.get("input"))
    if details:  # LLaMA-Factory puts it on the line behind the instruction
        instruction = rounds.pop("instruction", Dialogue()).question
        rounds["input"] = Dialogue(question="\n".join(filter(None, (instruction, details))))
    return rounds


def _parse_turns(name: str, text: str) -> Any:
    """Turns that a table keeps as JSON in a cell."""
    if not text.strip():
        return None
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{name} is text, but no JSON") from None


def _question(rounds: dict[str, Dialogue]) -> str:
    """The one question of a row, without tags; empty where it has none."""
    questions = {name: _without_tags(part.question) for name, part in rounds.items()}
    return _only_text(questions, "question")


def _answers(row: dict[str, Any], rounds: dict[str, Dialogue]) -> dict[str, str]:
    """The answer, chosen and rejected of a row, each empty where it has none."""
    answers = {name: part.answer for name, part in rounds.items()}
    rejected = [name for name in ("rejected", "rejected_response", "rejected_messages") if name in answers]
    chosen = ["chosen"]
    if row.get("rejected_response") is not None or "rejected_messages" in rounds:
        chosen += ["messages", "response"]  # ms-swift: the conversation's own answer is the chosen one
    others = [name for name in answers if name not in (*chosen, *rejected)]
    return {
        "answer": _only_text({name: answers[name] for name in others}, "answer"),
        "chosen": _only_text({name: answers[name] for name in chosen if name in answers}, "chosen"),
        "rejected": _only_text({name: answers[name] for name in rejected}, "rejected"),
    }


def _only_text(texts: dict[str, str], what: str) -> str:
    """The one text that columns hold; empty where all are. Raises RowError where two differ."""
    present = {name: text for name, text in texts.items() if text.strip()}
    if not present:
        return ""
    (first, text), *others = present.items()
    for name, other in others:
        if other.strip() == text.strip():
            continue
        if what == "question" and {first, name} == {"chosen", "rejected"}:
            raise RowError("chosen and rejected answer different questions")
        raise RowError(f"{first} and {name} hold different texts of the {what}")
    return text


def _without_tags(text: str) -> str:
    return text.replace("<video>", "").replace("<image>", "").strip()


def _video_name(row: dict[str, Any], rounds: dict[str, Dialogue], clips: Path | None) -> str:
    """The path in `video`, in `videos` (of one entry), or in a typed part of the question.

    Raises RowError for none or several videos, and for a video's bytes, which are not written to a file.
    """
    values = [row.get("video")]
    several = row.get("videos")
    values += several if isinstance(several, list) else [several]
    for part in rounds.values():
        values += part.videos
    names = {name for value in values for name in _video_paths(value, clips)}
    if len(names) > 1:
        raise RowError("more than one video")
    if not names:
        raise RowError("no video named")
    return names.pop()


def _video_paths(value: Any, clips: Path | None) -> list[str]:
    """The paths in one value: a text, an object with a path, a list of one of these, or a list of frames."""
    if is_absent(value):
        return []
    if isinstance(value, dict):
        if not is_absent(value.get("bytes")):
            raise RowError("video given as bytes, not as a path")
        return _video_paths(value.get("path"), clips)
    if isinstance(value, bytes):
        raise RowError("video given as bytes, not as a path")
    if isinstance(value, list):
        if all(isinstance(name, str) and name.lower().endswith(PICTURES) for name in value):
            return [_folder_of_frames(value, clips)]
        return [path for part in value for path in _video_paths(part, clips)]
    return [scalar_text(value)]


def _folder_of_frames(names: list[str], clips: Path | None) -> str:
    """The folder whose frames a list names, as ms-swift and LLaMA-Factory list them.

    Raises RowError where the list is not a whole folder in its order: other frames would be looked at.
    """
    folders = {str(PurePosixPath(name).parent) for name in names}
    folder = folders.pop()
    if folders or folder == ".":
        raise RowError("frames that are not one folder")
    if clips is not None:
        present = _frames_present(clips / folder)
        if present and present != [PurePosixPath(name).name for name in names]:
            raise RowError("frames that are not all of their folder, in order")
    return folder


def _frames_present(folder: Path) -> list[str]:
    """The names of a folder's frames; none where it cannot be looked at, which is said where it is opened."""
    try:
        return [frame.name for frame in frame_files(folder)]
    except OSError:
        return []
