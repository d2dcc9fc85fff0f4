"""HTML pages: one for each executed notebook, the run's index, and all of them in a zip. They are made of
files of the run only.

Pages open from disk, ask for nothing from elsewhere and run no script: their Content-Security-Policy says
so to the browser too. Jinja2 escapes all text in them. What is HTML already (the output of a notebook, and
Markdown and terminal colors after nbconvert has turned them into HTML) is marked `safe` in the template.
"""

import os
import re
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
from matplotlib.figure import Figure

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import atomic_file, display_path
from isrdpo.core.pipeline import NOTEBOOKS, STAGES
from isrdpo.core.runs import Run
from isrdpo.reports import html, iteration_plots, outcomes, plots, summary

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data: 'self' file:; media-src 'self' file:"

Sections = dict[str, Any]  # values of index.html.j2, by name
Link = tuple[str, str]  # (href, text)


def executed_notebook(run: Run, stage: str, t: int) -> Path:
    """The path of a stage's notebook of iteration t, which is there once it ran to its end."""
    return run.iteration(t) / "notebooks" / f"{NOTEBOOKS[stage]}.ipynb"


def page_path(run: Run, stage: str, t: int) -> Path:
    """The path of that notebook's page."""
    return run.iteration(t) / "reports" / f"{NOTEBOOKS[stage]}.html"


def write_page(run: Run, stage: str, t: int) -> Path:
    """Turn a stage's executed notebook into its page, with links to the index and to the same page of the
    iteration before.
    """
    target = page_path(run, stage, t)
    before = page_path(run, stage, t - 1)
    links = [("../../report.html", f"{run.folder.name}: all pages")]
    if before.exists():
        links.append((os.path.relpath(before, target.parent), f"iteration {t - 1}"))
    title = f"{NOTEBOOKS[stage]}, iteration {t} of {run.folder.name}"
    return convert_notebook(executed_notebook(run, stage, t), target, title, links, f"iteration {t}")


def convert_notebook(
    notebook: Path, target: Path, title: str, links: list[Link] | None = None, place: str = ""
) -> Path:
    """Write an executed notebook as an HTML page, by nbconvert and the template in templates/page. Code is
    folded.

    `links` stand at the head of the page, and after them `place`, the words for where the reader is.
    """
    import nbformat
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="page",
        extra_template_basedirs=[str(html.TEMPLATES)],
        sanitize_html=False,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    exporter.environment.autoescape = (
        True  # as in our other templates; nbconvert's own leave it to each place
    )
    resources = {
        "metadata": {"name": title},
        "style": html.style(),
        "policy": POLICY,
        "links": links or [],
        "place": place,
    }
    body, _ = exporter.from_notebook_node(nbformat.read(notebook, as_version=4), resources)
    records.write_text(target, body)
    return target


def write_index(run: Run, state: str = "") -> Path:
    """Write report.html, summary.csv and figures/, from what is there.

    `state` says what is running, or why it stopped; where it is empty, the page says how many stages are
    done.
    """
    figures = summary.write_summary(run)
    markers = summary.done_markers(run)
    sections = (
        _header(run, markers, state)
        | _outcome(run, figures)
        | _links(run)
        | _numbers(figures)
        | _left_out(markers)
        | _cost(run, markers)
        | _provenance(run)
    )
    target = run.folder / "report.html"
    records.write_text(target, html.render("index.html.j2", policy=POLICY, **sections).text)
    return target


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
    sizes = records.read_json(path)
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
    record = records.read_json(run.folder / "provenance.json")
    return {
        "created": record["created"],
        "command": record["command"],
        "again": f"isrdpo run {display_path(run.folder / 'params.yaml')} run=outputs/again",
        "provenance": html.table(html.provenance_frame(record, {}), "Provenance"),
    }


def is_index_current(run: Run) -> bool:
    """Whether report.html and summary.csv are younger than every stage and page."""
    index_files = [run.folder / "report.html", run.folder / "summary.csv"]
    sources = [*run.folder.glob("iter_*/.done/*.json"), *run.folder.glob("iter_*/reports/*.html")]
    newest = max((path.stat().st_mtime_ns for path in sources), default=0)
    return all(path.exists() and path.stat().st_mtime_ns >= newest for path in index_files)


def write_bundle(run: Run, target: Path) -> Path:
    """Write a zip for somebody who has nothing else: the index, the pages, their figures and CSVs, and the
    clips that they show.

    Raises RunError where the run has no index yet.
    """
    index_page = run.folder / "report.html"
    if not index_page.exists():
        raise RunError(f"{display_path(run.folder)}: no report.html yet; run a stage first")
    pages = [index_page, *sorted(run.folder.glob("iter_*/reports/*.html"))]
    files = [
        *pages,
        *(run.folder / name for name in ("summary.csv", "params.yaml", "provenance.json")),
        *sorted(run.folder.glob("figures/*.*")),
        *sorted(run.folder.glob("iter_*/figures/*.*")),
        *_clips_of(run, pages),
    ]
    with atomic_file(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, Path(run.folder.name) / path.relative_to(run.folder))
    return target


def _clips_of(run: Run, pages: list[Path]) -> list[Path]:
    """The run's clips that these pages play."""
    names: set[str] = set()
    for page in pages:
        names.update(re.findall(r'src="[^"]*?clips/([^"/]+)"', page.read_text(encoding="utf-8")))
    clips = [run.folder / "clips" / unquote(name) for name in names]
    return sorted(clip for clip in clips if clip.is_file())
