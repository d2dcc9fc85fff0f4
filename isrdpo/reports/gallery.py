"""Examples worth looking at: how they are chosen, and their cards: the clip, the frames that the model saw, texts with changes and claims marked.

Clips that are shown are linked into `outputs/<run>/clips/` (a hard link: not doubled on disk, and there when the run is copied elsewhere).
"""

import base64
import difflib
import hashlib
import io
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isrdpo.core import records
from isrdpo.core.clips import find_clip
from isrdpo.core.runs import Run
from isrdpo.formats import video
from isrdpo.reports import html as show
from isrdpo.reports import tables as report

PLAYED = (".mp4", ".webm", ".m4v", ".mov")  # what a browser can be expected to play
MARKS = {True: ("✓", "true"), False: ("✗", "false"), None: ("?", "not checkable")}
WIDEST = 224  # pixels of a frame in a strip


def choose(among: pd.Index, rules: Sequence[tuple[str, pd.Series]], each: int, seed: int) -> list[tuple[str, Any]]:
    """(why, index): for each rule the `each` rows that score highest, above 0 only, then `each` of the others at random; none twice. Equal
    scores go by index. `rules`: (why, score by index)."""
    taken: dict[Any, str] = {}
    for why, score in rules:
        known = score.dropna().astype(float)
        ranked = known[known > 0].sort_values(ascending=False, kind="stable").index
        for index in [i for i in ranked if i not in taken][:each]:
            taken[index] = why
    rest = [i for i in among if i not in taken]
    drawn = np.random.default_rng(seed).permutation(len(rest))[:each]
    return [(why, index) for index, why in taken.items()] + [("random", rest[i]) for i in sorted(drawn)]


def _only(table: pd.DataFrame, sample: str, column: str) -> list[tuple[str, Any]]:
    """The asked-for sample instead of chosen ones."""
    found = table.index[table[column].astype(str).str.contains(sample, regex=False)]
    return [("asked for", index) for index in found[:1]]


def seen(run: Run) -> dict[str, int]:
    """What the model takes: frames, image_size (pixels a side of the center square; None: whole frames, at a size of its own choosing)."""
    path = run.folder / "model.json"
    return records.read_json(path) if path.exists() else {"frames": 8, "image_size": WIDEST}


def frames(run: Run, path: Path) -> video.Clip:
    """The frames that the model saw, as uint8 [T, h, w, 3]: sampled as it samples, the center square, at its size (or whole, at most WIDEST wide)."""
    from PIL import Image

    sizes = seen(run)
    clip = video.read(path, sizes["frames"], run.params.video.span)
    height, width = clip.frames.shape[1:3]
    if sizes["image_size"] is None:
        shape = (min(width, WIDEST), round(height * min(width, WIDEST) / width))
        return replace(clip, frames=np.stack([np.asarray(Image.fromarray(frame).resize(shape)) for frame in clip.frames]))
    side, short = min(sizes["image_size"], WIDEST), min(height, width)
    box = ((width - short) / 2, (height - short) / 2, (width + short) / 2, (height + short) / 2)
    squares = [np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BILINEAR, box=box)) for frame in clip.frames]
    return replace(clip, frames=np.stack(squares))


def picture(frame: np.ndarray) -> str:
    """A frame as a data URI: PNG where it is small, else JPEG."""
    from PIL import Image

    out, form = io.BytesIO(), "png" if frame.shape[0] <= 64 else "jpeg"
    Image.fromarray(frame).save(out, format=form, quality=80)
    return f"data:image/{form};base64,{base64.b64encode(out.getvalue()).decode()}"


def clip(run: Run, name: str, page: Path | None = None, held_out: bool = False) -> dict[str, Any]:
    """A clip for a card: `href` to play it (or None), `strip` of (picture, seconds), and a `note` where something is not at hand. `page`: the folder
    that links count from (None: a page of an iteration); `held_out`: a clip of an evaluation question."""
    try:
        path = find_clip(run.videos_folder(held_out), name)
        strip = frames(run, path)
    except OSError as error:
        return {"name": name, "href": None, "strip": [], "note": f"this clip is not at hand ({error})"}
    pictures = [(picture(frame), f"{time:.1f} s") for frame, time in zip(strip.frames, strip.times, strict=True)]
    if path.is_dir() or path.suffix.lower() not in PLAYED:
        return {"name": name, "href": None, "strip": pictures, "note": "a folder of frames" if path.is_dir() else f"browsers do not play {path.suffix}"}
    return {"name": name, "href": show.href(page or run.iteration(1) / "reports", _linked(run, path, name)), "strip": pictures, "note": ""}


def _linked(run: Run, path: Path, name: str) -> Path:
    """The clip under a harmless name in the run's own folder."""
    plain = re.sub(r"[^\w.-]", "_", Path(name).stem)[:60]
    target = run.folder / "clips" / f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}{path.suffix.lower()}"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        part.unlink(missing_ok=True)
        try:
            os.link(path.resolve(), part)
        except OSError:  # another file system
            shutil.copyfile(path, part)
        os.replace(part, target)
    return target


