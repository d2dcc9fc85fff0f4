"""Reads a run back: figures with the CSV they were drawn from, an HTML page for each executed notebook, the index, summary.csv.

Built from files of the run only; never imports torch. Model text is escaped wherever it is shown.
"""

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from isrdpo import metrics, plots, records
from isrdpo.runs import STAGES, Run, depends

SHOWN = ["iteration", "accuracy", "hallucination", "false_claims", "response_words", "prefers_longer", "judge_accuracy", "fixed_judge_accuracy",
         "fixed_judge_accuracy_no_context", "context_accuracy", "kept_share", "seconds"]  # fmt: skip
PAGES = {"data": "01_data_prep", "respond": "02_retrospection", "judge": "03_judging", "train": "04_dpo_training", "evaluate": "05_evaluation"}


def rows_of(run: Run, iteration: int, name: str) -> pd.DataFrame:
    """A JSONL file of an iteration as a table (empty when it is not there)."""
    path = run.file(iteration, name)
    return pd.DataFrame(records.read(path, dict) if path.exists() else [])


def truths(texts: list[str], facts: list[dict | None]) -> list[dict | None]:
    """Each text's claims, counted, where facts are known."""
    if all(f is None for f in facts):
        return [None] * len(texts)
    from isrdpo.toybox import claims

    return [None if f is None else claims.truth(text, f).to_dict() for text, f in zip(texts, facts, strict=True)]


