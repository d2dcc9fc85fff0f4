"""The table of scores: what each column counts, and how it is written and printed."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from isrdpo.core.records import Score, write_csv
from isrdpo.scoring.protocol import CLAIMS, OFFICIAL, OWN
from isrdpo.scoring.scores import (
    ScoreRow,
    agreement_lines,
    agreement_table,
    read_scores,
    score_column,
    score_lines,
    score_table,
    tables_by_version,
)

OWN_ROW = Score("0", "msvd", OWN, "digest", "gpt", "gpt-1", 4.0, True, "pattern", None, None, 6, "reply")


def own_rows() -> list[Score]:
    """Four answers of one set and their claims; one reply about claims cannot be read."""
    answers = [
        OWN_ROW,
        replace(OWN_ROW, id="1", score=2.0, correct=False, words=10),
        replace(OWN_ROW, id="2", parsed_by="majority", words=8),
        replace(OWN_ROW, id="3", score=None, correct=None, parsed_by="none", words=8),
    ]
    claims = replace(OWN_ROW, protocol=CLAIMS, score=None, correct=None, claims=4, unsupported=1)
    unread = replace(claims, id="1", parsed_by="none", claims=None, unsupported=None)
    return [*answers, claims, unread, replace(claims, id="2", claims=0, unsupported=0)]


def test_a_row_of_figures_by_hand() -> None:
    failures = [("msvd", OWN), ("msvd", CLAIMS), ("msvd", OFFICIAL), ("tgif", OWN)]
    table = score_table(own_rows(), failures)
    assert list(table.columns) == ScoreRow.columns() and len(table) == 1
    row = table.iloc[0]
    assert (row["set"], row["protocol"], row["scorer_version"]) == ("msvd", OWN, "gpt-1")
    assert (row["questions"], row["fallbacks"], row["claims_unread"], row["failed"]) == (4, 2, 1, 2)
    assert row["accuracy"] == pytest.approx(2 / 3)
    assert row["score"] == pytest.approx(10 / 3)
    assert row["unsupported_share"] == 1 / 4
    assert row["claims_per_answer"] == 2
    assert row["words"] == 8


def test_the_mean_over_sets_is_unweighted_and_empty_where_a_set_has_nothing() -> None:
    other = [replace(OWN_ROW, set="tgif", id=str(n), correct=False, score=None) for n in range(40)]
    table = score_table(own_rows() + other)
    assert list(table["set"]) == ["msvd", "tgif", "mean of msvd, tgif"]
    mean = table.iloc[2]
    assert mean["accuracy"] == pytest.approx(1 / 3)
    assert mean["accuracy_low"] < mean["accuracy"] < mean["accuracy_high"]
    assert mean["questions"] == 44
    assert pd.isna(mean["score"]) and pd.isna(mean["score_low"])


def test_the_order_of_replies_does_not_matter_to_the_verdicts() -> None:
    rows = own_rows()
    table = score_table(rows)
    columns = ["accuracy_low", "score_low", "score_high", "words_low"]
    pd.testing.assert_frame_equal(score_table(rows[::-1])[columns], table[columns])


def test_a_table_comes_back_from_its_file_and_is_printed(tmp_path: Path) -> None:
    table = score_table(own_rows(), [("msvd", OWN)])
    write_csv(tmp_path / "scores.csv", table)
    again = read_scores(tmp_path / "scores.csv")
    assert score_lines(again) == score_lines(table)
    assert score_lines(table).startswith("msvd: accuracy 0.67 [")
    assert score_lines(table).endswith("4 questions, 2 fallbacks, 1 failed; hound by gpt-1")
    assert score_lines(score_table([])) == "nothing was scored"


def test_a_figure_as_text_in_percent_and_an_empty_one() -> None:
    table = score_table([OWN_ROW])
    assert score_column(table, "accuracy")["msvd"].startswith("1.00 [0.21")
    assert score_column(table, "accuracy", percent=True)["msvd"].startswith("100.00 [20.65")
    assert score_column(table, "unsupported_share")["msvd"] == ""


def test_a_table_for_each_version_names_the_policies() -> None:
    newer = [replace(row, version="gpt-2") for row in own_rows()]
    tables = tables_by_version({"base": score_table(own_rows()), "trained": score_table(own_rows() + newer)})
    assert {version: list(table["policy"]) for version, table in tables.items()} == {
        "gpt-1": ["base", "trained"],
        "gpt-2": ["trained"],
    }
    assert "claims_per_answer" not in tables["gpt-1"] and list(tables["gpt-2"]["claims_unread"]) == [1]


def test_agreement_leaves_out_what_either_scorer_did_not_say() -> None:
    first = own_rows()
    second = [replace(row, version="gpt-2", correct=True) for row in first]
    table = agreement_table(first, second)
    assert list(table["set"]) == ["msvd", "all"] and list(table["questions"]) == [3, 3]
    assert list(table.loc[0, ["both_right", "both_wrong", "only_first", "only_second"]]) == [2, 0, 0, 1]
    assert agreement_lines(table).splitlines()[1].startswith("all: 3 answers; gpt-1 0.67 [")
