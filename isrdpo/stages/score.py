"""Beside evaluate: python -m isrdpo.stages.score --run outputs/mine --iteration 1      (iteration 0: the base)

A scorer's verdict on every answer, and on the claims of those that have a caption -> scores.jsonl; figures by test set -> scores.csv.
A request is asked once: rows stand on disk as they come, what failed is asked again, and what fails twice is a bad sample.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from isrdpo.core import params as parameters
from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path, hold_lock
from isrdpo.core.pipeline import stage_key
from isrdpo.core.progress import progress_bar
from isrdpo.core.runs import Run, stage_main
from isrdpo.formats import files as formats
from isrdpo.formats import predictions
from isrdpo.formats import rows as spellings
from isrdpo.formats.predictions import Prediction
from isrdpo.scoring import protocol, scores

HOPELESS = 20  # failures one after another after which nothing more is asked
REPLY = {protocol.OWN: 100, protocol.OFFICIAL: 20, protocol.CLAIMS: 120}  # tokens of a reply, for the estimate (ours)
Request = tuple[Prediction, str]  # what is asked about, under which protocol


def run(run: Run, iteration: int) -> None:
    _score(run, iteration)


def _score(run: Run, iteration: int) -> None:
    with run.stage("score", iteration) as stage:
        if stage is None or stage.params.score.scorer == "none":
            return
        wanted = requests(answered(run, iteration), stage.params.score)
        log = stage.log("scores.jsonl", records.Score, 1)
        failed = ask(wanted, log, stage.params)
        stage.total = len(wanted)
        for (row, kind), why in failed.items():
            stage.bad(f"{row.set}/{row.id} ({kind})", "not scored", why)
        table = scores.table(log.rows(), [(row.set, kind) for row, kind in failed])
        scores.write(table, stage.path("scores.csv"))
        stage.count("scored", len(log.rows()))
        stage.count("fallbacks", sum(row.parsed_by != "pattern" for row in log.rows()))


def answered(run: Run, iteration: int) -> list[Prediction]:
    """An iteration's answers, from its prediction files; captions are those of the test files."""
    captions: dict[str, dict[str, str]] = {}
    for sample in records.read_jsonl(run.file(0, "samples.jsonl"), records.Sample):
        if sample.caption:
            captions.setdefault(predictions.set_of(sample.kind), {})[predictions.video_id(sample.video)] = sample.caption
    paths = sorted(run.file(iteration, "predictions").glob("*.jsonl"))
    return [row for path in paths for row in predictions.read(path, path.stem, captions.get(path.stem, {}))[0]]


def requests(rows: Sequence[Prediction], settings: parameters.Score) -> list[Request]:
    """One request an answer, and one about its claims where there is a caption to hold them against."""
    made = [(row, protocol.OWN if row.caption else protocol.OFFICIAL) for row in rows]
    return made + [(row, protocol.CLAIMS) for row in rows if row.caption and row.response.strip() and settings.hallucination]


def ask(wanted: Sequence[Request], log: records.BatchLog, params: parameters.Params) -> dict[Request, str]:
    """Asks what `log` (of Score, one a batch) does not hold yet; returns what failed twice, and why. Raises RunError where nothing can succeed."""
    settings, failed, left = params.score, {}, unasked(wanted, log.path)
    if not left:
        return {}
    from isrdpo.scoring import scorers

    scorer, streak = scorers.opened(settings, params.model.device), 0
    for _ in range(2):
        chats, failed = [chat(row, kind) for row, kind in left], {}
        for i, reply in progress_bar(scorer.ask(chats), len(chats), f"score by {settings.model}"):
            row, kind = left[i]
            if reply.error:
                failed[row, kind] = reply.error
                streak += 1
                if streak >= HOPELESS:
                    raise RunError(f"score.model={settings.model}: {HOPELESS} requests failed one after another; what is scored already stays; the last: {reply.error}")
                continue
            streak = 0
            log.append([scored(row, kind, reply.text, settings.model, reply.version)])
        left = list(failed)
        if not left:
            break
    return failed


def unasked(wanted: Sequence[Request], path: Path) -> list[Request]:
    """Those that a file of Scores does not hold. Raises RunError where it holds scores of other answers to the same questions."""
    held = {(row.set, row.id, row.protocol): row.asked for row in records.read_jsonl(path, records.Score)} if path.exists() else {}
    other = [row for row, kind in wanted if held.get((row.set, row.id, kind), "") not in ("", digest(row, kind))]
    if other:
        raise RunError(f"{display_path(path)}: holds scores of other answers (first: {other[0].set}, {other[0].id}); give each model's predictions a folder of their own")
    return [(row, kind) for row, kind in wanted if (row.set, row.id, kind) not in held]


def chat(row: Prediction, kind: str) -> protocol.Messages:
    return protocol.messages(kind, row.question, row.answer, row.response, row.caption)


