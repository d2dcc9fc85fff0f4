"""An HTTP client for servers that are not trusted: what it reads, how long it waits and where it goes are
bounded.

The openai library takes it as its `http_client`. It follows no redirect, so that a key stays with the host
that it was meant for, and opens a connection for each request, since a server may drop an idle one at any
time.
"""

import json
import re
import socket
import threading
import time
from types import TracebackType
from typing import Any

import httpx2

from isrdpo.core.progress import format_size
from isrdpo.formats.completions import ReplyError, parse_json

CONNECT_SECONDS = 30.0  # until a host that does not answer counts as unreachable
# What the body says of itself, and is no longer true once it is read and decoded.
_BODY_HEADERS = {"content-encoding", "content-length", "transfer-encoding", "content-type"}
# Words in an error's code or type, and the status that they stand for.
_STATUS_WORDS = (
    (("rate_limit", "ratelimit", "overloaded", "too_many", "quota"), 429),
    (("authentication", "unauthorized", "api_key"), 401),
    (("permission", "forbidden"), 403),
    (("not_found", "notfound"), 404),
    (("invalid", "badrequest", "bad_request", "unsupported", "content_filter", "content_policy"), 400),
)


class TimeLimit:
    """A limit on the whole of a request, from its connection to its last byte.

    Time-outs of HTTP clients count from one byte to the next, so that a server that sends a byte now and then
    is waited for without end. This one shuts the request's socket down when time is up.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.passed = False
        self._stream: Any = None
        self._end = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self.stop)
        self._timer.daemon = True

    def __enter__(self) -> "TimeLimit":
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def trace(self, event: str, values: dict[str, Any]) -> None:
        """Note the request's stream: httpx's extension `trace`, called at each step of a request."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = values["return_value"]
            if self.passed:
                self._shut_down()

    def stop(self) -> None:
        """End the request now: whoever reads from it gets an error."""
        self.passed = True
        self._shut_down()

    def check(self) -> None:
        """Raise ReplyError where time is up."""
        if self.passed or time.monotonic() > self._end:
            raise ReplyError(f"no whole reply within {self.seconds:g} s")

    def _shut_down(self) -> None:
        raw_socket = self._stream.get_extra_info("socket") if self._stream else None
        try:
            if raw_socket:
                raw_socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already


class BoundedClient(httpx2.Client):
    """A client whose responses are read whole, within `seconds` and `max_bytes` (decoded, so that what is
    small on the way cannot grow without end).

    A successful response must be JSON. One that holds an error, as some gateways send them, gets the status
    that the error stands for, so that busy servers are asked again.
    """

    def __init__(self, seconds: float, max_bytes: int) -> None:
        super().__init__(
            timeout=httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )
        self.seconds = seconds
        self.max_bytes = max_bytes
        self._open_requests: set[TimeLimit] = set()

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request and return its response, read whole.

        Raises ReplyError where time is up and for a body that is too large or no JSON, and what httpx2.Client
        raises.
        """
        with TimeLimit(self.seconds) as limit:
            self._open_requests.add(limit)
            request.extensions["trace"] = limit.trace
            try:
                response = super().send(request, **options | {"stream": True, "follow_redirects": False})
                try:
                    body = self._read(response, limit)
                finally:
                    response.close()
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                raise
            except httpx2.TimeoutException:
                raise ReplyError(f"no reply within {self.seconds:g} s") from None
            except httpx2.TransportError:
                limit.check()
                raise
            finally:
                self._open_requests.discard(limit)
        return _whole_response(response, body)

    def _read(self, response: httpx2.Response, limit: TimeLimit) -> bytes:
        """The decoded body. Raises ReplyError where it is too large or cannot be decoded."""
        body = bytearray()
        try:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > self.max_bytes:
                    raise ReplyError(f"the reply is larger than {format_size(self.max_bytes)}")
                limit.check()
        except httpx2.DecodingError:
            raise ReplyError("the reply's compression is damaged") from None
        return bytes(body)

    def close(self) -> None:
        """End the requests under way, and close the client."""
        for limit in list(self._open_requests):
            limit.stop()
        super().close()


def _whole_response(response: httpx2.Response, body: bytes) -> httpx2.Response:
    """The response with its body; one that holds an error gets the error's status."""
    status = response.status_code
    error = _error_inside(parse_json(body)) if response.is_success else None
    if error is not None:
        status = _error_status(error)
        body = json.dumps({"error": error}).encode()
    headers = [item for item in response.headers.multi_items() if item[0].lower() not in _BODY_HEADERS]
    headers.append(("content-type", "application/json"))
    return httpx2.Response(status, headers=headers, content=body, request=response.request)


def _error_inside(body: Any) -> dict[str, str | int] | None:
    """The error that a successful response holds: its message, code, status, type and param.

    It may stand at the top (OpenAI), be the body itself (older vLLM), or stand in the choice (OpenRouter).
    """
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = body.get("error") or (choice.get("error") if isinstance(choice, dict) else None)
    if body.get("object") == "error":
        error = error or body
    if isinstance(error, str):
        return {"message": error}
    if not isinstance(error, dict):
        return {"message": "an error without words"} if error else None
    fields = {name: error.get(name) for name in ("message", "code", "status", "type", "param")}
    words = {name: value for name, value in fields.items() if isinstance(value, (str, int))}
    return words or None


def _error_status(error: dict[str, str | int]) -> int:
    """The HTTP status that an error stands for; 500 where it does not say."""
    values = [str(error[name]) for name in ("code", "status", "type") if name in error]
    for value in values:
        if re.fullmatch("[45][0-9][0-9]", value):
            return int(value)
    words = " ".join(values).lower()
    for names, status in _STATUS_WORDS:
        if any(name in words for name in names):
            return status
    return 500
