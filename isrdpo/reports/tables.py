"""Reads a run back: its files as the tables that pages show. Never imports torch, draws nothing."""

import difflib
from dataclasses import fields
from typing import Any

import pandas as pd

from isrdpo.core import metrics, records
from isrdpo.core.errors import MissingStage
from isrdpo.core.runs import Run
from isrdpo.formats import predictions
from isrdpo.scoring import protocol, scores


def rows_of(run: Run, iteration: int, name: str) -> pd.DataFrame:
    """A JSONL file of an iteration as a table (empty when it is not there, with its columns where it is there)."""
    path = run.file(iteration, name)
    found = records.read_jsonl(path, dict) if path.exists() else []
    columns = [field.name for field in fields(records.Responses)] if name == "responses.jsonl" and path.exists() and not found else None
    return pd.DataFrame(found, columns=columns)


def stage_marker(run: Run, stage: str, iteration: int) -> dict:
    """The marker of a finished stage; a clear error when it is not finished."""
    found = run.done(stage, iteration)
    if found is None:
        raise MissingStage(f"{run.folder}: stage {stage} of iteration {iteration} is not done")
    return found


def truths(texts: list[str], facts: list[dict | None]) -> list[dict | None]:
    """Each text's claims, counted, where facts are known."""
    if all(f is None for f in facts):
        return [None] * len(texts)
    from isrdpo.toybox import claims

    return [None if f is None else claims.truth(text, f).to_dict() for text, f in zip(texts, facts, strict=True)]


def scenes(run: Run, iteration: int) -> dict[str, dict | None]:
    """Each video's facts without a question, None where they are not known."""
    return {s.video: s.facts and {"scene": s.facts["scene"]} for s in records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample)}


def judged(run: Run, iteration: int, calls_file: str = "judgments.jsonl") -> pd.DataFrame:
    """A row a judged sample: id, video, question, responses, context, words [2], correct [2] or None, choice or None, kept (whether it is trained
    on: decisive, and not left out after), reason, calls, unparsed, margin; first (calls for the response shown first, of those read); for a
    decisive verdict on answers of unequal length also difference (words, > 0), longer (bool) and truer (which of the two is, in words)."""
    from isrdpo.models import verdicts

    samples = {s.id: s for s in records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample)}
    calls: dict[str, list[records.Judgment]] = {}
    for call in records.read_jsonl(run.file(iteration, calls_file), records.Judgment):
        calls.setdefault(call.id, []).append(call)
    preferences = run.file(iteration, "preferences.jsonl")
    kept, rows = {p.id for p in records.read_jsonl(preferences, records.Preference)} if preferences.exists() else set(), []
    is_given = run.params.judge.method == "given"
    for answer in records.data_set_responses(samples.values()) if is_given else records.read_jsonl(run.file(iteration, "responses.jsonl"), records.Responses):
        mine, sample = calls.get(answer.id, []), samples[answer.id]
        found = truths(answer.responses, [sample.facts] * 2)
        choice, reason = verdicts.decide(mine, run.params.judge.min_margin) if mine else (None, "tie or empty")
        reason = "unsure or unbalanced" if choice is not None and preferences.exists() and answer.id not in kept else reason
        row = {
            "id": answer.id, "video": sample.video, "question": sample.question, "responses": answer.responses, "context": answer.context,
            "words": [metrics.word_count(t) for t in answer.responses], "correct": [t["correct"] for t in found] if found[0] else None,
            "choice": choice, "kept": answer.id in kept, "reason": reason, "calls": len(mine), "unparsed": sum(c.choice is None and c.scores is None for c in mine),
            "margin": verdicts.margin(mine), "first": [] if is_given else [c.choice == c.order for c in mine if c.choice is not None],
        }  # fmt: skip
        rows.append(row | _by_length(row))
    table = pd.DataFrame(rows)
    table["choice"] = pd.Series([row["choice"] for row in rows], dtype=object)  # else None makes every index a float
    return table


def judged_both(run: Run, iteration: int) -> dict[str, pd.DataFrame]:
    """The loop's own verdicts first, then (where they were asked for) those on the same pairs without the description; `judged` each."""
    own, again = judged(run, iteration), run.file(iteration, "judgments_no_context.jsonl")
    if run.params.judge.method == "given":
        return {"given": own}
    if not again.exists():
        return {"with its description" if own["context"].notna().any() else "without": own}
    return {"with its description": own, "without": judged(run, iteration, again.name)}


