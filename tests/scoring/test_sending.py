"""Requests to a scorer that fails: each row ends once, in a score or in a listed cause."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo.core import errors, params, records
from isrdpo.core.params import Params
from isrdpo.core.records import Score
from isrdpo.formats.connection import Fault, Reply
from isrdpo.formats.predictions import Prediction
from isrdpo.scoring import protocol, scorers, sending
from isrdpo.scoring.patience import MAX_FAILURES, Patience
from tests import server_faults as faults
from tests.scored_runs import openai_settings
from tests.scorer_server import Answer, Server, serving

pytestmark = pytest.mark.usefixtures("openai_key")
GOOD = "Explanation: x\nScore: 4"
# Faults that come and go, with the pauses that this server asks for.
PASSING: tuple[Answer, ...] = (
    faults.BUSY,
    faults.BROKEN,
    faults.drop,
    faults.reset,
    faults.error(status=400),
    faults.FAILURES["cut short"][0],
    faults.FAILURES["message null"][0],
    faults.FAILURES["deep"][0],
    faults.HTML,
    faults.error(403, "a filter"),
)


@pytest.fixture
def openai_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-" + "verysecret" * 3)


def make_requests(count: int) -> list[sending.Request]:
    rows = [Prediction(str(number), "s", "Q", "A", f"P{number}.", "C") for number in range(count)]
    return [sending.Request(row, protocol.OWN) for row in rows]


def settings(server: Server, *overrides: str) -> Params:
    return params.load(params.BASE, ["data=toybox", *openai_settings(server), *overrides])


def make_log(folder: Path) -> records.BatchLog:
    return records.BatchLog(folder / "scores.jsonl", Score, 1)


def number_of(body: dict) -> int:
    """The number of the row that a request is about."""
    return int(body["messages"][-1]["content"].split(": P")[1].split(".")[0])


def test_three_hundred_rows_under_thirty_percent_faults_are_scored_once_each(tmp_path: Path) -> None:
    """Three rows of ten meet a fault at their first request."""
    seen: Counter[int] = Counter()

    def answer(body: dict) -> Answer:
        number = number_of(body)
        seen[number] += 1
        if number % 10 < 3 and seen[number] == 1:
            return PASSING[number // 10 % len(PASSING)]
        return GOOD

    with serving(answer) as server:
        log = make_log(tmp_path)
        overrides = ["score.concurrency=16", "score.retries=2", "score.timeout=20.0"]
        failures = sending.send(make_requests(300), log, settings(server, *overrides))
    assert failures == {}
    assert sorted(int(row.id) for row in log.rows()) == list(range(300))
    assert {row.score for row in log.rows()} == {4.0}
    assert sum(seen.values()) >= 300 + 90


def always_failing(*numbers: int, how: Answer = faults.drop) -> Callable[[dict], Answer]:
    return lambda body: how if number_of(body) in numbers else GOOD


@pytest.mark.parametrize("how", [faults.drop, faults.error(403, "a filter"), faults.FAILURES["deep"][0]])
@pytest.mark.parametrize("numbers", [(0,), tuple(range(3, 39, 4))])
def test_rows_that_always_fail_are_listed_and_the_others_scored(
    how: Answer, numbers: tuple[int, ...], tmp_path: Path
) -> None:
    with serving(always_failing(*numbers, how=how)) as server:
        log = make_log(tmp_path)
        requests = make_requests(40)
        parameters = settings(server, "score.concurrency=1", "max_bad_share=0.5")
        failures = sending.send(requests, log, parameters)
        assert {int(request.row.id) for request in failures} == set(numbers)
        assert len(log.rows()) == 40 - len(numbers)
        again = sending.send(requests, log, parameters)
    assert set(again) == set(failures), "asked once more, with nothing else left, they are listed again"


def test_more_than_twenty_such_rows_do_not_end_it_while_they_are_few(tmp_path: Path) -> None:
    numbers = tuple(range(0, 210, 10))
    assert len(numbers) > MAX_FAILURES
    with serving(always_failing(*numbers)) as server:
        log = make_log(tmp_path)
        for _ in range(2):
            failures = sending.send(make_requests(210), log, settings(server, "max_bad_share=0.2"))
            assert len(failures) == len(numbers)
    assert len(log.rows()) == 189


@pytest.mark.parametrize("name", ["401", "404", "redirect"])
def test_a_wrong_key_model_or_address_stops_at_once(name: str, tmp_path: Path) -> None:
    with serving(lambda body: faults.REFUSALS[name][0]) as server:
        with pytest.raises(errors.RunError, match="model gpt-test: .*stays") as error:
            sending.send(make_requests(60), make_log(tmp_path), settings(server, "score.concurrency=1"))
        assert len(server.asked) <= 3
    assert "\n" not in str(error.value)


def test_a_server_that_dies_stops_it_and_a_restart_goes_on(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    requests = make_requests(60)
    with serving(lambda body: GOOD) as server:
        parameters = settings(server, "score.concurrency=2")

        def answer(body: dict) -> Answer:
            if number_of(body) == 20:
                server.socket.close()  # no new connections
                threading.Thread(target=server.shutdown, daemon=True).start()
            return GOOD

        server.answer = answer
        with pytest.raises(errors.RunError, match="APIConnectionError.*what is scored already stays"):
            sending.send(requests, log, parameters)
        scored = len(log.rows())
        assert scored >= 20
    with serving(lambda body: GOOD) as server:
        assert sending.send(requests, log, settings(server)) == {}
        assert len(server.asked) == 60 - scored


def test_patience_by_hand() -> None:
    good = Reply("x", "m")
    bad, refused, unreachable = (Reply("", "", "e", fault) for fault in Fault)

    def lasts(patience: Patience, *replies: Reply) -> list[bool]:
        return [patience.is_over(reply) for reply in replies]

    assert lasts(Patience(False), refused, good, refused, refused, refused) == [False] * 5
    assert lasts(Patience(False), refused, bad, refused) == [False, False, True]
    assert lasts(Patience(True), unreachable, good, unreachable, unreachable) == [False, False, False, True]
    assert lasts(Patience(True), *[bad] * 19, good, *[refused] * 20) == [False] * 39 + [True]
    assert not any(lasts(Patience(True, limit=None), *[bad] * 50))


def test_a_reply_that_was_cut_before_its_verdict_is_unread(tmp_path: Path) -> None:
    """Without the cut, the most frequent number of the explanation would count."""
    cut = faults.message("length", content="Explanation: of 3 dogs, 2 are")
    cut_behind = faults.message("length", content="Score: 4\nExplanation: of 3 dogs")

    def answer(body: dict) -> Answer:
        return {0: cut, 1: cut_behind}.get(number_of(body), GOOD)

    with serving(answer) as server:
        log = make_log(tmp_path)
        assert sending.send(make_requests(3), log, settings(server)) == {}
    rows = {row.id: (row.cut, row.score, row.correct, row.parsed_by) for row in log.rows()}
    assert rows == {
        "0": (True, None, None, "none"),
        "1": (True, 4.0, True, "pattern"),
        "2": (False, 4.0, True, "pattern"),
    }
    assert sending.reply_notes(log) == [
        "2 replies were cut off at a limit on their length (score.max_new_tokens or the server's own), "
        "1 of them before their verdict, which is unread"
    ]


def test_a_score_that_is_no_number_is_no_score_and_long_numbers_are_read_at_once(tmp_path: Path) -> None:
    digits = "1" * 200_000
    replies = {0: f"Score: {digits}", 1: f"{digits}a"}
    with serving(lambda body: replies.get(number_of(body), GOOD)) as server:
        log = make_log(tmp_path)
        started = time.monotonic()
        failures = sending.send(make_requests(3), log, settings(server))
        assert time.monotonic() - started < 5
    assert [request.row.id for request in failures] == ["0"]
    assert {row.id: row.parsed_by for row in log.rows()} == {"1": "none", "2": "pattern"}


def test_refused_parameters_stand_beside_the_scores_and_a_restart_knows_them(tmp_path: Path) -> None:
    def answer(body: dict) -> Answer:
        if "temperature" in body:
            text = "Unsupported value: 'temperature' does not support 0 with this model."
            return 400, {"error": {"message": text, "param": "temperature", "code": "unsupported_value"}}
        return GOOD

    log = make_log(tmp_path)
    with serving(answer) as server:
        parameters = settings(server, "score.concurrency=1")
        sending.send(make_requests(3), log, parameters)
        assert len(server.asked) == 4
        sending.send(make_requests(5), log, parameters)
        assert len(server.asked) == 6
    assert json.loads((tmp_path / "scorer.json").read_text()) == {
        "scorer": f"{server.url}, model gpt-test",
        "changes": {"temperature": None},
    }
    assert sending.reply_notes(log) == [
        "the server refuses the parameter temperature; it was left out of every request"
    ]
    (tmp_path / "scorer.json").write_text('{"changes": ["temperature"]}')
    with pytest.raises(records.RecordError, match=r"scorer\.json"):
        sending.reply_notes(log)


def test_a_key_that_no_header_can_hold_is_said_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "two words")
    with serving(lambda body: GOOD) as server:
        assert "OPENAI_API_KEY" in scorers.missing_setting(settings(server).score)


@pytest.mark.parametrize(
    "address",
    ["http://user@host/v1", "http://:secret@host/v1", "https://host/v1?api_key=secret", "http://h/ü"],
)
def test_an_address_with_a_key_is_refused_without_showing_it(address: str) -> None:
    with pytest.raises(params.ParamsError, match=r"score\.base_url") as error:
        params.load(params.BASE, ["data=toybox", f"score.base_url={address}"])
    assert "=secret" not in str(error.value)
    assert ":secret" not in str(error.value)
