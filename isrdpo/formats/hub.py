"""The Hugging Face hub as `fetch` and `export` use it: lists of files, checked downloads, errors in one line.

huggingface_hub does the work: endpoint (`HF_ENDPOINT`), retries, progress, Xet (`HF_HUB_DISABLE_XET`).
The token comes from the environment only (`HF_TOKEN`), never from a file.
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from isrdpo.core.errors import RunError
from isrdpo.core.secrets import hide_key
from isrdpo.core.texts import clean_text, one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi


MAX_PATH = 1000  # characters of a file's path
MAX_SIZE = 2**50  # bytes of a file


@dataclass(frozen=True)
class File:
    """A file of a repository at one commit; `size` in bytes.

    `digest` is the sha256 (64 hex digits) of a large file, and the sha1 of the git blob (40) of any other.
    """

    repo: str
    commit: str
    path: str
    size: int
    digest: str


def token() -> str | bool:
    """Return the environment's token; without one False, so that a login's token on disk is not used."""
    return os.environ.get("HF_TOKEN") or False


def api(endpoint: str | None = None) -> "HfApi":
    """Return the hub's client."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, token=token())


def list_files(repo: str, kind: str, endpoint: str | None = None) -> list[File]:
    """List a repository (kind: dataset, model) at its newest commit, by path.

    Raises RunError, also where an entry is no file that could be fetched and checked.
    """
    with readable_errors(repo):
        info = api(endpoint).repo_info(repo, repo_type=kind, files_metadata=True)
        files = [_listed_file(repo, info.sha, entry) for entry in info.siblings or []]
    return sorted(files, key=lambda file: file.path)


def _listed_file(repo: str, commit: Any, entry: Any) -> File:
    """An entry of a list as a file. Raises RunError for values that no honest list holds."""
    name = entry.rfilename
    digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
    fault = ""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_PATH or clean_text(name) != name:
        fault = "which is not a usable path"
    elif (path := PurePosixPath(name)).is_absolute() or ".." in path.parts or "\\" in name:
        fault = "which leads out of a folder"
    elif type(entry.size) is not int or not 0 <= entry.size <= MAX_SIZE:
        fault = "without a size"
    elif not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", str(digest)):
        fault = "without a digest"
    elif not re.fullmatch("[0-9a-f]{40}", str(commit)):
        fault = "without a commit"
    if fault:
        raise RunError(f"{repo}: its list names {str(name)[:200]!r}, {fault}; nothing was fetched")
    return File(repo, commit, name, entry.size, digest)


def is_cached(file: File, endpoint: str | None = None) -> bool:
    """Whether the hub's cache holds a model's file. Raises RunError."""
    with readable_errors(file.repo):
        client = api(endpoint)
        return client.hf_hub_download(file.repo, file.path, revision=file.commit, dry_run=True).is_cached


def download(file: File, folder: Path, endpoint: str | None = None) -> Path:
    """Download a data set's file to its path below `folder`, check it, and return its path. Raises RunError.

    huggingface_hub goes on where a connection broke; after a kill it begins the file anew.
    """
    with readable_errors(file.repo):
        client = api(endpoint)
        path = client.hf_hub_download(
            file.repo,
            file.path,
            repo_type="dataset",
            revision=file.commit,
            local_dir=folder,
            tqdm_class=_limited_bar(file),
        )
        _check_digest(Path(path), file)
    return Path(path)


def download_model(files: list[File], endpoint: str | None = None) -> None:
    """Download files of a model into the hub's cache, one at a time, and check them. Raises RunError."""
    repo = files[0].repo
    with readable_errors(repo):
        for file in files:
            path = api(endpoint).hf_hub_download(repo, file.path, tqdm_class=_limited_bar(file))
            _check_digest(Path(path), file)


def _limited_bar(file: File) -> type:
    """A progress bar that ends a download of more bytes than the list announced, before they are written."""
    from huggingface_hub.utils import tqdm

    class LimitedBar(tqdm):
        def __init__(self, *values: Any, **options: Any) -> None:
            super().__init__(*values, **options)
            self.received = options.get("initial") or 0

        def update(self, count: float | None = 1) -> bool | None:
            self.received += count or 0
            if self.received > file.size:
                size = f"the {file.size} bytes that the hub's list says"
                raise RunError(f"{file.repo}: {file.path} is larger than {size}; nothing of it is used")
            return super().update(count)

    return LimitedBar


def _check_digest(path: Path, file: File) -> None:
    """Remove a file that arrived damaged, which huggingface_hub does not notice, and raise RunError."""
    if len(file.digest) == 64:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    else:
        blob = path.read_bytes()
        digest = hashlib.sha1(b"blob %d\0" % len(blob) + blob, usedforsecurity=False).hexdigest()
    if digest != file.digest:
        path.resolve().unlink()  # in the cache, `path` is a link to the file
        path.unlink(missing_ok=True)
        reason = f"its digest is not {file.digest[:12]}..."
        raise RunError(
            f"{file.repo}: {file.path} arrived damaged ({reason}); it was removed, run the same command again"
        )


@contextmanager
def readable_errors(repo: str) -> Iterator[None]:
    """Turn an error of huggingface_hub, its HTTP client or the disk into a RunError that says what to do."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"{repo}: {_advice(repo, error)}") from error


def _advice(repo: str, error: BaseException) -> str:
    from huggingface_hub import constants, errors

    while isinstance(error, (errors.LocalEntryNotFoundError, errors.DryRunError)) and error.__cause__:
        error = error.__cause__  # they say only that the file is not here; the cause says why
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = one_line(hide_key((str(error).splitlines() or [""])[0], os.environ.get("HF_TOKEN", "")))
    hub = constants.ENDPOINT
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run the same command again, it goes on from here"
    if isinstance(error, errors.GatedRepoError) or status == 403:
        terms = f"accept its terms on {hub}/{repo} and set HF_TOKEN in the environment"
        return f"gated, or not allowed to this token (HTTP {status}); {terms}"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        checks = "check the name, or set HF_TOKEN in the environment"
        return f"no such repository on {hub}, or a private one (HTTP {status}); {checks}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it to fetch"
    if status:
        return f"the hub answered HTTP {status}; try again later"
    library = type(error).__module__.split(".")[0]
    if library in ("httpx", "httpx2", "httpcore") or isinstance(error, (ConnectionError, TimeoutError)):
        checks = (
            "look at the network and at HF_ENDPOINT, and run the same command again: it goes on from here"
        )
        return f"no connection to {hub} ({reason or type(error).__name__}); {checks}"
    if reason.startswith("Consistency check failed"):
        return "a file arrived damaged (it is not as long as the hub says); run the same command again"
    return f"{type(error).__name__}: {reason}"
