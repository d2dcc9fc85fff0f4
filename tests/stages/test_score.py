"""Answers scored through the real client and a real server: every reply once, every failure counted, no key
anywhere.
"""

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from isrdpo.core import errors, params, records
from isrdpo.core.records import Score
from isrdpo.formats import predictions
from isrdpo.scoring import scorers, scores
from isrdpo.stages import score
from tests.scored_runs import (
    KEY,
    OPENAI,
    isrdpo,
    last_message,
    make_score,
    openai_settings,
    polite,
    score_rows,
)
from tests.scorer_server import Answer, serving

pytestmark = pytest.mark.usefixtures("openai_key")


def test_every_answer_is_scored_once_and_no_key_is_anywhere(answered: Callable) -> None:
    with serving(polite) as server:
        run = answered("scored", *openai_settings(server))
        score.run(run, 0)
        answers = records.read_jsonl(run.file(0, "answers.jsonl"), records.Answer)
        rows = score_rows(run)
        spoken = [answer for answer in answers if answer.response.strip()]
        assert len(rows) == len(server.asked) == len(answers) + len(spoken)
        assert {row.version for row in rows} == {"scripted-2026-01-01"}
        assert {row.scorer for row in rows} == {"gpt-test"}
        for body in server.asked:
            assert body["temperature"] == 0
            assert body["model"] == "gpt-test"
            assert "max_tokens" not in body
        score.run(run, 0)
        assert len(server.asked) == len(rows), "a finished scoring asks nothing"
    assert {body["authorization"] for body in server.asked} == {f"Bearer {KEY}"}
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY in path.read_text(errors="replace")]

    table = scores.read_scores(run.file(0, "scores.csv"))
    is_mean = table["set"].str.startswith("mean")
    sets = table[~is_mean]
    assert sets["questions"].sum() == len(answers)
    assert (table["accuracy"] == 1).all()
    assert (table["score"] == 4).all()
    assert is_mean.sum() == (len(sets) > 1)
    assert (table["unsupported_share"].dropna() == 0.5).all()
    assert not table[["fallbacks", "claims_unread", "failed"]].to_numpy().any()


def test_busy_and_broken_servers_are_asked_again(answered: Callable) -> None:
    broken = iter([429, 500, b"no json", 503])
    with serving(lambda body: next(broken, None) or polite(body)) as server:
        run = answered("busy", *openai_settings(server), "score.retries=2", "score.concurrency=1")
        score.run(run, 0)
    rows = score_rows(run)
    assert len({(row.id, row.protocol) for row in rows}) == len(rows) == len(server.asked) - 4
    assert run.done("score", 0)["bad"] == {}


def test_what_fails_twice_is_a_bad_sample_never_a_score_and_asked_again_later(answered: Callable) -> None:
    refused: set[str] = set()

    def answer(body: dict) -> Answer:
        if any(question in last_message(body) for question in refused):
            return 400
        return polite(body)

    with serving(answer) as server:
        settings = [*openai_settings(server), "score.hallucination=false", "score.concurrency=2"]
        run = answered("failing", *settings)
        questions = [f"**: {row.question}\n" for row in score.read_answers(run, 0).rows]
        refused.add(questions[2])
        failures = questions.count(questions[2])
        with pytest.raises(errors.BadShare, match=r"not scored.*mend them"):
            score.run(run, 0)
        assert len(score_rows(run)) == 6 - failures
        assert len(server.asked) == 6 + failures
        bad_rows = run.file(0, "bad_score.jsonl").read_text()
        assert KEY not in bad_rows
        assert "BadRequest" in bad_rows

        run.update(run.params.override("", {"max_bad_share": 1.0}))
        score.run(run, 0)
        assert run.done("score", 0)["bad"] == {"not scored": failures}
        assert scores.read_scores(run.file(0, "scores.csv"))["failed"].max() == failures

        refused.clear()
        before = len(server.asked)
        score.score_again(run, run.params, 0, redo=False)
        assert len(server.asked) == before + failures
        assert run.done("score", 0)["bad"] == {}
        assert len(score_rows(run)) == 6


def test_a_reply_without_text_is_a_failure_and_an_unreadable_one_is_counted(answered: Callable) -> None:
    def answer(body: dict) -> Answer:
        return None if "unsupported" in last_message(body) else "I cannot say"

    with serving(answer) as server:
        run = answered("silent", *openai_settings(server), "max_bad_share=1.0")
        score.run(run, 0)
    marker = run.done("score", 0)
    assert marker["counts"] == {"scored": 6, "fallbacks": 6}
    assert marker["bad"]["not scored"] > 0
    table = scores.read_scores(run.file(0, "scores.csv"))
    assert (table["accuracy"] == 0).all()
    assert (table["fallbacks"] == table["questions"]).all()
    assert table["unsupported_share"].isna().all()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_where_nothing_can_succeed_it_stops_at_once_in_one_line(answered: Callable, status: int) -> None:
    with serving(lambda body: status) as server:
        run = answered("stop", *openai_settings(server), "score.concurrency=1")
        with pytest.raises(errors.RunError, match="model gpt-test") as error:
            score.run(run, 0)
        assert "\n" not in str(error.value)
        assert KEY not in str(error.value)
        assert len(server.asked) <= 2


