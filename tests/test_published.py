"""The numbers in outputs/published/RESULTS.md and in the README are those of the published CSVs."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from isrdpo import benchmark

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "outputs" / "published"
RESULTS = (PUBLISHED / "RESULTS.md").read_text()
README = (ROOT / "README.md").read_text()
MEASURES = ("accuracy", "hallucination", "false_claims", "response_words")
# Half of the last digit that is written.
HALF_DIGIT = {
    "accuracy": 0.0005001,
    "hallucination": 0.0005001,
    "false_claims": 0.0005001,
    "response_words": 0.05001,
}
CHANGES = {
    "none": "",
    "beta 0.05 (0.1)": "_beta_half",
    "beta 0.2": "_beta_double",
    "learning rate 5e-5 (1e-4)": "_rate_half",
    "learning rate 2e-4": "_rate_double",
    "temperature 0.7 (1.0)": "_cooler",
    "one order (two)": "_one_order",
    "every decisive pair (the surest 40 %)": "_all_pairs",
    "160 samples an iteration (320)": "_half_samples",
    "new questions each iteration (`data.reuse=false`)": "_new_questions",
}
Cells = list[list[float]]


def read_csv(name: str) -> pd.DataFrame:
    return pd.read_csv(PUBLISHED / f"{name}.csv")


def section(text: str, title: str) -> str:
    """A section of a page, without its title."""
    start = text.index(f"\n## {title}\n") + len(title) + 5
    end = text.find("\n## ", start)
    return text[start:] if end < 0 else text[start:end]


def table_rows(text: str, header: str) -> dict[str, Cells]:
    """The numbers in each cell of the table under `header`, by the first cell (without backticks)."""
    rows = {}
    for line in text[text.index(header) :].splitlines()[2:]:
        if not line.startswith("| "):
            break
        name, *cells = line.split("|")[1:-1]
        rows[name.replace("`", "").strip()] = [numbers(cell) for cell in cells]
    return rows


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", cell)]


def assert_intervals(
    cells: Cells, table: pd.DataFrame, kind: str, measures: tuple[str, ...] = MEASURES
) -> None:
    """Each cell is a value with its interval, rounded as written; `table` has one row for each measure."""
    for cell, measure in zip(cells, measures, strict=True):
        row = table[table["measure"] == measure].iloc[0]
        expected = [row[kind], row[f"{kind}_low"], row[f"{kind}_high"]]
        assert cell, (row["arm"], measure)
        assert cell == pytest.approx(expected[: len(cell)], abs=HALF_DIGIT[measure]), (
            row["arm"],
            measure,
            kind,
        )


def assert_values(cells: Cells, expected: pd.Series) -> None:
    """Each cell is a value without an interval; `expected` by measure."""
    for cell, measure in zip(cells, MEASURES, strict=True):
        assert cell == pytest.approx([expected[measure]], abs=HALF_DIGIT[measure]), measure


def last_means(name: str) -> pd.DataFrame:
    """Means over seeds at the last iteration of a published study, by arm."""
    table = read_csv(name)
    last = table[table["iteration"] == table["iteration"].max()]
    return last.groupby("arm")[list(MEASURES)].mean()


def test_arms_of_the_study() -> None:
    final = read_csv("study_final")
    results = read_csv("study")
    base = results[results["iteration"] == 0].groupby("arm")[list(MEASURES)].mean().loc["isr"]
    rows = table_rows(section(RESULTS, "Arms and seeds"), "| arm (seeds) | accuracy")
    assert_values(rows.pop("base (5)"), base)
    main_arms = {name.removesuffix(" (5)") for name in rows}
    seeds = results.groupby("arm")["seed"].nunique()
    assert main_arms == set(results[results["iteration"] == 5]["arm"])
    assert main_arms == {"isr", "self_reward", "fresh", "oracle", "random"}
    for arm in seeds.index:
        assert seeds[arm] == (5 if arm in main_arms else 3)
    for name, cells in rows.items():
        part = final[final["arm"] == name.removesuffix(" (5)")]
        assert set(part["seeds"]) == {5}
        assert set(part["iteration"]) == {5}
        assert_intervals(cells, part, "value")


def test_the_readmes_table_is_that_of_the_results() -> None:
    brief = table_rows(section(README, "Results in brief"), "| arm | accuracy")
    whole = table_rows(section(RESULTS, "Arms and seeds"), "| arm (seeds) | accuracy")
    first_numbers = {name.removesuffix(" (5)"): [cell[:1] for cell in cells] for name, cells in whole.items()}
    assert {name.partition(":")[0]: cells for name, cells in brief.items()} == first_numbers


def test_paired_differences_of_the_study() -> None:
    final = read_csv("study_final")
    rows = table_rows(section(RESULTS, "Arms and seeds"), "| paired difference")
    assert len(rows) == 4
    for name, cells in rows.items():
        assert_intervals(cells, final[final["arm"] == name.removesuffix(" - isr")], "difference")


def test_what_the_judge_went_by() -> None:
    judge = read_csv("study_judge")
    measures = {
        "the longer one": "the longer is chosen",
        "the same one in both orders (of all pairs)": "the two orders agree",
    }
    rows = table_rows(section(RESULTS, "Arms and seeds"), "| | `isr` | `self_reward` |")
    assert len(rows) == 6
    for name, cells in rows.items():
        measure = measures.get(name) or f"… {name.partition(', ')[2]}"
        for arm, cell in zip(("isr", "self_reward"), cells, strict=True):
            row = judge[(judge["measure"] == measure) & (judge["what"] == arm)]
            expected = row[["share", "share_low", "share_high"]].iloc[0].to_list() if len(row) else []
            assert cell == pytest.approx(expected, abs=0.0005001), (name, arm)


def test_length_controls() -> None:
    controls = read_csv("study_controls")
    rows = table_rows(section(RESULTS, "Length controls"), "| arm | accuracy")
    assert len(rows) == 10
    for name, cells in rows.items():
        arm = name.split(" (")[0]
        if arm in ("isr", "self_reward"):
            baseline = controls[controls["baseline"] == arm].drop_duplicates("measure").set_index("measure")
            assert_values(cells[:4], baseline["baseline_value"])
            assert cells[4:] == [[], [], []]
            continue
        part = controls[controls["arm"] == arm]
        assert_intervals(cells[:4], part, "value")
        assert_intervals(cells[4:], part, "difference", ("accuracy", "hallucination", "response_words"))


def test_the_second_base() -> None:
    means = last_means("second_base")
    rows = table_rows(section(RESULTS, "A second base"), "| arm (seeds) | accuracy")
    arms = {name.removesuffix(" (3)"): cells for name, cells in rows.items() if not name.startswith("base")}
    assert set(arms) == set(means.index)
    for arm, cells in arms.items():
        assert_values([cell[:1] for cell in cells[:4]], means.loc[arm])


def test_sensitivity() -> None:
    means = last_means("sensitivity")
    text = section(RESULTS, "Sensitivity")
    lines = [
        line.split("|")[1:-1]
        for line in text[text.index("| change |") :].splitlines()[2:]
        if line[:2] == "| "
    ]
    assert {line[0].strip() for line in lines} == set(CHANGES)
    assert 2 * len(lines) == len(means)
    for name, *cells in lines:
        for column, measure in enumerate(("accuracy", "hallucination", "response_words")):
            for cell, arm in zip(cells[2 * column].split("/"), ("isr", "self_reward"), strict=True):
                value = means.loc[arm + CHANGES[name.strip()], measure]
                assert float(cell) == pytest.approx(value, abs=HALF_DIGIT[measure]), (name, arm, measure)


def test_nine_iterations() -> None:
    nine = read_csv("nine").set_index(["arm", "iteration"])
    text = section(RESULTS, "Nine iterations")
    for arm, t, measure in (
        ("isr", 6, "accuracy"),
        ("isr", 9, "accuracy"),
        ("self_reward", 9, "accuracy"),
        ("isr", 1, "judge_accuracy"),
        ("isr", 9, "judge_accuracy"),
    ):
        assert f"{nine.loc[(arm, t), measure]:.2f}" in text, (arm, t, measure)


def test_ratios_of_the_benchmark() -> None:
    rows = table_rows(section(RESULTS, "What sharing a video saves"), "| | apart / shared |")
    summary = benchmark.summarize(read_csv("benchmark").to_dict("records"))
    expected = [[row["ratio"], row["ratio_min"], row["ratio_max"]] for row in summary]
    assert [cells[0] for cells in rows.values()] == [pytest.approx(row, abs=0.05001) for row in expected]


def test_final_values_are_means_of_the_published_runs() -> None:
    results = read_csv("study")
    for (arm, t), part in read_csv("study_final").groupby(["arm", "iteration"]):
        mean = results[(results["arm"] == arm) & (results["iteration"] == t)][list(MEASURES)].mean()
        values = part.set_index("measure")["value"][list(MEASURES)].to_list()
        assert values == pytest.approx(mean.to_list(), abs=1e-9), arm


def test_the_published_table_draws_the_readmes_figure(tmp_path: Path) -> None:
    figure = tmp_path / "study.png"
    command = [sys.executable, "-m", "isrdpo.reports.compare", "outputs/published/study.csv", str(figure)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert figure.read_bytes() == (PUBLISHED / "study.png").read_bytes()
