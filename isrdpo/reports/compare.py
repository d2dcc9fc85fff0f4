"""Runs side by side: their rows as tables with `arm` and `seed`, and means over seeds.

    python -m isrdpo.reports.compare RESULTS.csv FIGURE.png

draws a study's figure again from its published table.

An interval over seeds is Student's t of the seeds' values; one over questions and seeds is a nested
bootstrap (seeds are drawn, then questions within each). With few seeds both are wide or, the bootstrap, too
narrow: the tables say how many there are. One run alone has its questions' interval.
"""

import glob
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isrdpo.core import metrics, records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path, resolve
from isrdpo.core.runs import Run
from isrdpo.reports import answer_tables, judged_pairs, summary, tables
from isrdpo.reports.arms import arm_of, arm_order, without_controls
from isrdpo.reports.differences import MEASURES
from isrdpo.reports.judged_pairs import SHARE_COLUMNS, Truer
from isrdpo.reports.run_names import arm_names, require_same_questions
from isrdpo.reports.truth import description_says

KEYS = ["arm", "seed", "iteration"]
ANSWER_COLUMNS = ["id", "kind", "words", "correct", "false", "claims"]
CONDITIONS = {True: "with its description", False: "without"}  # by `with_context` of a fixed pair's verdict
USAGE = "usage: python -m isrdpo.reports.compare RESULTS.csv FIGURE.png"


def open_runs(places: str | Sequence[str]) -> list[Run]:
    """Return runs by folder or pattern (`outputs/study/*`), or those in a folder of runs, each once, by arm
    and seed.

    Raises RunError where there is none, or where their questions differ.
    """
    folders: dict[Path, None] = {}
    for place in [places] if isinstance(places, str) else places:
        run_folders = [folder for folder in _candidates(place) if _is_run(folder)]
        if not run_folders:
            raise RunError(
                f"{place}: no run here; give folders of runs, such as outputs/toybox outputs/study"
            )
        folders |= dict.fromkeys(folder.resolve() for folder in run_folders)
    runs = sorted(map(Run, folders), key=lambda run: (*arm_order(arm_of(run)), run.params.seed))
    require_same_questions(runs)
    return runs


def _candidates(place: str) -> list[Path]:
    """Return the folder itself where it is a run, else what is in it, or what the pattern finds."""
    folder = resolve(place)
    if _is_run(folder):
        return [folder]
    if folder.is_dir():
        return sorted(folder.iterdir())
    top = Path(folder.anchor)
    return sorted(top.glob(str(folder.relative_to(top)))) if glob.has_magic(place) else []


def _is_run(folder: Path) -> bool:
    return (folder / "params.yaml").is_file()


def arms_and_seeds(runs: Sequence[Run]) -> str:
    """Return which runs are compared, as in "isr (seeds 0, 1); self_reward (seed 1)"."""
    seeds: dict[str, list[str]] = {}
    for run, arm in zip(runs, arm_names(runs), strict=True):
        seeds.setdefault(arm, []).append(str(run.params.seed))
    return "; ".join(f"{arm} ({_list_seeds(numbers)})" for arm, numbers in seeds.items())


def _list_seeds(numbers: Sequence[str]) -> str:
    return f"seed {numbers[0]}" if len(numbers) == 1 else f"seeds {', '.join(numbers)}"


# Rows of all runs, under arm, seed and iteration


def results(runs: Sequence[Run]) -> pd.DataFrame:
    """Return each run's summary.csv under arm and seed, the runs in their order.

    Here and below, `arm` is the name that `run_names.arm_names` gives to a run among these runs.
    """
    parts = []
    for run, arm in zip(runs, arm_names(runs), strict=True):
        table = summary.table(run)
        table.insert(0, "seed", run.params.seed)
        table.insert(0, "arm", arm)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _under_keys(
    runs: Sequence[Run], stage: str, first: int, rows_of: Callable[[Run, int], pd.DataFrame]
) -> pd.DataFrame:
    """Return the rows of every run and iteration from `first` on whose `stage` is done, under KEYS."""
    parts = []
    for run, arm in zip(runs, arm_names(runs), strict=True):
        for t in range(first, run.params.iterations + 1):
            rows = rows_of(run, t) if run.done(stage, t) else pd.DataFrame()
            if len(rows):
                cells = {"arm": arm, "seed": run.params.seed, "iteration": t}
                parts.append(pd.concat([pd.DataFrame(cells, index=rows.index), rows], axis=1))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=KEYS)


