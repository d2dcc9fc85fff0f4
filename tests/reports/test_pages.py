"""Figures, tables and pages: true to the rows, open from disk, whole in a bundle, and said while a run goes on."""

import re
import zipfile
from collections.abc import Callable
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from isrdpo.core import records
from isrdpo.core.runs import Run
from isrdpo.reports import gallery, notebooks, pages, plots, summary
from isrdpo.reports import html as show
from isrdpo.reports import tables as report
from isrdpo.stages import data, evaluate, judge, look, respond, train

LINK = re.compile(r'\s(?:href|src|poster)="([^"]*)"')  # xlink:href points into its own figure


@pytest.fixture
def whole(make_run: Callable) -> Run:
    run = make_run("whole", "iterations=1", "judge.method=score")
    for stage in (data, respond, judge, look, train, evaluate):
        stage.run(run, 1)
    return run


def executed(run: Run, stage: str, *shown: show.Html) -> Path:
    """An executed notebook that displayed `shown`, and its page."""
    cell = nbformat.v4.new_code_cell("run", outputs=[nbformat.v4.new_output("execute_result", {"text/html": part.text}) for part in shown])
    path = pages.executed(run, stage, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A page"), cell]), path)
    return pages.page(run, stage, 1)


def drawn() -> Figure:
    return plots.lengths(pd.DataFrame({"words": [1, 2, 3], "what": "answers"}))


def test_every_plot_draws_nothing_little_and_much() -> None:
    rng = np.random.default_rng(0)
    for n in (0, 1, 80):
        words, yes = rng.integers(1, 30, n), rng.random(n) < 0.7
        made = [
            plots.lengths(pd.DataFrame({"words": words, "what": "answers"})),
            plots.length_bias(pd.DataFrame({"difference": words, "longer": yes, "truer": ["equally true"] * n})),
            plots.confidence(pd.DataFrame({"margin": rng.random(n), "verdict": ["right"] * n}), 1.0),
            plots.length_truth(pd.DataFrame({"words": words, "correct": yes, "what": ["base"] * n})),
            plots.bars(pd.DataFrame({"kind": [f"k{i}" for i in range(n)], "training": words}), "questions (count)"),
            plots.steps(pd.DataFrame({"step": range(n), "loss": rng.random(n)}), ["loss"], "loss", 0.69),
        ]
        for figure in made:
            assert figure.axes[0].get_xlabel() and show.svg(figure, "x", "label").startswith("<svg")


def test_one_color_a_thing_and_all_of_them_known() -> None:
    assert {v for v in plots.COLORS.values()} <= {plots.BLUE, plots.ORANGE, plots.GREEN, plots.PINK, plots.SKY, plots.YELLOW, plots.GRAY}
    assert set(plots.CURVES) <= set(plots.COLORS)


def test_a_figure_follows_the_page_and_says_what_it_is() -> None:
    text = show.svg(drawn(), "one", 'words "<here>"')
    assert "#000000" not in text and "currentColor" in text and 'role="img"' in text
    assert 'aria-label="words &#34;&lt;here&gt;&#34;"' in text
    other = show.svg(drawn(), "two", "x")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (text, other)]
    assert ids[0] and not ids[0] & ids[1], "two figures of a page share an id"


def test_a_figure_is_saved_with_its_numbers(whole: Run) -> None:
    rows = pd.DataFrame({"words": [1, 2], "what": ["answers", "answers"]})
    made = show.figure(whole, 1, "words", plots.lengths(rows), rows, "How long")
    folder = whole.iteration(1) / "figures"
    assert pd.read_csv(folder / "words.csv").equals(rows) and (folder / "words.png").read_bytes()[:4] == b"\x89PNG"
    assert 'href="../figures/words.csv"' in made.text and "How long" in made.text


def test_checks_show_all_and_fail_by_the_first(capsys: pytest.CaptureFixture) -> None:
    assert "✓" in show.checks(("fine", True)).text
    with pytest.raises(AssertionError, match="^the second$"):
        show.checks(("the first", True), ("the second", False), ("the third", False))


def test_what_is_not_known_is_an_empty_cell_and_a_figure_of_no_iteration_no_row() -> None:
    frame = pd.DataFrame({"n": pd.array([1, None], "Int64"), "x": [0.12345, None], "text": ["a", None], "yes": [True, False]})
    cells = re.findall("<td>(.*?)</td>", show.table(frame, "x").text)
    assert cells == ["1", "0.123", "a", "True", "", "", "", "False"]
    known = summary.figures(pd.DataFrame({"iteration": [0, 1], "accuracy": None, "response_words": [2.0, None], "seconds": [None, 3.0]}), ["accuracy", "response_words", "seconds"])
    assert known.to_numpy().tolist() == [["response_words", "2.00", ""], ["seconds", "", "3"]]


