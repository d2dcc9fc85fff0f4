"""A real client and a real server that fails in every way: each request ends once, in a text or a cause."""

import base64
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isrdpo.core.texts import REPLACEMENT
from isrdpo.formats.completions import read_completion
from isrdpo.formats.connection import Chat, Connection, Fault, Reply, change_notes
from isrdpo.formats.refusals import refused_parameter
from tests import server_faults as faults
from tests.scorer_server import Answer, Handler, Server, serving

KEY = "planted-key-0123456789"
OPTIONS = {"temperature": 0, "top_p": 1, "max_tokens": 64}
REFUSED_TEMPERATURE = {
    "message": "Unsupported value: 'temperature' does not support 0 with this model.",
    "param": "temperature",
    "code": "unsupported_value",
}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def connect(url: str, **settings: Any) -> Connection:
    """A connection with limits that a test can wait for."""
    limits = {"retries": 0, "timeout": 30.0, "max_bytes": 2**20}
    return Connection(url, "m", "TEST_KEY", **limits | settings)


def chats(*texts: str, **options: Any) -> list[Chat]:
    return [Chat([{"role": "user", "content": text}], OPTIONS | options) for text in texts]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(lambda body: "Score: 4") as running:
        yield running


@pytest.fixture(scope="module")
def connection(server: Server) -> Connection:
    """One client for all tests that ask a single question."""
    return connect(server.url)


@pytest.fixture
def ask(server: Server, connection: Connection) -> Callable[[Answer], Reply]:
    """The reply to one chat from a server that always answers so."""

    def ask_once(answer: Answer) -> Reply:
        server.answer = lambda body: answer
        return connection.ask(chats("Q")[0])

    return ask_once


@pytest.mark.parametrize("name", faults.ANSWERS)
def test_an_answer_is_read_in_every_shape(name: str, ask: Callable) -> None:
    reply = ask(faults.ANSWERS[name])
    assert (reply.text, reply.error) == ("Score: 4", "")
    assert reply.version


@pytest.mark.parametrize("name", faults.FAILURES)
def test_a_failure_is_one_line_that_says_why(name: str, ask: Callable) -> None:
    answer, words = faults.FAILURES[name]
    reply = ask(answer)
    assert reply.text == ""
    assert len(reply.error.splitlines()) == 1
    assert re.search(words, reply.error), reply.error
    assert reply.fault is Fault.REQUEST


@pytest.mark.parametrize("name", faults.REFUSALS)
def test_what_no_request_can_change_is_said_so(name: str, ask: Callable) -> None:
    answer, words = faults.REFUSALS[name]
    reply = ask(answer)
    assert re.search(words, reply.error), reply.error
    assert reply.fault is Fault.ACCESS


@pytest.mark.parametrize("how", [faults.drip, faults.drip_headers])
def test_a_server_that_sends_a_byte_now_and_then_is_not_waited_for(how: Answer) -> None:
    """It would take five seconds, with never more than a twentieth of one between two bytes."""
    with serving(lambda body: how) as server:
        started = time.monotonic()
        reply = connect(server.url, timeout=0.4).ask(chats("Q")[0])
        assert time.monotonic() - started < 3
    assert reply == Reply("", "", "no whole reply within 0.4 s")


def test_no_server_is_no_connection() -> None:
    reply = connect("http://127.0.0.1:9/v1").ask(chats("Q")[0])
    assert reply.fault is Fault.UNREACHABLE
    assert "refused" in reply.error


@pytest.mark.parametrize(
    ("first", "requests"),
    [
        (faults.BUSY, 2),
        (faults.BROKEN, 2),
        (faults.error(429), 2),
        (faults.error("server_error"), 2),
        (faults.error(status=400), 1),
        (faults.error(400), 1),
        (faults.with_headers(429, Retry_After="3600"), 1),
    ],
)
def test_busy_servers_are_asked_again_and_refusals_are_not(first: Answer, requests: int) -> None:
    answers = iter([first])
    with serving(lambda body: next(answers, "Score: 4")) as server:
        reply = connect(server.url, retries=3).ask(chats("Q")[0])
        assert len(server.asked) == requests
    assert (reply.text == "Score: 4") is (requests == 2)