def questions(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row for each answer: KEYS, id, kind, words and, by facts or by the runs' scorer, correct,
    false and claims.

    These three are None where nobody says. Raises RunError where the answers were scored by different
    scorers.
    """
    scorers: dict[str, str] = {}  # each with the first place that it was met in

    def _answer_rows(run: Run, t: int) -> pd.DataFrame:
        if scorer := answer_tables.scorer(run, t):
            scorers.setdefault(scorer, f"{display_path(run.folder)}, iteration {t}")
        if len(scorers) > 1:
            places = "; ".join(f"{scorer} ({place})" for scorer, place in scorers.items())
            raise RunError(
                f"answers were scored by different scorers, whose numbers do not compare: {places}"
            )
        numbers = dict.fromkeys(("correct", "false", "claims"), float)
        return answer_tables.answers(run, t)[ANSWER_COLUMNS].astype(numbers)

    return _under_keys(runs, "evaluate", 0, _answer_rows)


def verdicts(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row for each judged pair: KEYS, id, longer, truer, right, says and agree.

    longer, truer, right and agree are those of a JudgedPair; `says` is what the description says of the
    asked fact.
    """
    return _under_keys(runs, "judge", 1, _verdict_rows)


def _verdict_rows(run: Run, iteration: int) -> pd.DataFrame:
    table = judged_pairs.judged_table(run, iteration)
    table = table[table["calls"] > 0]
    samples = records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample)
    facts = {sample.id: sample.facts for sample in samples}
    says = [
        description_says(context, facts[i]).value
        for context, i in zip(table["context"], table["id"], strict=True)
    ]
    columns = ["id", "longer", "truer", "right", "says", "agree"]
    return table.assign(says=says)[columns].astype(dict.fromkeys(("longer", "right", "agree"), float))


