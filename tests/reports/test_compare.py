"""Runs side by side: tables true to the rows, intervals that cover, differences that are paired; and studies of arms x seeds."""

import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isrdpo import study
from isrdpo.core import errors, params, records
from isrdpo.reports import compare, plots, summary
from isrdpo.reports import html as show
from isrdpo.stages import data, evaluate, judge, respond, train

ROOT = Path(__file__).parents[2]
PRESET = ROOT / "params" / "toybox.yaml"


def rows(arm: str, seed: int, right: np.ndarray, words: int = 5, iteration: int = 1) -> pd.DataFrame:
    return pd.DataFrame({"arm": arm, "seed": seed, "iteration": iteration, "id": [f"{seed}-{n}" for n in range(len(right))], "kind": "color", "words": words,
                         "correct": right.astype(float), "false": 1.0 - right, "claims": 2.0})  # fmt: skip


@pytest.mark.parametrize(("overrides", "arm"), [
    ([], "isr"), (["respond.context=fresh"], "fresh"), (["respond.context=none"], "self_reward"), (["judge.method=truth"], "oracle"),
    (["judge.method=random", "respond.context=none"], "random"), (["train.ld_alpha=0.5"], "isr_ld"), (["train.loss_type=sigmoid_norm"], "isr_norm"),
    (["respond.context=none", "train.length_alpha=0.1", "judge.balance_lengths=true"], "self_reward_rdpo_balanced"),
])  # fmt: skip
def test_an_arm_is_what_its_parameters_say(overrides: list[str], arm: str) -> None:
    assert compare.arm_by(params.load(PRESET, overrides)) == arm


def test_the_interval_over_seeds_is_students() -> None:
    value, low, high = compare.over_seeds([0.1, 0.2, 0.3])
    assert (value, low, high) == pytest.approx((0.2, 0.2 - 4.302653 * 0.1 / 3**0.5, 0.2 + 4.302653 * 0.1 / 3**0.5), abs=1e-5)
    assert compare.over_seeds([0.4]) == (0.4, None, None) and np.isnan(compare.over_seeds([])[0])


def test_the_nested_interval_covers() -> None:
    """Ten seeds around a mean, a hundred questions each: about 95 of a hundred intervals hold the mean (fewer with few seeds: it is a bootstrap)."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(100):
        seeds = [(rng.random(100) < np.clip(0.6 + 0.1 * rng.normal(), 0, 1), np.ones(100)) for _ in range(10)]
        _, low, high = compare.nested([(a.astype(float), b) for a, b in seeds])
        held += low <= 0.6 <= high
    assert 82 <= held <= 99


def test_a_difference_is_paired_and_has_its_sign() -> None:
    rng = np.random.default_rng(0)
    base = [rng.random(200) < 0.5 for _ in range(3)]
    table = pd.concat([rows("isr", s, b) for s, b in enumerate(base)] + [rows("same", s, b) for s, b in enumerate(base)]
                      + [rows("worse", s, b & (np.arange(200) % 10 > 0), 9) for s, b in enumerate(base)])  # fmt: skip
    found = compare.differences(table, "isr").set_index(["arm", "measure"])
    same, worse = found.loc[("same", "accuracy")], found.loc[("worse", "accuracy")]
    assert same["difference"] == same["difference_low"] == same["difference_high"] == 0, "the same answers differ by nothing, whatever questions are drawn"
    assert worse["difference_low"] < worse["difference"] < 0 and worse["difference_high"] < 0
    assert found.loc[("worse", "response_words"), "difference"] == 4 and found.loc[("worse", "hallucination"), "difference"] == pytest.approx(-worse["difference"] / 2)
    assert pd.isna(found.loc[("isr", "accuracy"), "difference"]) and found.loc[("isr", "accuracy"), "seeds"] == 3
    assert compare.outcome(found.reset_index(), "isr", "worse").startswith("isr against worse after 1 iterations, 3 seeds: accuracy")
    assert "not distinguishable" in compare.outcome(found.reset_index(), "isr", "same")


def test_each_arm_is_compared_at_the_last_iteration_that_the_baseline_has_too() -> None:
    """A study's length controls run for fewer iterations and seeds; they must not shorten the comparison of the others."""
    right, few = np.ones(10, bool), np.arange(10) < 4
    table = pd.concat([rows("isr", s, right if t < 3 else few, iteration=t) for t in range(4) for s in (0, 1)] + [rows("other", s, ~right, iteration=t) for t in range(4) for s in (0, 1)]
                      + [rows("isr_rdpo", 0, ~few, iteration=t) for t in range(3)] + [rows("other_ld", 0, few, iteration=t) for t in range(3)])  # fmt: skip
    found = compare.differences(table, "isr").set_index(["arm", "measure"])
    assert found["iteration"].groupby("arm").first().to_dict() == {"isr": 3, "other": 3, "isr_rdpo": 2, "other_ld": 2}
    short = found.loc[("isr_rdpo", "accuracy")]
    assert (short["value"], short["baseline_value"], short["difference"], short["seeds"]) == pytest.approx((0.6, 1.0, -0.4, 1))
    assert found.loc[("other", "accuracy"), "baseline_value"] == pytest.approx(0.4)
    assert "accuracy 1.000 against 0.600 (difference +0.400" in compare.outcome(found.reset_index(), "isr", "isr_rdpo")
    held = compare.controls(table).set_index(["arm", "measure"])
    assert set(held.index.get_level_values("arm")) == {"isr_rdpo", "other_ld"} and set(held["baseline"]) == {"isr", "other"}
    assert held.loc[("other_ld", "accuracy"), "difference"] == pytest.approx(0.4) and compare.controls(table[table["arm"] == "isr_rdpo"]).empty
    elsewhere = compare.differences(pd.concat([rows("isr", 0, right), rows("other", 1, right)]), "isr")
    assert "were not asked the same questions" in compare.outcome(elsewhere, "isr", "other")


