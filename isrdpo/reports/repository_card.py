"""README.md of an exported data set or policy, with the hub's YAML front matter.

No path of this machine is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isrdpo.core import provenance, strict_yaml
from isrdpo.core.hub_ids import is_hub_id
from isrdpo.core.judges import JUDGES
from isrdpo.core.records import Preference
from isrdpo.core.runs import Run

PAPER = "https://arxiv.org/abs/2406.11280"
LICENSE = {"license": "other", "license_name": "unspecified"}
RIGHTS = (
    "No license is given here: videos, questions and the base model have licenses of their own, which apply."
)
SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class Card:
    """The parts in which cards differ: front matter, title, how the thing was made, its use, and counts."""

    front: dict[str, Any]
    title: str
    origin: str
    usage: str
    counts: dict[str, int] = field(default_factory=dict)


def preferences_card(run: Run, t: int, pairs: Sequence[Preference], copied: bool) -> str:
    """The README of iteration t's preferences. `copied` says whether the clips lie beside them."""
    front = {
        "pretty_name": f"ISR-DPO preferences, iteration {t}",
        "task_categories": ["video-text-to-text"],
        "tags": ["dpo", "preference", "isr-dpo", "trl"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]},
        ],
        "size_categories": [_size_category(len(pairs))],
    }
    counts = {
        "pairs": len(pairs),
        "videos": len({pair.video for pair in pairs}),
        "questions": len({pair.question for pair in pairs}),
    }
    title = f"ISR-DPO preferences of iteration {t}"
    return _write(run, t, Card(front, title, _origin_of_pairs(run, t), _columns(copied), counts))


def policy_card(run: Run, t: int) -> str:
    """The README of the policy after iteration t, in LLaVA-Hound's layout."""
    return _write(
        run,
        t,
        Card(
            front={"library_name": "isrdpo", "tags": ["dpo", "isr-dpo", "video-text-to-text"]},
            title=f"ISR-DPO policy after iteration {t}",
            origin="A video language model trained with DPO on its own verdicts about its own answers.",
            usage=(
                "The layout is LLaVA-Hound's own (model_type llava_llama); "
                "`isrdpo.models.hound.load` reads it. LLaVA-Hound's code wants `llava` in the folder's name."
            ),
        ),
    )


def _size_category(count: int) -> str:
    """The hub's name for a number of rows."""
    return next((name for limit, name in SIZE_CATEGORIES if count < limit), SIZE_CATEGORIES[-1][1])


def _origin_of_pairs(run: Run, t: int) -> str:
    """Who answered and who judged."""
    judge = JUDGES[run.params.judge.method]
    if not judge.needs_responses:
        return "The pairs are the data set's own `chosen` and `rejected`: no model answered or judged."
    policy = "The base model"
    if t > 1:
        times = "1 iteration" if t == 2 else f"{t - 1} iterations"
        policy = f"The base model, trained for {times} on its own preferences,"
    if judge.asks_policy:
        verdict = "it judged its own answers itself"
    elif judge.needs_facts:
        verdict = "the known facts of the toy world decided between them"
    else:
        verdict = "a coin decided between them"
    return (
        f"{policy} answered each question twice; {verdict}, and what was preferred is `chosen`. "
        "No human took part."
    )


def _columns(copied: bool) -> str:
    """The columns of the data set, in words."""
    names = "names below the run's video root; the videos are not in this repository"
    paths = "files below this folder" if copied else names
    return (
        "`prompt`, `chosen` and `rejected` are messages (role, content) as TRL's preference format has them. "
        f"`videos` are paths: {paths}. "
        "`margin` is the verdict's mean log-odds over the orders shown, "
        "null where verdicts were generated as text."
    )


def _write(run: Run, t: int, card: Card) -> str:
    """Front matter, title, origin, the table of facts, usage, rights."""
    front = strict_yaml.dump({**LICENSE, **card.front})
    rows = "".join(f"| {name} | {value} |\n" for name, value in _facts(run, t, card.counts).items())
    return (
        f"---\n{front}---\n\n"
        f"# {card.title}\n\n"
        f"{card.origin} Method: [ISR-DPO]({PAPER}).\n\n"
        f"| | |\n|---|---|\n{rows}\n"
        f"{card.usage}\n\n"
        f"{RIGHTS}\n"
    )


def _facts(run: Run, t: int, counts: dict[str, int]) -> dict[str, Any]:
    """Model, iteration, counts, provenance, and the parameters that made the rows."""
    params = run.params
    file = run.folder / "provenance.json"
    record = provenance.read(file) if file.exists() else {}
    packages = record.get("packages", {})
    versions = [str(packages.get(name)) for name in ("torch", "transformers", "trl")]
    return {
        "base model": _base_model(params.model.path),
        "iteration": f"{t} of {params.iterations}",
        **counts,
        "seed": params.seed,
        "made with": f"isrdpo, commit {record.get('commit') or 'unknown'}",
        "run created": record.get("created", "unknown"),
        "torch, transformers, trl": ", ".join(versions),
        "responses": (
            f"temperature {params.respond.temperature}, top_p {params.respond.top_p}, "
            f"top_k {params.respond.top_k}, description {params.respond.context}"
        ),
        "verdicts": (
            f"{params.judge.method}, orders {params.judge.orders}, keep_surest {params.judge.keep_surest}"
        ),
    }


def _base_model(name: str) -> str:
    """A hub id as it is; of a folder only its name, since its path is nobody else's business."""
    return name if is_hub_id(name) and not Path(name).exists() else Path(name).name