def fixed_pairs(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row for each fixed pair and condition: KEYS, id, with_context, right and longer_truer.

    `right` is the share of its calls that chose the truer response; `longer_truer`: that response has more
    words.
    """
    return _under_keys(runs, "evaluate", 0, _fixed_pair_rows)


def _fixed_pair_rows(run: Run, iteration: int) -> pd.DataFrame:
    calls = tables.rows_of(run, iteration, "fixed_judgments.jsonl")
    if calls.empty:
        return calls
    pairs = records.read_jsonl(run.file(0, "fixed_pairs.jsonl"), records.FixedPair)
    truer = {pair.id: pair.truer for pair in pairs}
    calls["right"] = (calls["choice"] == calls["id"].map(truer)).astype(float)
    rows = calls.groupby(["id", "with_context"], sort=False)["right"].mean().reset_index()
    return rows.assign(longer_truer=rows["id"].map({pair.id: _is_longer_truer(pair) for pair in pairs}))


def _is_longer_truer(pair: records.FixedPair) -> bool:
    words = [metrics.word_count(response) for response in pair.responses]
    return words[pair.truer] > words[1 - pair.truer]


# Figures over seeds


def curves(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the mean over seeds of a column of `results`: arm, iteration, n (seeds), and the column with
    its interval.

    Of a single seed the interval is the run's own; of two it goes from one to the other, since Student's
    would be twelve times as wide and say nothing.
    """
    rows = []
    for (arm, t), part in table.dropna(subset=[name]).groupby(["arm", "iteration"], sort=False):
        row = {"arm": arm, "iteration": t, "n": len(part)}
        rows.append(row | _mean_over_seeds(part, name).columns(name))
    return pd.DataFrame(rows, columns=["arm", "iteration", "n", name, f"{name}_low", f"{name}_high"])


def _mean_over_seeds(part: pd.DataFrame, name: str) -> metrics.Interval:
    mean = metrics.over_seeds(part[name].tolist())
    if len(part) == 1 and f"{name}_low" in part:
        return metrics.Interval(mean.value, part[f"{name}_low"].iloc[0], part[f"{name}_high"].iloc[0])
    if len(part) == 2:
        return metrics.Interval(mean.value, part[name].min(), part[name].max())
    return mean


def judge_split(table: pd.DataFrame) -> pd.DataFrame:
    """Return what each arm's verdicts went by, over all iterations and seeds, as SHARE_COLUMNS; `what` is
    the arm.
    """
    rows = []
    for arm, part in table.groupby("arm", sort=False):
        rows += [_share_row(name, arm, part, values) for name, values in judged_pairs.measures(part).items()]
    return pd.DataFrame([row for row in rows if row["n"]], columns=SHARE_COLUMNS)


def fixed_split(table: pd.DataFrame) -> pd.DataFrame:
    """Return right verdicts on the fixed pairs by each arm's last policy, as `judge_split`."""
    rows = []
    for arm, part in table.groupby("arm", sort=False):
        last = part[part["iteration"] == part["iteration"].max()]
        for (with_context, condition), kind in product(CONDITIONS.items(), (Truer.LONGER, Truer.SHORTER)):
            is_longer = kind == Truer.LONGER
            pairs = last[(last["with_context"] == with_context) & (last["longer_truer"] == is_longer)]
            rows.append(_share_row(f"{condition}: {kind.value}", arm, pairs, pairs["right"]))
    return pd.DataFrame([row for row in rows if row["n"]], columns=SHARE_COLUMNS)


def _share_row(measure: str, arm: str, table: pd.DataFrame, values: pd.Series) -> dict[str, Any]:
    """Return the mean over seeds of `values` (indexed as rows of `table`) as a row of SHARE_COLUMNS."""
    share = metrics.NOTHING
    if len(values):
        seeds = [part.to_numpy(float) for _, part in values.groupby(table.loc[values.index, "seed"])]
        share = metrics.nested_bootstrap([(seed, np.ones_like(seed)) for seed in seeds])
    return {"measure": measure, "what": arm, "n": len(values)} | share.columns("share")


def equal_length(table: pd.DataFrame) -> pd.DataFrame:
    """Return what (the arm, or "base"), seed, id, words and correct of the last answers of each arm, and of
    the base's.
    """
    answers = table.dropna(subset=["correct"])
    base = answers[answers["iteration"] == 0].drop_duplicates(["seed", "id"]).assign(what="base")
    is_last = answers["iteration"] == answers.groupby("arm")["iteration"].transform("max")
    last = answers[(answers["iteration"] > 0) & is_last]
    rows = pd.concat([base, last.assign(what=last["arm"])])
    return rows[["what", "seed", "id", "words", "correct"]].astype({"correct": bool})


def gained_lost(table: pd.DataFrame) -> pd.DataFrame:
    """Return the questions gained and lost against the iteration before, as shares: KEYS, gained, lost."""
    rows = []
    for (arm, seed), part in table.dropna(subset=["correct"]).groupby(["arm", "seed"], sort=False):
        by_iteration = dict(list(part.groupby("iteration")))
        for t in by_iteration:
            if t - 1 in by_iteration:
                change = answer_tables.answer_changes(by_iteration[t - 1], by_iteration[t])
                row = {"arm": arm, "seed": seed, "iteration": t}
                rows.append(row | {"gained": (change > 0).mean(), "lost": (change < 0).mean()})
    return pd.DataFrame(rows, columns=[*KEYS, "gained", "lost"])


def gained_lost_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return `gained_lost` for a reader: a row for each arm, a column for each iteration, "+0.100 / -0.050"
    (means over seeds).
    """
    means = gained_lost(table).groupby(["arm", "iteration"], sort=False)[["gained", "lost"]].mean()
    rows: dict[str, dict[str, str]] = {}
    for (arm, t), mean in means.iterrows():
        cells = rows.setdefault(arm, {"arm": arm})
        cells[f"iteration {t}"] = f"+{mean['gained']:.3f} / -{mean['lost']:.3f}"
    iterations = sorted(means.index.unique("iteration"))
    columns = ["arm", *(f"iteration {t}" for t in iterations)]
    return pd.DataFrame(rows.values(), columns=columns).fillna("")


# What a page says


def same_questions(table: pd.DataFrame) -> bool:
    """Return whether arms of the same seed were asked the same questions."""
    ids = table.groupby(["seed", "arm", "iteration"])["id"].agg(frozenset)
    return bool((ids.groupby("seed").nunique() == 1).all())


def scorer_note(table: pd.DataFrame) -> str:
    """Return who says what is right, from `results`; empty where the facts do."""
    names = sorted(set(table["scorer"].dropna()) - {"", "facts"})
    if not names:
        return ""
    scorers = " and ".join(names)
    return f"What is right and which claims have no support is {scorers}'s word, not the facts'."


def main() -> None:
    """Draw all arms of a results.csv that are no length control."""
    if len(sys.argv) != 3:
        sys.exit(USAGE)
    from isrdpo.reports import arm_plots
    from isrdpo.reports.panels import save

    table = pd.read_csv(sys.argv[1])
    table = table[table["arm"].map(without_controls) == table["arm"]]
    table = table.sort_values("arm", key=lambda arms: arms.map(arm_order), kind="stable")
    panels = [(curves(table, name), name, arm_plots.COMPARED[name].label) for name in MEASURES]
    save(arm_plots.study(panels), sys.argv[2], dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
