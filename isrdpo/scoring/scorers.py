"""Who scores: an OpenAI-compatible endpoint, or a text model in this process. Both are a `Scorer`."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from isrdpo.core.errors import RunError
from isrdpo.core.folders import checkpoint_path, resolve
from isrdpo.core.schema import Score
from isrdpo.core.special_tokens import harmless_text
from isrdpo.formats.connection import Chat, Connection, Reply
from isrdpo.scoring.protocol import Messages

OPENAI = "https://api.openai.com/v1"
LOCAL_TOKENS = 256  # of a local model's reply where max_new_tokens is null


class Scorer(Protocol):
    """A language model that replies to chats.

    `name` says in a message which one it is. `changes` are the parameters that it refused (see `Connection`).
    """

    name: str
    changes: dict[str, str | None]

    def ask(self, chats: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """Yield (index of the chat, reply) as the replies come; one that failed has an `error`."""


def missing_setting(settings: Score) -> str:
    """Return what a scorer lacks, as far as that can be seen before anything is asked.

    Empty where it lacks nothing.
    """
    needs_key = settings.scorer == "openai" and settings.base_url is None
    if needs_key and not os.environ.get(settings.key_variable, "").strip():
        what = f"the environment variable {settings.key_variable} holds no key"
        return f"score.scorer=openai: {what}; set it, or score.base_url of your own server"
    problem = connection(settings).problem() if settings.scorer == "openai" else ""
    if problem:
        return f"score.scorer=openai: {problem}"
    is_folder = settings.scorer == "local" and settings.model.startswith(("/", ".", "~"))
    if is_folder and not resolve(settings.model).is_dir():
        return f"score.model: {settings.model}: no such folder; give a text model's folder or hub id"
    return ""


def connection(settings: Score) -> Connection:
    """Return the connection to the endpoint that `settings` name."""
    return Connection(
        base_url=settings.base_url or OPENAI,
        model=settings.model,
        key_variable=settings.key_variable,
        concurrency=settings.concurrency,
        retries=settings.retries,
        timeout=settings.timeout,
    )


def open_scorer(settings: Score, device: str = "auto") -> Scorer:
    """Return the scorer that `settings` name. Raises RunError where it cannot be had: no key, no model."""
    if problem := missing_setting(settings):
        raise RunError(problem)
    return Endpoint(settings) if settings.scorer == "openai" else Local(settings, device)


class Endpoint:
    """Chat completions of a server at temperature 0, `concurrency` at a time."""

    def __init__(self, settings: Score) -> None:
        self.connection = connection(settings)
        self.name = f"{self.connection.base_url}, model {settings.model}"
        self.changes = self.connection.changes
        self.options: dict[str, Any] = {"temperature": 0, "top_p": 1}
        if settings.max_new_tokens:
            self.options["max_tokens"] = settings.max_new_tokens

    def ask(self, chats: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply) in the order in which the replies come."""
        yield from self.connection.ask_all([Chat(chat, self.options) for chat in chats])


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
        self.name = f"model {settings.model}"
        self.changes: dict[str, str | None] = {}
        self.device = device
        path = checkpoint_path(settings.model)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype="auto", trust_remote_code=False, use_safetensors=True
            )
            self.model = model.to(device).eval()
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
            for i, (text, cut) in enumerate(self._generate(prompts), start):
                yield i, Reply(text, self.version, cut=cut)

    def _prompt(self, chat: Messages) -> str:
        """The chat as text; names of special tokens in what others wrote cannot end a turn."""
        turns = [turn | {"content": harmless_text(turn["content"], self.special_tokens)} for turn in chat]
        if not self.tokenizer.chat_template:
            return "\n\n".join(turn["content"] for turn in turns) + "\n"
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def _generate(self, prompts: list[str]) -> list[tuple[str, bool]]:
        """The replies, and whether each ended at the limit of its tokens."""
        import torch

        limit = self.settings.max_new_tokens or LOCAL_TOKENS
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
                max_new_tokens=limit,
                pad_token_id=self.tokenizer.pad_token_id,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        replies = ids[:, encoding["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(replies, skip_special_tokens=True)
        eos = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.pad_token_id, *(eos if isinstance(eos, list) else [eos])}
        cuts = [len(reply) == limit and reply[-1] not in ends for reply in replies.tolist()]
        return list(zip(texts, cuts, strict=True))
