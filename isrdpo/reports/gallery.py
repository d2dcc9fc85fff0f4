"""Examples worth looking at, as cards: clips and questions, descriptions, verdicts, answers.

Every gallery takes `each`, the number of examples of each kind; `seed`, of those drawn at random; and
`sample`, an id (or a part of one) to show instead of chosen examples.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isrdpo.core import records
from isrdpo.core.runs import Run
from isrdpo.reports import answer_tables, judged_pairs, tables
from isrdpo.reports.cards import Card, CardText, mark_text, render_cards
from isrdpo.reports.clip_views import view_clip
from isrdpo.reports.html import Html

Rule = tuple[
    str, pd.Series
]  # why an example is chosen, and a score by index: the higher the better, above 0 only
Example = tuple[str, Any]  # why it was chosen, and its index
POLICIES = {"base": "the base", "before": "the policy before"}  # earlier ones, in a sentence


def choose(among: pd.Index, rules: Sequence[Rule], each: int, seed: int) -> list[Example]:
    """Choose for each rule the `each` rows with the highest scores above 0, then `each` of the others at
    random; none twice.

    Equal scores go by index.
    """
    reasons: dict[Any, str] = {}
    for why, score in rules:
        numbers = score.dropna().astype(float)
        ranked = numbers[numbers > 0].sort_values(ascending=False, kind="stable").index
        for index in [index for index in ranked if index not in reasons][:each]:
            reasons[index] = why
    others = [index for index in among if index not in reasons]
    places = np.random.default_rng(seed).permutation(len(others))[:each]
    examples = [(why, index) for index, why in reasons.items()]
    return examples + [("random", others[place]) for place in sorted(places)]


def _matching(table: pd.DataFrame, column: str, sample: str) -> list[Example]:
    """The first row whose `column` holds the text `sample`."""
    matches = table.index[table[column].astype(str).str.contains(sample, regex=False)]
    return [("asked for", index) for index in matches[:1]]


def _facts_by_id(run: Run, iteration: int) -> dict[str, dict | None]:
    """Each sample's facts, None where they are not known."""
    samples = records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample)
    return {sample.id: sample.facts for sample in samples}


def clips(run: Run, iteration: int, *, each: int = 2, seed: int = 0, sample: str | None = None) -> Html:
    """Clips that are asked about, with their questions and reference answers."""
    table = tables.rows_of(run, iteration, "samples.jsonl")
    examples = _matching(table, "id", sample) if sample else choose(table.index, [], each, seed)
    cards = []
    for why, index in examples:
        row = table.loc[index]
        clip = view_clip(run, row["video"], held_out=iteration == 0)
        texts = [mark_text("reference answer", row["answer"])] if row["answer"] else []
        cards.append(Card(why, row["id"], clip, row["question"], texts))
    return render_cards(cards, "Shown: drawn at random.")


def contexts(run: Run, iteration: int, *, each: int = 2, seed: int = 0, sample: str | None = None) -> Html:
    """Descriptions before and after looking back, with what changed and, where facts are known, what is
    true.
    """
    table = tables.contexts(run, iteration)
    scenes = tables.scenes(run, iteration)
    better = table["repaired"].astype(float) - table["broken"].astype(float)
    rules = [
        ("largest change", 1 - table["similarity"].astype(float)),
        ("newly right", better),
        ("newly wrong", -better),
        ("most false claims", table["false"].astype(float)),
    ]
    examples = _matching(table, "video", sample) if sample else choose(table.index, rules, each, seed)
    cards = []
    for why, index in examples:
        row = table.loc[index]
        texts = _context_texts(row, iteration, scenes.get(row["video"]))
        cards.append(Card(why, row["video"], view_clip(run, row["video"]), texts=texts))
    return render_cards(
        cards,
        f"Chosen: up to {each} each with the largest change of words, most claims repaired over broken, "
        f"most broken over repaired, most false claims, then {each} at random (seed {seed}).",
    )


def _context_texts(row: pd.Series, iteration: int, facts: dict | None) -> list[CardText]:
    """c_{t-1} (where there is one) with the words that went, then c_t with those that came."""
    now = row["context"]
    before = row["previous"]
    if not before:
        return [mark_text(f"c{iteration}", now, facts)]
    return [
        mark_text(f"c{iteration - 1}, looked back at", before, facts, now, "del"),
        mark_text(f"c{iteration}", now, facts, before),
    ]


