"""A judged pair's properties, and the shares that say what verdicts went by."""

from dataclasses import replace

import pandas as pd
import pytest

from isrdpo.reports import judged_pairs
from isrdpo.reports.judged_pairs import JudgedPair, Truer, Verdict

PAIR = JudgedPair(
    id="a",
    video="v",
    question="q",
    responses=["one", "one two three"],
    context=None,
    words=[1, 3],
    correct=[True, False],
    choice=1,
    kept=True,
    reason="kept",
    calls=2,
    unparsed=0,
    margin=0.5,
    first=[False, True],
)


def table_of(*pairs: JudgedPair) -> pd.DataFrame:
    return pd.DataFrame([pair.row() for pair in pairs], columns=judged_pairs.COLUMNS)


def test_a_pair_for_the_longer_and_falser() -> None:
    assert (PAIR.difference, PAIR.longer, PAIR.truer) == (2, True, Truer.SHORTER)
    assert (PAIR.verdict, PAIR.right) == (Verdict.WRONG, False)
    assert PAIR.agree


@pytest.mark.parametrize(
    ("changes", "longer", "truer", "verdict", "right"),
    [
        ({"choice": 0}, False, Truer.SHORTER, Verdict.RIGHT, True),
        ({"correct": [False, True]}, True, Truer.LONGER, Verdict.RIGHT, True),
        ({"correct": [True, True]}, True, Truer.EQUAL, Verdict.EQUAL, None),
        ({"correct": None}, True, Truer.UNKNOWN, Verdict.UNKNOWN, None),
        ({"words": [2, 2]}, None, None, Verdict.WRONG, False),
        ({"choice": None}, None, None, None, None),
    ],
)
def test_what_follows_from_a_verdict(
    changes: dict,
    longer: bool | None,
    truer: Truer | None,
    verdict: Verdict | None,
    right: bool | None,
) -> None:
    pair = replace(PAIR, **changes)
    assert (pair.longer, pair.truer, pair.verdict, pair.right) == (longer, truer, verdict, right)
    assert (pair.difference is None) == (longer is None)


@pytest.mark.parametrize(
    ("first", "agree"),
    [([True, False], True), ([True, True], False), ([False, False], False), ([True], None), ([], None)],
)
def test_two_orders_agree_where_they_choose_the_same_response(first: list[bool], agree: bool | None) -> None:
    assert replace(PAIR, first=first).agree is agree


def test_a_row_holds_texts_and_every_column() -> None:
    row = PAIR.row()
    assert list(row) == judged_pairs.COLUMNS
    assert type(row["truer"]) is str
    assert row["truer"] == "the shorter is truer"


def test_each_measure_counts_the_pairs_that_it_is_about() -> None:
    longer_is_truer = replace(PAIR, id="b", correct=[False, True])
    undecided = replace(PAIR, id="c", choice=None, first=[True, True])
    table = table_of(PAIR, longer_is_truer, undecided)
    counts = {name: values.tolist() for name, values in judged_pairs.measures(table).items()}
    assert counts == {
        "the longer is chosen": [True, True],
        "the truer is chosen": [False, True],
        "… where the longer is truer": [True],
        "… where the shorter is truer": [False],
        "the first shown is chosen": [False, True, False, True, True, True],
        "the two orders agree": [True, True, False],
    }
    says = judged_pairs.measures(table.assign(says=["right", "wrong", "nothing"]).drop(columns="first"))
    assert says["… where the description is right"].tolist() == [False]
    assert says["… where it is wrong"].tolist() == [True]
    assert "the first shown is chosen" not in says


def test_shares_have_no_row_for_a_measure_without_verdicts() -> None:
    unknown = replace(PAIR, correct=None, first=[])
    shares = judged_pairs.judge_shares({"without": table_of(unknown)})
    assert shares[["measure", "what", "n", "share"]].to_numpy().tolist() == [
        ["the longer is chosen", "without", 1, 1.0]
    ]
    assert judged_pairs.judge_shares({"without": table_of()}).empty
    confidence = judged_pairs.verdict_confidence(table_of(PAIR, unknown, replace(PAIR, choice=None)))
    assert confidence["verdict"].tolist() == ["wrong", "truth not known"]
