"""Requests to a scorer, and their replies as rows: each is sent until it has a row, or has failed twice."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path
from isrdpo.core.metrics import word_count
from isrdpo.core.params import Params
from isrdpo.core.progress import progress_bar
from isrdpo.core.texts import clean_text
from isrdpo.formats.connection import Reply, change_notes
from isrdpo.formats.predictions import Prediction
from isrdpo.scoring import protocol, scorers
from isrdpo.scoring.patience import MAX_FAILURES, Patience
from isrdpo.scoring.scores import Failure

CHANGES = "scorer.json"  # beside the scores: the parameters that the server refused


@dataclass(frozen=True)
class Request:
    """A prediction, and the protocol under which a scorer is asked about it."""

    row: Prediction
    protocol: str

    def messages(self) -> protocol.Messages:
        """The chat that is sent."""
        row = self.row
        return protocol.score_request(self.protocol, row.question, row.answer, row.response, row.caption)

    def characters(self) -> int:
        """The length of the chat."""
        return sum(len(turn["content"]) for turn in self.messages())

    def digest(self) -> str:
        """A digest of the chat, by which a score is known to be of this very answer."""
        return hashlib.sha256(json.dumps(self.messages()).encode()).hexdigest()[:16]

    def name(self) -> tuple[str, str, str]:
        """(set, id, protocol): the request's name among the scores on disk."""
        return self.row.set, self.row.id, self.protocol

    def lost(self) -> Failure:
        """The request as scores.csv counts those without a reply."""
        return self.row.set, self.protocol

    def __str__(self) -> str:
        return f"{self.row.set}/{self.row.id} ({self.protocol})"


@dataclass(frozen=True)
class Changes:
    """The parameters that a scorer refused, as they stand beside its scores, so that a restart keeps them.

    `scorer` is its address and model, `changes` as in `Connection`.
    """

    scorer: str = ""
    changes: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.changes, dict):
            raise TypeError("changes is no object")
        for name in self.changes.values():
            if not isinstance(name, str | None):
                raise TypeError(f"{name!r} is no parameter's name")

    @classmethod
    def read(cls, scores: Path) -> "Changes":
        """The changes beside a file of Scores. Raises RecordError where they cannot be read."""
        path = scores.with_name(CHANGES)
        if not path.exists():
            return cls()
        return records.parse_line(path.read_text(encoding="utf-8", errors="replace"), cls, display_path(path))

    def write(self, scores: Path) -> None:
        """Write them, unless they are on disk already."""
        if self.changes and self != Changes.read(scores):
            records.write_json(scores.with_name(CHANGES), asdict(self))


def send(requests: Sequence[Request], log: records.BatchLog, params: Params) -> dict[Request, str]:
    """Send what `log` (of Score, one a batch) does not hold yet. Returns what failed twice, with the reason.

    Raises RunError where nothing more can succeed: no server, no such model, a wrong key, or MAX_FAILURES one
    after another, unless so few are left that all of them may fail.
    """
    waiting = unsent(requests, log.path)
    if not waiting:
        return {}
    scorer = scorers.open_scorer(params.score, params.model.device)
    earlier = Changes.read(log.path)
    if earlier.scorer == scorer.name:
        scorer.changes.update(earlier.changes)
    patience = Patience(replied=len(waiting) < len(requests))
    if len(waiting) <= params.max_bad_share * len(requests):
        patience.limit = None
    failures: dict[Request, str] = {}
    for _ in range(2):
        failures = {}
        chats = [request.messages() for request in waiting]
        for i, reply in progress_bar(scorer.ask(chats), len(chats), f"score by {params.score.model}"):
            problem = reply.error
            if not problem:
                row = score_row(waiting[i], reply, params.score.model)
                problem = score_problem(row)
            if problem:
                failures[waiting[i]] = problem
            else:
                Changes(scorer.name, dict(scorer.changes)).write(log.path)
                log.append([row])
            if patience.is_over(reply):
                raise RunError(stop_message(scorer.name, patience, reply.error))
        waiting = list(failures)
        patience.limit = None  # these failed once already, with usable replies between them
        if not waiting:
            break
    return failures


def stop_message(scorer: str, patience: Patience, error: str) -> str:
    """Say why nothing more is sent."""
    count = patience.failures.total()
    many = f"{count} requests failed one after another; " if count >= MAX_FAILURES else ""
    last = "the last: " if many else ""
    return f"{scorer}: {many}{last}{error}; what is scored already stays"


def unsent(requests: Sequence[Request], path: Path) -> list[Request]:
    """The requests that a file of Scores does not hold.

    Raises RunError where it holds scores of other answers to the same questions.
    """
    rows = records.read_jsonl(path, records.Score) if path.exists() else []
    digests = {(row.set, row.id, row.protocol): row.asked for row in rows}
    for request in requests:
        if digests.get(request.name(), "") not in ("", request.digest()):
            raise RunError(
                f"{display_path(path)}: holds scores of other answers (first: {request.row.set}, "
                f"{request.row.id}); give each model's predictions a folder of their own"
            )
    _refuse_other_answers(requests, rows, path)
    return [request for request in requests if request.name() not in digests]


def _refuse_other_answers(requests: Sequence[Request], rows: Sequence[records.Score], path: Path) -> None:
    """Raise RunError where scores of these test sets are about answers that are not among the requests.

    Figures would count them. Scores of claims stay where none are asked for any more.
    """
    sets = {request.row.set for request in requests}
    names = {request.name() for request in requests}
    names |= {(request.row.set, request.row.id, protocol.CLAIMS) for request in requests}
    for row in rows:
        if row.set in sets and (row.set, row.id, row.protocol) not in names:
            raise RunError(
                f"{display_path(path)}: holds a score of {row.set}, {row.id}, which is not to be scored (any "
                f"more); score a changed prediction or test file into another folder"
            )


def score_row(request: Request, reply: Reply, scorer: str) -> records.Score:
    """A scorer's reply as a row. One that was cut off before its verdict is unread."""
    verdict = protocol.read_reply(request.protocol, reply.text)
    if reply.cut and verdict.parsed_by != "pattern":
        verdict = protocol.Verdict(parsed_by="none")
    return records.Score(
        id=request.row.id,
        set=request.row.set,
        protocol=request.protocol,
        asked=request.digest(),
        scorer=scorer,
        version=reply.version,
        score=verdict.score,
        correct=verdict.correct,
        parsed_by=verdict.parsed_by,
        claims=verdict.claims,
        unsupported=verdict.unsupported,
        words=word_count(request.row.response),
        reply=clean_text(reply.text),
        cut=reply.cut,
    )


def score_problem(row: records.Score) -> str:
    """Why a reply with a text is no score; empty where it is one."""
    if row.score is not None and not math.isfinite(row.score):
        return f"the reply's score is no number that can be counted: {row.reply[:60]!r}"
    return ""


def reply_notes(log: records.BatchLog) -> list[str]:
    """Sentences about what changed the requests or the replies of these scores."""
    notes = change_notes(Changes.read(log.path).changes)
    cut = [row for row in log.rows() if row.cut]
    if cut:
        unread = sum(row.parsed_by != "pattern" for row in cut)
        notes.append(
            f"{len(cut)} replies were cut off at a limit on their length (score.max_new_tokens or the "
            f"server's own), {unread} of them before their verdict, which is unread"
        )
    return notes