def test_tables_of_a_real_run_agree_with_its_rows(whole: Run) -> None:
    rng = np.random.default_rng(0)
    said = records.read_jsonl(whole.file(1, "judgments.jsonl"), records.Judgment)  # an untrained judge never agrees with itself
    scores = [[-1.0, -0.5], [-0.5, -1.0]]
    made = [records.Judgment(c.id, c.order, int(x := rng.random() < 0.5), "x", scores[0 if x else 1]) for c in said]
    records.write_jsonl(whole.file(1, "judgments.jsonl"), made)
    table = report.judged(whole, 1)
    bias = report.length_bias(table)
    assert set(bias["truer"]) <= {"the longer is truer", "the shorter is truer", "equally true"} and (bias["difference"] > 0).all()
    shares = report.judge_shares(report.judged_both(whole, 1)).set_index(["measure", "what"])
    assert shares.loc[("the longer is chosen", "with its description"), "share"] == pytest.approx(bias["longer"].mean())
    calls = records.read_jsonl(whole.file(1, "judgments.jsonl"), records.Judgment)
    first = [c.choice == c.order for c in calls if c.choice is not None]
    assert shares.loc[("the first shown is chosen", "with its description"), "share"] == pytest.approx(np.mean(first))
    both = [{c.choice for c in calls if c.id == i} for i in {c.id for c in calls}]
    assert shares.loc[("the two orders agree", "with its description"), "share"] == pytest.approx(np.mean([len(found) == 1 for found in both]))
    kept = summary.left_out(summary.markers(whole)).set_index("iteration").loc[1]
    assert kept["judged"] == kept[["kept", "ties", "empty", "disagreement", "undecided", "weak", "unparsed"]].sum()
    tables = report.compared(whole, 1)
    gained = report.gained_lost(tables).iloc[0]
    assert gained["change"] == pytest.approx((gained["gained"] - gained["lost"]) / gained["questions"])
    assert set(tables) == {"base", "now"} and report.length_truth(tables)["what"].value_counts().to_dict() == {"base": 6, "now": 6}


def test_repaired_and_broken(make_run: Callable) -> None:
    run = make_run("one")
    data.run(run, 1)
    sample = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[0]
    thing = sample.facts["scene"]["objects"][0]
    wrong = "large" if thing["size"] == "small" else "small"
    color = next(c for c in ("red", "green") if c != thing["color"])
    before, now = f"The {thing['shape']} is {wrong}.", f"The {thing['shape']} is {thing['size']}. The {thing['shape']} is {color}."
    records.write_jsonl(run.file(1, "contexts.jsonl"), [{"video": sample.video, "context": now, "previous_context": before}])
    row = report.contexts(run, 1).iloc[0]
    assert (row["repaired"], row["broken"], row["false"]) == (1, 1, 1) and 0 < row["similarity"] < 1
    records.write_jsonl(run.file(1, "contexts.jsonl"), [{"video": sample.video, "context": now, "previous_context": None}])
    assert report.contexts(run, 1).iloc[0][["similarity", "repaired", "broken"]].isna().all()


@pytest.mark.parametrize(("then", "now", "starts"), [
    ((0.5, 5), (0.9, 5), "Truer, and as long as before"), ((0.5, 5), (0.9, 20), "Truer, but wordier"), ((0.5, 20), (0.9, 5), "Truer, and terser"),
    ((0.5, 5), (0.5, 20), "Not measurably truer, but wordier"), ((0.9, 5), (0.5, 20), "Less true, and wordier"), ((0.9, 20), (0.5, 5), "Less true, but terser"),
])  # fmt: skip
def test_the_outcome_is_what_the_rows_say(make_run: Callable, then: tuple, now: tuple, starts: str) -> None:
    run, rows = make_run("one"), []
    data.run(run, 1)
    for t, (right, words) in enumerate((then, now)):
        truth = [{"correct": n < right * 100, "claims": 1, "false": 0, "uncheckable": 0, "by_kind": {}} for n in range(100)]
        answers = [records.Answer(str(n), "q", "k", "r", "x " * words, words + n % 2, found) for n, found in enumerate(truth)]
        records.write_jsonl(run.file(t, "answers.jsonl"), answers)
        figures = {"accuracy": right, "hallucination": 0.1, "false_claims": 0.2, "response_words": words, "scorer": "facts"}
        rows.append({"iteration": t} | figures)
    assert summary.outcome(run, pd.DataFrame(rows)).startswith(f"{starts}, after 1 iteration: accuracy")
    assert summary.outcome(run, pd.DataFrame(rows[:1])) == "No policy has been trained and evaluated yet."
    assert summary.outcome(make_run("none", "iterations=0"), pd.DataFrame(rows[:1])).startswith(f"Nothing was trained: the model as it is. {then[0]:.0%} of its answers are right, as the facts say;")


