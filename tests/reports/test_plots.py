"""Figures: drawn of nothing and of many arms, with limits that show the values, the same bytes each time."""

import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from isrdpo.reports import arm_plots, html, iteration_plots, palette, panels, plots


def arm_rows(values: dict[str, float], half: float = 0.0) -> pd.DataFrame:
    """Return an iteration of each arm, whose accuracy is its value plus or minus `half`."""
    rows = [
        {
            "arm": arm,
            "iteration": 1,
            "accuracy": value,
            "accuracy_low": value - half,
            "accuracy_high": value + half,
        }
        for arm, value in values.items()
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("values", "half", "top", "limits"),
    [
        ({"isr": 0.9, "fresh": 0.3}, 0.0, 1.0, (0.0, 1.04)),
        ({"isr": 0.9, "fresh": 0.8}, 0.0, 1.0, (0.795, 0.905)),
        ({"isr": 0.9, "fresh": 0.8}, 0.5, 1.0, (0.685, 1.015)),
        ({"isr": 0.0, "fresh": 0.0}, 0.0, None, (0.0, 1.0)),
    ],
)
def test_the_axis_begins_at_zero_unless_values_would_look_flat(
    values: dict[str, float], half: float, top: float | None, limits: tuple[float, float]
) -> None:
    figure = arm_plots.arm_curves(arm_rows(values, half), "accuracy", "accuracy", top)
    assert figure.axes[0].get_ylim() == pytest.approx(limits)


def test_new_arms_do_not_look_like_each_other_nor_like_a_listed_one() -> None:
    figure = arm_plots.arm_curves(arm_rows({"isr": 0.9, "isr_cooler": 0.8, "mine": 0.7}), "accuracy", "x")
    lines = {line.get_label(): line.get_color() for line in figure.axes[0].get_lines()}
    colors = [lines[arm] for arm in ("isr", "isr_cooler", "mine")]
    assert colors[0] == palette.BLUE
    assert len(set(colors)) == 3


def test_a_studys_legend_says_what_its_arms_are() -> None:
    rows = arm_rows({"isr": 0.9, "self_reward": 0.8, "mine": 0.7})
    figure = arm_plots.study([(rows, "accuracy", "a"), (rows, "accuracy", "b")])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["isr (looks back)", "self_reward (no description)", "mine"]
    assert [axis.get_ylabel() for axis in figure.axes] == ["a", "b"]


def test_an_arm_without_a_difference_is_no_row() -> None:
    row = {"arm": "fresh", "difference": 0.1, "difference_low": 0.0, "difference_high": 0.2}
    rows = pd.DataFrame([{"arm": "isr"}, row])
    figure = arm_plots.arm_differences(rows, "accuracy")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["fresh"]


def test_every_panel_of_the_index_is_drawn_of_a_summary() -> None:
    names = ["accuracy", "hallucination", "false_claims", "response_words", "prefers_longer"]
    columns = {f"{name}{end}": 0.5 for name, end in product(names, ("", "_low", "_high"))}
    figure = iteration_plots.curves(pd.DataFrame({"iteration": [0, 1]} | columns))
    assert [axis.get_ylabel() for axis in figure.axes] == [
        panel.curve.label for panel in iteration_plots.CURVES.values()
    ]


def test_one_figure_is_the_same_bytes_each_time() -> None:
    rng = np.random.default_rng(0)
    bias = pd.DataFrame(
        {
            "difference": rng.integers(1, 30, 80),
            "longer": rng.random(80) < 0.7,
            "truer": rng.choice(["the longer is truer", "equally true"], 80),
        }
    )
    assert html.svg(plots.length_bias(bias), "x", "y") == html.svg(plots.length_bias(bias), "x", "y")


def test_heat_maps_stand_below_their_frames() -> None:
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    maps = {"with": np.ones((2, 2, 2)), "without": np.zeros((2, 2, 2))}
    figure = plots.heat(frames, np.array([0.0, 0.5]), maps)
    labels = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert labels == ["what it saw", "with", "without", "effect on the verdict (nats)"]


HOSTILE = [
    "$\\frac{$",
    "a $b$ c",
    "_mine",
    "\\alpha",
    "#000000",
    "</text><script>",
    "%s {x}",
    "漢字 שלום",
    "x" * 5000,
]


def test_names_from_data_are_text_on_every_figure(tmp_path: Path) -> None:
    counts = pd.DataFrame({"kind": HOSTILE, "x": 1, HOSTILE[0]: 2})
    figures = [
        plots.bars(counts, "questions"),
        arm_plots.arm_curves(arm_rows(dict.fromkeys(HOSTILE, 0.5)), "accuracy", "accuracy", 1.0),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as a layout that has no room left, or a letter not drawn
        drawings = [html.svg(figure, "x", "y") for figure in figures]
        html.save_figure(tmp_path, "figure", figures[1], counts)
    shown = [panels.figure_name(name) for name in HOSTILE]
    for svg in drawings:
        for name in shown:
            assert str(Markup.escape(name.split()[0][:20])) in svg
        assert "<script" not in svg
        assert "currentColor</text>" not in svg
    (legend,) = figures[1].legends
    assert sorted(text.get_text() for text in legend.get_texts()) == sorted(shown)


def test_long_names_are_cut_and_short_ones_stay() -> None:
    assert panels.figure_name("the longer is truer") == "the longer is truer"
    assert panels.figure_name("two\nlines") == "two lines"
    long_name = panels.figure_name("word " * 1000)
    assert len(long_name) <= panels.LONGEST_NAME + 1 and long_name.endswith("…")
