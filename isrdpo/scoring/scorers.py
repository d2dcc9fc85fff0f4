"""Who scores: an OpenAI-compatible endpoint, or a text model in this process. Both are a `Scorer`."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from isrdpo.core.errors import RunError
from isrdpo.core.folders import checkpoint_path, resolve
from isrdpo.core.schema import Score
from isrdpo.core.secrets import SECRET
from isrdpo.core.special_tokens import harmless_text
from isrdpo.scoring.protocol import Messages

OPENAI = "https://api.openai.com/v1"
SECONDS = 120.0  # until a request counts as failed, and is tried again
LOCAL_TOKENS = 256  # of a local model's reply where max_new_tokens is null


@dataclass(frozen=True)
class Reply:
    """A scorer's reply.

    `version` is what answered, in the server's own words (or a local model's name and commit). `error` says
    why there is no text.
    """

    text: str
    version: str
    error: str = ""


class Scorer(Protocol):
    """A language model that replies to chats."""

    def ask(self, chats: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """Yield (index of the chat, reply) as the replies come.

        Raises RunError where no other request can succeed.
        """


def missing_setting(settings: Score) -> str:
    """Return what a scorer lacks, as far as that can be seen before anything is asked.

    Empty where it lacks nothing.
    """
    needs_key = settings.scorer == "openai" and settings.base_url is None
    if needs_key and not os.environ.get(settings.key_variable):
        what = f"the environment variable {settings.key_variable} holds no key"
        return f"score.scorer=openai: {what}; set it, or score.base_url of your own server"
    is_folder = settings.scorer == "local" and settings.model.startswith(("/", ".", "~"))
    if is_folder and not resolve(settings.model).is_dir():
        return f"score.model: {settings.model}: no such folder; give a text model's folder or hub id"
    return ""


def open_scorer(settings: Score, device: str = "auto") -> Scorer:
    """Return the scorer that `settings` name. Raises RunError where it cannot be had: no key, no model."""
    if problem := missing_setting(settings):
        raise RunError(problem)
    return Endpoint(settings) if settings.scorer == "openai" else Local(settings, device)


class Endpoint:
    """Chat completions of a server at temperature 0, `concurrency` at a time.

    The client asks busy and broken servers again by itself, with growing pauses. A server of one's own may
    need no key.
    """

    def __init__(self, settings: Score) -> None:
        from openai import OpenAI

        self.settings = settings
        self.key = os.environ.get(settings.key_variable, "")
        self.client = OpenAI(
            api_key=self.key or "none",
            base_url=settings.base_url or OPENAI,
            max_retries=settings.retries,
            timeout=SECONDS,
        )

    def ask(self, chats: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply) in the order in which the replies come.

        Raises RunError where no other request can succeed (no such model, a wrong key, no server).
        """
        pool = ThreadPoolExecutor(self.settings.concurrency)
        try:
            requests: dict[Future, int] = {
                pool.submit(self._ask_once, chat): i for i, chat in enumerate(chats)
            }
            for request in as_completed(requests):
                yield requests[request], request.result()
        except BaseException:
            self.client.close()  # what is under way fails at once, or the process would wait for it
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask_once(self, chat: Messages) -> Reply:
        import openai

        try:
            completion = self._complete(chat)
        except openai.APITimeoutError as error:
            return Reply("", "", self._one_line(error))
        except (
            openai.AuthenticationError,
            openai.PermissionDeniedError,
            openai.NotFoundError,
            openai.APIConnectionError,
        ) as error:
            where = f"{self.settings.base_url or OPENAI}, model {self.settings.model}"
            raise RunError(f"{where}: {self._one_line(error)}; what is scored already stays") from None
        except (openai.APIError, ValueError) as error:  # ValueError: a reply that is no JSON
            return Reply("", "", self._one_line(error))
        version = str(getattr(completion, "model", None) or self.settings.model)
        choices = getattr(completion, "choices", None)
        text = choices[0].message.content if choices else None
        if not isinstance(text, str):
            return Reply("", version, "the reply has no text")
        return Reply(text, version)

    def _complete(self, chat: Messages) -> Any:
        options: dict[str, Any] = {"temperature": 0, "top_p": 1}
        if self.settings.max_new_tokens:
            options["max_tokens"] = self.settings.max_new_tokens
        return self.client.chat.completions.create(model=self.settings.model, messages=chat, **options)

    def _one_line(self, error: BaseException) -> str:
        """An error in one line without the key, which some servers repeat."""
        text = f"{type(error).__name__}: {error}"
        if self.key:
            text = text.replace(self.key, "(hidden)")
        return SECRET.sub("(hidden)", text).replace("\n", " ")[:200]


class Local:
    """A transformers text model that replies greedily, `concurrency` chats a batch.

    Chats go through its chat template; a model without one is given the bare text.
    """

    def __init__(self, settings: Score, device: str) -> None:
        """Load the model. Raises RunError where there is no such model."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.settings = settings
        self.device = device
        path = checkpoint_path(settings.model)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
            self.model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").to(device).eval()
        except (OSError, ValueError) as error:
            raise RunError(f"score.model: {settings.model}: {str(error).splitlines()[0][:200]}") from None
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        added_tokens = self.tokenizer.added_tokens_decoder.values()
        self.special_tokens = {token.content for token in added_tokens if token.special and token.content}
        commit = getattr(self.model.config, "_commit_hash", None)
        self.version = Path(settings.model).name + (f"@{commit[:12]}" if commit else "")

    def ask(self, chats: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply), batch by batch."""
        size = self.settings.concurrency
        for start in range(0, len(chats), size):
            prompts = [self._prompt(chat) for chat in chats[start : start + size]]
            for i, text in enumerate(self._generate(prompts), start):
                yield i, Reply(text, self.version)

    def _prompt(self, chat: Messages) -> str:
        """The chat as text; names of special tokens in what others wrote cannot end a turn."""
        turns = [turn | {"content": harmless_text(turn["content"], self.special_tokens)} for turn in chat]
        if not self.tokenizer.chat_template:
            return "\n\n".join(turn["content"] for turn in turns) + "\n"
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def _generate(self, prompts: list[str]) -> list[str]:
        import torch

        encoding = self.tokenizer(
            prompts,
            return_tensors="pt",
            padding=True,
            add_special_tokens=not self.tokenizer.chat_template,
        ).to(self.device)
        with torch.inference_mode():
            ids = self.model.generate(
                input_ids=encoding["input_ids"],
                attention_mask=encoding["attention_mask"],
                do_sample=False,
                max_new_tokens=self.settings.max_new_tokens or LOCAL_TOKENS,
                pad_token_id=self.tokenizer.pad_token_id,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        return self.tokenizer.batch_decode(ids[:, encoding["input_ids"].shape[1] :], skip_special_tokens=True)
