"""The run's index, report.html: its sections in the order of the page, each from what is there."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from isrdpo.core import provenance
from isrdpo.core.folders import display_path
from isrdpo.core.pipeline import NOTEBOOKS, STAGES
from isrdpo.core.runs import Run
from isrdpo.reports import html, iteration_plots, outcomes, plots, summary
from isrdpo.reports.clip_views import model_input
from isrdpo.reports.pages import POLICY, page_path

Sections = dict[str, Any]  # values of index.html.j2, by name


def render_index(run: Run, state: str) -> html.Html:
    """The page; summary.csv and figures/ are written on the way. `state` as in `pages.write_index`."""
    figures = summary.write_summary(run)
    markers = run.done_markers()
    sections = (
        _header(run, markers, state)
        | _outcome(run, figures)
        | _links(run)
        | _numbers(figures)
        | _left_out(markers)
        | _cost(run, markers)
        | _provenance(run)
    )
    return html.render("index.html.j2", policy=POLICY, **sections)


def _header(run: Run, markers: list[dict], state: str) -> Sections:
    """The run's name, model and settings, and the state it is in."""
    done = {(marker["stage"], marker["iteration"]) for marker in markers if marker["stage"] in STAGES}
    done.discard(("data", 0))  # belongs to the evaluation of the base
    steps = 1 + len(STAGES) * run.params.iterations
    return {
        "name": run.folder.name,
        "model": _model(run),
        "context": run.params.respond.context,
        "seed": run.params.seed,
        "iterations": run.params.iterations,
        "trained": sum(stage == "train" for stage, _ in done),
        "samples": _count_samples(markers, "respond") or _count_samples(markers, "judge"),
        "questions": _count_samples(markers, "evaluate"),
        "running": bool(state),
        "state": state or f"{len(done)} of {steps} stages are done.",
    }


def _count_samples(markers: list[dict], stage: str) -> int:
    """The number of samples of a stage, by its first marker; 0 where there is none."""
    return next((marker["total"] for marker in markers if marker["stage"] == stage), 0)


def _model(run: Run) -> str:
    """The base model's name, and what it sees of a clip once that is known."""
    path = run.folder / "model.json"
    if not path.exists():
        return run.params.model.path
    sizes = model_input(run)
    size = f" of {sizes['image_size']} px" if sizes["image_size"] else ""
    return f"{run.params.model.path} ({sizes['frames']} frames{size})"


def _outcome(run: Run, figures: pd.DataFrame) -> Sections:
    """The result: a sentence, and the curves over the iterations."""
    return {"outcome": outcomes.run_outcome(run, figures), "panels": _curves(run, figures)}


def _curves(run: Run, figures: pd.DataFrame) -> list[html.Html]:
    """The curves that are known of some iteration, each as a panel, and all in one file,
    figures/curves.png.
    """
    if not figures["response_words"].notna().any():
        return []
    html.save_figure(run.folder / "figures", "curves", iteration_plots.curves(figures), figures)
    panels = []
    for name, ((names, label, reference, top), caption) in iteration_plots.CURVES.items():
        if figures[list(names)].notna().any(axis=None):
            columns = ["iteration"]
            for column in names:
                columns += [column, f"{column}_low", f"{column}_high"]
            drawing = iteration_plots.curve(figures, names, label, reference, top)
            panels.append(_panel(run, name, drawing, figures[columns], caption))
    return panels


def _panel(run: Run, name: str, drawing: Figure, data: pd.DataFrame, caption: str) -> html.Html:
    """A figure of the index. Its links count from the index, wherever the command was started."""
    html.save_figure(run.folder / "figures", name, drawing, data)
    image = html.svg(drawing, name, caption)
    return html.embed_figure(image, name, caption, csv=f"figures/{name}.csv", png=f"figures/{name}.png")


def _links(run: Run) -> Sections:
    """The pages that are there, by iteration."""
    grid = []
    for t in range(run.params.iterations + 1):
        paths = {NOTEBOOKS[stage]: page_path(run, stage, t) for stage in STAGES}
        links = [
            (title, path.relative_to(run.folder).as_posix()) for title, path in paths.items() if path.exists()
        ]
        if links:
            grid.append((t, links))
    return {"grid": grid}


def _numbers(figures: pd.DataFrame) -> Sections:
    """The main figures as a table."""
    frame = summary.figures(figures, summary.SHOWN)
    return {"numbers": html.table(frame, "Figures by iteration, with 95 % intervals")}


def _left_out(markers: list[dict]) -> Sections:
    """Samples that did not reach training, and the warnings of stages."""
    warnings = []
    for marker in markers:
        warnings += [
            f"{marker['stage']}, iteration {marker['iteration']}: {warning}" for warning in marker["warnings"]
        ]
    return {
        "left_out": html.table(summary.exclusions(markers), "Samples left out, by reason"),
        "warnings": warnings,
    }


def _cost(run: Run, markers: list[dict]) -> Sections:
    """Time and memory."""
    cost = summary.cost(markers)
    figure = ""
    if len(cost):
        figure = _panel(run, "cost", plots.cost(cost), cost, "Seconds by stage and iteration.")
    return {"cost": figure, "seconds": cost["seconds"].sum(), "memory": max(cost["peak_rss_mb"], default=0)}


def _provenance(run: Run) -> Sections:
    """Versions, commit and machine, and the command that makes the run again."""
    record = provenance.read(run.folder / "provenance.json")
    return {
        "created": record["created"],
        "command": record["command"],
        "again": f"isrdpo run {display_path(run.folder / 'params.yaml')} run=outputs/again",
        "provenance": html.table(html.provenance_frame(record, {}), "Provenance"),
    }
