"""The Hugging Face hub, as far as `fetch` and `export` need it: lists, downloads that go on after a kill, and errors in one line.

The endpoint is huggingface_hub's own (`HF_ENDPOINT`), the token comes from the environment only (`HF_TOKEN`), never from a file.
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from isrdpo.core.errors import RunError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class File:
    """A file of a repository at one commit. `digest`: sha256 (64 hex digits) of a large file, else the git blob's sha1 (40). `size`: bytes."""

    repo: str
    kind: str  # dataset | model
    commit: str
    path: str
    size: int
    digest: str


def token() -> str | bool:
    """The environment's token; False (none, and not the one that a login left on disk) where there is none."""
    return os.environ.get("HF_TOKEN") or False


def api(endpoint: str | None = None) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, token=token())


def files(repo: str, kind: str, endpoint: str | None = None) -> list[File]:
    """Everything in a repository at its newest commit, by path. Raises RunError, also where a path would lead out of a folder."""
    from huggingface_hub.hf_api import RepoFile

    with one_line(repo):
        hub = api(endpoint)
        commit = hub.repo_info(repo, repo_type=kind).sha
        tree = [entry for entry in hub.list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind) if isinstance(entry, RepoFile)]
    for entry in tree:
        path = PurePosixPath(entry.path)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.path:
            raise RunError(f"{repo}: its list names {entry.path!r}, which leads out of a folder; nothing was fetched")
    found = [File(repo, kind, commit, e.path, e.lfs.size if e.lfs else e.size, e.lfs.sha256 if e.lfs else e.blob_id) for e in tree]
    return sorted(found, key=lambda file: file.path)


def download(file: File, place: Path, part: Path, endpoint: str | None = None) -> None:
    """`file` to `place`, by way of `part`, from which the next call goes on. Its digest is checked before it is put in place.

    huggingface_hub 2.4 itself starts a file anew in each process (its temporary file has a random name, since its pull request 4228),
    so its `http_get` is called on a file of our own. The hub serves files above 50 GB through Xet only: those start anew.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    place.parent.mkdir(parents=True, exist_ok=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    with one_line(file.repo):
        if file.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            taken = api(endpoint).hf_hub_download(file.repo, file.path, repo_type=file.kind, revision=file.commit, local_dir=part.with_suffix(".big"))
            os.replace(taken, part)
        else:
            if part.exists() and part.stat().st_size > file.size:
                part.unlink()
            url = hf_hub_url(file.repo, file.path, repo_type=file.kind, revision=file.commit, endpoint=endpoint)
            headers = build_hf_headers(token=token()) | {"Accept-Encoding": "identity"}  # a range counts bytes of the file, not of its compression
            with part.open("ab") as out:
                http_get(url, out, resume_size=out.tell(), headers=headers, expected_size=file.size, displayed_filename=file.path)
        if digest(part, file.digest) != file.digest:
            part.unlink()
            raise RunError(f"{file.repo}: {file.path} arrived damaged (its digest is not {file.digest[:12]}...); it was removed, run the same command again")
        os.replace(part, place)


def digest(path: Path, like: str) -> str:
    """The file's sha256, or its sha1 as a git blob where `like` has 40 digits."""
    made = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            made.update(block)
    return made.hexdigest()


@contextmanager
def one_line(repo: str) -> Iterator[None]:
    """Turns what huggingface_hub and its HTTP client raise into one line that says what to do. What has arrived stays."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        raise RunError(_line(repo, error)) from error


def _line(repo: str, error: Exception) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{repo}: the disk is full; free some space and run the same command again, it goes on from here"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return f"{repo}: gated, or not allowed to this token (HTTP {status}); accept its terms on {constants.ENDPOINT}/{repo} and set HF_TOKEN in the environment"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return f"{repo}: no such repository on {constants.ENDPOINT}, or a private one (HTTP {status}); check the name, or set HF_TOKEN in the environment"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{repo}: HF_HUB_OFFLINE is set; unset it to fetch"
    if status:
        return f"{repo}: the hub answered HTTP {status}; try again later"
    if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore") or isinstance(error, (ConnectionError, TimeoutError)):
        why = (str(error).splitlines() or [""])[0] or type(error).__name__
        return f"{repo}: no connection to {constants.ENDPOINT} ({why}); look at the network and at HF_ENDPOINT, and run the same command again: it goes on from here"
    return f"{repo}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
