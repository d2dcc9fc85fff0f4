"""Examples and their cards: chosen as the page says, whole, escaped, with their clips."""

import itertools
import os
import re
from collections.abc import Callable
from html import unescape

import numpy as np
import pandas as pd
import pytest

from isrdpo.core import records
from isrdpo.core.runs import Run
from isrdpo.reports import gallery, html
from isrdpo.reports.cards import Card, CardText, Word, mark_text, render_cards
from isrdpo.reports.clip_views import ClipView, frames_seen, view_clip
from isrdpo.toybox import world

SCENE = {
    "scene": {
        "background": "white",
        "axis": "horizontal",
        "objects": [
            {"shape": "circle", "color": "red", "size": "small", "motion": "left"},
            {"shape": "square", "color": "blue", "size": "large", "motion": "still"},
        ],
    }
}
NASTY = '<script>alert(1)</script> "><img src=x onerror=alert(2)> {{ 7*7 }} &amp; <ins>'


def rules_of(score: pd.Series) -> list[gallery.Rule]:
    return [("most", score), ("least", -score)]


def words_of(text: CardText) -> list[Word]:
    return list(itertools.chain.from_iterable(sentence.words for sentence in text.sentences))


def write_clip(run: Run) -> str:
    """One clip of the toy world in the run's folder of videos; returns its name."""
    difficulty = world.Difficulty()
    scene = next(world.scenes("base", 5, difficulty))
    (name,) = world.write_clips([scene], 5, difficulty, run.videos_folder())
    return name


@pytest.mark.parametrize("seed", range(3))
def test_examples_are_chosen_by_rank_then_at_random_and_none_twice(seed: int) -> None:
    score = pd.Series(np.random.default_rng(seed).normal(size=40))
    examples = gallery.choose(score.index, rules_of(score), 3, seed)
    assert len({index for _, index in examples}) == len(examples) == 9
    best = score.sort_values(ascending=False).index[:3].tolist()
    assert [index for why, index in examples if why == "most"] == best
    assert examples == gallery.choose(score.index, rules_of(score), 3, seed)
    assert examples[6:] != gallery.choose(score.index, rules_of(score), 3, seed + 1)[6:]


def test_nothing_is_chosen_for_a_reason_that_does_not_hold() -> None:
    rules = [("most", pd.Series([0.0, -1.0, None]))]
    assert [why for why, _ in gallery.choose(pd.RangeIndex(3), rules, 2, 0)] == ["random", "random"]
    assert gallery.choose(pd.RangeIndex(0), [("most", pd.Series(dtype=float))], 2, 0) == []


@pytest.mark.parametrize(
    "text", ["The circle is red. The square is still!", "one", "", "  a\n b.  c? ", NASTY]
)
def test_a_text_stays_whole(text: str) -> None:
    for other in (None, "The circle is blue.", ""):
        card_text = mark_text("x", text, SCENE, other)
        assert [word.text for word in words_of(card_text)] == text.split()
        assert card_text.word_count == len(text.split())
        phrases = itertools.chain.from_iterable(sentence.phrases for sentence in card_text.sentences)
        assert " ".join(phrase.text for phrase in phrases).split() == text.split()


def test_changed_words_are_new_on_both_sides() -> None:
    before = "The circle is blue. It moves left."
    now = "The circle is red. It moves left."
    for text, other, changed in ((before, now, "blue."), (now, before, "red.")):
        words = words_of(mark_text("x", text, None, other))
        assert [word.text for word in words if word.is_new] == [changed]


def test_neighbors_are_one_phrase() -> None:
    (sentence,) = mark_text("x", "a b c d", None, "a d").sentences
    assert sentence.phrases == [Word("a", False), Word("b c", True), Word("d", False)]


def test_every_sentence_has_its_marks_also_where_a_claim_is_repeated() -> None:
    text = "The circle is red. The circle is large. The circle is red. The star is red. Nonsense."
    sentences = mark_text("x", text, SCENE).sentences
    verdicts = [[mark.verdict for mark in sentence.marks] for sentence in sentences]
    assert verdicts[:3] == [["true"], ["false"], ["true"]]
    assert [sentence.is_false for sentence in sentences[:3]] == [False, True, False]
    assert verdicts[-1][0] == "not checkable"


def test_text_of_a_model_is_shown_as_text() -> None:
    clip = ClipView(NASTY, None, [], NASTY)
    card = Card(NASTY, NASTY, clip, NASTY, [mark_text(NASTY, NASTY, SCENE, "other")], NASTY)
    pieces = [
        render_cards([card], NASTY),
        html.table(pd.DataFrame({"x": [NASTY]}), NASTY),
        html.note(NASTY),
        html.checks((NASTY, True), warnings=[NASTY]),
    ]
    text = "".join(piece._repr_html_() for piece in pieces)
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "{{" in text
    assert unescape(re.sub("<[^>]+>", "", text)).count("onerror=alert(2)") >= 8


def test_a_clip_is_linked_and_takes_no_space_twice(make_run: Callable) -> None:
    run = make_run("one")
    name = write_clip(run)
    view = view_clip(run, name)
    (link,) = (run.folder / "clips").iterdir()
    assert os.path.samefile(link, run.videos_folder() / name)
    assert view.href == f"../../clips/{link.name}"
    times = [frame.time for frame in view.frames]
    assert times == ["0.0 s", "0.8 s", "1.8 s", "2.8 s"] or len(times) == 8
    assert all(frame.picture.startswith("data:image/") for frame in view.frames)


def test_a_missing_clip_is_a_note_and_no_path_leads_out(make_run: Callable) -> None:
    run = make_run("one")
    run.videos_folder().mkdir(parents=True, exist_ok=True)
    for name in ("not_there.mp4", "../../../etc/passwd", "a\0b"):
        view = view_clip(run, name)
        assert view.href is None
        assert view.frames == []
        assert "not at hand" in view.note
    assert not (run.folder / "clips").exists()


def test_frames_are_what_the_model_sees(make_run: Callable) -> None:
    run = make_run("one")
    records.write_json(run.folder / "model.json", {"frames": 4, "image_size": 48, "parameters": 1})
    clip = frames_seen(run, run.videos_folder() / write_clip(run))
    assert clip.frames.shape == (4, 48, 48, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.times.tolist() == [0.0, 0.75, 1.75, 2.75]
