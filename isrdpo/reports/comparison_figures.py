"""Figures of notebook 06: arms over the iterations, at their last answers, and with length controls."""

import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from isrdpo.reports import arm_plots, compare, differences, html, plots


def over_iterations(results: pd.DataFrame, target: Path) -> html.Html:
    """Each measure of a comparison as a panel, with a line per arm."""
    captions = {name: caption for name, (_, _, caption) in arm_plots.COMPARED.items()}
    return html.row(*_panels(results, captions, target, ""), wide=True)


def length_controls(results: pd.DataFrame, groups: Mapping[str, Sequence[str]], target: Path) -> html.Html:
    """The measures of answers for each arm beside its length controls; `groups` as from `compare.groups`."""
    panels = []
    for arm, family in groups.items():
        if arm:
            rows = results[results["arm"].isin(family)]
            caption = f"{arm} with and without length controls"
            captions = {name: f"{caption}: {name}." for name in differences.MEASURES}
            panels += _panels(rows, captions, target, f"controls_{file_word(arm)}_")
    return html.row(*panels)


def _panels(results: pd.DataFrame, captions: Mapping[str, str], target: Path, prefix: str) -> list[html.Html]:
    """A figure for each measure of `captions` that has rows. `prefix` begins the names of their files."""
    panels = []
    for name, caption in captions.items():
        rows = compare.curves(results, name)
        if len(rows):
            label, top, _ = arm_plots.COMPARED[name]
            drawing = arm_plots.arm_curves(rows, name, label, top)
            panels.append(
                html.figure_in(target / "figures", target, f"{prefix}{name}", drawing, rows, caption)
            )
    return panels


def file_word(arm: str) -> str:
    """An arm's name as a part of a file's: a word as it stands, else its letters and a checksum."""
    if re.fullmatch(r"\w{1,60}", arm, re.ASCII):
        return arm
    letters = re.sub(r"\W+", "_", arm, flags=re.ASCII)
    return f"{letters[:60]}_{zlib.crc32(arm.encode()):08x}"


def last_differences(final: pd.DataFrame, baseline: str, target: Path) -> html.Html:
    """The distance of each arm's last answers from the baseline's, with a panel per measure; `final` as
    from `compare.differences`.
    """
    panels = []
    for measure, rows in final.groupby("measure", sort=False):
        if rows["difference"].notna().any():
            label = f"{measure}: difference to {baseline}"
            caption = f"{label} on the same questions; bootstrap over seeds and questions."
            drawing = arm_plots.arm_differences(rows, label)
            panels.append(
                html.figure_in(target / "figures", target, f"difference_{measure}", drawing, rows, caption)
            )
    return html.row(*panels)


def verdict_shares(verdicts: pd.DataFrame, fixed_pairs: pd.DataFrame, target: Path) -> html.Html:
    """Shares of the loop's verdicts, and of right verdicts on the fixed pairs, by arm."""
    loop = compare.judge_split(verdicts)
    fixed = compare.fixed_split(fixed_pairs)
    panels = []
    if len(loop):
        drawing = plots.shares(loop, "share of verdicts")
        caption = "All verdicts of the loop, by arm."
        panels.append(html.figure_in(target / "figures", target, "judge_split", drawing, loop, caption))
    if len(fixed):
        drawing = plots.shares(fixed, "right verdicts (share)")
        caption = "The fixed pairs, judged by each arm's last policy."
        panels.append(html.figure_in(target / "figures", target, "fixed_split", drawing, fixed, caption))
    return html.row(*panels, wide=True)
