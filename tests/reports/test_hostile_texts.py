"""Texts that try to be something else on a page: HTML, scripts, links, styles, templates, terminal codes.

They stand in every text of a run, in its folder's name and its arm. The notebooks' own cells then make their
pages, and a parser of HTML says what is in them.
"""

import ast
import os
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest

from isrdpo.core import params, records
from isrdpo.core.pipeline import NOTEBOOKS
from isrdpo.core.runs import Run
from isrdpo.reports import html, pages
from tests.conftest import PRESET, TINY

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
HOSTILE_NAME = 'run"><img src=x onerror=alert(0)> {{ 7*7 }} <svg onload=alert(0)>'
HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(2)>'",
    "<svg/onload=alert(3)><animate onbegin=alert(3)></svg>",
    "</style></title></textarea><iframe srcdoc='<script>alert(4)</script>'>",
    "[link](javascript:alert(5)) ![picture](https://example.org/5.png) <https://example.org/5>",
    "javascript:alert(6) data:text/html,<script>alert(6)</script>",
    "</td></tr></table><style>@import 'https://a.org/7.css'; body{background:url(//a.org)}</style>",
    "{{ 7*7 }} {% raw %} ${7*7} {{ cycler.__init__.__globals__ }} #{7*7}",
    "\u202egnp.8\u2066 \u200bhidden\u2069",
    "\x1b[31mred\x1b[0m \x1b]8;;https://example.org/9\x1b\\link\x1b]8;;\x1b\\",
    "&lt;script&gt;alert(10)&lt;/script&gt; &#60;b&#62;",
    "<math><mtext></mtext><a xlink:href='javascript:alert(11)'>x</a></math> $\\frac{1}{$ $x$ _^",
    "<meta http-equiv=refresh content='0;url=https://example.org/12'><base href=https://example.org/12/>",
    "<form action=https://example.org/13><input autofocus onfocus=alert(13)></form><!-- ]]> -->",
)
TEXT_FIELDS = {
    "samples.jsonl": ("question", "answer", "kind", "caption"),
    "contexts.jsonl": ("context",),
    "responses.jsonl": ("context",),
    "judgments.jsonl": ("reply",),
    "preferences.jsonl": ("question", "chosen", "rejected"),
    "answers.jsonl": ("question", "kind", "reference", "response"),
}
FORBIDDEN = {
    "script",
    "iframe",
    "object",
    "embed",
    "base",
    "form",
    "input",
    "frame",
    "applet",
    "animate",
    "math",
}
LINKS = {"href", "src", "xlink:href", "poster", "action", "srcset", "data", "formaction", "background"}
ALLOWED_LINKS = (
    "#",
    "../../",
    "../",
    "iter_",
    "figures/",
    "data:image/png;",
    "data:image/jpeg;",
    "data:image/webp;",
    "summary.csv",
    "params.yaml",
    "clips/",
)


class Page(HTMLParser):
    """What a browser would find in a page: its elements with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text += data

    def problems(self) -> Iterator[str]:
        """A line for each thing that runs, loads or leads elsewhere."""
        for tag, attributes in self.elements:
            if tag in FORBIDDEN or (tag == "meta" and attributes.get("http-equiv", "").lower() == "refresh"):
                yield f"<{tag} {attributes}>"
            for name, value in attributes.items():
                if name.startswith("on") or (name in LINKS and not value.startswith(ALLOWED_LINKS)):
                    yield f"<{tag} {name}={value[:80]!r}>"
                if name == "style" and ("url(" in value or "expression" in value or "@import" in value):
                    yield f"<{tag} style={value[:80]!r}>"


def hostile_text(number: int) -> str:
    """One of the texts, by turns, with its number, so that no two rows are alike."""
    return f"{number} {HOSTILE[number % len(HOSTILE)]}"


def make_hostile(run: Run) -> None:
    """Put a hostile text into every field of every row that is a text."""
    number = 0
    for t in (0, 1):
        for name, fields in TEXT_FIELDS.items():
            path = run.file(t, name)
            if not path.exists():
                continue
            rows = records.read_jsonl(path, dict)
            for row in rows:
                for field in fields:
                    row[field] = hostile_text(number)
                    number += 1
                if "responses" in row:
                    row["responses"] = [hostile_text(number), hostile_text(number + 1)]
                    number += 2
            records.write_jsonl(path, rows)
        bad = [{"id": text, "cause": text, "detail": text} for text in HOSTILE]
        records.write_jsonl(run.file(t, "bad_data.jsonl"), bad)
        for stage in ("data", "judge", "train", "evaluate", "respond"):
            path = run.marker_path(stage, t)
            if path.exists():
                records.write_json(path, records.read_json(path) | {"warnings": list(HOSTILE)})


def displayed_by(notebook: Path, values: dict[str, Any]) -> list[html.Html]:
    """What the cells of a notebook display, run in this process: each one's last expression."""
    names: dict[str, Any] = {}
    pieces = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, notebook.name, "exec"), names)
        if last:
            piece = eval(compile(ast.Expression(last.value), notebook.name, "eval"), names)  # noqa: S307
            pieces += [piece] if piece is not None else []
        if "parameters" in cell.metadata.get("tags", []):
            names |= values
    return pieces


