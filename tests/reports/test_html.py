"""Pieces of HTML: figures, tables, checks and provenance."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from isrdpo.reports import html, iteration_plots, palette, plots, summary


def words_figure() -> Figure:
    return plots.lengths(pd.DataFrame({"words": [1, 2, 3], "what": "answers"}))


@pytest.mark.parametrize("count", [0, 1, 80])
def test_every_plot_draws_nothing_little_and_much(count: int) -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(1, 30, count)
    yes = rng.random(count) < 0.7
    base = ["base"] * count
    bias = {"difference": words, "longer": yes, "truer": ["equally true"] * count}
    margins = {"margin": rng.random(count), "verdict": ["right"] * count}
    kinds = {"kind": [f"k{number}" for number in range(count)], "training": words}
    steps = {"step": range(count), "loss": rng.random(count)}
    figures = [
        plots.lengths(pd.DataFrame({"words": words, "what": "answers"})),
        plots.length_bias(pd.DataFrame(bias)),
        plots.confidence(pd.DataFrame(margins), 1.0),
        plots.length_truth(pd.DataFrame({"words": words, "correct": yes, "what": base})),
        plots.bars(pd.DataFrame(kinds), "questions (count)"),
        plots.steps(pd.DataFrame(steps), ["loss"], "loss", 0.69),
    ]
    for figure in figures:
        assert figure.axes[0].get_xlabel()
        assert html.svg(figure, "x", "label").startswith("<svg")


def test_every_thing_has_a_color_of_the_palette() -> None:
    palette_colors = {palette.BLUE, palette.ORANGE, palette.GREEN, palette.PINK}
    palette_colors |= {palette.SKY, palette.YELLOW, palette.GRAY}
    assert set(palette.COLORS.values()) <= palette_colors
    assert set(iteration_plots.CURVES) <= set(palette.COLORS)


def test_a_figure_follows_the_color_of_the_page_and_describes_itself() -> None:
    text = html.svg(words_figure(), "one", 'words "<here>"')
    assert "#000000" not in text
    assert "currentColor" in text
    assert 'role="img"' in text
    assert 'aria-label="words &#34;&lt;here&gt;&#34;"' in text
    other = html.svg(words_figure(), "two", "x")
    ids, other_ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (text, other)]
    assert ids
    assert not ids & other_ids, "two figures of a page share an id"


def test_a_figure_is_saved_with_its_numbers(make_run: Callable) -> None:
    run = make_run("one")
    rows = pd.DataFrame({"words": [1, 2], "what": ["answers", "answers"]})
    figure = html.figure(run, 1, "words", plots.lengths(rows), rows, "How long")
    folder = run.iteration(1) / "figures"
    assert pd.read_csv(folder / "words.csv").equals(rows)
    assert (folder / "words.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in folder.iterdir()) == ["words.csv", "words.png"]
    assert 'href="../figures/words.csv"' in figure.text
    assert "How long" in figure.text


def test_checks_show_all_and_fail_by_the_first(capsys: pytest.CaptureFixture) -> None:
    assert "✓" in html.checks(("fine", True)).text
    with pytest.raises(AssertionError, match="^the second$"):
        html.checks(("the first", True), ("the second", False), ("the third", False))


def test_a_missing_value_is_an_empty_cell_and_a_figure_of_no_iteration_no_row() -> None:
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None], "Int64"),
            "x": [0.12345, None],
            "text": ["a", None],
            "yes": [True, False],
        }
    )
    cells = re.findall("<td>(.*?)</td>", html.table(frame, "x").text)
    assert cells == ["1", "0.123", "a", "True", "", "", "", "False"]
    results = pd.DataFrame(
        {"iteration": [0, 1], "accuracy": None, "response_words": [2.0, None], "seconds": [None, 3.0]}
    )
    figures = summary.figures(results, ["accuracy", "response_words", "seconds"])
    assert figures.to_numpy().tolist() == [["response_words", "2.00", ""], ["seconds", "", "3"]]


def test_provenance_is_one_table_wherever_it_is_shown() -> None:
    record = {
        "created": "today",
        "commit": "abc",
        "packages": {"torch": "2.0", "decord": None},
        "later": [{"created": "tomorrow", "commit": "def", "platform": "Linux"}],
    }
    frame = html.provenance_frame(record, {"model": 7})
    assert frame.to_numpy().tolist() == [
        ["created", "today"],
        ["commit", "abc"],
        ["version of torch", "2.0"],
        ["later: tomorrow", "def, Linux"],
        ["model", "7"],
    ]
