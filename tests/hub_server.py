"""A server with the hub's shape on localhost: what the installed huggingface_hub calls, answered by a real http.server."""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = 1024  # bytes from which a file is kept as the hub keeps large ones (LFS), with its sha256 as ETag


class Hub(ThreadingHTTPServer):
    """`repos`: {"datasets/OWNER/NAME": {path: content}}. `cut[path]`: how many answers break off half way. `stall`: paths whose answer
    stops half way for good. `refused[repo]`: (status, X-Error-Code). `log`: (method, path, Range)."""

    daemon_threads = True

    def __init__(self, repos: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.log, self.cut, self.stall = repos, [], Counter(), set()
        self.refused: dict[str, tuple[int, str]] = {}
        self.created: list[dict] = []
        self.commits: list[dict[str, bytes]] = []
        self.tokens: set[str | None] = set()
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, name: str, method: str = "GET") -> list[str | None]:
        """The Range of every request for a file's content."""
        return [ranged for how, path, ranged in self.log if how == method and "/resolve/" in path and path.endswith(name)]


def digest(content: bytes) -> str:
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def commit(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted((k, digest(v)) for k, v in files.items())).encode(), usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: object = b"", headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.log.append((self.command, path, self.headers.get("Range")))
        self.server.tokens.add(self.headers.get("Authorization"))
        api = re.fullmatch(r"/api/((?:datasets|models)/[^/]+/[^/]+)(?:/(revision|tree)/(\w+))?", path)
        raw = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/(\w+)/(.+)", path)
        repo = api[1] if api else raw and (raw[1] if raw[1].startswith("datasets/") else f"models/{raw[1]}")
        if repo in self.server.refused:
            status, code = self.server.refused[repo]
            return self.answer(status, {"error": code}, {"X-Error-Code": code})
        files = self.server.repos.get(repo or "")
        if files is None:
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if raw:
            return self.content(raw[3], files)
        if api[2] == "tree":
            return self.answer(200, [self.entry(name, files[name]) for name in files])
        siblings = [{"rfilename": name} for name in files]
        return self.answer(200, {"id": repo.split("/", 1)[1], "sha": commit(files), "siblings": siblings, "private": False, "tags": [], "downloads": 0, "likes": 0})

    def entry(self, name: str, content: bytes) -> dict:
        made = {"type": "file", "path": name, "size": len(content), "oid": digest(content)[:40]}
        large = {"lfs": {"oid": digest(content), "size": len(content), "pointerSize": 130}} if len(content) >= LARGE else {}
        return made | large

    def content(self, name: str, files: dict[str, bytes]) -> None:
        content = files.get(name)
        if content is None:
            return self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        ranged = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(ranged[1]) if ranged else 0
        headers = {"X-Repo-Commit": commit(files), "ETag": f'"{digest(content)}"', "Content-Type": "application/octet-stream"}
        if ranged:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body, status = content[start:], 206 if ranged else 200
        stop = self.command == "GET" and (name in self.server.stall or self.server.cut[name] > 0)
        if not stop:
            return self.answer(status, body, headers)
        self.server.cut[name] -= 1
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if name in self.server.stall:
            self.server.released.wait(60)
        self.close_connection = True
        return None

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.log.append(("POST", path, None))
        self.server.tokens.add(self.headers.get("Authorization"))
        if path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            return self.answer(200, {"url": f"{self.server.url}/datasets/{json.loads(body).get('organization')}/{json.loads(body)['name']}"})
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return self.answer(200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]})
        if "/commit/" in path:
            rows = [json.loads(line) for line in body.splitlines()]
            self.server.commits.append({r["value"]["path"]: base64.b64decode(r["value"]["content"]) for r in rows if r["key"] == "file"})
            repo = re.sub("/commit/.*", "", path.removeprefix("/api/"))
            return self.answer(200, {"commitUrl": f"{self.server.url}/{repo}/commit/1", "commitOid": "1" * 40, "success": True})
        return self.answer(200, {"warnings": [], "errors": []})
