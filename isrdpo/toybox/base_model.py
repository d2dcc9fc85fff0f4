"""The Toybox base model: a miniature LLaVA-Hound, trained from scratch on the world's own text and clips.

    python -m isrdpo.toybox.base_model outputs/base      # two CPU cores, under 90 minutes; interrupt and repeat to resume
    python -m isrdpo.toybox.figures outputs/base/model   # the held-out figures of the model card

One sequence holds one video (or, in the text phases, one description) and several branches that share it: each branch is one
request and its reply, sees the prefix and itself only, and has the positions it would have alone. So a step trains every task,
and the video is paid for once. Learned in this order: copying; is a claim true of a description; which of two answers fits a
description; what each patch of a frame shows; then all with the video in front, next to describing, describing again, and answering.
"""

import argparse
import json
import os
import random
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from isrdpo.core import prompts
from isrdpo.models import hound
from isrdpo.toybox import language, world

TASKS = ("describe", "again", "look", "answer", "copy", "claim", "terse_with", "terse_without", "pair_with", "pair_without", "judge_with", "judge_without")
PATCH = {
    "shape": world.SHAPES, "color": tuple(world.COLORS), "size": tuple(world.SIZES), "motion": tuple(world.MOTIONS),
    "place": ("alone", "top", "middle or bottom of two", "bottom", "left", "middle or right of two", "right"), "background": tuple(world.BACKGROUNDS),
}  # fmt: skip
PHRASES = (  # pieces of the tokenizer: what is said over and over in the same words
    prompts.SYSTEM, "USER:", "ASSISTANT:", prompts.CONTEXT, "Description of the video:", "An earlier description of the video, which may be wrong:",
    "Look again and describe the video in detail.", "Question:", "Response A:", "Response B:", "Which response is better, A or B?", "My choice is",
    "Is this true?", *language.PREDICATES,
)  # fmt: skip
COPY = ("copy",)  # random pieces, later the same again: what teaches attention to find what stood behind a word before
CLAIMS = ("claim",) * 6
TERSE = ("claim", "claim", "terse_with", "terse_with", "terse_with", "terse_with")
BARE_TERSE = ("terse_without",) * 4
PAIRS = ("claim", "claim", "terse_with", "pair_with", "pair_with", "pair_with")
BARE_PAIRS = ("pair_without",) * 3
SEE = ("see",)  # the tower alone: what is at each patch


@dataclass(frozen=True)
class Phase:
    """`batch` sequences a step. `tasks`: branches of every video sequence; one step in `text_every` (1: all, 0: none) is text only, its
    rows taking `texts` in turn. `longer`: how often the better of two answers is the longer one, with and without a description alike.
    `restart`: the learning rate starts anew here, at `rate` of the full one."""

    steps: int
    batch: int
    tasks: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...] = ()
    text_every: int = 0
    longer: float = 0.5
    restart: bool = True
    rate: float = 1.0


@dataclass(frozen=True)
class Recipe:
    seed: int = 0
    clips: int = 8000
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    image_size: int = 48
    patch_size: int = 12
    frames: int = 4
    width: int = 128
    layers: int = 4
    tower_width: int = 128
    tower_layers: int = 4
    phases: tuple[Phase, ...] = (
        Phase(320, 32, (), (COPY,), 1),
        Phase(560, 64, (), (CLAIMS,) * 7 + (COPY,), 1, restart=False),
        Phase(200, 64, (), (TERSE,) * 6 + (BARE_TERSE, COPY), 1, rate=0.5),
        Phase(300, 64, (), (PAIRS,) * 3 + (BARE_PAIRS,), 1, restart=False),
        Phase(800, 64, SEE),
        Phase(400, 48, ("describe", "look", "look", "look"), (PAIRS,) * 3 + (BARE_PAIRS,), 3, rate=0.5),
        Phase(800, 36, ("describe", "again", "answer", "answer", "judge_with", "judge_without"), (PAIRS,) * 3 + (BARE_PAIRS,), 3, 0.7, rate=0.5),
    )


