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
from urllib.parse import unquote

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import atomic_file, display_path
from isrdpo.core.pipeline import NOTEBOOKS
from isrdpo.core.runs import Run

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data: 'self' file:; media-src 'self' file:"

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

    from isrdpo.reports import html

    exporter = HTMLExporter(
        template_name="page",
        extra_template_basedirs=[str(html.TEMPLATES)],
        sanitize_html=False,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    # as in our other templates; nbconvert's own leave it to each place
    exporter.environment.autoescape = True
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

    `state` says what is running, or why it stopped; where it is empty, the page says how many stages
    are done.
    """
    from isrdpo.reports.index_page import render_index

    target = run.folder / "report.html"
    records.write_text(target, render_index(run, state).text)
    return target


def is_index_current(run: Run) -> bool:
    """Whether report.html and summary.csv are younger than every stage and page.

    A folder's own time counts, too: it is younger where a marker was taken away.
    """
    index_files = [run.folder / "report.html", run.folder / "summary.csv"]
    markers = [*run.folder.glob("iter_*/.done"), *run.folder.glob("iter_*/.done/*.json")]
    sources = [*markers, *run.folder.glob("iter_*/reports/*.html")]
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
