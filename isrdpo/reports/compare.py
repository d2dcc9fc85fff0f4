"""Runs side by side: python -m isrdpo.reports.compare RESULTS.csv FIGURE.png   (draws the figure of a study again from its published table)

Their rows as tables with `arm` and `seed`, means over seeds, paired differences. Pure but for reading the runs.

An interval over seeds is Student's t of the seeds' values; one over questions and seeds is a nested bootstrap (seeds are drawn, then questions within
each). With few seeds both are wide or, the bootstrap, too narrow: the tables say how many there are. One run alone has its questions' interval.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from isrdpo.core import metrics, records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path, resolve
from isrdpo.core.params import Params
from isrdpo.core.runs import Run
from isrdpo.reports import summary
from isrdpo.reports import tables as report

KEYS = ["arm", "seed", "iteration"]
COLUMNS = ["arm", "iteration", "seeds", "questions", "measure", "value", "value_low", "value_high", "baseline", "baseline_value", "difference", "difference_low",
           "difference_high"]  # fmt: skip
CONTROLS = ("ld", "norm", "rdpo", "balanced")  # of length, as they end an arm's name
ARMS = ("isr", "fresh", "self_reward", "oracle", "random", "given")  # in the order in which they are display_path
DRAWS = 2000
MEASURES = {  # of answers: (above, below) whose sums are divided; None: a mean
    "accuracy": ("correct", None), "hallucination": ("false", "claims"), "false_claims": ("false", None), "response_words": ("words", None),
}  # fmt: skip


def opened(given: str | Sequence[str]) -> list[Run]:
    """Runs by folder or pattern (`outputs/study/*`), or those below a folder of runs, each once, by arm (ARMS first) and seed. Raises RunError where there is none."""
    found: dict[Path, None] = {}
    for text in [given] if isinstance(given, str) else given:
        folder = resolve(text)
        places = [folder] if (folder / "params.yaml").is_file() else sorted(folder.glob("*")) if folder.is_dir() else sorted(resolve(".").glob(text))
        runs = [place for place in places if (place / "params.yaml").is_file()]
        if not runs:
            raise RunError(f"{text}: no run here; give folders of runs, such as outputs/toybox outputs/study")
        found |= dict.fromkeys(runs)
    return sorted((Run(folder) for folder in found), key=lambda run: (*_rank(arm_of(run)), run.params.seed))


def _rank(arm: str) -> tuple[int, bool, str]:
    """Where an arm stands among others: as ARMS has it, its length controls behind it, others last."""
    plain = uncontrolled(arm)
    return (*ARMS, plain).index(plain), plain != arm, arm


def arm_of(run: Run) -> str:
    """What a run tries: its folder's name without its seed (`isr-0`), else what its parameters say."""
    named = re.fullmatch(r"(.+)-(\d+)", run.folder.name)
    return named[1] if named and int(named[2]) == run.params.seed else arm_by(run.params)


def arm_by(params: Params) -> str:
    judge, train = params.judge, params.train
    arm = {"truth": "oracle", "random": "random", "given": "given"}.get(judge.method, {"retrospective": "isr", "fresh": "fresh", "none": "self_reward"}[params.respond.context])
    switched = (train.ld_alpha is not None, train.loss_type == "sigmoid_norm", bool(train.length_alpha), judge.balance_lengths)
    return "_".join([arm, *(name for name, on in zip(CONTROLS, switched, strict=True) if on)])


def _each(runs: Sequence[Run], table: Callable[[Run, int], pd.DataFrame], first: int, stage: str) -> pd.DataFrame:
    """A table of every run and iteration from `first` on whose `stage` is done, under arm, seed, iteration."""
    parts = []
    for run in runs:
        for t in range(first, run.params.iterations + 1):
            if run.done(stage, t):
                rows = table(run, t)
                parts.append(pd.concat([pd.DataFrame({"arm": arm_of(run), "seed": run.params.seed, "iteration": t}, index=rows.index), rows], axis=1))
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=KEYS)


