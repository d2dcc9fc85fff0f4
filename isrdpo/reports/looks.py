"""Heat maps of a judge: a figure for each example of `looks.jsonl`, and what the control says about them."""

import numpy as np
import pandas as pd

from isrdpo.core.runs import Run
from isrdpo.reports import html, plots, tables
from isrdpo.reports.clip_views import frames_seen, model_input

CONDITIONS = ("with its description", "without")
FEW_FRAMES = 4  # with more, a figure needs the whole width of the page


def heat_maps(run: Run, iteration: int) -> html.Html:
    """A figure for each example that stage look drew heat maps of, under a sentence that says whether the
    maps mean something.
    """
    rows = tables.rows_of(run, iteration, "looks.jsonl")
    if rows.empty:
        return html.note("No heat maps: look.examples is 0, nothing was judged, or the policy is gone.")
    examples = enumerate(rows.groupby("id", sort=False), 1)
    figures = [
        _example_figure(run, iteration, number, str(sample), maps) for number, (sample, maps) in examples
    ]
    control = html.note(_control_over_all(rows))
    return html.row(control, *figures, wide=True, whole=model_input(run)["frames"] > FEW_FRAMES)


def _example_figure(run: Run, iteration: int, number: int, sample: str, rows: pd.DataFrame) -> html.Html:
    """The frames of one example with its heat maps below, or a note where its clip is not at hand."""
    try:
        clip = frames_seen(run, run.clip(rows["video"].iloc[0]))
    except OSError as error:
        return html.note(f"{sample}: this clip is not at hand ({error})")
    maps = {row["judged"]: np.array(row["heat"]) for _, row in rows.iterrows()}
    labels = {
        name: name.replace(" its ", " its\n").replace(", ", ",\n") for name in maps
    }  # narrow, beside the maps
    drawing = plots.heat(clip.frames, clip.times, {labels[name]: heat for name, heat in maps.items()})
    controls = "; ".join(_control(rows, name) for name in CONDITIONS if name in maps)
    caption = (
        f"{sample}: |gradient times input| of the verdict's log-odds, by part of the picture. {controls}."
    )
    return html.figure(run, iteration, f"look_{number}", drawing, _cells(maps), caption)


def _cells(maps: dict[str, np.ndarray]) -> pd.DataFrame:
    """Heat maps [T, g, g] as a table with a row per cell."""
    cells = []
    for name, heat in maps.items():
        for (frame, row, column), effect in np.ndenumerate(heat):
            cells.append({"judged": name, "frame": frame, "row": row, "column": column, "effect": effect})
    return pd.DataFrame(cells)


def _control_over_all(rows: pd.DataFrame) -> str:
    """Say how often blanking the hottest cells moved the verdict more than every random blanking did."""
    log_odds = {(row["id"], row["judged"]): row["log_odds"] for _, row in rows.iterrows()}
    counts = []
    for name in CONDITIONS:
        blanked = rows[rows["judged"] == f"{name}, blanked"]
        wins = 0
        for _, row in blanked.iterrows():
            whole = log_odds[row["id"], name]
            random_effects = np.abs(np.array(row["random_log_odds"]) - whole)
            wins += abs(row["log_odds"] - whole) > random_effects.max()
        if len(blanked):
            counts.append(f"{name} in {wins} of {len(blanked)}")
    names = ", ".join(counts)
    return (
        f"Blanking the hottest tenth moved the verdict more than each of the random blankings {names} pairs."
    )


def _control(rows: pd.DataFrame, name: str) -> str:
    """Say how far the verdict of one example moves when its hottest cells are blanked, against as many random
    ones.
    """
    log_odds = rows.set_index("judged")["log_odds"]
    blanked = rows[rows["judged"] == f"{name}, blanked"].iloc[0]
    random_effects = np.abs(np.array(blanked["random_log_odds"]) - log_odds[name])
    effect = abs(blanked["log_odds"] - log_odds[name])
    return (
        f"{name}: log-odds {log_odds[name]:+.2f}; blanking the hottest tenth moves it by {effect:.2f}, "
        f"a random tenth by {random_effects.mean():.2f} (mean of {len(random_effects)})"
    )