def test_where_truth_is_not_known_words_remain() -> None:
    table = rows("isr", 0, np.ones(5)).assign(correct=np.nan, false=np.nan, claims=np.nan)
    assert compare.differences(table, "isr")["measure"].tolist() == ["response_words"]
    assert compare.equal_length(table).empty and compare.gained_lost(table).empty


def test_questions_must_be_the_same() -> None:
    one, two = rows("isr", 0, np.ones(5)), rows("fresh", 0, np.ones(5))
    assert compare.same_questions(pd.concat([one, two])) and not compare.same_questions(pd.concat([one, two.assign(id="x")]))


def test_tables_of_real_runs(make_run: Callable) -> None:
    made = []
    for arm, context in (("isr", "retrospective"), ("self_reward", "none")):
        run = make_run(f"{arm}-0", f"respond.context={context}", "iterations=1", "judge.orders=1")
        for stage in (data, respond, judge, train, evaluate):
            stage.run(run, 1)
        made.append(run)
    opened = compare.opened(str(made[0].folder.parent))
    assert [compare.arm_of(run) for run in opened] == ["isr", "self_reward"]
    results, questions, verdicts = compare.results(opened), compare.questions(opened), compare.verdicts(opened)
    assert results[["arm", "iteration"]].to_numpy().tolist() == [["isr", 0], ["isr", 1], ["self_reward", 0], ["self_reward", 1]]
    mean = questions[(questions["arm"] == "isr") & (questions["iteration"] == 1)]["correct"].mean()
    assert mean == pytest.approx(results.loc[1, "accuracy"])
    longer = verdicts[verdicts["arm"] == "isr"]["longer"].dropna()
    assert longer.mean() == pytest.approx(results.loc[1, "prefers_longer"]) and set(verdicts[verdicts["arm"] == "self_reward"]["says"]) == {"no description"}
    fixed = compare.fixed(opened)
    assert fixed[(fixed["arm"] == "isr") & (fixed["iteration"] == 1) & fixed["with_context"]]["right"].mean() == pytest.approx(results.loc[1, "fixed_judge_accuracy"])
    curve = compare.curves(results, "accuracy")
    assert curve["n"].tolist() == [1] * 4 and curve.loc[0, "accuracy_low"] == pytest.approx(results.loc[0, "accuracy_low"])
    for figure in (plots.arms(curve, "accuracy", "x", 1.0), plots.shares(compare.judge_split(verdicts)), plots.shares(compare.fixed_split(fixed)),
                   plots.length_truth(compare.equal_length(questions)), plots.differences(compare.differences(questions, "isr"), "x")):  # fmt: skip
        assert show.svg(figure, "x", "y").startswith("<svg")