def test_an_outcome_without_truth_speaks_of_words_only(make_run: Callable) -> None:
    run = make_run("one")
    data.run(run, 1)
    for t, words in enumerate((5, 20)):
        records.write_jsonl(run.file(t, "answers.jsonl"), [records.Answer(str(n), "q", "k", "r", "x", words + n % 2, None) for n in range(50)])
    said = summary.outcome(run, pd.DataFrame([{"iteration": t, "response_words": 1.0} for t in (0, 1)]))
    assert said.startswith("Wordier after 1 iteration") and said.endswith("is not known.") and "accuracy" not in said


def test_pages_hold_no_script_and_ask_for_nothing(whole: Run) -> None:
    cards = [gallery.contexts(whole, 1), gallery.verdicts(whole, 1), gallery.answers(whole, 1), gallery.clips(whole, 1), gallery.heat_maps(whole, 1)]
    made = [executed(whole, "judge", *cards, show.provenance(whole, "judge")), pages.index(whole)]
    for path in made:
        text = path.read_text()
        assert "<script" not in text.lower() and "default-src 'none'" in unescape(text) and not re.search(r"\bon\w+=\"", text)
        for link in LINK.findall(text):
            assert link[0] == "#" or not urlsplit(link).scheme or link.startswith("data:image/"), link[:80]
    assert sum(link.startswith("../../clips/") for link in LINK.findall(made[0].read_text())) >= 8
    assert len(made[1].read_bytes()) < 2_000_000 and len(made[0].read_bytes()) < 10_000_000


def test_an_index_of_hostile_names(whole: Run) -> None:
    marker = records.read_json(whole.marker_path("train", 1))
    records.write_json(whole.marker_path("train", 1), marker | {"warnings": ["<script>alert(1)</script>"]})
    made = records.read_json(whole.folder / "provenance.json")
    records.write_json(whole.folder / "provenance.json", made | {"command": "isrdpo run '<img src=x>'"})
    text = pages.index(whole, "Running: <b>").read_text()
    assert "<script>" not in text and "<img src=x>" not in text and "Running: &lt;b&gt;" in text


def test_a_bundle_holds_all_that_its_pages_ask_for(whole: Run, tmp_path: Path) -> None:
    rows = pd.DataFrame({"words": [1, 2], "what": ["answers", "answers"]})
    executed(whole, "judge", gallery.verdicts(whole, 1), show.figure(whole, 1, "words", plots.lengths(rows), rows, "x"))
    pages.index(whole)
    target = pages.bundle(whole, tmp_path / "new" / "x.zip")
    with zipfile.ZipFile(target) as packed:
        packed.extractall(tmp_path / "there")
    folder = tmp_path / "there" / "whole"
    found = [folder / "report.html", *folder.glob("iter_*/reports/*.html")]
    assert len(found) == 2
    for page in found:
        for link in LINK.findall(page.read_text()):
            assert link.startswith("data:") or (page.parent / unquote(link)).is_file(), link[:80]
    assert not list(folder.glob("iter_*/*.jsonl")) and list((folder / "clips").iterdir())


def test_a_bundle_of_nothing_says_so(make_run: Callable, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no report\.html yet"):
        pages.bundle(make_run("one"), tmp_path / "x.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_a_copied_run_is_reported_without_its_clips(whole: Run, tmp_path: Path) -> None:
    """As from a cluster: another place, no clips beside it."""
    import shutil

    copied = tmp_path / "elsewhere" / "whole"
    shutil.copytree(whole.folder, copied)
    run = Run.open(copied)
    assert "not at hand" in gallery.verdicts(run, 1).text and "not at hand" in gallery.heat_maps(run, 1).text
    assert pages.index(run).read_text().count("<svg") == pages.index(whole).read_text().count("<svg") > 3


def test_how_far_a_stage_is(make_run: Callable) -> None:
    run = make_run("one")
    data.run(run, 1)
    assert notebooks.progressed(run, "respond", 1) == (0, 6) and notebooks.progressed(run, "data", 1) == (0, 0)
    respond.run(run, 1)
    assert notebooks.progressed(run, "respond", 1) == (6, 6)
    records.write_text(run.file(1, ".responses.jsonl.journal"), "4 1\n")
    assert notebooks.progressed(run, "respond", 1) == (4, 6) and notebooks._within(run, "respond", 1, 60.0) == "about 0:30 left"


def test_how_long_the_rest_takes(whole: Run) -> None:
    watch = notebooks.Clock(whole)
    watch.took = {"judge": 10.0, "train": 20.0}
    assert watch.left([("judge", 2), ("train", 2), ("judge", 3)]) == 40 and watch.left([("respond", 2)]) is None
    assert [notebooks.format_duration(s) for s in (5, 65.4, 3671)] == ["0:05", "1:05", "1:01:11"]


def test_the_index_says_how_much_is_there(make_run: Callable) -> None:
    run = make_run("one", "iterations=2")
    assert "0 of 11 stages are done." in pages.index(run).read_text()
    data.run(run, 1)
    assert "1 of 11 stages are done." in pages.index(run).read_text()
    assert 'class="state"' in pages.index(run, "Running: step 2").read_text()
