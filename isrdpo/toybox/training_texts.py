"""The texts that the base model learns from: requests and replies, their tokens, and the tokenizer."""

import io
import random
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from isrdpo.core import prompts
from isrdpo.toybox import language, world, writers
from isrdpo.toybox.facts import Query, Scene
from isrdpo.toybox.recipe import COPYING, TASKS

if TYPE_CHECKING:
    from isrdpo.models.hound import HoundProcessor

# Pieces of the tokenizer: what is said over and over in the same words.
PHRASES = (
    prompts.SYSTEM,
    "USER:",
    "ASSISTANT:",
    prompts.CONTEXT,
    "Description of the video:",
    "An earlier description of the video, which may be wrong:",
    "Look again and describe the video in detail.",
    "Question:",
    "Response A:",
    "Response B:",
    "Which response is better, A or B?",
    "My choice is",
    "Is this true?",
    *language.PREDICATES,
)
FIRST_PIECE = 259  # of the vocabulary, behind `<unk>`, `<s>`, `</s>` and 256 bytes
CLAIM_REPLIES = ("Yes.", "No.")
EASY_WEIGHT = 0.05  # of the words around the token that decides a verdict
EARLIER_CORRUPTED = (0.0, 0.05, 0.15, 0.3)  # shares of facts that an earlier description may have wrong
DESCRIPTION_CORRUPTED = 0.05  # and the description that a judge is given
CORPUS_SEED = 10_007


class Branch(NamedTuple):
    """One request and its reply. `description` is what the request opens with, or empty."""

    description: str
    request: str
    reply: str


class TokenBranch(NamedTuple):
    """The tokens of one branch behind the shared prefix; `weights` are the reply tokens' in the loss."""

    prompt: list[int]
    reply: list[int]
    weights: list[float]


class TokenSequence(NamedTuple):
    """The tokens that several branches begin with, and what is left of each branch."""

    prefix: list[int]
    branches: list[TokenBranch]


def draw_branch(task: str, scene: Scene, rng: random.Random, longer: float) -> Branch:
    """Draw a request and its reply about a scene.

    `longer` is how often the better of two answers is the longer one (tasks pair and judge).
    """
    query = language.draw_query(scene, rng)
    if task == "describe":
        return Branch("", prompts.CONTEXT, language.description(scene))
    if task == "again":
        share = rng.choice(EARLIER_CORRUPTED)
        earlier = language.description(writers.corrupt_scene(scene, share, rng))
        request = prompts.retrospection_request(prompts.RETROSPECTION, earlier)
        return Branch("", request, language.description(scene))
    if task == "look":
        return Branch("", language.question(scene, query), language.statement(scene, query))
    if task == "answer":
        return Branch("", language.question(scene, query), writers.write_answer(scene, query, rng))
    if task == "claim":
        return _draw_claim(scene, query, rng)
    return _draw_judging(task, scene, query, rng, longer)


def _draw_claim(scene: Scene, query: Query, rng: random.Random) -> Branch:
    """A claim about a described scene, and whether it is true."""
    description = language.description(scene)
    true = rng.random() < 0.5
    source = scene if true else writers.false_scene(scene, query, rng)
    claim = language.statement(source, query)
    request = f"Description of the video: {description} Is this true? {claim}"
    return Branch(description, request, CLAIM_REPLIES[0 if true else 1])


def _draw_judging(task: str, scene: Scene, query: Query, rng: random.Random, longer: float) -> Branch:
    """Two answers in random order, and which of them is better."""
    source = writers.corrupt_scene(scene, DESCRIPTION_CORRUPTED, rng) if task == "judge_with" else scene
    description = language.description(source)
    if task.startswith("terse"):
        better = language.statement(scene, query)
        worse = language.statement(writers.false_scene(scene, query, rng), query)
    else:
        difference = rng.choices(tuple(writers.Difference), (0.6, 0.2, 0.2))[0]
        better_longer = rng.random() < longer
        better, worse = writers.answer_pair(scene, query, rng, better_longer, difference)
    swapped = rng.randrange(2)
    first, second = (worse, better) if swapped else (better, worse)
    question = language.question(scene, query)
    if task.endswith("_with"):
        request = prompts.judge_request(prompts.JUDGE, question, first, second, description)
        return Branch(description, request, prompts.REPLIES[swapped])
    request = prompts.judge_request(prompts.JUDGE_WITHOUT_CONTEXT, question, first, second, None)
    return Branch("", request, prompts.REPLIES[swapped])