def test_agreement_between_orders_counts_every_pair_that_was_asked_twice(make_run: Callable) -> None:
    run = make_run("isr-0", "iterations=1")
    for stage in (data, respond, judge):
        stage.run(run, 1)
    counts, table = records.read_json(run.marker_path("judge", 1))["counts"], compare.verdicts([run])
    assert (table["agree"] == 0).sum() == counts["disagreement"] > 0 and table["agree"].notna().all()
    assert table.loc[table["agree"] == 0, ["longer", "right"]].isna().all(axis=None), "what the orders do not agree on is no verdict"
    row = compare.judge_split(table).set_index("measure").loc["the two orders agree"]
    assert row["n"] == len(table) and row["share"] == pytest.approx(1 - counts["disagreement"] / len(table))
    coin = make_run("random-0", "iterations=1", "judge.method=random")
    for stage in (data, respond, judge):
        stage.run(coin, 1)
    table = compare.verdicts([coin])
    assert table["agree"].isna().all() and "the two orders agree" not in set(compare.judge_split(table)["measure"])


def test_a_page_of_many_arms_keeps_them_apart() -> None:
    arms = [cell[0] for cell in study.load(ROOT / "params" / "study.yaml", seeds=1).cells]
    groups = compare.groups(arms)
    assert groups[""] == ["isr", "self_reward", "fresh", "oracle", "random"] and set(groups) == {"", "isr", "self_reward"}
    assert groups["isr"] == ["isr", "isr_ld", "isr_norm", "isr_rdpo", "isr_balanced"] and compare.groups(["isr_ld"]) == {"": ["isr_ld"]}
    table = pd.concat([rows(arm, 0, np.arange(40) % 3 > 0, words=n, iteration=t) for n, arm in enumerate(arms) for t in (0, 1)])
    shown = compare.readable(compare.differences(table, "isr"), "difference")
    assert len(shown) == len(arms) - 1 and shown.iloc[0]["arm"] == "self_reward - isr" and shown.iloc[0]["response_words"] == "+1.0 [+1.0, +1.0]"
    results = table.groupby(compare.KEYS, sort=False)["correct"].mean().rename("accuracy").reset_index()
    split = pd.DataFrame({"measure": "the longer is chosen", "what": arms, "n": 9, "share": 0.5, "share_low": 0.4, "share_high": 0.6})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as a layout that has no room left
        for figure in (plots.arms(compare.curves(results, "accuracy"), "accuracy", "x", 1.0), plots.shares(split), plots.length_truth(compare.equal_length(table))):
            assert show.svg(figure, "x", "y").count(arms[-1]) == 1


def test_curves_of_one_and_two_seeds_have_no_interval_over_seeds() -> None:
    table = pd.DataFrame({"arm": "isr", "seed": [0, 1], "iteration": 1, "accuracy": [0.5, 0.7], "accuracy_low": 0.4, "accuracy_high": 0.9})
    one, two = compare.curves(table[:1], "accuracy").iloc[0], compare.curves(table, "accuracy").iloc[0]
    assert (one["accuracy_low"], one["accuracy_high"]) == (0.4, 0.9) and (two["accuracy"], two["accuracy_low"], two["accuracy_high"]) == pytest.approx((0.6, 0.5, 0.7))


def test_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(errors.RunError, match="no run here; give folders of runs"):
        compare.opened(str(tmp_path))


STUDY = "preset: params/toybox.yaml\nrun: {run}\nseeds: [0, 1]\nparallel: 2\nset: {{iterations: 1}}\narms:\n  isr: {{}}\n  self_reward: {{respond.context: none, seeds: [1]}}\n"


def study_file(folder: Path, text: str = STUDY) -> Path:
    path = folder / "study.yaml"
    path.write_text(text.format(run=folder / "runs"))
    return path


def test_a_study_is_its_arms_times_its_seeds(tmp_path: Path) -> None:
    made = study.load(study_file(tmp_path), overrides=["train.epochs=1"])
    assert [(arm, cell.seed, Path(cell.run).name) for arm, cell in made.cells] == [("isr", 0, "isr-0"), ("isr", 1, "isr-1"), ("self_reward", 1, "self_reward-1")]
    assert made.cells[2][1].respond.context == "none" and all(cell.train.epochs == 1 and cell.iterations == 1 for _, cell in made.cells)
    assert len(study.load(study_file(tmp_path), seeds=1).cells) == 2
    some = study.load(study_file(tmp_path), overrides=[f"run={tmp_path}/elsewhere"], only=["self_reward"])
    assert {arm for arm, _ in some.cells} == {"self_reward"} and some.folder == tmp_path / "elsewhere" and all(p.run.startswith(str(some.folder)) for _, p in some.cells)
    with pytest.raises(params.ParamsError, match="there is no arm isrr; it has"):
        study.load(study_file(tmp_path), only=["isrr"])


