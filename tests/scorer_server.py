"""A real OpenAI-compatible server on localhost whose replies a test writes: chat completions only, one thread a request."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | int | bytes | None  # a reply's text, an HTTP status, raw bytes of a body, or a reply without text


class Server(ThreadingHTTPServer):
    """`asked`: the bodies of all requests, with their `authorization`; `answer`: what to say to a body; `version`: the model that it claims to be."""

    def __init__(self, answer: Callable[[dict], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.version, self.asked = answer, "scripted-2026-01-01", []
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
        with self.server.lock:
            self.server.asked.append(body | {"authorization": self.headers.get("Authorization")})
            said = self.server.answer(body)
        if isinstance(said, int):
            self.reply(said, {"error": {"message": f"no, with {self.headers.get('Authorization')}", "code": said}})
        elif isinstance(said, bytes):
            self.reply(200, said)
        else:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
            self.reply(200, {"id": "x", "object": "chat.completion", "created": 0, "model": self.server.version, "choices": [choice]})

    def reply(self, status: int, value: Any) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving(answer: Callable[[dict], Answer]) -> Iterator[Server]:
    server = Server(answer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
