"""A caption is that of the answer's own video and question, or none."""

import pytest

from isrdpo.core.records import Sample
from isrdpo.formats.captions import Captions, Match

NO_CAPTION = "its question has no caption"
ABSENT = "its video is not in the test file"
SET = Captions(
    [
        Sample("a", "cooking/001.mp4", "What?", caption="An onion."),
        Sample("b", "sports/001.mp4", "What?", caption="A ball."),
        Sample("c", "AO8RW_0.0_6.9.mp4", "What?", caption="A kitchen."),
        Sample("d", "AO8RW_0.5_9.1", "What?", caption="A dog."),
        Sample("e", "free/002.mp4", "What?"),
        Sample("f", "test/msvd/v7", "What?", caption="A cube."),
        Sample("g", "test/msvd/v7", "Where?", caption="A cube at the left."),
    ]
)


@pytest.mark.parametrize(
    ("identity", "video", "question", "match"),
    [
        ("a", "cooking/001.mp4", "What?", Match("An onion.")),
        ("b", "sports/001", "What?", Match("A ball.")),
        ("x", "/data/frames/sports/001", "What?", Match("A ball.")),
        ("c", "AO8RW_0.0_6.9.mp4", "What?", Match("A kitchen.")),
        ("d", "clips/AO8RW_0.5_9.1.mp4", "What?", Match("A dog.")),
        ("x", "AO8RW_0.mp4", "What?", Match(fault=ABSENT)),
        ("x", "AO8RW_0", "What?", Match(fault=ABSENT)),
        ("e", "free/002.mp4", "What?", Match(fault=NO_CAPTION)),
        ("x", "/data/001.mp4", "Who?", Match(fault="2 captions of the test file may be meant")),
        ("b", "/data/001.mp4", "Who?", Match("A ball.", by_name=True)),
        ("f", "/data/test/msvd/v7", "What?", Match("A cube.")),
        ("g", "/data/test/msvd/v7", "Where?", Match("A cube at the left.")),
        ("x", "/data/test/msvd/v7", "Where?", Match("A cube at the left.")),
        ("x", "/data/test/msvd/v7", "Who?", Match(fault="2 captions of the test file may be meant")),
    ],
)
def test_each_answer_has_its_own_caption(identity: str, video: str, question: str, match: Match) -> None:
    assert SET.find(identity, video, question) == match