def test_the_shipped_study_is_sound() -> None:
    made = study.load(ROOT / "params" / "study.yaml")
    assert {arm for arm, _ in made.cells} >= {"isr", "fresh", "self_reward", "random", "oracle"} and made.parallel == 2
    for arm, cell in made.cells:
        assert compare.arm_by(cell) == arm, "an arm's name is what its parameters say"


def test_the_sensitivity_changes_one_thing_at_a_time_for_both_arms() -> None:
    made = study.load(ROOT / "params" / "sensitivity.yaml", seeds=1)
    cells = {arm: cell.to_dict() | {"run": ""} for arm, cell in made.cells}
    for name in {arm.removeprefix("isr") for arm in cells if arm.startswith("isr")}:
        one, two = cells[f"isr{name}"], cells[f"self_reward{name}"]
        assert differ(one, two) == ["respond.context"], "both arms alike"
        assert len(differ(cells["isr"], one)) == (1 if name else 0)


def differ(one: dict, two: dict, prefix: str = "") -> list[str]:
    return [n for k in one for n in (differ(one[k], two[k], f"{k}.") if isinstance(one[k], dict) else [f"{prefix}{k}"] * (one[k] != two[k]))]


@pytest.mark.parametrize(("text", "says"), [
    ("preset: x\n", "run is missing"),
    (STUDY + "sedes: 3\n", "there is no key sedes; known here: preset, run"),
    (STUDY.replace("isr: {{}}", "isr: 3"), "arms maps each arm's name to its keys"),
    (STUDY.replace("respond.context: none", "respond.contxt: none"), "self_reward: there is no key respond.contxt; did you mean respond.context?"),
    (STUDY.replace("seeds: [0, 1]", "seeds: 3"), "isr: seeds: 3 is not a list of whole numbers"),
    (STUDY.replace("parallel: 2", "parallel: no"), "parallel: 'no' is not a number of runs"),
])  # fmt: skip
def test_a_wrong_study_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(params.ParamsError) as error:
        study.load(study_file(tmp_path, text))
    assert says in str(error.value) and str(tmp_path / "study.yaml") in str(error.value)


def test_the_bases_evaluation_is_made_once(make_run: Callable) -> None:
    one, two, other = make_run("isr-0"), make_run("self_reward-0", "respond.context=none"), make_run("isr-1", "seed=1")
    evaluate_base(one)
    for run in (two, other):
        study.adopt(run, [one, two, other])
    assert two.done("evaluate", 0) and two.file(0, "answers.jsonl").read_bytes() == one.file(0, "answers.jsonl").read_bytes()
    assert not other.done("evaluate", 0) and not other.iteration(0).exists(), "other questions"


def evaluate_base(run) -> None:
    data.run(run, 1)
    evaluate.run(run, 0)