def digest(row: Prediction, kind: str) -> str:
    return hashlib.sha256(json.dumps(chat(row, kind)).encode()).hexdigest()[:16]


def scored(row: Prediction, kind: str, reply: str, scorer: str, version: str) -> records.Score:
    found = protocol.read(kind, reply)
    return records.Score(
        row.id, row.set, kind, digest(row, kind), scorer, version, found.score, found.correct, found.parsed_by, found.claims, found.unsupported, len(row.response.split()),
        reply.encode(errors="replace").decode(),
    )  # fmt: skip


def estimate(wanted: Sequence[Request], settings: parameters.Score) -> str:
    """What asking these would take, at four characters a token and replies of REPLY tokens: requests, tokens, and dollars where the prices are given."""
    chars = sum(len(turn["content"]) for row, kind in wanted for turn in chat(row, kind))
    sent, back = chars / 4 / 1e6, sum(settings.max_new_tokens or REPLY[kind] for _, kind in wanted) / 1e6
    priced = settings.price_in is not None and settings.price_out is not None
    cost = f"about {sent * settings.price_in + back * settings.price_out:.2f} US dollars" if priced else "no cost estimate: give score.price_in and score.price_out"
    return f"{len(wanted)} requests to {settings.model}: about {sent:.3f} million tokens sent, {back:.3f} million of replies (4 characters a token); {cost}"


def again(run: Run, settings: parameters.Params, iteration: int, redo: bool) -> None:
    """Scores an iteration under changed `score` parameters, or asks once more what failed. Another scorer's rows are dropped only with `redo`."""
    had = [t for stage, t in run.started() if stage == "score" and run.file(t, "scores.jsonl").exists()]
    other = [t for t in had if stage_key(settings, "score", t) != run.file(t, ".score.key").read_text()]
    if other and not redo:
        raise RunError(
            f"{display_path(run.folder)}: iteration {other[0]} was scored by {run.params.score.model} under other parameters; --redo scores anew, "
            f"or score iter_{other[0]:02d}/predictions into another folder with --to"
        )
    run.update(settings, redo=True)
    marker = run.done("score", iteration)
    if marker and marker["bad"]:
        run.marker_path("score", iteration).unlink()
    _score(run, iteration)


def told(run: Run, iteration: int) -> str:
    return scores.told(scores.read(run.file(iteration, "scores.csv")))


def file(path: Path, test: Path, to: Path, params: parameters.Params, dry: bool) -> str:
    """Scores a prediction file in LLaVA-Hound's format against its test file, into `to`/scores.jsonl and scores.csv, which several sets may share. Returns what
    came out; `dry`: an estimate, and nothing is asked or written."""
    name = predictions.set_of(predictions.set_name(test.name))
    rows, left_out = predictions.read(path, name, captions_of(test))
    wanted = requests(rows, params.score)
    if twice := len(wanted) - len({(row.id, kind) for row, kind in wanted}):
        raise RunError(f"{path}: {twice} of its ids come twice; each prediction is scored once")
    if dry:
        return estimate(unasked(wanted, to / "scores.jsonl"), params.score)
    to.mkdir(parents=True, exist_ok=True)
    with hold_lock(to / ".lock"):
        same_scorer(to, params.score)
        log = records.BatchLog(to / "scores.jsonl", records.Score, 1)
        failed = ask(wanted, log, params)
        scores.write(scores.table(log.rows(), [(row.set, kind) for row, kind in failed]), to / "scores.csv")
    if len(failed) > params.max_bad_share * len(wanted):
        raise RunError(f"{to}: {len(failed)} of {len(wanted)} requests failed; the same command asks them again; the last: {[*failed.values()][-1]}")
    return f"{scores.told(scores.read(to / 'scores.csv'))}\n{left_out} predictions left out (no success, or no caption); all in {display_path(to / 'scores.csv')}"


def same_scorer(to: Path, settings: parameters.Score) -> None:
    """Refuses a folder whose rows another scorer made."""
    found = {row.scorer for row in records.read_jsonl(to / "scores.jsonl", records.Score)} if (to / "scores.jsonl").exists() else set()
    if found - {settings.model}:
        raise RunError(f"{to}: scored by {', '.join(sorted(found))} already; numbers of different scorers are not mixed: give another --to")


def captions_of(test: Path) -> dict[str, str]:
    """Captions of a test file by video, the last where a video has several (eval_qa.py); none of an official one's."""
    found = {}
    for row in formats.rows(test, test.parent):
        try:
            sample = spellings.sample(row.values, row.where)
        except (ValueError, TypeError, AttributeError):
            continue  # a prediction of this row will lack its caption, and be left out
        if sample.caption:
            found[predictions.video_id(sample.video)] = sample.caption
    return found


if __name__ == "__main__":
    stage_main("score", run)