def branch(task: str, scene: dict, rng: random.Random, longer: float) -> tuple[str, str, str]:
    """(description the request opens with or "", the request, the reply) of one branch."""
    asked = language.ask(scene, rng)
    if task == "describe":
        return "", prompts.CONTEXT, language.description(scene)
    if task == "again":
        share = rng.choice((0.0, 0.05, 0.15, 0.3))
        earlier = language.description(language.corrupt(scene, share, rng))
        return "", prompts.retrospection_request(prompts.RETROSPECTION, earlier), language.description(scene)
    if task == "look":
        return "", language.question(scene, asked), language.statement(scene, asked)
    if task == "answer":
        return "", language.question(scene, asked), language.answer(scene, asked, rng)
    described = language.description(language.corrupt(scene, 0.05, rng) if task == "judge_with" else scene)
    if task == "claim":
        true = rng.random() < 0.5
        source = scene if true else language.wrong(scene, asked, rng)
        claim = language.statement(source, asked)
        return described, f"Description of the video: {described} Is this true? {claim}", "Yes." if true else "No."
    if task.startswith("terse"):
        better, worse = language.statement(scene, asked), language.statement(language.wrong(scene, asked, rng), asked)
    else:
        differ = rng.choices(("main", "extra", "none"), (0.6, 0.2, 0.2))[0]
        better, worse = language.pair(scene, asked, rng, rng.random() < longer, differ)
    swap = rng.randrange(2)
    first, second = (worse, better) if swap else (better, worse)
    with_context = task.endswith("_with")
    template = prompts.JUDGE if with_context else prompts.JUDGE_WITHOUT_CONTEXT
    request = prompts.judge_request(template, language.question(scene, asked), first, second, described if with_context else None)
    return described if with_context else "", request, prompts.REPLIES[swap]


class Tokens:
    """Text to ids by the checkpoint's own tokenizer, exactly as prompts are tokenized when the model is used."""

    def __init__(self, processor: hound.HoundProcessor) -> None:
        self.processor = processor
        self.answer = lru_cache(100_000)(processor.answer_ids)
        self.verdicts = [[self.answer(text) for text in pair] for pair in (prompts.REPLIES, ("Yes.", "No."))]

    def weights(self, reply: list[int]) -> list[float]:
        """A verdict's weight lies on the token that decides it; the words around it are easy and would drown it."""
        for pair in self.verdicts:
            if reply in pair:
                return [1.0 if a != b else 0.05 for a, b in zip(*pair, strict=True)]
        return [1.0] * len(reply)

    def sequence(self, scene: dict, tasks: tuple[str, ...], rng: random.Random, longer: float, video: bool) -> tuple[list, list]:
        """(prefix ids, [(branch prompt ids, reply ids, reply weights), ...]); the longest common prefix of the prompts is what they share."""
        if tasks == COPY:
            return self.copied(rng)
        made = [branch(task, scene, rng, longer) for task in tasks]
        requests = [self.processor.prompt_ids(prompts.conversation(request, video)) for _, request, _ in made]
        shared = 0
        while all(len(ids) > shared + 1 and ids[shared] == requests[0][shared] for ids in requests):
            shared += 1
        replies = [self.answer(reply) for _, _, reply in made]
        return requests[0][:shared], [(ids[shared:], reply, self.weights(reply)) for ids, reply in zip(requests, replies, strict=True)]


    def copied(self, rng: random.Random, count: int = 40) -> tuple[list, list]:
        """A sequence of random pieces, up to 30 others behind it, and the sequence again as the reply; its first piece can't be known."""
        words = range(259, self.processor.vocab_size)
        first, between = rng.sample(words, count), rng.choices(words, k=rng.randrange(30))
        return [self.processor.pieces.bos_id()], [(first + between, first, [0.0] + [1.0] * (count - 1))]


