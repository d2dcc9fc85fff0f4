"""HTML: a page for each executed notebook, the run's index, and both packed with their clips. Made of files of the run only.

Pages open from disk, ask for nothing from elsewhere and run no script: their Content-Security-Policy says so to the browser too.
"""

import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path
from isrdpo.core.pipeline import NOTEBOOKS, STAGES
from isrdpo.core.runs import Run

if TYPE_CHECKING:
    import pandas as pd

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data: 'self' file:; media-src 'self' file:"


def executed(run: Run, stage: str, t: int) -> Path:
    return run.iteration(t) / "notebooks" / f"{NOTEBOOKS[stage]}.ipynb"


def page_of(run: Run, stage: str, t: int) -> Path:
    return run.iteration(t) / "reports" / f"{NOTEBOOKS[stage]}.html"


def page(run: Run, stage: str, t: int) -> Path:
    """iter_NN/reports/<notebook>.html from the executed notebook, through nbconvert and the template in templates/page; code is folded."""
    target, before = page_of(run, stage, t), page_of(run, stage, t - 1)
    links = [("../../report.html", f"{run.folder.name}: all pages")]
    links += [(os.path.relpath(before, target.parent), f"iteration {t - 1}")] if before.exists() else []
    return convert(executed(run, stage, t), target, f"{NOTEBOOKS[stage]}, iteration {t} of {run.folder.name}", links, f"iteration {t}")


def convert(notebook: Path, target: Path, title: str, links: list[tuple[str, str]] | None = None, where: str = "") -> Path:
    """An executed notebook as an HTML page; `links`: (href, text) of its head."""
    import nbformat
    from nbconvert import HTMLExporter

    from isrdpo.reports import html as show

    resources = {"metadata": {"name": title}, "style": show.style(), "policy": POLICY, "links": links or [], "where": where}
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(show.TEMPLATES)], sanitize_html=False, exclude_input_prompt=True,
                            exclude_output_prompt=True, exclude_anchor_links=True)  # fmt: skip
    body, _ = exporter.from_notebook_node(nbformat.read(notebook, as_version=4), resources)
    records.write_text(target, body)
    return target


def index(run: Run, state: str = "") -> Path:
    """report.html, summary.csv and figures/, from what is there. `state`: what is running, or why it stopped ("": how much is there is said)."""
    from isrdpo.reports import html as show
    from isrdpo.reports import plots, summary

    table, found = summary.write(run), summary.markers(run)
    panels = []
    if table["response_words"].notna().any():
        show.save(run.folder / "figures", "curves", plots.curves(table), table)
        for name, ((names, label, reference, top), said) in plots.CURVES.items():
            if table[list(names)].notna().any(axis=None):
                columns = ["iteration", *(f"{n}{end}" for n in names for end in ("", "_low", "_high"))]
                panels.append(_panel(run, name, plots.curve(table, names, label, reference, top), table[columns], said))
    cost = summary.cost(found)
    spent = _panel(run, "cost", plots.cost(cost), cost, "Seconds by stage and iteration.") if len(cost) else ""
    made = records.read_json(run.folder / "provenance.json")
    settings, done = run.params, {(m["stage"], m["iteration"]) for m in found if m["stage"] in STAGES} - {("data", 0)}
    grid = [(t, [(NOTEBOOKS[s], _link(run, page_of(run, s, t))) for s in STAGES if page_of(run, s, t).exists()]) for t in range(settings.iterations + 1)]
    html = show.render(
        "index.html.j2", policy=POLICY, name=run.folder.name, created=made["created"], command=made["command"], model=_model(run),
        trained=sum(stage == "train" for stage, _ in done), iterations=settings.iterations, seed=settings.seed, context=settings.respond.context,
        samples=_count(found, "respond") or _count(found, "judge"), questions=_count(found, "evaluate"), outcome=summary.outcome(run, table), panels=panels, spent=spent,
        state=state or f"{len(done)} of {1 + len(STAGES) * settings.iterations} stages are done.", running=bool(state), numbers=show.table(summary.figures(table, summary.SHOWN), "Figures by iteration, with 95 % intervals"),
        left=show.table(summary.left_out(found), "Samples left out, by reason"), grid=[entry for entry in grid if entry[1]],
        warnings=[f"{m['stage']}, iteration {m['iteration']}: {w}" for m in found for w in m["warnings"]],
        memory=max((m["peak_rss_mb"] for m in found), default=0), total=cost["seconds"].sum() if len(cost) else 0, provenance=_provenance(made),
        again=f"isrdpo run {display_path(run.folder / 'params.yaml')} run=outputs/again",
    )  # fmt: skip
    target = run.folder / "report.html"
    records.write_text(target, html.text)
    return target


