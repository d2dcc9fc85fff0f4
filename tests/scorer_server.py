"""A real OpenAI-compatible server on localhost whose replies a test writes: chat completions, a thread a
request.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# A reply's text, an HTTP status, (status, body), the raw bytes of a body, None for a reply without text, or a
# function that writes what it likes.
Answer = "str | int | tuple[int, Any] | bytes | None | Callable[[Handler], None]"


class Server(ThreadingHTTPServer):
    """The server.

    `answer` says what to reply to a body, `version` is the model that the server claims to be. `asked`
    holds the bodies of all requests, with their `authorization`.
    """

    def __init__(self, answer: Callable[[dict], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.version = "scripted-2026-01-01"
        self.asked: list[dict] = []
        self.lock = threading.Lock()

    def handle_error(self, *arguments: Any) -> None:
        """A client that gave up is what some tests are about."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        authorization = self.headers.get("Authorization")
        with self.server.lock:
            self.server.asked.append(body | {"authorization": authorization})
            answer = self.server.answer(body)
        if isinstance(answer, int):
            self.reply(answer, {"error": {"message": f"no, with {authorization}", "code": answer}})
        elif isinstance(answer, bytes):
            self.reply(200, answer)
        elif isinstance(answer, tuple):
            self.reply(*answer)
        elif callable(answer):
            answer(self)
        else:
            self.reply(200, self.completion(answer))

    def completion(self, text: Any, reason: str = "stop") -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": reason, "message": message}
        model = self.server.version
        return {"id": "x", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]}

    def reply(self, status: int, value: Any, **headers: str) -> None:
        """Send a body; underscores in the names of headers stand for hyphens."""
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        usual = {"Content_Type": "application/json", "Content_Length": str(len(content))}
        for name, text in (usual | headers).items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        """A redirected request may come as GET."""
        with self.server.lock:
            self.server.asked.append({"authorization": self.headers.get("Authorization")})
        self.reply(200, self.completion("redirected"))

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving(answer: Callable[[dict], Answer]) -> Iterator[Server]:
    """Run a server on a free port, and stop it at the end."""
    server = Server(answer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