def pack(sequences: list[tuple[list, list]], pad: int) -> dict[str, torch.Tensor]:
    """Branches side by side. Returns input_ids, labels, position_ids, weights, part (0 prefix, 1.. branch, -1 padding) [B, L];
    attention_mask bool [B, 1, L, L]."""
    length = max(len(prefix) + sum(len(p) + len(a) for p, a, _ in branches) for prefix, branches in sequences)
    ids, labels = torch.full((len(sequences), length), pad), torch.full((len(sequences), length), -100)
    weights = torch.zeros(len(sequences), length)
    positions, part = torch.zeros_like(ids), torch.full_like(ids, -1)
    for row, (prefix, branches) in enumerate(sequences):
        at = len(prefix)
        ids[row, :at], positions[row, :at], part[row, :at] = torch.tensor(prefix), torch.arange(at), 0
        for number, (prompt, reply, weight) in enumerate(branches, 1):
            end = at + len(prompt) + len(reply)
            ids[row, at:end], part[row, at:end] = torch.tensor(prompt + reply), number
            labels[row, at + len(prompt) : end] = torch.tensor(reply)
            weights[row, at + len(prompt) : end] = torch.tensor(weight)
            positions[row, at:end] = torch.arange(len(prefix), len(prefix) + end - at)
            at = end
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    seen = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
    mask = (causal & seen & (part >= 0)[:, None, :]) | torch.eye(length, dtype=torch.bool)
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": mask[:, None], "weights": weights, "part": part}


class Steps(torch.utils.data.Dataset):
    """Step number -> its batch; a pure function of the recipe, so training resumes anywhere."""

    def __init__(self, recipe: Recipe, scenes: list[dict], processor: hound.HoundProcessor) -> None:
        self.recipe, self.scenes, self.tokens = recipe, scenes, Tokens(processor)
        self.plan = [phase for phase in recipe.phases for _ in range(phase.steps)]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> dict:
        phase, rng = self.plan[step], random.Random(f"base-{self.recipe.seed}-{step}")
        text = phase.text_every > 0 and step % phase.text_every == 0
        chosen = [rng.randrange(len(self.scenes)) for _ in range(phase.batch)]
        if phase.tasks == SEE:
            return {"clips": torch.tensor(chosen)}
        tasks = [phase.texts[row % len(phase.texts)] if text else phase.tasks for row in range(len(chosen))]
        rows = [self.tokens.sequence(self.scenes[i], t, rng, phase.longer, not text) for i, t in zip(chosen, tasks, strict=True)]
        batch = pack(rows, self.tokens.processor.pad_id)
        named = torch.tensor([[-1, *map(TASKS.index, t)] + [-1] * (8 - len(t)) for t in tasks])
        batch["task"] = named.gather(1, batch.pop("part").clamp(min=0))
        return batch | {"clips": None if text else torch.tensor(chosen)}