def test_no_server_no_key_no_model_are_one_line(answered: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    run = answered("none", *OPENAI, "score.base_url=http://127.0.0.1:9/v1")
    with pytest.raises(errors.RunError, match=r"127\.0\.0\.1:9.*APIConnectionError"):
        score.run(run, 0)
    monkeypatch.delenv("OPENAI_API_KEY")
    keyless = run.params.override("score", {"base_url": None})
    with pytest.raises(errors.RunError, match="OPENAI_API_KEY holds no key"):
        scorers.open_scorer(keyless.score)
    modelless = run.params.override("score", {"scorer": "local", "model": "./not/there"})
    with pytest.raises(errors.RunError, match=r"score.model: ./not/there"):
        scorers.open_scorer(modelless.score)


def test_twenty_failures_in_a_row_end_it(tmp_path: Path) -> None:
    rows = [predictions.Prediction(str(number), "s", "Q", "A", "P", "C") for number in range(60)]
    with serving(lambda body: 500) as server:
        settings = params.load(params.BASE, ["data=toybox", *openai_settings(server)])
        requests = score.make_requests(rows, settings.score)
        log = records.BatchLog(tmp_path / "scores.jsonl", Score, 1)
        with pytest.raises(errors.RunError, match="20 requests failed one after another"):
            score.send(requests, log, settings)
    assert len(server.asked) < 40


def test_killed_and_started_again_it_asks_only_what_is_left(answered: Callable) -> None:
    """Killed while the fourth request waits for its reply, with the first three on disk."""
    numbers = itertools.count(1)
    dead = threading.Event()

    def answer(body: dict) -> Answer:
        if next(numbers) == 4:
            dead.wait(60)
        return polite(body)

    with serving(answer) as server:
        run = answered("killed", *openai_settings(server), "score.concurrency=1")
        journal = run.file(0, ".scores.jsonl.journal")
        command = [sys.executable, "-m", "isrdpo.stages.score", "--run", str(run.folder), "--iteration", "0"]
        with subprocess.Popen(command) as child:
            while child.poll() is None:
                if len(server.asked) == 4 and journal.read_text().count("\n") == 3:
                    child.kill()
                time.sleep(0.01)
        assert child.returncode == -9
        dead.set()
        score.run(run, 0)
    rows = score_rows(run)
    assert len(rows) == len({(row.id, row.protocol) for row in rows}) > 4
    assert len(server.asked) == len(rows) + 1, "only the one that had no reply was asked twice"


def test_a_run_that_was_not_scored_can_be_and_what_was_is_not_lost(answered: Callable) -> None:
    run = answered("later")
    score.run(run, 0)
    assert run.done("score", 0)
    assert not run.file(0, "scores.jsonl").exists()
    with serving(polite) as server:
        run.override("score", {"scorer": "openai", "base_url": server.url})
        assert not run.done("score", 0)
        assert run.done("evaluate", 0)
        score.run(run, 0)
        message = r"score\.model changed, and stage score of iteration 0 made under the old value"
        with pytest.raises(errors.RunError, match=message):
            run.override("score", {"model": "another"})
    assert len(score_rows(run)) == len(server.asked)
    run.override("score", {"base_url": "http://127.0.0.1:9/v1", "concurrency": 1})
    score.run(run, 0)
    assert run.done("score", 0), "a server that moved to another port scores on"


def test_two_scorers_agreement_by_hand(tmp_path: Path) -> None:
    first = [make_score(number, number < 25) for number in range(50)]
    second = [make_score(number, number < 20 or 25 <= number < 35, "v2") for number in range(50)]
    agreement = scores.agreement_table(first, second).set_index("set").loc["all"]
    assert list(agreement[["both_right", "both_wrong", "only_first", "only_second"]]) == [20, 15, 5, 10]
    assert agreement["kappa"] == pytest.approx(0.4)
    assert agreement["difference"] == pytest.approx(0.1)
    assert agreement["first"] == "v1"
    assert agreement["second"] == "v2"

    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("first", "second", "shorter")}
    records.write_jsonl(Path(paths["first"]), first)
    records.write_jsonl(Path(paths["second"]), second)
    records.write_jsonl(Path(paths["shorter"]), second[1:])
    command = isrdpo("agreement", paths["first"], paths["second"], "--to", str(tmp_path / "table.csv"))
    assert "all: 50 answers; v1 0.50" in command.stdout
    assert "kappa 0.40" in command.stdout
    assert len(pd.read_csv(tmp_path / "table.csv")) == 2
    assert "not of the same answers" in isrdpo("agreement", paths["first"], paths["shorter"]).stderr