class Tokens:
    """Text to token ids, exactly as prompts are tokenized when the model is used."""

    def __init__(self, processor: "HoundProcessor") -> None:
        self.processor = processor
        self.reply_ids = lru_cache(100_000)(processor.answer_ids)
        self.verdicts = [[self.reply_ids(text) for text in pair] for pair in (prompts.REPLIES, CLAIM_REPLIES)]

    def weights(self, reply: list[int]) -> list[float]:
        """Return each reply token's weight in the loss.

        A verdict's weight lies on the token that decides it; the words around it are easy and would drown it.
        """
        for pair in self.verdicts:
            if reply in pair:
                return [1.0 if a != b else EASY_WEIGHT for a, b in zip(*pair, strict=True)]
        return [1.0] * len(reply)

    def sequence(
        self, scene: Scene, tasks: tuple[str, ...], rng: random.Random, longer: float, video: bool
    ) -> TokenSequence:
        """Draw one branch a task about a scene; the prefix is the longest one that all prompts begin with."""
        from isrdpo.models.packing import shared_length

        if tasks == COPYING:
            return self.copying(rng)
        branches = [draw_branch(task, scene, rng, longer) for task in tasks]
        requests = [prompts.conversation(branch.request, video) for branch in branches]
        prompt_ids = [self.processor.prompt_ids(request) for request in requests]
        shared = shared_length(prompt_ids)
        token_branches = []
        for ids, branch in zip(prompt_ids, branches, strict=True):
            reply = self.reply_ids(branch.reply)
            token_branches.append(TokenBranch(ids[shared:], reply, self.weights(reply)))
        return TokenSequence(prompt_ids[0][:shared], token_branches)

    def copying(self, rng: random.Random, count: int = 40) -> TokenSequence:
        """Draw `count` random pieces, up to 29 others behind them, and the first ones again as the reply.

        It teaches attention to find what stood behind a piece before. The first piece of the reply cannot be
        known, and has no weight.
        """
        pieces = range(FIRST_PIECE, self.processor.vocab_size)
        first = rng.sample(pieces, count)
        between = rng.choices(pieces, k=rng.randrange(30))
        branch = TokenBranch(first + between, first, [0.0] + [1.0] * (count - 1))
        return TokenSequence([self.processor.pieces.bos_id()], [branch])


def tokenizer_corpus(count: int = 6000) -> list[str]:
    """Return prompts and replies of `count` branches of all tasks: everything that is said in the world."""
    rng = random.Random("corpus")
    tasks = [task for task in TASKS if task not in ("look", "copy")]
    lines = []
    for number, scene in enumerate(islice(world.scenes("base", CORPUS_SEED, world.Difficulty()), count)):
        branch = draw_branch(tasks[number % len(tasks)], scene, rng, longer=0.5)
        lines += [prompts.conversation(branch.request, video=False), branch.reply]
    return lines


def write_tokenizer(path: Path) -> None:
    """Train a small sentencepiece model with byte fallback, in which each of PHRASES is one piece.

    It is laid out as Llama's: `<unk>` 0, `<s>` 1, `</s>` 2, then 256 bytes.
    """
    import sentencepiece

    model = io.BytesIO()  # a path would be written into the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tokenizer_corpus()),
        model_writer=model,
        model_type="bpe",
        vocab_size=640,
        byte_fallback=True,
        character_coverage=1.0,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["▁" + phrase.replace(" ", "▁") for phrase in PHRASES],
        max_sentence_length=20_000,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())