def write_page(run: Run, stage: str, t: int) -> Path:
    """The page of a notebook whose cells ran in this process and printed hostile texts, too."""
    values = {"run_dir": str(run.folder), "iteration": t}
    write_executed(NOTEBOOKS[stage], values, pages.executed_notebook(run, stage, t))
    return pages.write_page(run, stage, t)


def write_comparison(run: Run) -> Path:
    """The page that compares a run with itself."""
    folder = run.folder / "comparison"
    notebook = folder / "06_comparison.ipynb"
    write_executed("06_comparison", {"runs": [str(run.folder)], "out": str(folder)}, notebook)
    return pages.convert_notebook(notebook, folder / "comparison.html", HOSTILE[0])


def write_executed(title: str, values: dict[str, Any], path: Path) -> None:
    """Run a notebook's cells in this process, and write it with what they display."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = displayed_by(ROOT / "notebooks" / f"{title}.ipynb", values)
    outputs = [nbformat.v4.new_output("execute_result", {"text/html": piece.text}) for piece in pieces]
    outputs.append(nbformat.v4.new_output("stream", text="\n".join(HOSTILE)))
    cells = [nbformat.v4.new_code_cell("\n".join(HOSTILE), outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.fixture(scope="module")
def hostile_pages(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every page of a run of one iteration in which all texts are hostile."""
    from isrdpo.stages import data, evaluate, judge, look, respond, train

    folder = tmp_path_factory.mktemp("hostile") / HOSTILE_NAME
    settings = ("iterations=1", "judge.method=score", f"arm={HOSTILE[0]}")
    where = (f"run={folder}", f"model.path={random_base}")
    run = Run.create(params.load(PRESET, [*where, *TINY, *settings]))
    for stage in (data, respond, judge, look, train):
        stage.run(run, 1)
    for t in (0, 1):
        evaluate.run(run, t)
    make_hostile(run)
    paths = [write_page(run, "evaluate", 0)]
    paths += [write_page(run, stage, 1) for stage in NOTEBOOKS]
    paths.append(write_comparison(run))
    return [*paths, pages.write_index(run, f"Stopped: {HOSTILE[0]} {HOSTILE[1]}")]


def test_hostile_texts_stay_texts_on_every_page(hostile_pages: list[Path]) -> None:
    assert len(hostile_pages) == 8
    text = ""
    for path in hostile_pages:
        page = Page(path)
        assert list(page.problems()) == [], path.name
        assert "{{ 7*7 }}" in page.text, path.name
        text += page.text
    for words in HOSTILE:
        assert words.split()[0].replace("\x1b[31m", "") in text, words


def test_a_browser_runs_nothing_of_them_and_asks_for_nothing(hostile_pages: list[Path]) -> None:
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium, or CHROMIUM=/path)")
    from playwright.sync_api import sync_playwright

    requests: list[str] = []
    complaints: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        for path in hostile_pages:
            page = chromium.new_page()
            page.on("dialog", lambda dialog: complaints.append(dialog.message))
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda request: requests.append(request.url))
            page.goto(path.as_uri(), wait_until="load")
            page.wait_for_timeout(200)
            assert page.url == path.as_uri(), "the page led elsewhere"
            page.close()
        chromium.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:///", "data:"))] == []
