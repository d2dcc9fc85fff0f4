"""Examples and their cards: chosen as said, whole, escaped, with their clips."""

import os
import re
from collections.abc import Callable
from html import unescape

import numpy as np
import pandas as pd
import pytest

from isrdpo.core import records
from isrdpo.reports import gallery
from isrdpo.reports import html as show
from isrdpo.toybox import world

SCENE = {"scene": {"background": "white", "axis": "horizontal", "objects": [
    {"shape": "circle", "color": "red", "size": "small", "motion": "left"}, {"shape": "square", "color": "blue", "size": "large", "motion": "still"}]}}  # fmt: skip
RULES = lambda score: [("most", score), ("least", -score)]  # noqa: E731
NASTY = "<script>alert(1)</script> \"><img src=x onerror=alert(2)> {{ 7*7 }} &amp; <ins>"


def plain(card: dict) -> str:
    return " ".join(part["text"] for sentence in card["sentences"] for part in sentence["parts"])


@pytest.mark.parametrize("seed", range(3))
def test_chosen_by_rank_then_at_random_none_twice(seed: int) -> None:
    score = pd.Series(np.random.default_rng(seed).normal(size=40))
    picked = gallery.choose(score.index, RULES(score), 3, seed)
    assert len({i for _, i in picked}) == len(picked) == 9
    assert [i for why, i in picked if why == "most"] == score.sort_values(ascending=False).index[:3].tolist()
    assert picked == gallery.choose(score.index, RULES(score), 3, seed)
    assert picked[6:] != gallery.choose(score.index, RULES(score), 3, seed + 1)[6:]


def test_nothing_is_chosen_for_a_reason_that_does_not_hold() -> None:
    assert [why for why, _ in gallery.choose(pd.RangeIndex(3), [("most", pd.Series([0.0, -1.0, None]))], 2, 0)] == ["random", "random"]
    assert gallery.choose(pd.RangeIndex(0), [("most", pd.Series(dtype=float))], 2, 0) == []


@pytest.mark.parametrize("words", ["The circle is red. The square is still!", "one", "", "  a\n b.  c? ", NASTY])
def test_a_text_stays_whole(words: str) -> None:
    for against in (None, "The circle is blue.", ""):
        made = gallery.text("x", words, SCENE, against)
        assert plain(made).split() == words.split() and made["words"] == len(words.split())


def test_what_changed_is_flagged_on_both_sides() -> None:
    then, now = "The circle is blue. It moves left.", "The circle is red. It moves left."
    flagged = [[p["text"] for s in gallery.text("x", *args)["sentences"] for p in s["parts"] if p["flagged"]] for args in ((then, None, now), (now, None, then))]
    assert flagged == [["blue."], ["red."]]


def test_every_sentence_has_its_marks_said_again_too() -> None:
    made = gallery.text("x", "The circle is red. The circle is large. The circle is red. The star is red. Nonsense.", SCENE)
    assert [[m[1] for m in s["marks"]] for s in made["sentences"]][:3] == [["true"], ["false"], ["true"]]
    assert made["sentences"][-1]["marks"][0][1] == "not checkable"


def test_model_text_is_text(make_run: Callable) -> None:
    cards = [{"why": NASTY, "title": NASTY, "clip": {"name": NASTY, "href": None, "strip": [], "note": NASTY}, "question": NASTY, "facts": NASTY,
              "texts": [gallery.text(NASTY, NASTY, SCENE, "other")]}]  # fmt: skip
    made = gallery._cards(cards, NASTY)._repr_html_() + show.table(pd.DataFrame({"x": [NASTY]}), NASTY).text + show.note(NASTY).text
    made += show.checks((NASTY, True), warnings=[NASTY]).text
    assert "<script" not in made and "<img src=x" not in made and "{{" in made
    assert unescape(re.sub("<[^>]+>", "", made)).count("onerror=alert(2)") >= 8


def test_a_clip_is_linked_not_doubled(make_run: Callable) -> None:
    run = make_run("one")
    scene = next(world.scenes("base", 5, world.Difficulty()))
    (name,) = world.write_clips([scene], 5, world.Difficulty(), run.videos_folder())
    made = gallery.clip(run, name)
    (linked,) = (run.folder / "clips").iterdir()
    assert os.path.samefile(linked, run.videos_folder() / name) and made["href"] == f"../../clips/{linked.name}"
    assert [time for _, time in made["strip"]] == ["0.0 s", "0.8 s", "1.8 s", "2.8 s"] or len(made["strip"]) == 8
    assert all(source.startswith("data:image/") for source, _ in made["strip"])


def test_a_clip_that_is_gone_is_said_and_no_path_leads_out(make_run: Callable) -> None:
    run = make_run("one")
    run.videos_folder().mkdir(parents=True, exist_ok=True)
    for name in ("not_there.mp4", "../../../etc/passwd", "a\0b"):
        made = gallery.clip(run, name)
        assert made["href"] is None and made["strip"] == [] and "not at hand" in made["note"]
    assert not (run.folder / "clips").exists()


def test_frames_are_what_the_model_sees(make_run: Callable) -> None:
    run = make_run("one")
    records.write_json(run.folder / "model.json", {"frames": 4, "image_size": 48, "parameters": 1})
    scene = next(world.scenes("base", 5, world.Difficulty()))
    (name,) = world.write_clips([scene], 5, world.Difficulty(), run.videos_folder())
    clip = gallery.frames(run, run.videos_folder() / name)
    assert clip.frames.shape == (4, 48, 48, 3) and clip.frames.dtype == np.uint8 and clip.times.tolist() == [0.0, 0.75, 1.75, 2.75]
