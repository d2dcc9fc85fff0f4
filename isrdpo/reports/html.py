"""What notebooks display and pages keep: figures with their CSV, tables, checks, provenance; HTML through Jinja2, which escapes.

A figure is drawn inline as SVG whose letters take the color of the text around it, so it is right on light and on dark pages alike.
"""

import csv
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
from isrdpo.core.folders import project_root
from isrdpo.core.pipeline import dependencies
from isrdpo.core.runs import Run

TEMPLATES = Path(__file__).parent / "templates"


class Html:
    """A piece of HTML that a notebook shows and a template takes as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __html__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return re.sub(r"\s+", " ", Markup(self.text).striptags())[:200]


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined)


def render(template: str, **values: Any) -> Html:
    """A template of `templates/`; every text in `values` is escaped, every Html is not."""
    return Html(_environment().get_template(template).render(style=style(), **values))


@lru_cache(maxsize=1)
def style() -> Markup:
    return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - our own file


def href(page: Path, path: Path) -> str:
    """A link to a file from where it is shown: a notebook by hand in notebooks/, else a page in the folder `page`."""
    here = Path.cwd() if Path.cwd() == project_root() / "notebooks" else page
    return quote(os.path.relpath(path, here))


def svg(made: Figure, name: str, label: str) -> Markup:
    """A figure as inline SVG: black becomes the text's color, `label` its description, and its ids are its own (`name`)."""
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        made.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = re.sub(r"(?s)^.*?<svg[^>]*?viewBox", "<svg viewBox", out.getvalue()).replace("#000000", "currentColor")
    text = re.sub(r"(?s)<metadata>.*?</metadata>|\s*<!--.*?-->", "", re.sub(r'<g id="[^"]*"', "<g", text))
    opening = Markup('<svg role="img" aria-label="{}" fill="currentColor" style="max-width:{:.0f}px" viewBox').format(label, made.get_figwidth() * 100)
    return Markup(text.replace("<svg viewBox", opening, 1))  # noqa: S704 - matplotlib escapes what it draws


def save(folder: Path, name: str, made: Figure, data: pd.DataFrame) -> None:
    """<name>.png, and <name>.csv that it was drawn from."""
    text, picture = io.StringIO(), io.BytesIO()
    data.to_csv(text, index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    records.write_text(folder / f"{name}.csv", text.getvalue())
    made.savefig(picture, format="png", dpi=130, metadata={"Software": None})
    (folder / f"{name}.png").write_bytes(picture.getvalue())


def figure(run: Run, iteration: int, name: str, made: Figure, data: pd.DataFrame, caption: str) -> Html:
    """A figure with its caption and its CSV one click away; both files go to `iter_NN/figures/`."""
    return figure_in(run.iteration(iteration) / "figures", run.iteration(iteration) / "reports", name, made, data, caption)


def figure_in(folder: Path, page: Path, name: str, made: Figure, data: pd.DataFrame, caption: str) -> Html:
    """The same for any folder of figures, for a page in the folder `page`."""
    save(folder, name, made, data)
    return render("figure.html.j2", drawn=svg(made, f"{folder}{name}", caption), caption=caption,
                  csv=href(page, folder / f"{name}.csv"), png=href(page, folder / f"{name}.png"), name=name)  # fmt: skip


def row(*parts: Html | str, wide: bool = False, whole: bool = False) -> Html:
    """Figures side by side, as many as fit; `wide`: fewer; `whole`: one below the other."""
    return render("row.html.j2", parts=[part for part in parts if part], kind=" isr-whole" if whole else " isr-wide" if wide else "")


def stylesheet() -> Html:
    """For a notebook that shows no provenance."""
    return Html(f"<style>{style()}</style>")


def note(text: str) -> Html:
    """A sentence that was computed."""
    return render("note.html.j2", text=text)


def table(frame: pd.DataFrame, caption: str, words: bool = False) -> Html:
    """A table that scrolls by itself where it is too wide (or, of `words`, breaks its lines); floats with three digits, what is not known is empty."""
    whole = frame.select_dtypes("Int64").columns  # pandas writes <NA> there, whatever na_rep says
    text = frame.astype(dict.fromkeys(whole, object)).where(frame.notna(), float("nan")).to_html(index=False, border=0, na_rep="", float_format=lambda x: f"{x:.3f}", escape=True, justify="unset")
    return render("table.html.j2", table=Markup(text), caption=caption, empty=frame.empty, words=words)  # noqa: S704 - pandas has escaped it


def _facts(run: Run, stage: str) -> pd.DataFrame:
    found = records.read_json(run.folder / "provenance.json")
    rows = {k: v for k, v in found.items() if k not in ("packages", "later")} | {f"version of {k}": v for k, v in found["packages"].items() if v}
    return pd.DataFrame([*rows.items(), *dependencies(run.params, stage).items()], columns=["what", "value"]).astype(str)


def provenance(run: Run, stage: str) -> Html:
    """Versions, commit, and the resolved parameters that the stage dependencies on; folded. Brings the style for a notebook."""
    return render("provenance.html.j2", table=table(_facts(run, stage), f"Provenance of stage {stage}"))


def checks(*found: tuple[str, bool], warnings: Sequence[str] = ()) -> Html:
    """What was checked, as a table; raises AssertionError naming the first check that failed, after showing all."""
    made = render("checks.html.j2", checks=found, warnings=warnings)
    failed = [what for what, fine in found if not fine]
    if failed:
        from IPython.display import display

        display(made)
        raise AssertionError(failed[0])
    return made