def results(runs: Sequence[Run]) -> pd.DataFrame:
    """arm, seed, iteration and the other columns of each run's summary.csv, the runs in their order."""
    parts = []
    for run in runs:
        table = summary.table(run)
        table.insert(0, "seed", run.params.seed)
        table.insert(0, "arm", arm_of(run))
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def questions(runs: Sequence[Run]) -> pd.DataFrame:
    """A row an answer: arm, seed, iteration, id, kind, words, and (None where nobody says) correct, false, claims: by facts, or by the runs' scorer. Raises
    RunError where they were scored by different ones."""
    by: dict[str, str] = {}

    def rows(run: Run, t: int) -> pd.DataFrame:
        if name := report.scorer(run, t):
            by.setdefault(name, f"{display_path(run.folder)}, iteration {t}")
        if len(by) > 1:
            raise RunError("answers were scored by different scorers, whose numbers do not compare: " + "; ".join(f"{who} ({where})" for who, where in by.items()))
        return report.answers(run, t)[["id", "kind", "words", "correct", "false", "claims"]].astype({"correct": float, "false": float, "claims": float})

    return _each(runs, rows, 0, "evaluate")


def verdicts(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a judged pair: id, longer (None: no verdict, or equal length), truer, right (None: no verdict, equally true, or not known), says (what the
    description says of the asked fact: right, wrong, nothing), agree (do both orders choose the same; None where not both were asked and read)."""

    def rows(run: Run, t: int) -> pd.DataFrame:
        table = report.judged(run, t)
        facts = {s.id: s.facts for s in records.read_jsonl(run.file(t, "samples.jsonl"), records.Sample)}
        table = table[table["calls"] > 0]
        right = [
            None if choice is None or c is None or c[0] == c[1] else float(c[choice]) for c, choice in zip(table["correct"], table["choice"], strict=True)
        ]
        says = [_says(context, facts[i]) for context, i in zip(table["context"], table["id"], strict=True)]
        agree = [None if pair is None else float(pair[0] == pair[1]) for pair in report.by_order(table)]
        return pd.DataFrame({"id": table["id"], "longer": table["longer"].astype(float), "truer": table["truer"], "right": right, "says": says, "agree": agree},
                            index=table.index).astype({"right": float, "agree": float})  # fmt: skip

    return _each(runs, rows, 1, "judge")


def _says(context: str | None, facts: dict | None) -> str:
    """What a description says of the asked fact."""
    if not isinstance(context, str) or facts is None or "asked" not in facts:
        return "no description"
    from isrdpo.toybox import claims

    if claims.truth(context, facts).correct:
        return "right"
    return "wrong" if any(c.verdict is False for c in claims.find(context, facts)) else "nothing"


def fixed(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a fixed pair and condition: id, with_context, right (share of its calls), longer_truer (whether the truer response has more words)."""

    def rows(run: Run, t: int) -> pd.DataFrame:
        pairs = {p.id: p for p in records.read_jsonl(run.file(0, "fixed_pairs.jsonl"), records.FixedPair)}
        calls = report.rows_of(run, t, "fixed_judgments.jsonl")
        if calls.empty:
            return calls
        calls["right"] = [float(choice == pairs[i].truer) for choice, i in zip(calls["choice"], calls["id"], strict=True)]
        made = calls.groupby(["id", "with_context"], sort=False)["right"].mean().reset_index()
        words = {i: [metrics.word_count(text) for text in p.responses] for i, p in pairs.items()}
        return made.assign(longer_truer=[words[i][pairs[i].truer] > words[i][1 - pairs[i].truer] for i in made["id"]])

    return _each(runs, rows, 0, "evaluate")


def over_seeds(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """(mean, low, high): Student's t interval of the seeds' values; (value, None, None) of one."""
    from scipy import stats

    found = np.asarray([v for v in values if v is not None and np.isfinite(v)], float)
    if len(found) < 2:
        return (float(found.mean()) if len(found) else np.nan), None, None
    half = float(stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))
    return float(found.mean()), float(found.mean()) - half, float(found.mean()) + half


def curves(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """arm, iteration, n (seeds), `name`, `name`_low, `name`_high from `results`; of a single seed the run's own interval, of two from one to the other:
    Student's would be twelve times as wide, and say nothing."""
    rows = []
    for (arm, t), part in table.dropna(subset=[name]).groupby(["arm", "iteration"], sort=False):
        value, low, high = over_seeds(part[name].tolist())
        if len(part) == 1:
            low, high = (part[f"{name}_{end}"].iloc[0] if f"{name}_{end}" in part else None for end in ("low", "high"))
        elif len(part) == 2:
            low, high = part[name].min(), part[name].max()
        rows.append({"arm": arm, "iteration": t, "n": len(part), name: value, f"{name}_low": low, f"{name}_high": high})
    return pd.DataFrame(rows, columns=["arm", "iteration", "n", name, f"{name}_low", f"{name}_high"])


def nested(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float]:
    """(value, low, high) of the mean over seeds of sum(above) / sum(below), each seed an (above, below): seeds drawn, then rows within each."""
    draws, rng = [], np.random.default_rng(0)
    for above, below in groups:
        at = rng.integers(0, len(above), (DRAWS, len(above)))
        draws.append(above[at].sum(1) / np.maximum(below[at].sum(1), 1e-12))
    stacked = np.stack(draws)  # [seeds, DRAWS]
    seeds = rng.integers(0, len(groups), (DRAWS, len(groups)))
    means = stacked[seeds, rng.integers(0, DRAWS, seeds.shape)].mean(1)
    return _mean(groups), float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def _mean(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """The mean over seeds of sum(above) / sum(below)."""
    return float(np.mean([above.sum() / max(below.sum(), 1e-12) for above, below in groups]))


def differences(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Final answers of each arm, and how far they are from `baseline`'s on the same questions of the same seeds, a row an arm and measure (COLUMNS), with
    nested-bootstrap intervals. `table`: of `questions`. An arm's final answers are those of the last iteration that the baseline has, too;
    `baseline_value`: the baseline's there, on the questions that both were asked."""
    rows, base = [], table[table["arm"] == baseline]
    for arm, part in table.groupby("arm", sort=False):
        t = max(set(part["iteration"]) & set(base["iteration"]) or set(part["iteration"]))
        last, there = part[part["iteration"] == t], base[base["iteration"] == t]
        for measure, (above, below) in MEASURES.items():
            known = last.dropna(subset=[above])
            if known.empty:
                continue
            value = nested([_sums(seed, above, below) for _, seed in known.groupby("seed")])
            row = {"arm": arm, "iteration": t, "seeds": known["seed"].nunique(), "questions": len(known), "measure": measure,
                   "value": value[0], "value_low": value[1], "value_high": value[2], "baseline": baseline}  # fmt: skip
            both = known.merge(there, on=["seed", "id"], suffixes=("", "_base")).dropna(subset=[f"{above}_base"])
            if arm != baseline and len(both):
                seeds = [seed for _, seed in both.groupby("seed")]
                found = _paired(seeds, above, below)
                row |= {"baseline_value": _mean([_sums(seed, above, below, "_base") for seed in seeds]), "difference": found[0], "difference_low": found[1], "difference_high": found[2]}
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def controls(table: pd.DataFrame) -> pd.DataFrame:
    """Each length control against the same arm without it, as `differences`; empty where there is none."""
    rows = []
    for arm in dict.fromkeys(table["arm"]):
        without = uncontrolled(arm)
        if without != arm and without in set(table["arm"]):
            found = differences(table[table["arm"].isin([arm, without])], without)
            rows.append(found[found["arm"] == arm])
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=COLUMNS)


def readable(table: pd.DataFrame, name: str = "value") -> pd.DataFrame:
    """`differences` or `controls` for reading: a row an arm, a column a measure, each "value [low, high]"; `name`: value, or difference."""
    rows: dict[str, dict[str, str]] = {}
    for _, row in table.dropna(subset=[name]).iterrows():
        form = ("+" if name == "difference" else "") + (".1f" if row["measure"] == "response_words" else ".3f")
        label = f"{row['arm']} - {row['baseline']}" if name == "difference" else row["arm"]
        cells = rows.setdefault(row["arm"], {"arm": label, "iteration": str(row["iteration"]), "seeds": str(row["seeds"])})
        cells[row["measure"]] = f"{row[name]:{form}} [{row[f'{name}_low']:{form}}, {row[f'{name}_high']:{form}}]"
    return pd.DataFrame(rows.values()).fillna("")


def groups(arms: Sequence[str]) -> dict[str, list[str]]:
    """Arms that are display_path together: "" has those without length control (all, where there are no others), each other one an arm and its controls."""
    every = list(dict.fromkeys(arms))
    plain = [arm for arm in every if uncontrolled(arm) == arm]
    families = {arm: [arm, *(other for other in every if other != arm and uncontrolled(other) == arm)] for arm in plain}
    return {"": plain or every} | {arm: family for arm, family in families.items() if len(family) > 1}


def uncontrolled(arm: str) -> str:
    """An arm's name without its length controls."""
    return re.sub(rf"(_({'|'.join(CONTROLS)}))+$", "", arm)


def _sums(part: pd.DataFrame, above: str, below: str | None, suffix: str = "") -> tuple[np.ndarray, np.ndarray]:
    top = part[above + suffix].to_numpy(float)
    return top, np.ones_like(top) if below is None else part[below + suffix].to_numpy(float)


def _paired(seeds: list[pd.DataFrame], above: str, below: str | None) -> tuple[float, float, float]:
    """The difference of two arms' ratios, the same questions drawn for both."""
    rng, draws, values = np.random.default_rng(0), [], []
    for part in seeds:
        (a, b), (c, d) = _sums(part, above, below), _sums(part, above, below, "_base")
        at = rng.integers(0, len(part), (DRAWS, len(part)))
        draws.append(a[at].sum(1) / np.maximum(b[at].sum(1), 1e-12) - c[at].sum(1) / np.maximum(d[at].sum(1), 1e-12))
        values.append(a.sum() / max(b.sum(), 1e-12) - c.sum() / max(d.sum(), 1e-12))
    stacked = np.stack(draws)
    chosen = rng.integers(0, len(seeds), (DRAWS, len(seeds)))
    means = stacked[chosen, rng.integers(0, DRAWS, chosen.shape)].mean(1)
    return float(np.mean(values)), float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def judge_split(table: pd.DataFrame) -> pd.DataFrame:
    """What each arm's verdicts went by, over all iterations and seeds, as `plots.shares` draws it: measure, what (the arm), n, share, interval."""
    rows = []
    for arm, part in table.groupby("arm", sort=False):
        known = part.dropna(subset=["right"])
        measures = {
            "the longer is chosen": part.dropna(subset=["longer"]).rename(columns={"longer": "x"}),
            "the truer is chosen": known.rename(columns={"right": "x"}),
            "… where the longer is truer": known[known["truer"] == "the longer is truer"].rename(columns={"right": "x"}),
            "… where the shorter is truer": known[known["truer"] == "the shorter is truer"].rename(columns={"right": "x"}),
            "… where the description is right": known[known["says"] == "right"].rename(columns={"right": "x"}),
            "… where it is wrong": known[known["says"] == "wrong"].rename(columns={"right": "x"}),
            "the two orders agree": part.dropna(subset=["agree"]).rename(columns={"agree": "x"}),
        }
        rows += [_share(name, arm, found) for name, found in measures.items() if len(found)]
    return pd.DataFrame(rows, columns=["measure", "what", "n", "share", "share_low", "share_high"])


def fixed_split(table: pd.DataFrame) -> pd.DataFrame:
    """The fixed pairs, judged by each arm's last policy, as `judge_split`."""
    rows = []
    for arm, part in table.groupby("arm", sort=False):
        last = part[part["iteration"] == part["iteration"].max()].rename(columns={"right": "x"})
        for with_context, name in ((True, "with its description"), (False, "without")):
            for longer, kind in ((True, "the longer is truer"), (False, "the shorter is truer")):
                found = last[(last["with_context"] == with_context) & (last["longer_truer"] == longer)]
                rows += [_share(f"{name}: {kind}", arm, found)] if len(found) else []
    return pd.DataFrame(rows, columns=["measure", "what", "n", "share", "share_low", "share_high"])


def _share(measure: str, arm: str, found: pd.DataFrame) -> dict:
    value, low, high = nested([(seed["x"].to_numpy(float), np.ones(len(seed))) for _, seed in found.groupby("seed")])
    return {"measure": measure, "what": arm, "n": len(found), "share": value, "share_low": low, "share_high": high}


def equal_length(table: pd.DataFrame) -> pd.DataFrame:
    """The last answers of each arm, and the base's, as `plots.length_truth` draws them: what, id, words, correct."""
    known = table.dropna(subset=["correct"])
    base = known[known["iteration"] == 0].drop_duplicates(["seed", "id"]).assign(what="base")
    last = known[(known["iteration"] > 0) & (known["iteration"] == known.groupby("arm")["iteration"].transform("max"))]
    return pd.concat([base, last.assign(what=last["arm"])])[["what", "seed", "id", "words", "correct"]].astype({"correct": bool})


def gained_lost(table: pd.DataFrame) -> pd.DataFrame:
    """Questions gained and lost against the iteration before: a row an arm, a column an iteration, "gained / lost" as shares of the questions (means over seeds)."""
    known, rows = table.dropna(subset=["correct"]), []
    for (arm, seed), part in known.groupby(["arm", "seed"], sort=False):
        wide = part.pivot(index="id", columns="iteration", values="correct")
        for t in [t for t in wide.columns if t - 1 in wide.columns]:
            change = wide[t] - wide[t - 1]
            rows.append({"arm": arm, "seed": seed, "iteration": t, "gained": (change > 0).mean(), "lost": (change < 0).mean()})
    made = pd.DataFrame(rows, columns=[*KEYS, "gained", "lost"])
    means = made.groupby(["arm", "iteration"], sort=False)[["gained", "lost"]].mean()
    if means.empty:
        return pd.DataFrame(columns=["arm"])
    told = means["gained"].map("+{:.3f}".format) + " / " + means["lost"].map("-{:.3f}".format)
    return told.unstack().reindex(made["arm"].unique()).fillna("").rename(columns="iteration {}".format).rename_axis(columns=None).reset_index()


def same_questions(table: pd.DataFrame) -> bool:
    """Whether arms of the same seed were asked the same."""
    asked = table.groupby(["seed", "arm", "iteration"])["id"].agg(frozenset)
    return bool((asked.groupby("seed").nunique() == 1).all())


def outcome(table: pd.DataFrame, baseline: str, other: str) -> str:
    """What `differences` says of two arms, in a sentence."""
    rows = table[table["arm"] == other].set_index("measure")
    if other == baseline or rows.empty or baseline not in set(table["arm"]):
        return f"{baseline} and {other} are not both here."
    if rows["difference"].isna().all():
        return f"{baseline} and {other} were not asked the same questions."
    told = []
    for measure, words in (("accuracy", "accuracy"), ("hallucination", "false claims among all"), ("response_words", "words an answer")):
        if measure in rows.index and pd.notna(rows.loc[measure, "difference"]):
            row = rows.loc[measure]
            sure = "" if row["difference_low"] > 0 or row["difference_high"] < 0 else ", which is not distinguishable from none"
            digits = 1 if measure == "response_words" else 3
            told.append(f"{words} {row['baseline_value']:.{digits}f} against {row['value']:.{digits}f} (difference {-row['difference']:+.{digits}f} "
                        f"[{-row['difference_high']:+.{digits}f}, {-row['difference_low']:+.{digits}f}]{sure})")  # fmt: skip
    seeds = int(rows["seeds"].max())
    return f"{baseline} against {other} after {int(rows['iteration'].iloc[0])} iterations, {seeds} seed{'s' * (seeds > 1)}: {'; '.join(told)}."


def said_by(table: pd.DataFrame) -> str:
    """Who says what is right, from `results`; empty where the facts do."""
    names = sorted(set(table["scorer"].dropna()) - {"", "facts"})
    return f"What is right and which claims have no support is {' and '.join(names)}'s word, not the facts'." if names else ""


def named(runs: Sequence[Run]) -> str:
    """Which runs are compared, for a page: each arm's seeds."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(arm_of(run), []).append(str(run.params.seed))
    return "; ".join(f"{arm} (seed{'s' * (len(found) > 1)} {', '.join(found)})" for arm, found in seeds.items())


def main() -> None:
    """The figure of all arms in a results.csv that are no length control, from it alone."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m isrdpo.reports.compare RESULTS.csv FIGURE.png")
    from isrdpo.reports import plots

    table = pd.read_csv(sys.argv[1])
    table = table[table["arm"].map(uncontrolled) == table["arm"]].sort_values("arm", key=lambda arms: arms.map(_rank), kind="stable")
    plots.study([(curves(table, name), name, plots.COMPARED[name][0]) for name in MEASURES]).savefig(sys.argv[2], dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