def _by_length(row: dict) -> dict[str, Any]:
    """How a verdict went by length, and what the truth would have said."""
    (a, b), choice, correct = row["words"], row["choice"], row["correct"]
    if choice is None or a == b:
        return {"difference": None, "longer": None, "truer": None}
    long = int(b > a)
    if correct is None:
        truer = "truth not known"
    else:
        truer = "equally true" if correct[0] == correct[1] else "the longer is truer" if correct[long] else "the shorter is truer"
    return {"difference": abs(a - b), "longer": choice == long, "truer": truer}


def length_bias(table: pd.DataFrame) -> pd.DataFrame:
    """What `plots.length_bias` draws, of `judged`."""
    rows = table.dropna(subset=["difference"])
    return pd.DataFrame({"id": rows["id"], "difference": rows["difference"].astype(int), "longer": rows["longer"].astype(bool), "truer": rows["truer"]})


def verdict_confidence(table: pd.DataFrame) -> pd.DataFrame:
    """id, margin and verdict (right, wrong, equally true, truth not known) of every decisive verdict."""
    rows = table[table["choice"].notna()]
    said = [
        "truth not known" if c is None else "equally true" if c[0] == c[1] else "right" if c[choice] else "wrong"
        for c, choice in zip(rows["correct"], rows["choice"], strict=True)
    ]
    return pd.DataFrame({"id": rows["id"], "margin": rows["margin"], "verdict": said})


