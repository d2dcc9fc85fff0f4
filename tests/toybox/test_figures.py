"""The base model's held-out figures, from rows and calls alone."""

from isrdpo.core.folders import TOYBOX_BASE
from isrdpo.core.records import Judgment, Sample, read_json
from isrdpo.toybox import figures

SCENE = {
    "background": "gray",
    "axis": "vertical",
    "objects": [{"shape": "circle", "color": "red", "size": "small", "motion": "left"}],
}
FACTS = {"scene": SCENE, "asked": {"kind": "color", "object": 0, "other": None}}
TRUE = "The circle is red."
FALSE = "The circle is blue."
LONG = " The background is gray."


def judge(*cases: tuple[str, str, int | None]) -> dict:
    """The figures of one verdict a case: (first answer, second answer, choice)."""
    rows = [Sample(str(number), "a.mp4", "What color?", facts=FACTS) for number in range(len(cases))]
    pairs = [[first, second] for first, second, _ in cases]
    calls = [[Judgment(row.id, 0, case[2], "", None)] for row, case in zip(rows, cases, strict=True)]
    return figures.judge_figures(rows, pairs, calls)


def test_figures_of_a_judge_count_decisive_verdicts_on_different_answers() -> None:
    result = judge(
        (TRUE, FALSE + LONG, 1),  # wrong, picks the longer; the truer is the shorter
        (TRUE + LONG, FALSE, 0),  # right, picks the longer; the truer is the longer
        (FALSE + LONG, TRUE, 1),  # right, picks the shorter; the truer is the shorter
        (TRUE, FALSE, 0),  # right, of equal length
        (TRUE, TRUE + LONG, 0),  # both true, picks the shorter
        (TRUE, TRUE, 0),  # nothing to choose
        (TRUE, FALSE, None),  # undecided
    )
    shares = {name: (figure["value"], figure["n"]) for name, figure in result.items()}
    assert shares == {
        "picks_longer": (0.5, 4),
        "accuracy": (0.75, 4),
        "accuracy_truer_longer": (1.0, 1),
        "accuracy_truer_shorter": (0.5, 2),
        "decisive": (6 / 7, 7),
    }


def test_claims_of_descriptions_are_pooled_and_counted_by_kind() -> None:
    rows = [Sample("0", "a.mp4", "?", facts=FACTS), Sample("1", "b.mp4", "?", facts=FACTS)]
    result = figures.description_figures(rows, [TRUE + LONG, FALSE + " It moves left."])
    assert (result["claims_right"]["value"], result["claims_right"]["n"]) == (0.75, 4)
    assert result["by_kind"] == {"background": 1.0, "color": 0.5, "motion": 1.0}


def test_the_model_card_shows_the_shipped_figures() -> None:
    table = figures.markdown_table(read_json(TOYBOX_BASE / "figures.json"))
    assert table in (TOYBOX_BASE / "README.md").read_text()


def test_a_share_of_nothing_is_said_so() -> None:
    shipped = read_json(TOYBOX_BASE / "figures.json")
    shipped["judge"] = {"own": dict.fromkeys(figures.JUDGE_LINES, figures.share_figure([]))}
    assert "| judge, own: accuracy | none |" in figures.markdown_table(shipped)