def test_runs_at_a_time_share_the_cores_and_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert study.share(0, 1, []) == {} and study.share(0, 1, ["0", "1"]) == {"CUDA_VISIBLE_DEVICES": "0"}
    assert [study.share(slot, 3, ["4", "6"])["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["4", "6", "4"]
    assert set(study.share(1, 2, ["0"])) == {"OMP_NUM_THREADS"}, "the only GPU needs no name"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert study.share(1, 2, []) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    import torch

    assert study.gpus() == ["5", "7"][: torch.cuda.device_count()]


@pytest.mark.slow
def test_a_study_runs_resumes_and_names_what_failed(random_base: Path, tmp_path: Path) -> None:
    small = ["data.samples=8", "data.questions=6", "data.fixed_pairs=4", "max_bad_share=1.0", "respond.max_new_tokens=8", "respond.context_max_new_tokens=8",
             "evaluate.max_new_tokens=8", f"model.path={random_base}", "judge.orders=1"]  # fmt: skip
    path = study_file(tmp_path)

    def go(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "isrdpo", "study", str(path), *small, *more], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603

    done = go()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": iteration 1") == 3 and "[3/3]" in done.stdout
    runs = tmp_path / "runs"
    page = (runs / "comparison.html").read_text()
    assert "Warning" not in page and "isr (seeds 0, 1); self_reward (seed 1)" in page
    assert page.count("<svg") >= 10 and "isr against self_reward after 1 iterations" in page and "<script" not in page
    results = pd.read_csv(runs / "results.csv")
    assert results["arm"].value_counts().to_dict() == {"isr": 4, "self_reward": 2}
    page_made = (runs / "comparison.html").stat().st_mtime_ns
    assert go().returncode == 0 and (runs / "comparison.html").stat().st_mtime_ns == page_made, "nothing new, nothing made"
    before, began = (runs / "isr-0" / "iter_01" / "answers.jsonl").stat().st_mtime_ns, time.monotonic()
    (runs / "isr-1" / "iter_01" / ".done" / "evaluate.json").unlink()
    again = go()
    assert again.returncode == 0 and "isr-1: iteration 1" in again.stdout and "isr-0: iteration" not in again.stdout and time.monotonic() - began < 120
    assert (runs / "isr-0" / "iter_01" / "answers.jsonl").stat().st_mtime_ns == before
    records.write_text(runs / "isr-1" / "iter_01" / "samples.jsonl", "")
    (runs / "isr-1" / "iter_01" / ".done" / "respond.json").unlink()
    broken = go("data.samples=9")
    assert broken.returncode == 1 and "data.samples changed" in broken.stderr and "Traceback" not in broken.stderr
    assert summary.table(compare.opened(str(runs / "isr-0"))[0])["iteration"].tolist() == [0, 1]


MEASURES = ("accuracy", "hallucination", "false_claims", "response_words")
HALF = {name: 0.05001 if name == "response_words" else 0.0005001 for name in MEASURES}  # of the last digit that is written


def readme_rows(begin: str, end: str) -> dict[str, list[list[float]]]:
    """The numbers in each cell of a table of the README, by its first cell (its backticks off)."""
    text = (ROOT / "README.md").read_text()
    text = text[text.index(begin) :]
    lines = [line.split("|")[1:-1] for line in text[: text.index(end)].splitlines()[2:] if line.startswith("| ")]
    return {cells[0].replace("`", "").strip(): [[float(number) for number in re.findall(r"[-+]?\d+\.\d+", cell)] for cell in cells[1:]] for cells in lines}


def published(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "outputs" / "published" / f"{name}.csv")


def same(cells: list[list[float]], table: pd.DataFrame, kind: str, measures: tuple[str, ...] = MEASURES) -> None:
    """Each cell is a value with its interval, rounded as written; `table`: an arm's rows of study_final.csv or study_controls.csv."""
    for cell, measure in zip(cells, measures, strict=True):
        row = table[table["measure"] == measure].iloc[0]
        assert cell == pytest.approx([row[kind], row[f"{kind}_low"], row[f"{kind}_high"]][: len(cell)], abs=HALF[measure]) and cell, (row["arm"], measure, kind)


def same_values(cells: list[list[float]], wanted: pd.Series) -> None:
    """Each cell is a value without an interval; `wanted`: by measure."""
    for cell, measure in zip(cells, MEASURES, strict=True):
        assert cell == pytest.approx([wanted[measure]], abs=HALF[measure]), measure


def test_the_readmes_tables_of_the_study_are_those_of_the_published_csvs() -> None:
    final, controls, judge, results = (published(name) for name in ("study_final", "study_controls", "study_judge", "study"))
    arms = readme_rows("| arm (seeds) | accuracy", "| paired difference")
    same_values(arms.pop("base (5)"), results[results["iteration"] == 0].groupby("arm")[list(MEASURES)].mean().loc["isr"])
    main, counts = {name.removesuffix(" (5)") for name in arms}, results.groupby("arm")["seed"].nunique()
    assert main == set(results[results["iteration"] == 5]["arm"]) == {"isr", "self_reward", "fresh", "oracle", "random"}
    assert all(counts[arm] == (5 if arm in main else 3) for arm in counts.index)
    for name, cells in arms.items():
        part = final[final["arm"] == name.removesuffix(" (5)")]
        assert set(part["seeds"]) == {5} and set(part["iteration"]) == {5}
        same(cells, part, "value")
    for name, cells in readme_rows("| paired difference", "What the judge went by").items():
        same(cells, final[final["arm"] == name.removesuffix(" - isr")], "difference")
    for name, cells in readme_rows("| | `isr` | `self_reward` |", "Read: a description").items():
        measure = {"the longer one": "the longer is chosen", "the same one in both orders (of all pairs)": "the two orders agree"}.get(name) or f"… {name.partition(', ')[2]}"
        for arm, cell in zip(("isr", "self_reward"), cells, strict=True):
            row = judge[(judge["measure"] == measure) & (judge["what"] == arm)]
            assert cell == pytest.approx(row[["share", "share_low", "share_high"]].iloc[0].to_list() if len(row) else [], abs=0.0005001), (name, arm)
    tables = readme_rows("| arm | accuracy | hallucination | false claims an answer | words an answer | against", "</details>")
    assert len(tables) == 10
    for name, cells in tables.items():
        arm = name.split(" (")[0]
        if arm in ("isr", "self_reward"):
            same_values(cells[:4], controls[controls["baseline"] == arm].drop_duplicates("measure").set_index("measure")["baseline_value"])
            assert cells[4:] == [[], [], []]
            continue
        same(cells[:4], controls[controls["arm"] == arm], "value")
        same(cells[4:], controls[controls["arm"] == arm], "difference", ("accuracy", "hallucination", "response_words"))


def test_the_published_tables_are_of_the_published_runs_and_draw_the_readmes_figure(tmp_path: Path) -> None:
    table, final = published("study"), published("study_final")
    for (arm, t), part in final.groupby(["arm", "iteration"]):
        mean = table[(table["arm"] == arm) & (table["iteration"] == t)][list(MEASURES)].mean()
        assert part.set_index("measure")["value"][list(MEASURES)].to_list() == pytest.approx(mean.to_list(), abs=1e-9), arm
    figure = tmp_path / "study.png"
    subprocess.run([sys.executable, "-m", "isrdpo.reports.compare", "outputs/published/study.csv", str(figure)], cwd=ROOT, check=True)
    assert figure.stat().st_size > 50_000


def test_the_readmes_other_tables_are_those_of_their_published_csvs() -> None:
    names, digits = ["accuracy", "hallucination", "false_claims", "response_words"], (3, 3, 3, 1)
    text = (ROOT / "README.md").read_text()
    text = text[text.index("### Where it does not hold") : text.index("## From the paper to here")]

    def last(name: str) -> pd.DataFrame:
        table = pd.read_csv(ROOT / "outputs" / "published" / f"{name}.csv")
        return table[table["iteration"] == table["iteration"].max()].groupby("arm")[names].mean()

    found = last("second_base")
    rows = [line.split("|")[1:] for line in text.splitlines() if line.startswith("| `")]
    assert {cells[0].split("`")[1] for cells in rows} == set(found.index)
    for cells in rows:
        for cell, value, places in zip(cells[1:5], found.loc[cells[0].split("`")[1]], digits, strict=True):
            assert abs(float(cell.split()[0]) - value) <= 0.5001 * 10**-places
    changes = {"none": "", "beta 0.05 (0.1)": "_beta_half", "beta 0.2": "_beta_double", "learning rate 5e-5 (1e-4)": "_rate_half", "learning rate 2e-4": "_rate_double",
               "temperature 0.7 (1.0)": "_cooler", "one order (two)": "_one_order", "every decisive pair (the surest 40 %)": "_all_pairs", "160 samples an iteration (320)": "_half_samples", "new questions each iteration (`data.reuse=false`)": "_new_questions"}  # fmt: skip
    found = last("sensitivity")
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in text[text.index("| change |") :].splitlines()[2:] if line.startswith("| ")}
    assert {change: f"isr{ending}" for change, ending in changes.items() if change in rows} == {c: f"isr{e}" for c, e in changes.items()} and 2 * len(rows) == len(found)
    for change, cells in rows.items():
        for at, (name, places) in enumerate((("accuracy", 3), ("hallucination", 3), ("response_words", 1))):
            for cell, arm in zip(cells[2 * at].split("/"), ("isr", "self_reward"), strict=True):
                assert abs(float(cell) - found.loc[arm + changes[change], name]) <= 0.5001 * 10**-places, (change, arm, name)
    nine = pd.read_csv(ROOT / "outputs" / "published" / "nine.csv").set_index(["arm", "iteration"])
    assert [round(nine.loc[("isr", t), "accuracy"], 2) for t in (6, 9)] == [0.94, 0.86] and round(nine.loc[("self_reward", 9), "accuracy"], 2) == 0.86
    assert [round(nine.loc[("isr", t), "judge_accuracy"], 2) for t in (1, 9)] == [0.88, 0.67]