def test_a_pause_that_the_server_asks_for_is_kept() -> None:
    answers = iter([faults.with_headers(429, Retry_After="0.3")])
    started = time.monotonic()
    with serving(lambda body: next(answers, "Score: 4")) as server:
        assert connect(server.url, retries=1).ask(chats("Q")[0]).text == "Score: 4"
    assert 0.3 <= time.monotonic() - started < 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_to_no_other_host(status: int, ask: Callable) -> None:
    with serving(lambda body: "stolen") as other:
        reply = ask(faults.with_headers(status, Location=f"{other.url}/chat/completions"))
        assert other.asked == []
    assert "base_url" in reply.error


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_reply_that_was_cut_is_known_as_cut(reason: str, ask: Callable) -> None:
    assert ask(faults.message(reason, content="Explanation: the")).cut is (reason == "length")


def test_characters_that_cannot_be_written_are_replaced(ask: Callable) -> None:
    content = rb"a\ud800b\u0000\u001b[2J\n\u00e9"
    reply = ask(rb'{"model":"m\ud800\u0000","choices":[{"message":{"content":"%b"}}]}' % content)
    assert reply.text == f"a{REPLACEMENT}b{REPLACEMENT}{REPLACEMENT}[2J\né"
    assert reply.version == f"m{REPLACEMENT}{REPLACEMENT}"
    assert "\x1b" not in ask(faults.error(status=400, text="\x1b[2J")).error
    assert ask(b'{"choices":[{"message":{"content":"\\ud83d\\ude00"}}]}').text == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        f"Bearer {KEY}",
        KEY.upper(),
        KEY[:14],
        KEY[-12:],
        base64.b64encode(KEY.encode()).decode(),
        base64.b64encode(f"Bearer {KEY}".encode()).decode(),
        f"https://host/?api_key={KEY}&x",
    ],
)
def test_the_key_is_hidden_wherever_a_server_repeats_it(form: str, ask: Callable) -> None:
    answers: list[Answer] = [
        faults.error(status=400, text=f"no, {form}"),
        faults.error(status=401, text=f"no, {form}"),
        faults.error(form, f"no, {form}", form),
        faults.message(content=None, refusal=f"no, {form}"),
        faults.with_headers(307, Location=f"http://x/{form}"),
        (500, f"<html>{form}".encode()),
        f"no JSON {form}".encode(),
    ]
    for answer in answers:
        reply = ask(answer)
        assert form not in reply.error
        assert "(hidden)" in reply.error

    def echo(handler: Handler) -> None:
        handler.server.version = f"m-{form}"
        handler.reply(200, handler.completion(f"Score: 4 {form} end"), X_Key=KEY)

    reply = ask(echo)
    assert form not in reply.version + reply.text
    assert reply.text.startswith("Score: 4 ")
    assert reply.text.endswith(" end")