def text(label: str, words: str, facts: dict | None = None, against: str | None = None, tag: str = "ins") -> dict[str, Any]:
    """A text for a card: its sentences, each with its claims' marks (where facts are known) and its words, flagged where they are not in
    `against`. `tag`: ins or del, what a flagged word is."""
    here = words.split()
    flags = [False] * len(here)
    if against:
        for code, _, _, low, high in difflib.SequenceMatcher(None, against.split(), here, autojunk=False).get_opcodes():
            if code != "equal":
                flags[low:high] = [True] * (high - low)
    marks: dict[str, list[tuple[str, str, str]]] = {}
    if facts:
        from isrdpo.toybox import claims

        for claim in claims.said(words, facts):
            mark = (*MARKS[claim.verdict], claim.kind)
            if mark not in marks.setdefault(claim.text, []):
                marks[claim.text].append(mark)
    sentences, at = [], 0
    for sentence in re.split(r"(?<=[.!?;])\s+|\n+", words.strip()):
        count = len(sentence.split())
        parts = [{"text": " ".join(here[i] for i in run), "flagged": flags[run[0]]} for run in _runs(flags, at, at + count)]
        sentences.append({"marks": marks.get(sentence.strip(), []), "parts": parts})
        at += count
    return {"label": label, "sentences": sentences, "tag": tag, "words": len(here), "known": facts is not None}


def _runs(flags: list[bool], low: int, high: int) -> list[list[int]]:
    """Neighbours with the same flag, together."""
    groups: list[list[int]] = []
    for i in range(low, high):
        if groups and flags[groups[-1][-1]] == flags[i]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _cards(cards: list[dict[str, Any]], chosen: str) -> show.Html:
    return show.render("cards.html.j2", cards=cards, chosen=chosen if cards else "Nothing to show.")


def clips(run: Run, iteration: int, *, each: int = 2, seed: int = 0, sample: str | None = None) -> show.Html:
    """Clips that are asked about, with their questions and reference answers."""
    table = report.rows_of(run, iteration, "samples.jsonl")
    picked = _only(table, sample, "id") if sample else choose(table.index, [], each, seed)
    cards = [
        {"why": why, "title": row["id"], "clip": clip(run, row["video"], held_out=iteration == 0), "question": row["question"], "facts": "",
         "texts": [text("reference answer", row["answer"])] if row["answer"] else []}
        for why, row in ((why, table.loc[i]) for why, i in picked)
    ]  # fmt: skip
    return _cards(cards, "Shown: drawn at random.")


def contexts(run: Run, iteration: int, *, each: int = 2, seed: int = 0, sample: str | None = None) -> show.Html:
    """Descriptions before and after looking back, with what changed and (where known) what is true."""
    table, known = report.contexts(run, iteration), report.scenes(run, iteration)
    better = table["repaired"].astype(float) - table["broken"].astype(float)
    rules = [("largest change", 1 - table["similarity"].astype(float)), ("newly right", better), ("newly wrong", -better),
             ("most false claims", table["false"].astype(float))]  # fmt: skip
    cards = []
    for why, i in _only(table, sample, "video") if sample else choose(table.index, rules, each, seed):
        row = table.loc[i]
        before, facts = row["previous"], known.get(row["video"])
        texts = [text(f"c{iteration - 1}, looked back at", before, facts, row["context"], "del")] if before else []
        texts.append(text(f"c{iteration}", row["context"], facts, before or None))
        cards.append({"why": why, "title": row["video"], "clip": clip(run, row["video"]), "question": "", "texts": texts, "facts": ""})
    return _cards(cards, f"Chosen: up to {each} each with the largest change of words, most claims repaired over broken, most broken over repaired, most "
                         f"false claims, then {each} at random (seed {seed}).")  # fmt: skip


def verdicts(run: Run, iteration: int, *, each: int = 2, seed: int = 0, sample: str | None = None) -> show.Html:
    """Judged pairs: the two responses, the description that the judge read, and its verdict."""
    table = report.judged(run, iteration)
    facts = {s.id: s.facts for s in records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample)}
    decided, said = table[table["choice"].notna()], report.verdict_confidence(table)["verdict"]
    sure, long = decided["margin"].fillna(1.0).astype(float), decided["longer"].eq(True)
    rules = [("wrong, and for the longer", sure.where(said.eq("wrong") & long)), ("wrong, and for the shorter", sure.where(said.eq("wrong") & ~long)),
             ("right, against length", sure.where(said.eq("right") & ~long)), ("right", sure.where(said.eq("right")))]  # fmt: skip
    cards = []
    for why, i in _only(table, sample, "id") if sample else choose(table.index, rules, each, seed):
        row = table.loc[i]
        names = [f"y{n + 1}{', chosen' if row['choice'] == n else ''}" for n in (0, 1)]
        texts = [text(name, words, facts[row["id"]]) for name, words in zip(names, row["responses"], strict=True)]
        if isinstance(row["context"], str):
            scene = facts[row["id"]] and {"scene": facts[row["id"]]["scene"]}
            texts.append(text("the description it read", row["context"], scene))
        odds = "" if pd.isna(row["margin"]) else f"Log-odds of the chosen: {row['margin']:.2f}."
        cards.append({"why": why, "title": row["id"], "clip": clip(run, row["video"]), "question": row["question"], "texts": texts, "facts": odds})
    return _cards(cards, f"Chosen: up to {each} of each kind where the judge was surest, then {each} at random (seed {seed}).")


