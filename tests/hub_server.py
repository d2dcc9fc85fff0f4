"""A server on localhost that speaks the hub's protocol, as far as the installed huggingface_hub uses it."""

import base64
import gzip
import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = 1024  # bytes from which a file is kept as the hub keeps large ones (LFS), with its sha256 as ETag
JSON = "application/json"


class Hub(ThreadingHTTPServer):
    """The server; it runs in a thread of its own from the start.

    repos: {"datasets/OWNER/NAME": {path: content}}, which may change at any time. What else a test may set:
    cut[path]: the number of answers that break off half way. stall: paths whose answer stops for good there.
    damaged: paths that are answered with other bytes than the list says; shortened: with fewer; endless:
    with far more, without a length; bomb: with far more, packed as gzip.
    refused[repo]: (status, X-Error-Code). no_ranges: answer with the whole file always, as some mirrors do.
    xet: offer large files by Xet, which the server has not.
    What a test may read: log: (method, path, Range) of each request. created, commits, tokens.
    """

    daemon_threads = True

    def __init__(self, repos: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos = repos
        self.cut: Counter[str] = Counter()
        self.stall: set[str] = set()
        self.damaged: set[str] = set()
        self.shortened: set[str] = set()
        self.endless: set[str] = set()
        self.bomb: set[str] = set()
        self.listed: dict[str, dict] = {}  # values that the list says instead, by path
        self.refused: dict[str, tuple[int, str]] = {}
        self.no_ranges = False
        self.xet = False
        self.log: list[tuple[str, str, str | None]] = []
        self.created: list[dict] = []
        self.commits: list[dict[str, bytes]] = []
        self.tokens: set[str | None] = set()
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self, name: str, method: str = "GET") -> list[str | None]:
        """Return the Range of every request for the content of files that end in `name`."""
        requests = [(path, ranged) for how, path, ranged in self.log if how == method]
        return [ranged for path, ranged in requests if "/resolve/" in path and path.endswith(name)]

    def close(self) -> None:
        """Let stalled answers go, and stop."""
        self.released.set()
        self.shutdown()
        self.server_close()


def file_digest(content: bytes) -> str:
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def commit_of(files: dict[str, bytes]) -> str:
    digests = sorted((name, file_digest(content)) for name, content in files.items())
    return hashlib.sha1(repr(digests).encode(), usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: object = b"", headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.begin(status, {"Content-Type": JSON, "Content-Length": str(len(content))} | (headers or {}))
        if self.command != "HEAD":
            self.wfile.write(content)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.log.append((self.command, path, self.headers.get("Range")))
        self.server.tokens.add(self.headers.get("Authorization"))
        api = re.fullmatch(r"/api/((?:datasets|models)/[^/]+/[^/]+)(?:/(revision|tree)/(\w+))?", path)
        resolve = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/(\w+)/(.+)", path)
        repo = api[1] if api else ""
        if resolve:
            repo = resolve[1] if resolve[1].startswith("datasets/") else f"models/{resolve[1]}"
        if repo in self.server.refused:
            status, code = self.server.refused[repo]
            return self.answer(status, {"error": code}, {"X-Error-Code": code})
        files = self.server.repos.get(repo)
        if files is None:
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if resolve:
            return self.send_file(resolve[3], files)
        if api[2] == "tree":
            return self.answer(200, [self.entry(name, content) for name, content in files.items()])
        return self.answer(200, self.description(repo, files))

    def description(self, repo: str, files: dict[str, bytes]) -> dict:
        siblings = [self.sibling(name, content) for name, content in files.items()]
        name = repo.split("/", 1)[1]
        counts = {"downloads": 0, "likes": 0}
        return {
            "id": name,
            "sha": commit_of(files),
            "siblings": siblings,
            "private": False,
            "tags": [],
            **counts,
        }

    def sibling(self, name: str, content: bytes) -> dict:
        digest = file_digest(content)
        sibling = {"rfilename": name, "size": len(content), "blobId": digest[:40]}
        if len(content) >= LARGE:
            sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
        return sibling | self.server.listed.get(name, {})

    def entry(self, name: str, content: bytes) -> dict:
        digest = file_digest(content)
        entry = {"type": "file", "path": name, "size": len(content), "oid": digest[:40]}
        if len(content) >= LARGE:
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        return entry

    def send_file(self, name: str, files: dict[str, bytes]) -> None:
        content = files.get(name)
        if content is None:
            return self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": commit_of(files), "ETag": f'"{file_digest(content)}"'}
        headers["Content-Type"] = "application/octet-stream"
        if self.server.xet and len(content) >= LARGE:
            headers["X-Xet-Hash"] = file_digest(content)
            headers["X-Xet-Refresh-Route"] = "/api/no-xet-here"
        if self.command == "GET" and name in self.server.damaged:
            content = content[::-1]
        if self.command == "GET" and name in self.server.shortened:
            content = content[:-10]
        if self.command == "GET" and name in self.server.bomb:
            return self.answer(200, gzip.compress(bytes(2**26)), headers | {"Content-Encoding": "gzip"})
        if self.command == "GET" and name in self.server.endless:
            return self.send_without_end(headers)
        return self.send_content(name, content, headers)

    def send_without_end(self, headers: dict[str, str]) -> None:
        self.begin(200, headers | {"Connection": "close"})
        self.close_connection = True
        block = bytes(2**20)
        for _ in range(64):
            self.wfile.write(block)

    def send_content(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        status = 200
        body = content
        ranged = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if ranged and not self.server.no_ranges:
            status = 206
            body = content[int(ranged[1]) :]
            headers["Content-Range"] = f"bytes {ranged[1]}-{len(content) - 1}/{len(content)}"
        stops = name in self.server.stall or self.server.cut[name] > 0
        if self.command == "HEAD" or not stops:
            return self.answer(status, body, headers)
        self.server.cut[name] -= 1
        self.begin(status, headers | {"Content-Length": str(len(body))})
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if name in self.server.stall:
            self.server.released.wait(60)
        self.close_connection = True
        return None

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.log.append(("POST", path, None))
        self.server.tokens.add(self.headers.get("Authorization"))
        if path == "/api/repos/create":
            request = json.loads(body)
            self.server.created.append(request)
            url = f"{self.server.url}/datasets/{request.get('organization')}/{request['name']}"
            return self.answer(200, {"url": url})
        if "/preupload/" in path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return self.answer(200, {"files": modes})
        if "/commit/" in path:
            rows = [json.loads(line) for line in body.splitlines()]
            values = [row["value"] for row in rows if row["key"] == "file"]
            self.server.commits.append(
                {value["path"]: base64.b64decode(value["content"]) for value in values}
            )
            repo = re.sub("/commit/.*", "", path.removeprefix("/api/"))
            url = f"{self.server.url}/{repo}/commit/1"
            return self.answer(200, {"commitUrl": url, "commitOid": "1" * 40, "success": True})
        return self.answer(200, {"warnings": [], "errors": []})
