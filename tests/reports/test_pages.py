"""Figures, tables and pages: true to the rows, whole in a bundle, readable from disk, and up to date while
a run goes on.
"""

import os
import re
import shutil
import zipfile
from collections.abc import Callable
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.progress import format_duration, format_time_left
from isrdpo.core.runs import Run
from isrdpo.reports import gallery, html, looks, notebooks, pages, plots
from isrdpo.stages import data, respond

LINK = re.compile(r'\s(?:href|src|poster)="([^"]*)"')  # xlink:href points into its own figure
ANSWER_WORDS = pd.DataFrame({"words": [1, 2], "what": ["answers", "answers"]})


def write_executed(run: Run, stage: str, *outputs: nbformat.NotebookNode) -> Path:
    """Write an executed notebook that displayed `outputs`, and its page; returns the page."""
    cell = nbformat.v4.new_code_cell("run", outputs=list(outputs))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A page"), cell])
    path = pages.executed_notebook(run, stage, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return pages.write_page(run, stage, 1)


def displayed(*pieces: html.Html) -> list[nbformat.NotebookNode]:
    """The outputs of a cell that displays these pieces."""
    return [nbformat.v4.new_output("execute_result", {"text/html": piece.text}) for piece in pieces]


def test_pages_hold_no_script_and_ask_for_nothing(whole_run: Run) -> None:
    pieces = [
        gallery.contexts(whole_run, 1),
        gallery.verdicts(whole_run, 1),
        gallery.answers(whole_run, 1),
        gallery.clips(whole_run, 1),
        looks.heat_maps(whole_run, 1),
        html.provenance(whole_run, "judge"),
    ]
    page = write_executed(whole_run, "judge", *displayed(*pieces))
    index = pages.write_index(whole_run)
    for path in (page, index):
        text = path.read_text()
        assert "<script" not in text.lower()
        assert "default-src 'none'" in unescape(text)
        assert not re.search(r"\bon\w+=\"", text)
        for link in LINK.findall(text):
            assert link[0] == "#" or not urlsplit(link).scheme or link.startswith("data:image/"), link[:80]
    assert sum(link.startswith("../../clips/") for link in LINK.findall(page.read_text())) >= 8
    assert len(index.read_bytes()) < 2_000_000
    assert len(page.read_bytes()) < 10_000_000


def test_an_index_of_hostile_names(whole_run: Run) -> None:
    marker_path = whole_run.marker_path("train", 1)
    marker = records.read_json(marker_path)
    records.write_json(marker_path, marker | {"warnings": ["<script>alert(1)</script>"]})
    provenance_path = whole_run.folder / "provenance.json"
    provenance = records.read_json(provenance_path)
    records.write_json(provenance_path, provenance | {"command": "isrdpo run '<img src=x>'"})
    text = pages.write_index(whole_run, "Running: <b>").read_text()
    assert "<script>" not in text
    assert "<img src=x>" not in text
    assert "Running: &lt;b&gt;" in text


def test_a_page_escapes_text_and_keeps_html(make_run: Callable) -> None:
    """Only what is HTML already (a piece of ours, Markdown, terminal colors) gets into a page as it is."""
    run = make_run("one")
    nasty = "<script>alert(1)</script>"
    outputs = [
        nbformat.v4.new_output("stream", text=f"\x1b[31m{nasty}\x1b[0m"),
        nbformat.v4.new_output("execute_result", {"text/plain": nasty}),
        *displayed(html.note("kept & whole")),
    ]
    page = write_executed(run, "judge", *outputs)
    title = pages.convert_notebook(
        pages.executed_notebook(run, "judge", 1), page.with_name("title.html"), nasty, [("x", nasty)], nasty
    )
    for path in (page, title):
        text = path.read_text()
        assert "<script" not in text
        assert "<h1" in text
        assert '<p class="isr isr-note">kept &amp; whole</p>' in text
        assert 'class="ansi-red-fg"' in text
    assert page.read_text().count("&lt;script&gt;") == 2
    assert title.read_text().count("&lt;script&gt;") == 5


def test_a_bundle_holds_all_that_its_pages_ask_for(whole_run: Run, tmp_path: Path) -> None:
    figure = html.figure(whole_run, 1, "words", plots.lengths(ANSWER_WORDS), ANSWER_WORDS, "x")
    write_executed(whole_run, "judge", *displayed(gallery.verdicts(whole_run, 1), figure))
    pages.write_index(whole_run)
    target = pages.write_bundle(whole_run, tmp_path / "new" / "x.zip")
    assert [path.name for path in target.parent.iterdir()] == ["x.zip"]
    with zipfile.ZipFile(target) as archive:
        archive.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / "whole"
    unpacked = [folder / "report.html", *folder.glob("iter_*/reports/*.html")]
    assert len(unpacked) == 2
    for page in unpacked:
        for link in LINK.findall(page.read_text()):
            assert link.startswith("data:") or (page.parent / unquote(link)).is_file(), link[:80]
    assert not list(folder.glob("iter_*/*.jsonl"))
    assert list((folder / "clips").iterdir())


def test_a_bundle_of_nothing_says_so(make_run: Callable, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no report\.html yet"):
        pages.write_bundle(make_run("one"), tmp_path / "x.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_a_copied_run_is_reported_without_its_clips(whole_run: Run, tmp_path: Path) -> None:
    """As from a cluster: another place, no clips beside it."""
    copy = tmp_path / "elsewhere" / "whole"
    shutil.copytree(whole_run.folder, copy)
    run = Run.open(copy)
    assert "not at hand" in gallery.verdicts(run, 1).text
    assert "not at hand" in looks.heat_maps(run, 1).text
    figures = pages.write_index(run).read_text().count("<svg")
    assert figures == pages.write_index(whole_run).read_text().count("<svg") > 3


def test_the_progress_of_a_stage_is_read_from_its_journals(make_run: Callable) -> None:
    run = make_run("one")
    data.run(run, 1)
    assert notebooks.count_batches(run, "respond", 1) == (0, 6)
    assert notebooks.count_batches(run, "data", 1) == (0, 0)
    respond.run(run, 1)
    assert notebooks.count_batches(run, "respond", 1) == (6, 6)
    records.write_text(run.file(1, ".responses.jsonl.journal"), "4 1\n")
    assert notebooks.count_batches(run, "respond", 1) == (4, 6)
    assert format_time_left(60.0, *notebooks.count_batches(run, "respond", 1)) == "about 0:30 left"


def test_how_long_the_rest_takes(whole_run: Run) -> None:
    clock = notebooks.Clock(whole_run)
    assert set(clock.took) >= {"data", "respond", "judge", "train", "evaluate"}
    clock.took = {"judge": 10.0, "train": 20.0}
    assert clock.left([("judge", 2), ("train", 2), ("judge", 3)]) == 40
    assert clock.left([("respond", 2)]) is None
    assert [format_duration(seconds) for seconds in (5, 65.4, 3671)] == ["0:05", "1:05", "1:01:11"]


def test_the_index_says_how_much_is_there(make_run: Callable) -> None:
    run = make_run("one", "iterations=2")
    assert "0 of 11 stages are done." in pages.write_index(run).read_text()
    data.run(run, 1)
    assert "1 of 11 stages are done." in pages.write_index(run).read_text()
    assert 'class="state"' in pages.write_index(run, "Running: step 2").read_text()


def test_a_notebook_runs_in_an_environment_of_its_own(
    make_run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel draws figures into files; the process that started it keeps its own environment."""
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    environment = dict(os.environ)
    run = make_run("one")
    notebooks.update_page(run, "data", 1)
    assert dict(os.environ) == environment
    assert not notebooks.is_outdated(run, "data", 1)
    assert not list(run.iteration(1).glob("notebooks/*.running.ipynb"))