def _panel(run: Run, name: str, made: Any, data: "pd.DataFrame", caption: str) -> Any:
    from isrdpo.reports import html as show

    show.save(run.folder / "figures", name, made, data)
    return show.render("figure.html.j2", drawn=show.svg(made, name, caption), caption=caption, name=name, csv=f"figures/{name}.csv", png=f"figures/{name}.png")


def _link(run: Run, path: Path) -> str:
    return path.relative_to(run.folder).as_posix()


def _count(found: list[dict], stage: str) -> int:
    """How many samples a stage had, by its first marker; 0 where there is none."""
    return next((m["total"] for m in found if m["stage"] == stage), 0)


def _model(run: Run) -> str:
    path = run.folder / "model.json"
    sizes = records.read_json(path) if path.exists() else None
    return run.params.model.path + (f" ({sizes['frames']} frames{' of ' + str(sizes['image_size']) + ' px' if sizes['image_size'] else ''})" if sizes else "")


def _provenance(made: dict) -> Any:
    import pandas as pd

    from isrdpo.reports import html as show

    rows = {k: v for k, v in made.items() if k not in ("packages", "later")} | {f"version of {k}": v for k, v in made["packages"].items() if v}
    rows |= {f"later: {entry['created']}": f"{entry['commit']}, {entry['platform']}" for entry in made.get("later", [])}
    return show.table(pd.DataFrame(rows.items(), columns=["what", "value"]).astype(str), "Provenance")


def indexed(run: Run) -> bool:
    """Whether report.html and summary.csv are younger than every stage and page."""
    tops = [run.folder / "report.html", run.folder / "summary.csv"]
    below = [*run.folder.glob("iter_*/.done/*.json"), *run.folder.glob("iter_*/reports/*.html")]
    newest = max((path.stat().st_mtime_ns for path in below), default=0)
    return all(path.exists() and path.stat().st_mtime_ns >= newest for path in tops)


def bundle(run: Run, target: Path) -> Path:
    """A zip of the index, the pages, their figures and CSVs, and the clips that they show, for somebody who has nothing else. Written whole
    or not at all. Raises RunError where the run has no index yet."""
    index_page = run.folder / "report.html"
    if not index_page.exists():
        raise RunError(f"{display_path(run.folder)}: no report.html yet; run a stage first")
    pages = [index_page, *sorted(run.folder.glob("iter_*/reports/*.html"))]
    wanted = [*pages, run.folder / "summary.csv", run.folder / "params.yaml", run.folder / "provenance.json",
              *sorted(run.folder.glob("figures/*.*")), *sorted(run.folder.glob("iter_*/figures/*.*"))]  # fmt: skip
    shown_clips = {unquote(name) for path in pages for name in re.findall(r'src="[^"]*?clips/([^"/]+)"', path.read_text(encoding="utf-8"))}
    wanted += [path for name in sorted(shown_clips) if (path := run.folder / "clips" / name).is_file()]
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in wanted:
                packed.write(path, Path(run.folder.name) / path.relative_to(run.folder))
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target
