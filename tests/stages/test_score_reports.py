"""Scores in tables, pages and comparisons: numbers of different scorers are never mixed."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from isrdpo.core import errors, metrics, records
from isrdpo.core.records import Score
from isrdpo.core.runs import Run
from isrdpo.reports import compare, summary
from isrdpo.scoring import protocol, scores
from isrdpo.stages import score
from tests.scored_runs import isrdpo, make_score, openai_settings, polite
from tests.scorer_server import serving

pytestmark = pytest.mark.usefixtures("openai_key")

STUDY = """\
preset: params/toybox.yaml
run: {folder}
seeds: [0, 1]
parallel: 1
arms:
  isr: {{}}
  self_reward: {{respond.context: none}}
"""
SMALL_STUDY = (
    "iterations=1",
    "data.samples=0",
    "data.questions=0",
    "data.fixed_pairs=0",
    "respond.max_new_tokens=8",
    "respond.context_max_new_tokens=8",
    "evaluate.max_new_tokens=8",
    "train.epochs=1",
    "judge.keep_surest=1.0",
    "judge.orders=1",
    "max_bad_share=1.0",
)


def official_scores(version: str, accuracy: float) -> list[Score]:
    """Twenty scores in each of the reference's sets, of which this share is right."""
    rows = []
    for name in protocol.REFERENCE_SETS:
        rows += [make_score(number, number < accuracy * 20, version, name) for number in range(20)]
    return rows


def test_numbers_of_different_scorers_never_share_a_column() -> None:
    mixed = scores.score_table(official_scores("gpt-3.5-turbo-0613", 0.5) + official_scores("new", 0.75))
    assert set(mixed["scorer_version"]) == {"gpt-3.5-turbo-0613", "new"}
    assert len(mixed) == 8
    with pytest.raises(scores.ScorersDiffer, match=r"gpt-3\.5-turbo-0613 and new"):
        scores.score_column(mixed, "accuracy")

    tables = scores.tables_beside_published({"ours": mixed})
    assert list(tables["gpt-3.5-turbo-0613"]["model"]) == [
        "ours",
        "Video-LLaVA 7B (published)",
        "LLaVA-Hound-SFT (published)",
        "LLaVA-Hound-DPO (published)",
    ]
    assert tables["gpt-3.5-turbo-0613"].loc[0, "mean"].startswith("50.00 [")
    assert list(tables["new"]["model"]) == ["ours"]
    published = [f"{model} (published)" for model in protocol.REFERENCE["gpt-3.5-turbo-1106"]]
    assert list(tables["gpt-3.5-turbo-1106"]["model"]) == published

    by_version = scores.tables_by_version({"ours": mixed}).values()
    assert [table["policy"].tolist() for table in by_version] == [["ours"] * 4, ["ours"] * 4]


def remove_facts(run: Run) -> None:
    """Take the facts from a run's answers, as a real data set has none."""
    path = run.file(0, "answers.jsonl")
    figures = run.file(0, "eval.json")
    rows = [json.loads(line) | {"truth": None} for line in path.read_text().splitlines()]
    records.write_jsonl(path, rows)
    records.write_json(figures, records.read_json(figures) | metrics.answer_figures(rows))


def scored_run_without_facts(answered: Callable, name: str, version: str) -> Run:
    """Score a run that has lost its facts, and check who is named as its scorer before."""
    with serving(polite) as server:
        server.version = version
        run = answered(name, *openai_settings(server))
        assert summary.table(run).loc[0, "scorer"] == "facts"
        remove_facts(run)
        assert summary.table(run).loc[0, "scorer"] == ""
        assert pd.isna(summary.table(run).loc[0, "accuracy"])
        score.run(run, 0)
    return run


def test_where_facts_are_not_known_the_scorer_says_what_is_right_and_two_scorers_are_not_compared(
    answered: Callable,
) -> None:
    first = scored_run_without_facts(answered, "isr-0", "one")
    second = scored_run_without_facts(answered, "fresh-0", "two")
    summary_row = summary.table(first).loc[0]
    questions = compare.questions([first])
    assert summary_row["scorer"] == "one"
    assert summary_row["accuracy"] == 1.0
    assert questions["correct"].eq(1).all()
    if questions["claims"].notna().any():
        assert summary_row["hallucination"] == 0.5
        assert summary_row["claims_per_answer"] == 2
    note = "What is right and which claims have no support is one's word, not the facts'."
    assert compare.scorer_note(compare.results([first])) == note
    with pytest.raises(errors.RunError, match=r"different scorers.*one .*two "):
        compare.questions([first, second])


@pytest.mark.slow
def test_an_evaluation_without_training_has_its_pages_and_is_scored(make_run: Callable) -> None:
    with serving(polite) as server:
        run = make_run("alone", "iterations=0", *openai_settings(server))
        loop = isrdpo("run", str(run.folder / "params.yaml"))
        assert loop.returncode == 0, loop.stdout + loop.stderr
        page = run.file(0, "reports") / "05_evaluation.html"
        assert "Scored by scripted-2026-01-01" in page.read_text()
        assert (run.folder / "report.html").exists()

        requests = len(server.asked)
        arguments = ["score", str(run.folder), "--iteration", "0"]
        again = isrdpo(*arguments)
        assert "by scripted-2026-01-01" in again.stdout
        assert len(server.asked) == requests
        other = isrdpo(*arguments, "model=other")
        assert other.returncode == 1
        assert "--redo scores anew" in other.stderr
        assert run.file(0, "scores.jsonl").exists()

        server.version = "scripted-2027"
        assert isrdpo(*arguments, "model=other", "--redo").returncode == 0
        assert len(server.asked) == 2 * requests
        assert "Scored by scripted-2027" in page.read_text()
        assert "scripted-2026" not in page.read_text()


def data_without_facts(own_data: Callable) -> Path:
    """Write six questions about three clips, with captions but no facts; train and test ids differ."""
    talk = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A cube."}]
    row = {"caption": "A red cube falls.", "conversations": talk, "chosen": "A", "rejected": "B"}
    rows = [{"id": str(number), "video": f"{{{number % 3}}}"} | row for number in range(6)]
    folder, _ = own_data(rows)
    train_file = folder / "train.jsonl"
    train_file.write_text(train_file.read_text().replace('"id": "', '"id": "t'))
    return folder


@pytest.mark.slow
def test_a_study_of_videos_without_facts_is_compared_by_its_scorer(
    own_data: Callable, random_base: Path, tmp_path: Path
) -> None:
    folder = data_without_facts(own_data)
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.format(folder=tmp_path / "out"))
    with serving(polite) as server:
        arguments = ["study", str(study), *SMALL_STUDY, f"model.path={random_base}", f"data={folder}"]
        arguments += openai_settings(server)
        command = isrdpo(*arguments)
        assert command.returncode == 0, command.stdout + command.stderr
        requests = len(server.asked)
        assert isrdpo(*arguments).returncode == 0
        assert len(server.asked) == requests
    results = pd.read_csv(tmp_path / "out/results.csv")
    assert set(results["scorer"]) == {"scripted-2026-01-01"}
    assert (results["accuracy"] == 1).all()
    assert len(results) == 8
    page = (tmp_path / "out/comparison.html").read_text()
    assert "scripted-2026-01-01's word, not the facts" in page.replace("&#39;", "'")