@pytest.mark.parametrize("value", ["a b", "a\nb", "\N{GREEK SMALL LETTER KAPPA}ey"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", value)
    problem = connect("http://localhost/v1").problem()
    assert "TEST_KEY" in problem
    assert value not in problem
    monkeypatch.setenv("TEST_KEY", f"{KEY}\n")
    assert connect("http://localhost/v1").problem() == ""
    assert "address" in connect(f"http://localhost/{KEY}/v1").problem()


def strict(*refused: str) -> Callable[[dict], Answer]:
    """Answers of a server that refuses these parameters, one at a time."""

    def answer(body: dict) -> Answer:
        for name in refused:
            if name in body:
                text = f"Unsupported parameter: '{name}' is not supported with this model."
                return 400, {"error": {"message": text, "param": name, "code": "unsupported_parameter"}}
        return "Score: 4"

    return answer


def test_parameters_that_a_server_refuses_are_left_out_renamed_and_remembered() -> None:
    with serving(strict("temperature", "max_tokens", "seed")) as server:
        connection = connect(server.url)
        replies = [connection.ask(chat) for chat in chats("1", "2", seed=7)]
        assert [reply.text for reply in replies] == ["Score: 4"] * 2
        assert len(server.asked) == 3 + 1 + 1
        last = server.asked[-1]
    assert {"temperature", "max_tokens", "seed"}.isdisjoint(last)
    assert (last["max_completion_tokens"], last["top_p"]) == (64, 1)
    assert connection.changes == {"temperature": None, "max_tokens": "max_completion_tokens", "seed": None}
    assert change_notes(connection.changes)[1] == (
        "the server refuses the parameter seed; it was left out of every request"
    )


def test_a_parameter_refused_under_both_names_is_left_out() -> None:
    with serving(strict("max_tokens", "max_completion_tokens")) as server:
        connection = connect(server.url)
        assert connection.ask(chats("Q")[0]).text == "Score: 4"
    assert connection.changes == {"max_tokens": None}


def test_what_does_not_help_is_not_remembered() -> None:
    """A request that is refused whatever it holds changes nothing for the others."""

    def answer(body: dict) -> Answer:
        return (400, {"error": REFUSED_TEMPERATURE}) if "bad" in str(body["messages"]) else "Score: 4"

    with serving(answer) as server:
        connection = connect(server.url)
        bad, good = [connection.ask(chat) for chat in chats("bad", "good")]
        assert "temperature" in server.asked[-1]
    assert "BadRequestError" in bad.error
    assert good.text == "Score: 4"
    assert connection.changes == {}


@pytest.mark.parametrize(
    ("body", "message", "parameter"),
    [
        (REFUSED_TEMPERATURE, REFUSED_TEMPERATURE["message"], "temperature"),
        ({}, "Unrecognized request argument supplied: seed", "seed"),
        ({}, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "max_tokens"),
        ({}, "`temperature` and `top_p` cannot both be specified for this model.", "top_p"),
        ({}, "logprobs are not supported", "logprobs"),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra"}]}, "422", "seed"),
        ({"detail": "Unexpected fields in the request: {'top_p'}"}, "Error code: 422", "top_p"),
        ({"param": "messages[0].role"}, "temperature aside, 'system' is not supported", ""),
        ({"param": "max_tokens"}, "max_tokens is too large: 5000; not supported", ""),
        ({}, "This model's maximum context length is 2048; max_tokens=64 is not allowed", ""),
        ({}, "the prompt mentions temperature", ""),
        ({"detail": 5, "param": ["x"], "code": {}}, "unsupported", ""),
        ("unsupported: seed", "Error code: 400", "seed"),
        (None, "", ""),
    ],
)
def test_the_refused_parameter_is_found(body: Any, message: str, parameter: str) -> None:
    sent = ["temperature", "top_p", "max_tokens", "seed", "logprobs"]
    assert refused_parameter(body, message, sent) == parameter


def test_many_chats_come_back_once_each_whatever_their_order() -> None:
    texts = [str(number) for number in range(40)]
    with serving(lambda body: f"re {body['messages'][0]['content']}") as server:
        replies = dict(connect(server.url, concurrency=7).ask_all(chats(*texts)))
    assert {i: reply.text for i, reply in replies.items()} == {i: f"re {i}" for i in range(40)}


def test_a_caller_that_stops_waits_for_nobody() -> None:
    """Neither for a slow reply nor for the pause that a busy server asks for."""

    def answer(body: dict) -> Answer:
        number = body["messages"][0]["content"]
        return {"0": "first", "1": faults.drip}.get(number, faults.with_headers(429, Retry_After="60"))

    with serving(answer) as server:
        started = time.monotonic()
        replies: Iterator = connect(server.url, retries=2, timeout=60.0).ask_all(chats(*"0123"))
        assert next(replies)[0] == 0
        replies.close()
    assert time.monotonic() - started < 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("content", "refusal", "tool_calls", "reasoning", "reasoning_content")
MESSAGE = JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON))
CHOICE = JSON | st.fixed_dictionaries({}, optional={"message": MESSAGE, "finish_reason": JSON, "error": JSON})
BODY = JSON | st.fixed_dictionaries(
    {}, optional={"model": JSON, "choices": JSON | st.lists(CHOICE, max_size=2)}
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(BODY)
def test_any_body_is_a_text_or_a_reason(body: Any) -> None:
    completion = read_completion(body)
    assert bool(completion.text.strip()) is not bool(completion.problem)
    assert isinstance(completion.model, str)
