"""A connection to an OpenAI-compatible server: chats go out, and each ends once, in a text or in a cause.

The openai library sends them: it asks busy and broken servers again by itself, with growing pauses or those
that the server asks for. This module bounds what comes back (see `bounded_client`), reads replies of every
shape, and leaves out parameters that the server refuses.
"""

import os
import queue
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from isrdpo.core.secrets import HIDDEN, SECRET, hide_key
from isrdpo.core.texts import clean_text, one_line
from isrdpo.formats.completions import ReplyError, parse_json, read_completion
from isrdpo.formats.refusals import error_words, refused_parameter

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

Messages = list[dict[str, Any]]
MAX_BYTES = 4 * 2**20  # of a reply: some hundred times a long one, with log-probabilities
MAX_CHANGES = 8  # of the parameters of one request, until its refusal is final
VERSION_LENGTH = 200  # characters of a model's name that are kept
ACCESS_STATUSES = (401, 402, 403, 404, 405, 407)
NEW_NAMES = {"max_tokens": "max_completion_tokens"}  # of parameters that some servers know under another


class Fault(Enum):
    """A guess at what a failure is due to, by which a caller knows whether to go on."""

    REQUEST = "this request, or chance"
    ACCESS = "the key, the model's name or the address"
    UNREACHABLE = "no connection to the server"


@dataclass(frozen=True)
class Reply:
    """A model's reply to a chat.

    `version` is what answered, in the server's own words (or a local model's name and commit). `error` says
    in one line why there is no text, `fault` what that is due to. `cut`: whether the reply ended at a limit
    on its length.
    """

    text: str
    version: str
    error: str = ""
    fault: Fault = Fault.REQUEST
    cut: bool = False


@dataclass(frozen=True)
class Chat:
    """Messages to reply to, and the parameters of the request (temperature, max_tokens, seed, ...)."""

    messages: Messages
    options: Mapping[str, Any]


@dataclass
class Connection:
    """A server, a model on it, and how it is asked.

    base_url: with the version (`http://localhost:8000/v1`). key_variable: the environment variable with the
    key, which a server of one's own may not need. concurrency: requests at once. retries: of a request that
    meets a busy or broken server. timeout: seconds for a whole request. changes: parameters that the server
    refused, with the name under which it takes them, or None where they are left out.
    """

    base_url: str
    model: str
    key_variable: str
    concurrency: int = 8
    retries: int = 5
    timeout: float = 120.0
    max_bytes: int = MAX_BYTES
    changes: dict[str, str | None] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key; empty where the environment holds none."""
        return os.environ.get(self.key_variable, "").strip()

    def problem(self) -> str:
        """Return why the key or the address cannot be used; empty where they can."""
        if not re.fullmatch(r"[\x21-\x7e]*", self.key):
            fault = "blanks, or letters beyond ASCII"
            return f"the environment variable {self.key_variable} holds no usable key: {fault}"
        if self.key and hide_key(self.base_url, self.key) != self.base_url:
            return f"the address holds the key; it belongs into {self.key_variable} alone"
        return ""

    @cached_property
    def client(self) -> "OpenAI":
        """The library's client."""
        from openai import OpenAI

        from isrdpo.formats.bounded_client import BoundedClient

        return OpenAI(
            api_key=self.key or "none",
            base_url=self.base_url,
            max_retries=self.retries,
            http_client=BoundedClient(self.timeout, self.max_bytes),
        )

    def ask_all(self, chats: Sequence[Chat]) -> Iterator[tuple[int, Reply]]:
        """Yield (index of the chat, reply) in the order in which the replies come, each chat once.

        A caller that stops early leaves the other chats unsent, and those under way without a reply.
        """
        client = self.client  # opened here, once
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        replies: queue.SimpleQueue[tuple[int, Reply | BaseException]] = queue.SimpleQueue()
        for i in range(len(chats)):
            waiting.put(i)
        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                try:
                    i = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    replies.put((i, self.ask(chats[i])))
                except BaseException as error:  # a fault of ours, for the caller's thread
                    replies.put((i, error))

        # Not a thread pool, whose threads a process waits for as it ends, through all pauses and time-outs.
        for _ in range(min(self.concurrency, len(chats))):
            threading.Thread(target=work, daemon=True).start()
        try:
            for _ in chats:
                i, reply = replies.get()
                if isinstance(reply, BaseException):
                    raise reply
                yield i, reply
        except BaseException:
            ended.set()
            client.close()
            raise

    def close(self) -> None:
        """End the requests under way. The connection cannot be used again."""
        self.client.close()

    def ask(self, chat: Chat) -> Reply:
        """Return the reply to one chat; a failure is a reply with an `error`.

        A refused parameter is changed and the chat sent again. Where that helps, it is remembered.
        """
        import openai

        changes = dict(self.changes)
        for _ in range(MAX_CHANGES):
            sent_names = {changes.get(name, name): name for name in chat.options}
            sent = {sent: chat.options[name] for sent, name in sent_names.items() if sent is not None}
            try:
                reply = self._ask_once(chat.messages, sent)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = refused_parameter(error.body, str(error), list(sent))
                if not refused:
                    return self._failure(error, Fault.REQUEST)
                changes[sent_names[refused]] = NEW_NAMES.get(refused)
            except openai.APIStatusError as error:
                return self._failure(error, _fault_of_status(error))
            except openai.APIConnectionError as error:
                unreachable = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
                return self._failure(error, Fault.UNREACHABLE if unreachable else Fault.REQUEST)
            except (openai.APIError, ReplyError, ValueError) as error:
                return self._failure(error, Fault.REQUEST)
            else:
                self.changes.update(changes)
                return reply
        return Reply("", "", f"the server refused {MAX_CHANGES} parameters one after another")

    def _ask_once(self, messages: Messages, options: Mapping[str, Any]) -> Reply:
        import httpx2

        body = {"model": self.model, "messages": messages, **options}
        response = self.client.post("/chat/completions", cast_to=httpx2.Response, body=body)
        completion = read_completion(parse_json(response.content))
        return Reply(
            text=self._readable(completion.text),
            version=self._readable(completion.model or self.model)[:VERSION_LENGTH],
            error=one_line(self._readable(completion.problem)),
            cut=completion.cut,
        )

    def _readable(self, text: str) -> str:
        """What the server wrote, without the key and without characters that cannot be written."""
        return clean_text(hide_key(text, self.key))

    def _failure(self, error: Exception, fault: Fault) -> Reply:
        """The reply that says in one line, without the key, why there is none."""
        reason = "" if isinstance(error, ReplyError) else f"{type(error).__name__}: "
        text = reason + str(error)
        body = getattr(error, "body", None)
        text += "".join(f" {word}" for word in error_words(body) if word not in text)
        if error.__cause__ is not None:
            text += f" ({type(error.__cause__).__name__}: {error.__cause__})"
        location = getattr(getattr(error, "response", None), "headers", {}).get("location")
        if location:
            text += f" (the server sends on to {location}; give that address as base_url, if it is right)"
        text = SECRET.sub(HIDDEN, hide_key(text, self.key))
        return Reply("", "", one_line(text), fault)


def change_notes(changes: Mapping[str, str | None]) -> list[str]:
    """Return a sentence for each parameter that a server refused."""
    return [
        f"the server refuses the parameter {name}; it was "
        + (f"sent as {new}" if new else "left out of every request")
        for name, new in sorted(changes.items())
    ]


def _fault_of_status(error: "APIStatusError") -> Fault:
    status = error.status_code
    return Fault.ACCESS if status in ACCESS_STATUSES or 300 <= status < 400 else Fault.REQUEST
