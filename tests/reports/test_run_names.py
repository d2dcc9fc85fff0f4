"""Compared runs are pooled only where they differ in nothing but the seed; the others keep names apart."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo.core import errors
from isrdpo.core.runs import Run
from isrdpo.reports import compare, comparison_figures, run_names
from isrdpo.stages import data


def copy_of(run: Run, folder: Path) -> Run:
    shutil.copytree(run.folder, folder)
    return Run(folder)


def test_seeds_of_one_experiment_share_its_name(make_run: Callable) -> None:
    runs = [make_run(f"isr-{seed}", f"seed={seed}") for seed in (0, 1)]
    runs.append(make_run("more", "seed=2", "iterations=7", "judge.batch_size=3", "keep_policies=1"))
    assert run_names.arm_names(runs) == ["isr"] * 3


def test_a_run_and_its_copy_are_named_by_their_folders(make_run: Callable, tmp_path: Path) -> None:
    run = make_run("first", "iterations=1")
    data.run(run, 0)
    runs = [run, copy_of(run, tmp_path / "second"), make_run("other", "seed=1", "iterations=1")]
    assert run_names.arm_names(runs) == ["isr (first)", "isr (second)", "isr"]
    assert compare.arms_and_seeds(runs[:2]) == "isr (first) (seed 0); isr (second) (seed 0)"
    assert compare.open_runs([str(run.folder) for run in runs]), "a copy has the same questions"


def test_folders_of_one_name_are_told_apart_by_those_above(make_run: Callable, tmp_path: Path) -> None:
    run = make_run("here/run")
    runs = [run, copy_of(run, tmp_path / "there" / "run")]
    assert run_names.arm_names(runs) == ["isr (here/run)", "isr (there/run)"]


def test_runs_of_one_arm_are_told_apart_by_what_differs(make_run: Callable) -> None:
    runs = [make_run("a", "train.beta=0.1"), make_run("b", "train.beta=0.2", "seed=1")]
    assert run_names.arm_names(runs) == ["isr (train.beta=0.1)", "isr (train.beta=0.2)"]
    runs.append(make_run("c", "train.beta=0.2", "train.epochs=2", "respond.top_k=3"))
    assert run_names.arm_names(runs) == ["isr (a)", "isr (b)", "isr (c)"]
    assert len(set(run_names.arm_names([*runs, *runs]))) == 3


def test_other_data_and_another_base_are_not_pooled(make_run: Callable, own_data: Callable) -> None:
    row = {"id": "a", "video": "{0}", "prompt": "What?", "chosen": "A circle.", "rejected": "Nothing."}
    folder, _ = own_data([row])
    runs = [make_run("toybox"), make_run("own", "seed=1", f"data={folder}")]
    assert run_names.arm_names(runs) == ["isr (toybox)", "isr (own)"]
    runs = [make_run("random"), make_run("shipped", "seed=1", "model.path=toybox")]
    assert run_names.arm_names(runs)[1] == "isr (model.path=toybox)"


def test_different_questions_of_one_seed_are_refused_though_their_ids_agree(make_run: Callable) -> None:
    runs = [make_run("a"), make_run("b", "respond.context=none", "toybox.noise=50")]
    for run in runs:
        data.run(run, 0)
    with pytest.raises(errors.RunError, match=r"a and .*b \(seed 0\) were evaluated on different questions"):
        compare.open_runs([str(run.folder) for run in runs])
    other_seed = make_run("c", "seed=1", "toybox.noise=50")
    data.run(other_seed, 0)
    assert len(compare.open_runs([str(runs[0].folder), str(other_seed.folder)])) == 2


def test_files_of_figures_stay_in_their_folder(tmp_path: Path) -> None:
    names = ["isr", "../../x", "a/b", "a b", "a.b", "$\\frac", "x" * 400, "漢字"]
    words = [comparison_figures.file_word(name) for name in names]
    assert words[0] == "isr" and len(set(words)) == len(names)
    for word in words:
        (tmp_path / f"controls_{word}_hallucination.csv").write_text("")
    assert len(list(tmp_path.iterdir())) == len(names)
