"""Beside evaluate: python -m isrdpo.stages.score --run outputs/mine --iteration 1   (iteration 0: the base)

A scorer's verdict on every answer, and on the claims of those that have a caption -> scores.jsonl; figures
by test set -> scores.csv. A request is sent once: rows stand on disk as they come; what failed is sent again,
and what fails twice is a bad sample.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isrdpo.core import records, schema
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path, hold_lock
from isrdpo.core.metrics import word_count
from isrdpo.core.params import Params
from isrdpo.core.pipeline import stage_key
from isrdpo.core.progress import progress_bar
from isrdpo.core.runs import Run, stage_main
from isrdpo.formats import predictions
from isrdpo.formats.files import dataset_rows
from isrdpo.formats.predictions import Prediction
from isrdpo.formats.rows import sample_from_row
from isrdpo.scoring import protocol, scores

MAX_FAILURES = 20  # failures one after another after which nothing more is sent
REPLY_TOKENS = {
    protocol.OWN: 100,
    protocol.OFFICIAL: 20,
    protocol.CLAIMS: 120,
}  # of a reply, for the estimate (ours)


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


def score_iteration(run: Run, iteration: int) -> None:
    """Score the answers of the policy after training t; nothing where no scorer is asked for."""
    with run.stage("score", iteration) as stage:
        if stage is None or stage.params.score.scorer == "none":
            return
        if stage.params.score.scorer == "local":
            stage.read_model("score.model")
        requests = make_requests(read_answers(run, iteration), stage.params.score)
        log = records.BatchLog(stage.path("scores.jsonl"), records.Score, 1)
        failures = send(requests, log, stage.params)
        stage.total = len(requests)
        for request, reason in failures.items():
            stage.bad(f"{request.row.set}/{request.row.id} ({request.protocol})", "not scored", reason)
        write_scores(log, failures, stage.path("scores.csv"))
        stage.count("scored", len(log.rows()))
        stage.count("fallbacks", sum(row.parsed_by != "pattern" for row in log.rows()))


run = score_iteration  # the name by which every stage is started


def write_scores(log: records.BatchLog, failures: dict[Request, str], path: Path) -> None:
    """Write scores.csv: the figures of all scores on disk."""
    lost = [(request.row.set, request.protocol) for request in failures]
    records.write_csv(path, scores.score_table(log.rows(), lost))


def read_answers(run: Run, iteration: int) -> list[Prediction]:
    """An iteration's answers from its prediction files, with the captions of the test files."""
    captions: dict[str, dict[str, str]] = {}
    for sample in records.read_jsonl(run.file(0, "samples.jsonl"), records.Sample):
        if sample.caption:
            by_video = captions.setdefault(predictions.set_from_kind(sample.kind), {})
            by_video[predictions.video_id(sample.video)] = sample.caption
    rows = []
    for path in sorted(run.file(iteration, "predictions").glob("*.jsonl")):
        rows += predictions.read_predictions(path, path.stem, captions.get(path.stem, {}))[0]
    return rows


def make_requests(rows: Sequence[Prediction], settings: schema.Score) -> list[Request]:
    """One request for each answer, and one about its claims where there is a caption to hold them against."""
    requests = [Request(row, protocol.OWN if row.caption else protocol.OFFICIAL) for row in rows]
    if settings.hallucination:
        described = [row for row in rows if row.caption and row.response.strip()]
        requests += [Request(row, protocol.CLAIMS) for row in described]
    return requests


def send(requests: Sequence[Request], log: records.BatchLog, params: Params) -> dict[Request, str]:
    """Send what `log` (of Score, one a batch) does not hold yet. Returns what failed twice, with the reason.

    Raises RunError where one request after another fails.
    """
    waiting = unsent(requests, log.path)
    if not waiting:
        return {}
    from isrdpo.scoring import scorers

    scorer = scorers.open_scorer(params.score, params.model.device)
    failures: dict[Request, str] = {}
    in_a_row = 0
    for _ in range(2):
        failures = {}
        chats = [request.messages() for request in waiting]
        for i, reply in progress_bar(scorer.ask(chats), len(chats), f"score by {params.score.model}"):
            if not reply.error:
                in_a_row = 0
                log.append([score_row(waiting[i], reply.text, params.score.model, reply.version)])
                continue
            failures[waiting[i]] = reply.error
            in_a_row += 1
            if in_a_row >= MAX_FAILURES:
                raise RunError(
                    f"score.model={params.score.model}: {MAX_FAILURES} requests failed one after another; "
                    f"what is scored already stays; the last: {reply.error}"
                )
        waiting = list(failures)
        if not waiting:
            break
    return failures


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