def verdicts(run: Run, iteration: int, *, each: int = 2, seed: int = 0, sample: str | None = None) -> Html:
    """Judged pairs: the two responses, the description that the judge read, and its verdict."""
    table = judged_pairs.judged_table(run, iteration)
    facts = _facts_by_id(run, iteration)
    examples = (
        _matching(table, "id", sample) if sample else choose(table.index, _verdict_rules(table), each, seed)
    )
    cards = []
    for why, index in examples:
        row = table.loc[index]
        margin = "" if pd.isna(row["margin"]) else f"Log-odds of the chosen: {row['margin']:.2f}."
        texts = _verdict_texts(row, facts[row["id"]])
        cards.append(Card(why, row["id"], view_clip(run, row["video"]), row["question"], texts, margin))
    return render_cards(
        cards,
        f"Chosen: up to {each} of each kind where the judge was surest, then {each} at random (seed {seed}).",
    )


def _verdict_rules(table: pd.DataFrame) -> list[Rule]:
    """Right and wrong verdicts by length, the surest first; a verdict without a margin counts as one with
    margin 1.
    """
    decisive = table[table["choice"].notna()]
    margin = decisive["margin"].fillna(1.0).astype(float)
    verdict = judged_pairs.verdict_confidence(table)["verdict"]
    wrong = verdict.eq("wrong")
    right = verdict.eq("right")
    longer = decisive["longer"].eq(True)
    return [
        ("wrong, and for the longer", margin.where(wrong & longer)),
        ("wrong, and for the shorter", margin.where(wrong & ~longer)),
        ("right, against length", margin.where(right & ~longer)),
        ("right", margin.where(right)),
    ]


def _verdict_texts(row: pd.Series, facts: dict | None) -> list[CardText]:
    """Both responses, then the description that the judge read, if it read one."""
    texts = []
    for number, response in enumerate(row["responses"]):
        chosen = ", chosen" if row["choice"] == number else ""
        texts.append(mark_text(f"y{number + 1}{chosen}", response, facts))
    if isinstance(row["context"], str):
        scene = facts and {"scene": facts["scene"]}  # a description answers no question
        texts.append(mark_text("the description it read", row["context"], scene))
    return texts


def answers(
    run: Run,
    iteration: int,
    *,
    each: int = 2,
    seed: int = 0,
    sample: str | None = None,
    page: Path | None = None,
) -> Html:
    """Questions that this policy answers rightly and an earlier one did not, and the other way round.

    `page` is the folder that links count from (None: the folder of an iteration's pages).
    """
    policies = answer_tables.answers_by_policy(run, iteration)
    now = policies["now" if iteration else "base"].set_index("id", drop=False)
    earlier = {name: table.set_index("id") for name, table in policies.items() if iteration and name != "now"}
    facts = _facts_by_id(run, 0)
    rules = _gained_lost_rules(now, earlier)
    examples = _matching(now, "id", sample) if sample else choose(now.index, rules, each, seed)
    cards = []
    for why, question_id in examples:
        row = now.loc[question_id]
        responses = {POLICIES[name]: table.loc[question_id, "response"] for name, table in earlier.items()}
        responses["this policy"] = row["response"]
        texts = [mark_text(name, response, facts[question_id]) for name, response in responses.items()]
        clip = view_clip(run, row["video"], page, held_out=True)
        reference = f"Reference: {row['reference']}" if row["reference"] else ""
        cards.append(Card(why, question_id, clip, row["question"], texts, reference))
    return render_cards(
        cards,
        f"Chosen: the first {each} gained and lost against each earlier policy, "
        f"then {each} at random (seed {seed}).",
    )


def _gained_lost_rules(now: pd.DataFrame, earlier: dict[str, pd.DataFrame]) -> list[Rule]:
    """Questions gained, then those lost, against each earlier policy; none where it is not known what is
    right.
    """
    if not now["correct"].notna().all():
        return []
    rules = []
    for name, table in earlier.items():
        change = now["correct"].astype(float) - table["correct"].reindex(now.index).astype(float)
        rules.append((f"gained against {POLICIES[name]}", change))
        rules.append((f"lost against {POLICIES[name]}", -change))
    return rules
