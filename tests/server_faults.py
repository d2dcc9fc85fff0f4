"""Ways in which servers fail: what each sends (an answer of `scorer_server`), and what should come of it."""

import gzip
import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from tests.scorer_server import Answer, Handler


def completion(**choice: Any) -> bytes:
    """A completion whose only choice has these fields."""
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return json.dumps(body).encode()


def message(reason: str = "stop", **fields: Any) -> bytes:
    """A completion whose message has these fields."""
    return completion(index=0, finish_reason=reason, message={"role": "assistant"} | fields)


def drop(handler: Handler) -> None:
    """Close the connection before any answer."""
    handler.connection.close()


def reset(handler: Handler) -> None:
    """Reset the connection in the middle of the body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def drip(handler: Handler) -> None:
    """Send a byte now and then, for longer than anyone should wait."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    write_slowly(handler, b" ")


def drip_headers(handler: Handler) -> None:
    """The same before the headers are complete."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    write_slowly(handler, b"x")


def write_slowly(handler: Handler, byte: bytes) -> None:
    for _ in range(100):
        handler.wfile.write(byte)
        handler.wfile.flush()
        time.sleep(0.05)


def endless(handler: Handler) -> None:
    """Send a body without end."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 65536)


def bomb(handler: Handler) -> None:
    """Send 8 MiB as 8 KiB of gzip."""
    handler.reply(200, BOMB, Content_Encoding="gzip")


def damaged_gzip(handler: Handler) -> None:
    handler.reply(200, b"no gzip at all", Content_Encoding="gzip")


def mislabeled(handler: Handler) -> None:
    """A good completion that is called HTML."""
    handler.reply(200, handler.completion("Score: 4"), Content_Type="text/html")


def error(code: Any = None, text: str = "no", kind: str = "", status: int = 200) -> Answer:
    """An error as its own body, by default inside a success."""
    return status, {"error": {"message": text, "type": kind, "code": code}}


def with_headers(status: int, **headers: str) -> Callable[[Handler], None]:
    """A failure with these headers."""
    return lambda handler: handler.reply(status, {"error": {"message": "busy"}}, **headers)


BUSY = with_headers(429, retry_after_ms="1")
BROKEN = with_headers(503, retry_after_ms="1")
BOMB = gzip.compress(bytes(8 * 2**20))
HTML = b"<html><body>502 Bad Gateway</body></html>"
GOOD = message(content="Score: 4")

# Bodies that hold an answer all the same.
ANSWERS: dict[str, Answer] = {
    "thoughts beside the answer": message(content="Score: 4", reasoning_content="Score: 1", reasoning="x"),
    "parts": message(content=[{"type": "text", "text": "Score:"}, {"type": "text", "text": " 4"}]),
    "parts with thoughts": message(
        content=[{"type": "thinking", "thinking": "Score: 1"}, {"type": "text", "text": "Score: 4"}]
    ),
    "parts that are plain texts": message(content=["Score:", " 4"]),
    "a label that is wrong": mislabeled,
    "no model and no reason": b'{"choices":[{"message":{"content":"Score: 4"}}]}',
    "an error that is null": GOOD[:-1] + b', "error": null}',
}

# Bodies without an answer, and the words that say why.
FAILURES: dict[str, tuple[Answer, str]] = {
    "message null": (completion(index=0, finish_reason="content_filter", message=None), "content_filter"),
    "message a text": (completion(index=0, message="Score: 4"), "no message"),
    "choice null": (b'{"choices":[null]}', "choice is empty"),
    "choices empty": (b'{"choices":[]}', "no choices"),
    "choices null": (b'{"choices":null}', "no choices"),
    "choices an object": (b'{"choices":{"0":1}}', "no choices"),
    "choices missing": (b'{"id":"x"}', "no choices"),
    "a list": (b"[1]", "no JSON object"),
    "a number": (b"4", "no JSON object"),
    "null": (b"null", "no JSON object"),
    "content null": (message(content=None), "no text"),
    "content a number": (message(content=4), "no text"),
    "content blank": (message(content=" \n"), "no text"),
    "content missing": (message(), "no text"),
    "a tool call": (message("tool_calls", content=None, tool_calls=[{"id": "x"}]), "asks for a tool"),
    "a refusal": (message(content=None, refusal="I cannot help"), "refused to reply: I cannot help"),
    "a refusal of another kind": (message(content=None, refusal={"a": 1}), "refused to reply"),
    "thoughts only": (message("length", content=None, reasoning_content="Score: 4"), "thoughts only.*length"),
    "deep": (b"[" * 100_000, r"no JSON: '\[\["),
    "cut short": (GOOD[:-20], "no JSON"),
    "no JSON": (b"Score: 4", "no JSON: 'Score: 4'"),
    "a page of a proxy": (HTML, "no JSON: '<html>"),
    "empty": (b"", "is empty"),
    "bytes": (bytes(range(128, 256)), "no JSON"),
    "half a pair as text": (b'{"choices":[{"message":{"content":null,"refusal":"\\ud800"}}]}', "refused"),
    "damaged gzip": (damaged_gzip, "compression is damaged"),
    "gzip bomb": (bomb, "larger than 1"),
    "endless": (endless, "larger than 1"),
    "dropped": (drop, "APIConnectionError.*disconnected"),
    "reset": (reset, "APIConnectionError"),
    "400": (error(status=400, text="too long"), "BadRequestError.*too long"),
    "500": (error(status=500, text="oops"), "InternalServerError.*oops"),
    "500 of a proxy": ((502, HTML), "InternalServerError.*Bad Gateway"),
    "500 deep": ((500, b"[" * 100_000), "InternalServerError"),
    "waiting for an hour": (with_headers(429, Retry_After="3600"), "RateLimitError.*busy"),
    "400 inside": (error(400, "too long"), "BadRequestError.*too long"),
    "500 inside": (error("500", "oops"), "InternalServerError.*oops"),
    "busy inside": (error("rate_limit_exceeded", "slow down"), "RateLimitError.*slow down"),
    "a text as error": (b'{"error":"overloaded"}', "InternalServerError.*overloaded"),
    "an error of older vLLM": (
        b'{"object":"error","message":"too long","type":"BadRequestError","code":400}',
        "BadRequestError.*too long",
    ),
    "an error in the choice": (
        completion(index=0, finish_reason="error", message=None, error={"code": 502, "message": "provider"}),
        "InternalServerError.*provider",
    ),
}

# What no request can change: the key, the model, the address.
REFUSALS: dict[str, tuple[Answer, str]] = {
    "401": (error(status=401, text="wrong key"), "AuthenticationError.*wrong key"),
    "403": (error(status=403, text="not you"), "PermissionDeniedError.*not you"),
    "404": (error(status=404, text="no such model"), "NotFoundError.*no such model"),
    "405": (error(status=405, text="no such method"), "no such method"),
    "401 inside": (error("invalid_api_key", "wrong key"), "AuthenticationError.*wrong key"),
    "redirect": (
        with_headers(307, Location="https://elsewhere.example/v1"),
        r"sends on to https://elsewhere\.example/v1",
    ),
}