def answers(run: Run, iteration: int, *, each: int = 2, seed: int = 0, sample: str | None = None, page: Path | None = None) -> show.Html:
    """Questions that this policy answers rightly and an earlier one did not, and the other way round."""
    tables = report.compared(run, iteration)
    now = tables["now" if iteration else "base"].set_index("id", drop=False)
    facts = {s.id: s.facts for s in records.read_jsonl(run.file(0, "samples.jsonl"), records.Sample)}
    earlier = {name: table.set_index("id") for name, table in tables.items() if iteration and name != "now"}
    rules = []
    for name, table in earlier.items():
        if now["correct"].notna().all():
            change = now["correct"].astype(float) - table["correct"].reindex(now.index).astype(float)
            than = {"base": "the base", "before": "the policy before"}[name]
            rules += [(f"gained against {than}", change), (f"lost against {than}", -change)]
    cards = []
    for why, i in _only(now, sample, "id") if sample else choose(now.index, rules, each, seed):
        row = now.loc[i]
        texts = [text({"base": "base", "before": "the policy before"}[name], table.loc[i, "response"], facts[i]) for name, table in earlier.items()]
        texts.append(text("this policy", row["response"], facts[i]))
        cards.append({"why": why, "title": i, "clip": clip(run, row["video"], page, held_out=True), "question": row["question"], "texts": texts,
                      "facts": f"Reference: {row['reference']}" if row["reference"] else ""})  # fmt: skip
    return _cards(cards, f"Chosen: the first {each} gained and lost against each earlier policy, then {each} at random (seed {seed}).")


def heat_maps(run: Run, iteration: int) -> show.Html:
    """Where the judge looks: a figure for each example of `looks.jsonl`, and what the control says."""
    from isrdpo.reports import plots

    rows, parts = report.rows_of(run, iteration, "looks.jsonl"), []
    for number, (sample, found) in enumerate(rows.groupby("id", sort=False) if len(rows) else []):
        try:
            clip = frames(run, run.clip(found["video"].iloc[0]))
        except OSError as error:
            parts.append(show.note(f"{sample}: this clip is not at hand ({error})"))
            continue
        maps = {row["judged"]: np.array(row["heat"]) for _, row in found.iterrows()}
        cells = [{"judged": name, "frame": t, "row": y, "column": x, "effect": value}
                 for name, heat in maps.items() for (t, y, x), value in np.ndenumerate(heat)]  # fmt: skip
        said = "; ".join(_control(found, name) for name in ("with its description", "without") if name in maps)
        shown = {name.replace(" its ", " its\n").replace(", ", ",\n"): heat for name, heat in maps.items()}
        made = plots.heat(clip.frames, clip.times, shown)
        parts.append(show.figure(run, iteration, f"look_{number + 1}", made, pd.DataFrame(cells),
                                 f"{sample}: |gradient times input| of the verdict's log-odds, by part of the picture. {said}."))  # fmt: skip
    if control := _beaten(rows):
        parts.insert(0, show.note(control))
    return show.row(*parts, wide=True, whole=seen(run)["frames"] > 4) if parts else show.note("No heat maps: look.examples is 0, nothing was judged, or the policy is gone.")


def _beaten(rows: pd.DataFrame) -> str:
    """Whether the maps mean something, over all examples, in a sentence."""
    if rows.empty:
        return ""
    odds, told = {(row["id"], row["judged"]): row["log_odds"] for _, row in rows.iterrows()}, []
    for name in ("with its description", "without"):
        pairs = [(odds[row["id"], name], row) for _, row in rows[rows["judged"] == f"{name}, blanked"].iterrows()]
        better = sum(abs(row["log_odds"] - was) > np.abs(np.array(row["random_log_odds"]) - was).max() for was, row in pairs)
        told += [f"{name} in {better} of {len(pairs)}"] if pairs else []
    return f"Blanking the hottest tenth moved the verdict more than each of the random blankings {', '.join(told)} pairs."


def _control(found: pd.DataFrame, name: str) -> str:
    """How far the verdict moves when the hottest cells are blanked, against as many random ones."""
    odds = found.set_index("judged")["log_odds"]
    blanked = found[found["judged"] == f"{name}, blanked"].iloc[0]
    random = np.abs(np.array(blanked["random_log_odds"]) - odds[name])
    return (f"{name}: log-odds {odds[name]:+.2f}; blanking the hottest tenth moves it by {abs(blanked['log_odds'] - odds[name]):.2f}, "
            f"a random tenth by {random.mean():.2f} (mean of {len(random)})")  # fmt: skip
