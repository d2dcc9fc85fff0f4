"""Arms: what they are called, in which order they stand, and that no two of a figure look alike."""

from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo import study
from isrdpo.core import params
from isrdpo.core.runs import Run
from isrdpo.reports import arms, palette

ROOT = Path(__file__).parents[2]
PRESET = ROOT / "params" / "toybox.yaml"


@pytest.mark.parametrize(
    ("overrides", "arm"),
    [
        ([], "isr"),
        (["respond.context=fresh"], "fresh"),
        (["respond.context=none"], "self_reward"),
        (["judge.method=truth"], "oracle"),
        (["judge.method=random", "respond.context=none"], "random"),
        (["train.ld_alpha=0.5"], "isr_ld"),
        (["train.loss_type=sigmoid_norm"], "isr_norm"),
        (
            ["respond.context=none", "train.length_alpha=0.1", "judge.balance_lengths=true"],
            "self_reward_rdpo_balanced",
        ),
    ],
)
def test_an_arm_is_what_its_parameters_say(overrides: list[str], arm: str) -> None:
    assert arms.arm_from_parameters(params.load(PRESET, overrides)) == arm


def test_the_shipped_studys_listed_arms_are_what_their_parameters_say() -> None:
    cells = study.load(ROOT / "params" / "study.yaml").cells
    assert {arm for arm, _ in cells} >= {"isr", "fresh", "self_reward", "random", "oracle"}
    for arm, cell in cells:
        if arms.without_controls(arm) in arms.ARMS:
            assert arms.arm_from_parameters(cell) == arm


def test_a_runs_arm_is_written_in_it_else_its_folder_says_it_else_its_parameters(make_run: Callable) -> None:
    def arm_of(name: str, *overrides: str) -> str:
        return arms.arm_of(make_run(name, *overrides))

    assert arm_of("my_arm-0", "arm=longer_prompt") == "longer_prompt"
    assert arm_of("my_arm-3", "seed=3") == "my_arm"
    assert arm_of("my_arm-4", "seed=3") == "isr", "the folder's number is not the run's seed"
    assert arm_of("anything", "respond.context=none") == "self_reward"
    assert isinstance(make_run("again-0"), Run)


def test_arms_are_ordered_as_listed_with_their_controls_behind_them_and_others_last() -> None:
    names = ["zebra", "random", "isr_rdpo", "ape", "self_reward_ld", "isr", "self_reward", "isr_ld"]
    ordered = ["isr", "isr_ld", "isr_rdpo", "self_reward", "self_reward_ld", "random", "ape", "zebra"]
    assert sorted(names, key=arms.arm_order) == ordered


def test_arms_without_length_control_are_shown_together_and_each_with_its_controls() -> None:
    names = [cell[0] for cell in study.load(ROOT / "params" / "study.yaml", seeds=1).cells]
    groups = arms.group_arms(names)
    assert groups[""] == ["isr", "self_reward", "fresh", "oracle", "random"]
    assert set(groups) == {"", "isr", "self_reward"}
    assert groups["isr"] == ["isr", "isr_ld", "isr_norm", "isr_rdpo", "isr_balanced"]
    assert arms.group_arms(["isr_ld"]) == {"": ["isr_ld"]}


def test_the_published_arms_keep_their_looks() -> None:
    styles = arms.arm_styles(
        ["isr", "fresh", "self_reward", "oracle", "random", "isr_ld", "isr_norm", "isr_rdpo"]
    )
    assert [styles[arm].color for arm in ("isr", "fresh", "self_reward", "oracle", "random")] == [
        palette.BLUE,
        palette.SKY,
        palette.ORANGE,
        palette.GREEN,
        palette.GRAY,
    ]
    assert {styles[arm].color for arm in ("isr_ld", "isr_norm", "isr_rdpo")} == {palette.BLUE}
    assert [styles[arm].line for arm in ("isr", "isr_ld", "isr_norm", "isr_rdpo")] == ["-", "--", "-.", ":"]
    assert arms.legend_name("isr") == "isr (looks back)"
    assert arms.legend_name("isr_ld") == "isr_ld"


def test_a_new_arm_has_a_color_of_its_own() -> None:
    new = [f"isr_{change}" for change in ("cooler", "beta_half", "anything", *map(str, range(20)))]
    styles = arms.arm_styles(["isr", "my_arm", "my_arm_ld", "other_arm", *new])
    plain = ["isr", "my_arm", "other_arm", *new]
    assert len({styles[arm].color for arm in plain}) == len(plain)
    assert styles["my_arm_ld"].color == styles["my_arm"].color
    assert styles["my_arm_ld"].line != styles["my_arm"].line
    listed = {arm.color for arm in arms.ARMS.values()}
    assert not listed & {styles[arm].color for arm in plain if arm != "isr"}


def test_a_new_arm_keeps_its_color_beside_other_listed_arms_and_in_any_order() -> None:
    names = ["isr", "my_arm", "other_arm"]
    assert arms.arm_styles(names)["my_arm"] == arms.arm_styles(["my_arm"])["my_arm"]
    assert arms.arm_styles(names) == arms.arm_styles(names[::-1])
