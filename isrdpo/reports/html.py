"""HTML pieces that notebooks display and pages keep: figures with their CSV, tables, checks, provenance.

Who escapes what: Jinja2 escapes every text that a template of ours shows; pandas escapes the cells of
tables; matplotlib escapes the letters in a figure. A piece of HTML is an `Html` or a `Markup`, and Jinja2
takes only these as they are.

A figure is drawn inline as SVG whose letters take the color of the text around it, so it suits light and
dark pages alike.
"""

import io
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from isrdpo.core import records
from isrdpo.core.folders import atomic_file, project_root
from isrdpo.core.pipeline import dependencies
from isrdpo.core.provenance import read as read_provenance
from isrdpo.core.runs import Run
from isrdpo.reports.panels import save

TEMPLATES = Path(__file__).parent / "templates"
PIXELS_PER_INCH = 100  # an inline figure is at most this wide for each inch it was drawn at


class Html:
    """A piece of HTML that a notebook displays and a template takes as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __html__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """The piece as Jupyter shows it, which would read what stands between two `$` as a formula."""
        return f'<div class="tex2jax_ignore mathjax_ignore">{self.text}</div>'

    def __repr__(self) -> str:
        words = Markup(self.text).striptags()
        return re.sub(r"\s+", " ", words)[:200]


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined)


def render(template: str, **values: Any) -> Html:
    """Fill a template of `templates/`.

    Every text in `values` is escaped; every Html and Markup is taken as it is.
    """
    return Html(_environment().get_template(template).render(style=style(), **values))


@lru_cache(maxsize=1)
def style() -> Markup:
    """The style sheet that all pieces share."""
    return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - our own file


def stylesheet() -> Html:
    """The style sheet as a piece of its own, for a notebook that shows no provenance."""
    return Html(f"<style>{style()}</style>")


def href(page: Path, path: Path) -> str:
    """A link to the file `path` from a page in the folder `page`.

    A kernel that a person starts in notebooks/ displays its pieces there, so from there the link counts
    from notebooks/.
    """
    notebooks = project_root() / "notebooks"
    start = notebooks if Path.cwd() == notebooks else page
    return quote(os.path.relpath(path, start))


def svg(drawing: Figure, name: str, label: str) -> Markup:
    """A figure as inline SVG.

    `label` describes it to a screen reader; `name` sets its ids apart from another figure's.
    """
    text = _draw_svg(drawing, name)
    text = _without_file_header(text)
    text = _follow_text_color(text)
    text = _without_group_ids(text)
    text = _without_remarks(text)
    return _describe(text, label, drawing.get_figwidth())


def _draw_svg(drawing: Figure, name: str) -> str:
    """SVG with text as text, so that it can be selected, read aloud and colored; ids are digests that begin
    with `name`.
    """
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        save(drawing, out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _without_file_header(text: str) -> str:
    """Cut the XML declaration and the size in points: inside a page the style sheet says how wide a figure
    is.
    """
    return re.sub(r"(?s)^.*?<svg[^>]*?viewBox", "<svg viewBox", text)


def _follow_text_color(text: str) -> str:
    """Let black follow the color of the text around the figure, which is light on a dark page.

    Only inside tags: a label may be called "#000000", too.
    """
    return re.sub(r"<[^>]*>", lambda tag: tag[0].replace("#000000", "currentColor"), text)


def _without_group_ids(text: str) -> str:
    """Drop ids such as `axes_1`, which every figure of a page would have."""
    return re.sub(r'<g id="[^"]*"', "<g", text)


def _without_remarks(text: str) -> str:
    """Drop metadata and comments, which no browser shows."""
    return re.sub(r"(?s)<metadata>.*?</metadata>|\s*<!--.*?-->", "", text)


def _describe(text: str, label: str, inches: float) -> Markup:
    """Give the figure its description and its greatest width."""
    opening = Markup('<svg role="img" aria-label="{}" fill="currentColor" style="max-width:{:.0f}px" viewBox')
    opening = opening.format(label, inches * PIXELS_PER_INCH)
    return Markup(text.replace("<svg viewBox", opening, 1))  # noqa: S704 - matplotlib escapes what it draws


def save_figure(folder: Path, name: str, drawing: Figure, data: pd.DataFrame) -> None:
    """Write <name>.png, and beside it <name>.csv that it was drawn from."""
    records.write_csv(folder / f"{name}.csv", data)
    with atomic_file(folder / f"{name}.png") as part:
        save(drawing, part, format="png", dpi=130, metadata={"Software": None})


def embed_figure(drawing: Markup, name: str, caption: str, csv: str, png: str) -> Html:
    """An SVG with its caption, and with links to its numbers (`csv`) and its picture (`png`)."""
    return render("figure.html.j2", drawing=drawing, caption=caption, csv=csv, png=png, name=name)


def figure(run: Run, iteration: int, name: str, drawing: Figure, data: pd.DataFrame, caption: str) -> Html:
    """A figure of an iteration, with its CSV one click away. Both files go to `iter_NN/figures/`."""
    folder = run.iteration(iteration)
    return figure_in(folder / "figures", folder / "reports", name, drawing, data, caption)


def figure_in(folder: Path, page: Path, name: str, drawing: Figure, data: pd.DataFrame, caption: str) -> Html:
    """The same, with the files in any `folder`, for a page in the folder `page`."""
    save_figure(folder, name, drawing, data)
    csv = href(page, folder / f"{name}.csv")
    png = href(page, folder / f"{name}.png")
    return embed_figure(svg(drawing, f"{folder}{name}", caption), name, caption, csv, png)


def row(*parts: Html | str, wide: bool = False, whole: bool = False) -> Html:
    """Pieces side by side, as many as fit.

    `wide`: fewer of them; `whole`: one below the other. Empty parts are left out.
    """
    kind = ""
    if whole:
        kind = " isr-whole"
    elif wide:
        kind = " isr-wide"
    return render("row.html.j2", parts=[part for part in parts if part], kind=kind)


def note(text: str) -> Html:
    """A sentence that was computed, as a paragraph."""
    return render("note.html.j2", text=text)


def table(frame: pd.DataFrame, caption: str, words: bool = False) -> Html:
    """A table with its caption. Floats have three digits, and what is missing is an empty cell.

    It scrolls by itself where it is wider than the page; a table of `words` breaks its lines instead.
    """
    cells = _cells_as_html(_missing_as_nan(_integers_as_objects(frame)))
    return render("table.html.j2", table=cells, caption=caption, empty=frame.empty, words=words)


def _integers_as_objects(frame: pd.DataFrame) -> pd.DataFrame:
    """Nullable integers as plain objects: pandas would write <NA> for a missing one, whatever `na_rep`
    says.
    """
    columns = frame.select_dtypes("Int64").columns
    return frame.astype(dict.fromkeys(columns, object))


def _missing_as_nan(frame: pd.DataFrame) -> pd.DataFrame:
    """None and <NA> as NaN: only for NaN does pandas write `na_rep` in a column of objects."""
    return frame.where(frame.notna(), float("nan"))


def _cells_as_html(frame: pd.DataFrame) -> Markup:
    """The rows as HTML. Here it is pandas that escapes the texts, headers and cells alike."""
    text = frame.to_html(
        index=False,
        border=0,
        na_rep="",
        float_format=lambda number: f"{number:.3f}",
        escape=True,
        justify="unset",
    )
    return Markup(text)  # noqa: S704 - escaped by pandas


def provenance_frame(record: dict[str, Any], more: dict[str, Any]) -> pd.DataFrame:
    """A record of provenance.json as rows (what, value): its facts, the versions of packages, where the run
    went on later, `more`.
    """
    rows = {name: value for name, value in record.items() if name not in ("packages", "later")}
    rows |= {f"version of {name}": version for name, version in record["packages"].items() if version}
    for entry in record.get("later", []):
        rows[f"later: {entry['created']}"] = f"{entry['commit']}, {entry['platform']}"
    rows |= more
    return pd.DataFrame(rows.items(), columns=["what", "value"]).astype(str)


def provenance(run: Run, stage: str) -> Html:
    """Versions, commit, and the parameters that the stage's rows depend on, folded.

    Brings the style sheet for a notebook.
    """
    record = read_provenance(run.folder / "provenance.json")
    facts = provenance_frame(record, dependencies(run.params, stage))
    return render("provenance.html.j2", table=table(facts, f"Provenance of stage {stage}"))


def checks(*results: tuple[str, bool], warnings: Sequence[str] = ()) -> Html:
    """A list of checks, each a sentence and whether it holds, and of a stage's warnings.

    Raises AssertionError with the first sentence that does not hold, after displaying the whole list.
    """
    listing = render("checks.html.j2", checks=results, warnings=warnings)
    failures = [sentence for sentence, holds in results if not holds]
    if failures:
        from IPython.display import display

        display(listing)
        raise AssertionError(failures[0])
    return listing