def judged(run: Run, iteration: int) -> pd.DataFrame:
    """A row a judged sample: question, responses, words [2], correct [2] or None, choice or None, reason, calls, unparsed, facts."""
    from isrdpo import verdicts

    samples = {s.id: s for s in records.read(run.file(iteration, "samples.jsonl"), records.Sample)}
    calls: dict[str, list[records.Judgment]] = {}
    for call in records.read(run.file(iteration, "judgments.jsonl"), records.Judgment):
        calls.setdefault(call.id, []).append(call)
    rows = []
    for answer in records.read(run.file(iteration, "responses.jsonl"), records.Responses):
        mine, sample = calls.get(answer.id, []), samples[answer.id]
        found = truths(answer.responses, [sample.facts] * 2)
        choice, reason = verdicts.decide(mine, run.params.judge.min_margin) if mine else (None, "tie or empty")
        rows.append({
            "id": answer.id, "video": sample.video, "question": sample.question, "responses": answer.responses, "context": answer.context,
            "words": [metrics.words(t) for t in answer.responses], "correct": [t["correct"] for t in found] if found[0] else None,
            "choice": choice, "reason": reason, "calls": len(mine), "unparsed": sum(c.choice is None and c.scores is None for c in mine), "margin": verdicts.margin(mine),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    table["choice"] = pd.Series([row["choice"] for row in rows], dtype=object)  # else None makes every index a float
    return table


def context_truths(run: Run, iteration: int) -> list[dict]:
    """The claims of c_t, counted, one entry a video (empty where facts are not known)."""
    contexts = rows_of(run, iteration, "contexts.jsonl")
    facts = {s.video: s.facts for s in records.read(run.file(iteration, "samples.jsonl"), records.Sample)}
    if contexts.empty:
        return []
    scenes = [facts[v] and {"scene": facts[v]["scene"]} for v in contexts["video"]]
    return [t for t in truths(list(contexts["context"]), scenes) if t]


def iteration_row(run: Run, iteration: int) -> dict[str, Any]:
    """One row of summary.csv, from what is on disk; what is not there yet is left empty."""
    row: dict[str, Any] = {"iteration": iteration}
    if run.done("evaluate", iteration):
        row |= {k: v for k, v in records.read_json(run.file(iteration, "eval.json")).items() if k != "iteration"}
    if iteration and run.done("judge", iteration):
        row |= metrics.verdicts(judged(run, iteration).to_dict("records")) | metrics.contexts(context_truths(run, iteration))
    if iteration and run.done("train", iteration):
        steps = pd.read_csv(run.file(iteration, "train.csv"))
        if len(steps):
            row |= {"dpo_loss_first": steps["loss"].iloc[0], "dpo_loss_last": steps["loss"].iloc[-1]}
    markers = [m for stage in STAGES if (m := run.done(stage, iteration))]
    return row | {"seconds": round(sum(m["seconds"] for m in markers), 1) if markers else None}


def summary(run: Run) -> pd.DataFrame:
    """summary.csv as a table: a row an iteration, figures, then their intervals."""
    last = max((t for stage, t in run.finished() if stage != "data"), default=-1)
    return pd.DataFrame([iteration_row(run, t) for t in range(last + 1)], columns=metrics.summary_columns())


def write_summary(run: Run) -> pd.DataFrame:
    table, text = summary(run), io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    records.write_text(run.folder / "summary.csv", text.getvalue())
    return table


def summary_table(run: Run) -> str:
    """The summary for a terminal."""
    return summary(run)[SHOWN].to_string(index=False, na_rep="", float_format=lambda x: f"{x:.3f}")


def png(made: Figure) -> bytes:
    out = io.BytesIO()
    made.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def figure(run: Run, iteration: int | None, name: str, made: Figure, data: pd.DataFrame) -> Figure:
    """Save a figure with the CSV it was drawn from (`iter_NN/figures/`, or the run's `figures/`); returns it, for a notebook to show."""
    folder = (run.folder if iteration is None else run.iteration(iteration)) / "figures"
    text = io.StringIO()
    data.to_csv(text, index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    records.write_text(folder / f"{name}.csv", text.getvalue())
    (folder / f"{name}.png").write_bytes(png(made))
    return made


def provenance(run: Run, stage: str) -> pd.DataFrame:
    """What a notebook shows first: versions, commit, and the resolved parameters its stage depends on."""
    found = records.read_json(run.folder / "provenance.json")
    rows = {k: v for k, v in found.items() if k != "packages"} | {f"version of {k}": v for k, v in found["packages"].items() if v}
    return pd.DataFrame([*rows.items(), *depends(run.params, stage).items()], columns=["what", "value"]).astype(str)


def stage_marker(run: Run, stage: str, iteration: int) -> dict:
    """The marker of a finished stage; a clear error when it is not finished."""
    from isrdpo.runs import MissingStage

    found = run.done(stage, iteration)
    if found is None:
        raise MissingStage(f"{run.folder}: stage {stage} of iteration {iteration} is not done")
    return found


def page(run: Run, iteration: int, notebook: str) -> Path:
    """iter_NN/reports/<name>.html from the executed notebook; opens from disk, without network. Code is folded away."""
    import nbformat
    from nbconvert import HTMLExporter

    source = run.iteration(iteration) / "notebooks" / f"{notebook}.ipynb"
    exporter = HTMLExporter(template_name="lab", exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True,
                            sanitize_html=False, embed_images=True, mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")  # fmt: skip
    body, _ = exporter.from_notebook_node(nbformat.read(source, as_version=4), {"metadata": {"name": f"{notebook}, iteration {iteration}"}})
    target = run.iteration(iteration) / "reports" / f"{notebook}.html"
    records.write_text(target, body)
    return target


def outcome(table: pd.DataFrame) -> str:
    """One sentence from the data: how accuracy, hallucination and length moved from the base to the last iteration, with intervals."""
    known = table.dropna(subset=["response_words"])
    if len(known) < 2:
        return "No policy has been trained and evaluated yet."
    first, last, parts = known.iloc[0], known.iloc[-1], []
    for name, label, form in (("accuracy", "accuracy", ".0%"), ("hallucination", "false claims", ".0%"), ("response_words", "words an answer", ".1f")):
        if pd.notna(first[name]) and pd.notna(last[name]):
            apart = last[f"{name}_low"] > first[f"{name}_high"] or last[f"{name}_high"] < first[f"{name}_low"]
            parts.append(f"{label} {first[name]:{form}} → {last[name]:{form}} ({'intervals apart' if apart else 'intervals overlap'})")
    return f"From the base to iteration {int(last['iteration'])}: " + "; ".join(parts) + ". One run of one arm; other seeds may differ."


def index(run: Run) -> Path:
    """outputs/<run>/report.html and summary.csv, from what is there; works while a run goes on."""
    import jinja2

    table = write_summary(run)
    curves = ""
    if table["response_words"].notna().any():
        made = plots.curves(table)
        figure(run, None, "curves", made, table)
        curves = "data:image/png;base64," + base64.b64encode(png(made)).decode()
    markers = [m for t in range(run.params.iterations + 1) for stage in STAGES if (m := run.done(stage, t))]
    stages = pd.DataFrame([
        {"iteration": m["iteration"], "stage": m["stage"], "samples": m["total"], "counts": json.dumps(m["counts"]), "bad": json.dumps(m["bad"]),
         "seconds": m["seconds"], "memory (MB)": m["peak_rss_mb"]} for m in markers
    ])  # fmt: skip
    found = records.read_json(run.folder / "provenance.json")
    links = [
        (t, [(p.stem, str(p.relative_to(run.folder))) for p in sorted((run.iteration(t) / "reports").glob("*.html"))])
        for t in range(run.params.iterations + 1)
    ]
    finished = sum(m["stage"] == "train" for m in markers)
    environment = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"))
    html = environment.get_template("index.html.j2").render(
        title=f"isrdpo: {run.folder.name}", created=found["created"], outcome=outcome(table), curves=curves,
        what=f"{run.params.model.path}, context: {run.params.respond.context}, {finished} of {run.params.iterations} iterations trained, seed {run.params.seed}.",
        command=f"isrdpo run {run.folder / 'params.yaml'}" if run.folder.name != "toybox" else "make demo",
        table=_table(table[SHOWN]), stages=_table(stages), links=[entry for entry in links if entry[1]],
        warnings=[f"{m['stage']}, iteration {m['iteration']}: {w}" for m in markers for w in m["warnings"]],
        provenance=_table(provenance(run, "data").iloc[:20]),
    )  # fmt: skip
    target = run.folder / "report.html"
    records.write_text(target, html)
    return target


def _table(frame: pd.DataFrame) -> Any:
    from markupsafe import Markup

    text = frame.to_html(index=False, border=0, na_rep="", float_format=lambda x: f"{x:.3f}", escape=True)
    return Markup(text)  # noqa: S704 - pandas has escaped it