def judge_shares(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What the judge went by, a row a measure and condition (`tables`: its name to `judged`): measure, what, share with its interval, n."""
    rows = []
    for what, table in tables.items():
        decided = table[table["choice"].notna()]
        pairs = length_bias(table)
        told = [(c[choice], c) for c, choice in zip(decided["correct"], decided["choice"], strict=True) if c is not None and c[0] != c[1]]
        measures = {
            "the longer is chosen": list(pairs["longer"]),
            "the truer is chosen": [right for right, _ in told],
            "… where the longer is truer": list(pairs.loc[pairs["truer"] == "the longer is truer", "longer"]),
            "… where the shorter is truer": [not x for x in pairs.loc[pairs["truer"] == "the shorter is truer", "longer"]],
            "the first shown is chosen": [x for found in table["first"] for x in found],
            "the two orders agree": [pair[0] == pair[1] for pair in by_order(table) if pair is not None],
        }
        rows += [{"measure": name, "what": what, "n": len(values)} | metrics.share(values).columns("share") for name, values in measures.items()]
    frame = pd.DataFrame(rows, columns=["measure", "what", "n", "share", "share_low", "share_high"])
    return frame[frame.groupby("measure")["n"].transform("max") > 0].reset_index(drop=True)


def by_order(table: pd.DataFrame) -> list[tuple[int, int] | None]:
    """The response chosen in each order, a row of `judged` each; None where not both orders were asked and read."""
    return [(int(not found[0]), int(found[1])) if len(found) == 2 else None for found in table["first"]]


def contexts(run: Run, iteration: int) -> pd.DataFrame:
    """c_t and c_{t-1}, a row a video: video, context, previous (or ""), words, similarity (share of words in common order, 0 to 1), and where
    facts are known false, repaired (false claims of c_{t-1} that are gone) and broken (false claims that are new)."""
    rows, known = rows_of(run, iteration, "contexts.jsonl"), scenes(run, iteration)
    made = []
    for _, found in rows.iterrows():
        now, before = found["context"], found["previous_context"]
        before = before if isinstance(before, str) else ""
        row: dict[str, Any] = {"video": found["video"], "context": now, "previous": before, "words": metrics.word_count(now)}
        row["similarity"] = difflib.SequenceMatcher(None, before.split(), now.split(), autojunk=False).ratio() if before else None
        if scene := known.get(found["video"]):
            wrong, was_wrong = _false(now, scene), _false(before, scene)
            row |= {"false": len(wrong), "repaired": len(was_wrong - wrong) if before else None, "broken": len(wrong - was_wrong) if before else None}
        made.append(row)
    return pd.DataFrame(made, columns=["video", "context", "previous", "words", "similarity", "false", "repaired", "broken"])


def _false(text: str, scene: dict) -> set[tuple]:
    from isrdpo.toybox import claims

    return {(c.kind, c.about, c.value) for c in claims.find(text, scene) if c.verdict is False}


def context_truths(run: Run, iteration: int) -> list[dict]:
    """The claims of c_t, counted, one entry a video (empty where facts are not known)."""
    rows = rows_of(run, iteration, "contexts.jsonl")
    if rows.empty:
        return []
    known = scenes(run, iteration)
    return [t for t in truths(list(rows["context"]), [known[v] for v in rows["video"]]) if t]


def drift(run: Run, iteration: int) -> pd.DataFrame:
    """How descriptions moved, a row an iteration up to this one: words, similarity, repaired, broken (means a description, with intervals)
    and context_accuracy."""
    rows = []
    for t in range(1, iteration + 1):
        table, row = contexts(run, t), {"iteration": t}
        for name in ("words", "similarity", "repaired", "broken"):
            row |= metrics.ratio(table[name].dropna().astype(float).tolist()).columns(name)
        rows.append(row | metrics.context_figures(context_truths(run, t)))
    return pd.DataFrame(rows)


def answers(run: Run, iteration: int) -> pd.DataFrame:
    """answers.jsonl with the clip of each, and beside `correct`, `false` and `claims`: by facts; else by the scorer, where the answers were scored; else None."""
    rows, asked = rows_of(run, iteration, "answers.jsonl"), rows_of(run, 0, "samples.jsonl")
    truth = [t if isinstance(t, dict) else None for t in rows["truth"]]
    told = [{name: t[name] for name in ("correct", "false", "claims")} if t else {} for t in truth]
    if not any(truth):
        by_scorer = scored(run, iteration)
        told = [by_scorer.get((predictions.set_of(kind), i.removeprefix(f"{kind}/")), {}) for i, kind in zip(rows["id"], rows["kind"], strict=True)]
    columns = {name: pd.Series([t.get(name) for t in told], index=rows.index, dtype=object) for name in ("correct", "false", "claims")}
    return rows.assign(truth=truth, **columns, video=rows["id"].map(asked.set_index("id")["video"]))


def scored(run: Run, iteration: int) -> dict[tuple[str, str], dict[str, Any]]:
    """The scorer's word on each answer by (set, id): correct, and where claims were asked about: false (unsupported) and claims."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in score_rows(run, iteration):
        told = {"correct": row.correct} if row.protocol != protocol.CLAIMS else {"false": row.unsupported, "claims": row.claims}
        found.setdefault((row.set, row.id), {}).update(told)
    return found


def score_rows(run: Run, iteration: int) -> list[records.Score]:
    path = run.file(iteration, "scores.jsonl")
    return records.read_jsonl(path, records.Score) if run.done("score", iteration) and path.exists() else []


def scorer(run: Run, iteration: int) -> str:
    """Who says what is right in `answers`: facts, a scorer's version, or (empty) nobody."""
    if any(isinstance(row["truth"], dict) for row in records.read_jsonl(run.file(iteration, "answers.jsonl"), dict)):
        return "facts"
    return ", ".join(sorted({row.version for row in score_rows(run, iteration)}))


def benchmark_tables(run: Run, iteration: int) -> dict[str, pd.DataFrame]:
    """By caption: the benchmark's own figures of the base and of this iteration, side by side; none where the questions are no benchmark's."""
    parts = []
    for t in dict.fromkeys((0, iteration)):
        path = run.file(t, "benchmark.csv")
        if run.done("evaluate", t) and path.exists():
            found = pd.read_csv(path)
            cells = [f"{v:.3f} [{low:.3f}, {high:.3f}]" if pd.notna(v) else "" for v, low, high in found[["value", "value_low", "value_high"]].to_numpy(float)]
            name = "base" if t == 0 else f"iteration {t}"
            parts.append(found[["subset", "measure"]].assign(**{name: cells, f"{name}: unread": found["unread"]}).set_index(["subset", "measure"]))
            counts = found.set_index(["subset", "measure"])[["questions", "incomplete"]]
    return {f"{run.params.data.benchmark}, its own figures": pd.concat([*parts, counts], axis=1).reset_index()} if parts else {}


def score_tables(run: Run, iteration: int) -> dict[str, pd.DataFrame]:
    """By caption: scores of the base and of this iteration, and official sets beside the published numbers, a table a scorer's version; none where none was scored."""
    tables = {("base" if t == 0 else f"iteration {t}"): scores.read(run.file(t, "scores.csv")) for t in dict.fromkeys((0, iteration)) if score_rows(run, t)}
    official = any((table["protocol"] == protocol.OFFICIAL).any() for table in tables.values())
    published = {f"Official sets, percent right, by {version}": table for version, table in scores.beside(tables).items()} if official else {}
    return {f"Scored by {version}": table for version, table in scores.by_version(tables).items()} | published


def compared(run: Run, iteration: int) -> dict[str, pd.DataFrame]:
    """The answers of the base, of the policy before (where that is another) and of this one, by name, in that order."""
    names = {"base": 0} | ({"before": iteration - 1} if iteration > 1 else {}) | ({"now": iteration} if iteration else {})
    return {name: answers(run, t) for name, t in names.items() if run.done("evaluate", t)}


def length_truth(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """id, what, words, correct of every answer whose truth is known."""
    made = [table.loc[table["correct"].notna(), ["id", "words", "correct"]].assign(what=name) for name, table in tables.items()]
    return pd.concat(made).astype({"correct": bool}) if made else pd.DataFrame(columns=["id", "words", "correct", "what"])


def by_kind(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Accuracy by kind of question and policy: measure (the kind), what, n, share with its interval."""
    rows = []
    for what, table in tables.items():
        known = table[table["correct"].notna()]
        rows += [{"measure": kind, "what": what, "n": len(part)} | metrics.share(part).columns("share") for kind, part in known["correct"].groupby(known["kind"])]
    return pd.DataFrame(rows, columns=["measure", "what", "n", "share", "share_low", "share_high"])


def claim_kinds(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """False claims among the checkable ones by kind of claim and policy, as `by_kind`; without objects that are not there, which are always
    false (`absent_objects` counts them)."""
    rows = []
    for what, table in tables.items():
        counted: dict[str, list[int]] = {}
        for truth in table["truth"]:
            for kind, (true, false) in (truth or {"by_kind": {}})["by_kind"].items():
                pair = counted.setdefault(kind, [0, 0])
                pair[0], pair[1] = pair[0] + true, pair[1] + false
        for kind, (true, false) in sorted((kind, pair) for kind, pair in counted.items() if kind != "object"):
            found = metrics.wilson(false, true + false)
            low, high = found.low, found.high
            rows.append({"measure": kind, "what": what, "n": true + false, "share": false / (true + false), "share_low": low, "share_high": high})
    return pd.DataFrame(rows, columns=["measure", "what", "n", "share", "share_low", "share_high"])


def absent_objects(tables: dict[str, pd.DataFrame]) -> str:
    """How often answers speak of objects that are not there, for a caption."""
    known = {what: [t["by_kind"].get("object", [0, 0])[1] for t in table["truth"] if t is not None] for what, table in tables.items()}
    return ", ".join(f"{what} {sum(found) / len(found):.2f}" for what, found in known.items() if found)


def training_outcome(steps: pd.DataFrame) -> str:
    """What DPO did to the log-probabilities, from the first tenth of the steps to the last, in a sentence; each batch holds other pairs."""
    if not len(steps):
        return "No pair was kept: the policy stays as it is."
    tenth = max(1, len(steps) // 10)
    chosen, rejected = (steps[name].tail(tenth).mean() - steps[name].head(tenth).mean() for name in ("rewards_chosen", "rewards_rejected"))
    moved = [f"{'rose' if x > 0 else 'fell'} by {abs(x):.3f}" for x in (chosen, rejected)]
    falling = " DPO lowers the chosen too, only less than the rejected." if chosen < 0 and rejected < chosen else ""
    return (f"In {len(steps)} steps the reward of the chosen (beta times its log-probability against the reference's) {moved[0]} nats, that of the "
            f"rejected {moved[1]}; the margin ended at {steps['margins'].tail(tenth).mean():.3f}.{falling}")  # fmt: skip


def gained_lost(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Questions that `now` answers rightly and an earlier policy did not, and the other way round, with the paired change of accuracy."""
    rows, now = [], tables.get("now")
    for name, table in tables.items():
        if now is not None and name != "now":
            both = table.merge(now, on="id", suffixes=("_then", "")).dropna(subset=["correct", "correct_then"])
            change = both["correct"].astype(int) - both["correct_then"].astype(int)
            rows.append({"against": name, "questions": len(both), "gained": int((change > 0).sum()), "lost": int((change < 0).sum())}
                        | metrics.ratio(change.tolist()).columns("change"))  # fmt: skip
    return pd.DataFrame(rows, columns=["against", "questions", "gained", "lost", "change", "change_low", "change_high"])