class Learner(torch.nn.Module):
    """The model, and the classifiers of what a patch shows, which only the tower's own phase uses."""

    def __init__(self, model: hound.HoundForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.patches = torch.nn.Linear(model.config.text_config.hidden_size, sum(map(len, PATCH.values())))


def patch_labels(recipe: Recipe, scenes: list[dict]) -> torch.Tensor:
    """What each patch of each chosen frame shows: int8 [clips, N, 6], an index into each list of PATCH; -1 where no object covers a
    tenth of the patch (of the background: everywhere but there)."""
    frames = np.linspace(0, world.FRAMES - 1, recipe.frames, dtype=int)  # as isrdpo.video chooses them
    grid = recipe.image_size // recipe.patch_size
    side = world.SIZE // grid
    labels = torch.full((len(scenes), recipe.frames * grid * grid, len(PATCH)), -1, dtype=torch.int8)
    for row, scene in enumerate(scenes):
        owner = torch.from_numpy(world.paint(scene, recipe.seed, world.Difficulty())[1][frames])
        blocks = owner.unfold(1, side, side).unfold(2, side, side).flatten(3).flatten(0, 2)
        shares = torch.stack([(blocks == i).float().mean(-1) for i in range(len(scene["objects"]))], -1)
        share, most = shares.max(-1)
        labels[row, share == 0, 5] = PATCH["background"].index(scene["background"])
        for i, thing in enumerate(scene["objects"]):
            where = 0 if len(scene["objects"]) == 1 else 1 + i + 3 * (scene["axis"] == "horizontal")
            named = [PATCH[slot].index(thing[slot]) for slot in ("shape", "color", "size", "motion")]
            labels[row, (most == i) & (share >= 0.1), :5] = torch.tensor([*named, where], dtype=torch.int8)
    return labels


def see(learner: Learner, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """The tower's loss: each slot's cross-entropy over the patches that show it, summed over the slots; and each slot's (loss, accuracy)."""
    device = next(learner.parameters()).device
    features = learner.model.model.get_video_features(pixels.to(device).float()).pooler_output
    figures, total = {}, []
    for (slot, _), logits, target in zip(PATCH.items(), learner.patches(features).split([*map(len, PATCH.values())], -1), labels.long().to(device).unbind(-1), strict=True):
        where = target >= 0
        total.append(F.cross_entropy(logits[where], target[where]))
        figures[slot] = (total[-1].item(), (logits.detach().argmax(-1) == target)[where].float().mean().item())
    return torch.stack(total).sum(), figures


def loss_and_accuracy(learner: Learner, batch: dict, pixels: torch.Tensor | None, labels: torch.Tensor | None = None) -> tuple[torch.Tensor, dict]:
    """The loss: mean over the step's tasks of their weighted cross-entropy, so that one verdict token counts as much as a long
    description. With it, each task's (loss, weighted share of reply tokens right). The tower learns in its own phase only."""
    model, seeing = learner.model, "input_ids" not in batch
    model.model.video_tower.requires_grad_(seeing)
    if seeing:
        return see(learner, pixels[batch["clips"]], labels[batch["clips"]])
    device = next(model.parameters()).device
    vision = {} if batch["clips"] is None else {"pixel_values_videos": pixels[batch["clips"]].to(device).float()}
    hidden = model.model(
        input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device),
        position_ids=batch["position_ids"].to(device), use_cache=False, **vision,
    ).last_hidden_state  # fmt: skip
    target = batch["labels"][:, 1:].to(device)
    where = target != -100
    target, weights = target[where], batch["weights"][:, 1:].to(device)[where]
    logits, task = model.lm_head(hidden[:, :-1][where]), batch["task"][:, 1:].to(device)[where]
    losses = F.cross_entropy(logits, target, reduction="none")
    right, figures, total = (logits.detach().argmax(-1) == target).float(), {}, []
    for number in task.unique().tolist():
        share = weights * (task == number)
        share = share / share.sum()
        total.append((losses * share).sum())
        figures[TASKS[number]] = (total[-1].item(), (right * share).sum().item())
    return torch.stack(total).mean(), figures


def optimizers(learner: torch.nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon on the matrices, AdamW on embeddings, head, patch filters, norms and biases."""
    matrices, rest = [], []
    for name, parameter in learner.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name and "lm_head" not in name and "patches" not in name else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def rate(recipe: Recipe, step: int) -> float:
    """Share of the full rates at a step: in each cycle, warm-up over 50 steps and linear decay to 3 %."""
    starts, at, full = [], 0, 1.0
    for phase in recipe.phases:
        starts += [at] if phase.restart or not starts else []
        full = phase.rate if starts[-1] == at <= step else full
        at += phase.steps
    start = max(s for s in starts if s <= step)
    end = min([s for s in starts if s > step], default=at)
    return full * min(1.0, (step - start + 1) / 50) * (1 - 0.97 * (step - start) / (end - start))


def corpus(count: int = 6000) -> list[str]:
    """Everything that is said in the world, for its tokenizer."""
    rng, source = random.Random("corpus"), world.scenes("base", 10_007, world.Difficulty())
    tasks = [t for t in TASKS if t not in ("look", "copy")]
    lines = []
    for number in range(count):
        _, request, reply = branch(tasks[number % len(tasks)], next(source), rng, 0.5)
        lines += [prompts.conversation(request, video=False), reply]
    return lines


def make_tokenizer(path: Path) -> None:
    """A small sentencepiece model with byte fallback, laid out as Llama's (`<unk>` 0, `<s>` 1, `</s>` 2, then 256 bytes); each of
    PHRASES is one piece."""
    import io

    import sentencepiece

    made = io.BytesIO()  # a path would be written into the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=made, model_type="bpe", vocab_size=640,
        byte_fallback=True, character_coverage=1.0, hard_vocab_limit=False, num_threads=1, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=["▁" + phrase.replace(" ", "▁") for phrase in PHRASES],
        max_sentence_length=20_000, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.getvalue())


def new_model(recipe: Recipe, vocabulary: int) -> hound.HoundForConditionalGeneration:
    """The miniature, freshly initialised from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    text = {
        "hidden_size": recipe.width, "intermediate_size": 3 * recipe.width, "num_hidden_layers": recipe.layers,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    }  # fmt: skip
    tower = {
        "hidden_size": recipe.tower_width, "intermediate_size": 3 * recipe.tower_width, "num_hidden_layers": recipe.tower_layers,
        "num_attention_heads": 4, "image_size": recipe.image_size, "patch_size": recipe.patch_size,
    }  # fmt: skip
    return hound.build(vocabulary, text, tower, recipe.frames)


def clip_pixels(recipe: Recipe, scenes: list[dict], folder: Path, processor: hound.HoundProcessor) -> torch.Tensor:
    """What the model sees of the scenes' clips: float16 [clips, T, 3, S, S], read back from the mp4 files."""
    from concurrent.futures import ThreadPoolExecutor

    from isrdpo.formats import video

    names = world.write_clips(scenes, recipe.seed, world.Difficulty(), folder)

    def see(name: str) -> torch.Tensor:
        return processor.pixels(video.read(folder / name, recipe.frames).frames).half()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return torch.stack(list(pool.map(see, names)))


def save_checkpoint(path: Path, step: int, model: torch.nn.Module, opts: list[torch.optim.Optimizer], log: list[dict]) -> None:
    part = path.with_suffix(".part")
    torch.save({"step": step, "model": model.state_dict(), "optimizers": [o.state_dict() for o in opts], "log": log}, part)
    os.replace(part, path)


def train(recipe: Recipe, folder: Path, device: str = "cpu", stop: int | None = None, workers: int = 0, every: int = 100) -> list[dict]:
    """Run (or resume) the recipe in `folder`; writes `model/` (original layout) at the end. Returns the log, a row a step:
    step, seconds, and for each task of the step its loss and share of reply tokens right. `stop`: end after so many steps."""
    from isrdpo.core.progress import progress_bar

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.model").exists():
        make_tokenizer(folder / "tokenizer.model")
    processor = hound.HoundProcessor.from_tokenizer(folder / "tokenizer.model", recipe.frames, recipe.image_size, recipe.patch_size)
    source = world.scenes("base", recipe.seed, world.Difficulty())
    scenes = [next(source) for _ in range(recipe.clips)]
    learner = Learner(new_model(recipe, processor.vocab_size)).to(device).train()
    opts, log, state = optimizers(learner, recipe), [], folder / "training.pt"
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        learner.load_state_dict(saved["model"])
        for optimizer, old in zip(opts, saved["optimizers"], strict=True):
            optimizer.load_state_dict(old)
        log = saved["log"]
    bases = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers(learner, recipe)]
    steps, began = Steps(recipe, scenes, processor), time.monotonic() - (log[-1]["seconds"] if log else 0)
    last = min(len(steps), stop or len(steps))
    ahead = steps.plan[len(log) : last]
    pixels = clip_pixels(recipe, scenes, folder.parent / ".cache" / "clips", processor) if any(phase.tasks for phase in ahead) else None
    labels = patch_labels(recipe, scenes) if any(phase.tasks == SEE for phase in ahead) else None
    loader = torch.utils.data.DataLoader(steps, batch_size=None, sampler=range(len(log), last), num_workers=workers)
    for step, batch in progress_bar(enumerate(loader, len(log)), last - len(log), "training the base model"):
        for optimizer, rates in zip(opts, bases, strict=True):
            for group, full in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = full * rate(recipe, step)
        loss, figures = loss_and_accuracy(learner, batch, pixels, labels)
        for optimizer in opts:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in opts:
            optimizer.step()
        log.append({"step": step, "loss": loss.item(), "tasks": figures, "seconds": round(time.monotonic() - began, 1)})
        if (step + 1) % every == 0:
            save_checkpoint(state, step + 1, learner, opts, log)
    if last == len(steps):
        hound.save_original(learner.model, processor, folder / "model", torch.float16)
        (folder / "model" / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
        (folder / "model" / "training_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    return log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to train; the model is written to FOLDER/model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    train(Recipe(seed=arguments.seed), arguments.folder, arguments.device)


if __name__ == "__main__":
    main()
