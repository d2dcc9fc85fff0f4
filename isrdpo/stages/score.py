"""Beside evaluate: python -m isrdpo.stages.score --run outputs/mine --iteration 1   (iteration 0: the base)

A scorer's verdict on every answer, and on the claims of those that have a caption -> scores.jsonl; figures
by test set -> scores.csv. A request is sent once: rows stand on disk as they come; what failed is sent again,
and what fails twice is a bad sample.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from isrdpo.core import records, schema
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path, hold_lock
from isrdpo.core.params import Params
from isrdpo.core.pipeline import stage_key
from isrdpo.core.runs import Run, stage_main
from isrdpo.formats import predictions
from isrdpo.formats.captions import Captions
from isrdpo.formats.files import dataset_rows
from isrdpo.formats.predictions import Prediction
from isrdpo.formats.rows import sample_from_row
from isrdpo.scoring import protocol, scores
from isrdpo.scoring.sending import Request, reply_notes, send, unsent

LISTED = 20  # answers that are not scored, in the sentence about them
REPLY_TOKENS = {
    protocol.OWN: 100,
    protocol.OFFICIAL: 20,
    protocol.CLAIMS: 120,
}  # of a reply, for the estimate (ours)


def score_iteration(run: Run, iteration: int) -> None:
    """Score the answers of the policy after training t; nothing where no scorer is asked for."""
    with run.stage("score", iteration) as stage:
        if stage is None or stage.params.score.scorer == "none":
            return
        if stage.params.score.scorer == "local":
            stage.read_model("score.model")
        answers = read_answers(run, iteration)
        requests = make_requests(answers.rows, stage.params.score)
        log = records.BatchLog(stage.path("scores.jsonl"), records.Score, 1)
        failures = send(requests, log, stage.params)
        stage.total = len(requests)
        for request, reason in failures.items():
            stage.bad(str(request), "not scored", reason)
        write_scores(log, [request.lost() for request in failures], stage.path("scores.csv"))
        if answers.left_out:
            stage.count("left_out", len(answers.left_out))
            stage.warn(list_left_out(answers.left_out))
        stage.count("scored", len(log.rows()))
        stage.count("fallbacks", sum(row.parsed_by != "pattern" for row in log.rows()))
        for note in reply_notes(log):
            stage.warn(note)


run = score_iteration  # the name by which every stage is started


def write_scores(log: records.BatchLog, lost: Sequence[scores.Failure], path: Path) -> None:
    """Write scores.csv: the figures of all scores on disk."""
    records.write_csv(path, scores.score_table(log.rows(), lost))


def read_answers(run: Run, iteration: int) -> predictions.Predictions:
    """An iteration's answers from its prediction files, each with the caption of its own question."""
    questions: dict[str, list[records.Sample]] = {}
    for sample in records.read_jsonl(run.file(0, "samples.jsonl"), records.Sample):
        identity = sample.id.removeprefix(f"{sample.kind}/")  # as the prediction file has it
        questions.setdefault(predictions.set_from_kind(sample.kind), []).append(replace(sample, id=identity))
    rows: list[Prediction] = []
    left_out: list[tuple[str, str]] = []
    for path in sorted(run.file(iteration, "predictions").glob("*.jsonl")):
        captions = Captions(questions.get(path.stem, []))
        of_set = predictions.read_predictions(path, path.stem, captions)
        rows += of_set.rows
        left_out += [(f"{path.stem}/{identity}", why) for identity, why in of_set.left_out]
    return predictions.Predictions(rows, left_out, [])


def list_left_out(left_out: Sequence[tuple[str, str]]) -> str:
    """A sentence about answers that are not scored, with the first of them."""
    first = "; ".join(f"{identity}: {why}" for identity, why in left_out[:LISTED])
    more = "; ..." if len(left_out) > LISTED else ""
    return f"{len(left_out)} answers are not scored ({first}{more})"


def make_requests(rows: Sequence[Prediction], settings: schema.Score) -> list[Request]:
    """One request for each answer, and one about its claims where there is a caption to hold them against."""
    requests = [Request(row, protocol.OWN if row.caption else protocol.OFFICIAL) for row in rows]
    if settings.hallucination:
        described = [row for row in rows if row.caption and row.response.strip()]
        requests += [Request(row, protocol.CLAIMS) for row in described]
    return requests


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
    questions, unread = read_questions(test)
    if len(unread) > params.max_bad_share * (len(questions) + len(unread)):
        raise RunError(
            f"{test}: {len(unread)} of {len(questions) + len(unread)} rows cannot be read, above "
            f"max_bad_share={params.max_bad_share}; mend them; first: {unread[0]}"
        )
    answers = predictions.read_predictions(path, name, Captions(questions))
    requests = make_requests(answers.rows, params.score)
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
        lost = list_failures(to / "bad_score.jsonl", requests, failures)
        write_scores(log, lost, to / "scores.csv")
    if len(failures) > params.max_bad_share * len(requests):
        raise RunError(
            f"{to}: {len(failures)} of {len(requests)} requests failed; "
            f"the same command sends them again; the last: {list(failures.values())[-1]}"
        )
    lines = [scores.score_lines(scores.read_scores(to / "scores.csv"))]
    causes = Counter(failures.values()).most_common(3)
    lines += [f"{count} requests without a score (bad_score.jsonl): {cause}" for cause, count in causes]
    lines += reply_notes(log)
    if unread:
        lines.append(f"{len(unread)} rows of {display_path(test)} cannot be read; first: {unread[0]}")
    if answers.left_out:
        lines.append(list_left_out(answers.left_out))
    if answers.by_name:
        lines.append(
            f"{len(answers.by_name)} captions were found by the bare name of the clip, "
            "which no other clip of the test file has"
        )
    return "\n".join([*lines, f"all in {display_path(to / 'scores.csv')}"])


def list_failures(
    path: Path, requests: Sequence[Request], failures: dict[Request, str]
) -> list[scores.Failure]:
    """Write what failed, beside what failed of other sets in the same folder.

    Returns (set, protocol) of each.
    """
    sets = {request.row.set for request in requests}
    listed = records.read_jsonl(path, dict) if path.exists() else []
    rows = [row for row in listed if row["set"] not in sets]
    for request, reason in failures.items():
        name = {"set": request.row.set, "id": request.row.id, "protocol": request.protocol}
        rows.append(name | {"cause": "not scored", "detail": reason})
    records.write_jsonl(path, rows)
    return [(row["set"], row["protocol"]) for row in rows]


def require_same_scorer(to: Path, settings: schema.Score) -> None:
    """Raise RunError where a folder's rows were made by another scorer."""
    path = to / "scores.jsonl"
    names = {row.scorer for row in records.read_jsonl(path, records.Score)} if path.exists() else set()
    if names - {settings.model}:
        raise RunError(
            f"{to}: scored by {', '.join(sorted(names))} already; "
            f"numbers of different scorers are not mixed: give another --to"
        )


def read_questions(test: Path) -> tuple[list[records.Sample], list[str]]:
    """The questions of a test file with their captions (an official file has none), and what is wrong with
    each row that cannot be read.
    """
    samples = []
    unread = []
    for row in dataset_rows(test, test.parent):
        try:
            samples.append(sample_from_row(row.values))
        except ValueError as error:
            why = row.values if isinstance(row.values, ValueError) else error
            unread.append(f"{row.where}: {why}")
    return samples, unread


if __name__ == "__main__":
    stage_main("score", run)