def score_row(request: Request, reply: str, scorer: str, version: str) -> records.Score:
    """A scorer's reply as a row."""
    verdict = protocol.read_reply(request.protocol, reply)
    return records.Score(
        id=request.row.id,
        set=request.row.set,
        protocol=request.protocol,
        asked=request.digest(),
        scorer=scorer,
        version=version,
        score=verdict.score,
        correct=verdict.correct,
        parsed_by=verdict.parsed_by,
        claims=verdict.claims,
        unsupported=verdict.unsupported,
        words=word_count(request.row.response),
        reply=reply.encode(errors="replace").decode(),
    )


def estimate(requests: Sequence[Request], settings: schema.Score) -> str:
    """Say what sending these would take: requests, tokens, and dollars where the prices are given.

    Counts four characters as a token, and replies of REPLY_TOKENS.
    """
    characters = sum(request.characters() for request in requests)
    sent = characters / 4 / 1e6
    returned = sum(settings.max_new_tokens or REPLY_TOKENS[request.protocol] for request in requests) / 1e6
    if settings.price_in is not None and settings.price_out is not None:
        dollars = sent * settings.price_in + returned * settings.price_out
        cost = f"about {dollars:.2f} US dollars"
    else:
        cost = "no cost estimate: give score.price_in and score.price_out"
    return (
        f"{len(requests)} requests to {settings.model}: about {sent:.3f} million tokens sent, "
        f"{returned:.3f} million of replies (4 characters a token); {cost}"
    )


def score_again(run: Run, settings: Params, iteration: int, redo: bool) -> None:
    """Score an iteration under changed `score` parameters, or send once more what failed.

    Raises RunError where another scorer's rows would be dropped, unless `redo`.
    """
    scored = [t for stage, t in run.started() if stage == "score" and run.file(t, "scores.jsonl").exists()]
    by_others = [t for t in scored if stage_key(settings, "score", t) != run.key_on_disk("score", t)]
    if by_others and not redo:
        t = by_others[0]
        raise RunError(
            f"{display_path(run.folder)}: iteration {t} was scored by {run.params.score.model} under other "
            f"parameters; --redo scores anew, or score iter_{t:02d}/predictions into another folder with --to"
        )
    run.update(settings, redo=True)
    marker = run.done("score", iteration)
    if marker and marker["bad"]:
        run.marker_path("score", iteration).unlink()
    score_iteration(run, iteration)


def summary(run: Run, iteration: int) -> str:
    """The figures of an iteration's scores, for a terminal."""
    return scores.score_lines(scores.read_scores(run.file(iteration, "scores.csv")))


def score_file(path: Path, test: Path, to: Path, params: Params, dry_run: bool) -> str:
    """Score a prediction file in LLaVA-Hound's format against its test file; returns what came out, for a
    terminal.

    Writes `to`/scores.jsonl and scores.csv, which several sets may share. A dry run returns an estimate; it
    sends and writes nothing.
    """
    name = predictions.set_from_kind(predictions.set_from_file(test.name))
    rows, left_out = predictions.read_predictions(path, name, read_captions(test))
    requests = make_requests(rows, params.score)
    duplicates = len(requests) - len({(request.row.id, request.protocol) for request in requests})
    if duplicates:
        raise RunError(f"{path}: {duplicates} of its ids come twice; each prediction is scored once")
    if dry_run:
        return estimate(unsent(requests, to / "scores.jsonl"), params.score)
    to.mkdir(parents=True, exist_ok=True)
    with hold_lock(to / ".lock"):
        require_same_scorer(to, params.score)
        log = records.BatchLog(to / "scores.jsonl", records.Score, 1)
        failures = send(requests, log, params)
        write_scores(log, failures, to / "scores.csv")
    if len(failures) > params.max_bad_share * len(requests):
        raise RunError(
            f"{to}: {len(failures)} of {len(requests)} requests failed; "
            f"the same command sends them again; the last: {list(failures.values())[-1]}"
        )
    return (
        f"{scores.score_lines(scores.read_scores(to / 'scores.csv'))}\n"
        f"{left_out} predictions left out (no success, or no caption); "
        f"all in {display_path(to / 'scores.csv')}"
    )


def require_same_scorer(to: Path, settings: schema.Score) -> None:
    """Raise RunError where a folder's rows were made by another scorer."""
    path = to / "scores.jsonl"
    names = {row.scorer for row in records.read_jsonl(path, records.Score)} if path.exists() else set()
    if names - {settings.model}:
        raise RunError(
            f"{to}: scored by {', '.join(sorted(names))} already; "
            f"numbers of different scorers are not mixed: give another --to"
        )


def read_captions(test: Path) -> dict[str, str]:
    """Captions of a test file by video, the last one where a video has several (eval_qa.py); an official
    file has none.
    """
    captions = {}
    for row in dataset_rows(test, test.parent):
        try:
            sample = sample_from_row(row.values, row.where)
        except (ValueError, TypeError, AttributeError):
            continue  # a prediction of this row will lack its caption, and be left out
        if sample.caption:
            captions[predictions.video_id(sample.video)] = sample.caption
    return captions


if __name__ == "__main__":
    stage_main("score", run)
