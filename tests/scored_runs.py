"""Helpers of the tests about scoring: settings, a scorer's replies, the command line and hand-made scores."""

import subprocess
import sys

from isrdpo.core.records import Score, read_jsonl
from isrdpo.core.runs import Run
from isrdpo.scoring import protocol
from tests.scorer_server import Answer, Server

KEY = "sk-" + "verysecret" * 3
OPENAI = ("score.scorer=openai", "score.model=gpt-test", "score.retries=0")


def openai_settings(server: Server) -> list[str]:
    """Return the overrides that have a run scored by this server."""
    return [*OPENAI, f"score.base_url={server.url}"]


def last_message(body: dict) -> str:
    """Return the text of a request's last message."""
    return body["messages"][-1]["content"]


def polite(body: dict) -> Answer:
    """Reply to either request in the form that its prompt prescribes."""
    if "unsupported" in last_message(body):
        return "supported: a\nunsupported: b"
    return "Explanation: x\nScore: 4"


def score_rows(run: Run) -> list[Score]:
    """Read the scores of the base policy."""
    return read_jsonl(run.file(0, "scores.jsonl"), Score)


def isrdpo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "isrdpo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def make_score(number: int, correct: bool | None, version: str = "v1", name: str = "msvd.official") -> Score:
    """Make the score of one answer by the official protocol."""
    return Score(
        id=str(number),
        set=name,
        protocol=protocol.OFFICIAL,
        asked=f"digest of {name} {number}",
        scorer="gpt",
        version=version,
        score=4.0,
        correct=correct,
        parsed_by="pattern",
        claims=None,
        unsupported=None,
        words=3,
        reply="reply",
    )
