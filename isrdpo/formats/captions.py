"""The captions of a test set, found for answers by the whole name of their video.

A prediction file names videos by paths of another machine (`/data/frames/test/msvd/v1`), and the released
test files name them as `test/msvd/v1`; LLaVA-Hound's own scripts look captions up by the name's last part up
to a dot, which mixes up `cooking/001.mp4` and `sports/001.mp4`, `AO8RW_0.0_6.9` and `AO8RW_0.5_9.1`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from isrdpo.core.clips import SUFFIXES
from isrdpo.core.records import Sample


@dataclass(frozen=True)
class Match:
    """What was found for an answer.

    `caption` is empty where its question has none, and where `fault` says why none can be told. `by_name`
    says whether only the last part of the video's path agreed, which no other video of the test set has.
    """

    caption: str = ""
    fault: str = ""
    by_name: bool = False


class Captions:
    """The questions of a test set, by their videos."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.any = False
        self._rows: dict[str, list[Sample]] = {}
        for sample in samples:
            self.any = self.any or bool(sample.caption)
            self._rows.setdefault(_parts(sample.video)[-1], []).append(sample)

    def find(self, identity: str, video: str, question: str) -> Match:
        """The caption for the answer to a question about a video.

        Among the videos of the same name it is the one whose folders agree farthest; among its questions the
        one of this id, else of this text. What is left must have one caption.
        """
        path = _parts(video)
        rows = self._rows.get(path[-1], [])
        if not rows:
            return Match(fault="its video is not in the test file")
        lengths = [_common_end(_parts(row.video), path) for row in rows]
        rows = [row for row, length in zip(rows, lengths, strict=True) if length == max(lengths)]
        rows = [row for row in rows if PurePosixPath(row.video).name == PurePosixPath(video).name] or rows
        by_name = max(lengths) < min(len(path), *(len(_parts(row.video)) for row in rows))
        rows = [row for row in rows if row.id == identity] or rows
        rows = [row for row in rows if row.question == question] or rows
        captions = {row.caption for row in rows}
        if len(captions) > 1:
            return Match(fault=f"{len(captions)} captions of the test file may be meant")
        caption = captions.pop()
        return Match(caption, "" if caption else "its question has no caption", by_name)


def _parts(video: str) -> tuple[str, ...]:
    """The parts of a video's path, the last one without a video's suffix (and no other: 0.5 is none)."""
    path = PurePosixPath(video.replace("\\", "/"))
    name = path.name
    if path.suffix.lower() in SUFFIXES:
        name = path.stem
    return (*path.parts[:-1], name)


def _common_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts two paths end with alike."""
    length = 0
    for first, second in zip(reversed(one), reversed(other), strict=False):
        if first != second:
            break
        length += 1
    return length
