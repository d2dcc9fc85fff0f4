"""Who scores: an OpenAI-compatible endpoint, or a text model in this process. Both take chats and give replies as they come."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isrdpo.core.errors import RunError
from isrdpo.core.folders import resolve
from isrdpo.core.params import SECRET, Score
from isrdpo.scoring.protocol import Messages

OPENAI = "https://api.openai.com/v1"
SECONDS = 120.0  # until a request counts as failed, and is tried again
LOCAL_TOKENS = 256  # of a local model's reply where max_new_tokens is null


@dataclass(frozen=True)
class Reply:
    """`version`: what answered, in the server's own words (or a local model's path and commit). `error`: why there is no text."""

    text: str
    version: str
    error: str = ""


def missing(settings: Score) -> str:
    """What a scorer lacks that can be seen before anything is asked; empty where nothing does."""
    if settings.scorer == "openai" and settings.base_url is None and not os.environ.get(settings.key_variable):
        return f"score.scorer=openai: the environment variable {settings.key_variable} holds no key; set it, or score.base_url of your own server"
    if settings.scorer == "local" and settings.model.startswith(("/", ".", "~")) and not resolve(settings.model).is_dir():
        return f"score.model: {settings.model}: no such folder; give a text model's folder or hub id"
    return ""


class Endpoint:
    """Chat completions at temperature 0, `concurrency` at a time; busy and broken servers are asked again by the client, with growing pauses."""

    def __init__(self, settings: Score) -> None:
        """Raises RunError where the key is missing (`missing`); an endpoint of one's own may need none."""
        from openai import OpenAI

        self.settings, self.key = settings, os.environ.get(settings.key_variable, "")
        self.client = OpenAI(api_key=self.key or "none", base_url=settings.base_url or OPENAI, max_retries=settings.retries, timeout=SECONDS)

    def ask(self, chats: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """(index, reply) in the order in which they come. Raises RunError where no other request can succeed (no such model, a wrong key, no server)."""
        pool = ThreadPoolExecutor(self.settings.concurrency)
        try:
            waiting: dict[Future, int] = {pool.submit(self._one, chat): i for i, chat in enumerate(chats)}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BaseException:
            self.client.close()  # what is under way fails at once, or the process would wait for it
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, chat: Messages) -> Reply:
        import openai

        limit = {"max_tokens": self.settings.max_new_tokens} if self.settings.max_new_tokens else {}
        try:
            made: Any = self.client.chat.completions.create(model=self.settings.model, messages=chat, temperature=0, top_p=1, **limit)  # type: ignore[arg-type]
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError, openai.APIConnectionError) as error:
            if isinstance(error, openai.APITimeoutError):
                return Reply("", "", self._clean(error))
            raise RunError(f"{self.settings.base_url or OPENAI}, model {self.settings.model}: {self._clean(error)}; what is scored already stays") from None
        except (openai.APIError, ValueError) as error:  # ValueError: a reply that is no JSON
            return Reply("", "", self._clean(error))
        choices = getattr(made, "choices", None)
        text = choices[0].message.content if choices else None
        version = str(getattr(made, "model", None) or self.settings.model)
        return Reply(text, version) if isinstance(text, str) else Reply("", version, "the reply has no text")

    def _clean(self, error: BaseException) -> str:
        """One line without the key, which some servers repeat."""
        text = f"{type(error).__name__}: {error}"
        return SECRET.sub("(hidden)", text.replace(self.key, "(hidden)") if self.key else text).replace("\n", " ")[:200]


class Local:
    """A transformers text model: greedy, `concurrency` rows a batch, through its chat template (the bare text where it has none)."""

    def __init__(self, settings: Score, device: str) -> None:
        """Raises RunError where there is no such model."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.settings, self.device = settings, device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        path = str(resolve(settings.model)) if resolve(settings.model).exists() else settings.model
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
            self.model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").to(self.device).eval()
        except (OSError, ValueError) as error:
            raise RunError(f"score.model: {settings.model}: {str(error).splitlines()[0][:200]}") from None
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        commit = getattr(self.model.config, "_commit_hash", None)
        self.version = Path(settings.model).name + (f"@{commit[:12]}" if commit else "")

    def ask(self, chats: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """(index, reply), batch by batch."""
        for at in range(0, len(chats), self.settings.concurrency):
            batch = chats[at : at + self.settings.concurrency]
            for i, text in enumerate(self._generate([self._prompt(chat) for chat in batch])):
                yield at + i, Reply(text, self.version)

    def _prompt(self, chat: Messages) -> str:
        """The chat as text; names of special tokens in what others wrote cannot end a turn."""
        special = sorted(filter(None, {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special}), key=len, reverse=True)
        plain = []
        for turn in chat:
            text = turn["content"]
            for name in special:
                text = text.replace(name, f"{name[0]} {name[1:]}")
            plain.append(turn | {"content": text})
        if not self.tokenizer.chat_template:
            return "\n\n".join(turn["content"] for turn in plain) + "\n"
        return self.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)

    def _generate(self, prompts: list[str]) -> list[str]:
        import torch

        seen = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=not self.tokenizer.chat_template).to(self.device)
        with torch.inference_mode():
            made = self.model.generate(
                input_ids=seen["input_ids"], attention_mask=seen["attention_mask"], do_sample=False, max_new_tokens=self.settings.max_new_tokens or LOCAL_TOKENS,
                pad_token_id=self.tokenizer.pad_token_id, temperature=None, top_p=None, top_k=None,
            )  # fmt: skip
        return self.tokenizer.batch_decode(made[:, seen["input_ids"].shape[1] :], skip_special_tokens=True)


def opened(settings: Score, device: str = "auto") -> Endpoint | Local:
    """Raises RunError where it cannot be: no key, no model."""
    if problem := missing(settings):
        raise RunError(problem)
    return Endpoint(settings) if settings.scorer == "openai" else Local(settings, device)
