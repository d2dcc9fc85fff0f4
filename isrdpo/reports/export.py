"""One iteration's preferences for other tools, or its policy: isrdpo export outputs/toybox --iteration 3 --format hf --to exported

| format | files | where its schema is from |
|---|---|---|
| llava-hound | preferences.jsonl | LLaVA-Hound's sft_dpo_17k.jsonl (llava_hound_dpo/dpo_scripts/run_dpo.py); `isrdpo.data.read_rows` reads it |
| hf | data/train-*.parquet, README.md | huggingface.co/docs/trl/dataset_formats (preference, conversational, explicit prompt); hub dataset cards |
| llama-factory | preferences.json, dataset_info.json | hiyouga/LLaMA-Factory at ff6d4d12: data/README.md, src/llamafactory/data/{converter,mm_plugin}.py |
| ms-swift | preferences.jsonl | modelscope/ms-swift at 3602360a: docs/source_en/Customization/Custom-dataset.md (RLHF, Multimodal) |

Video paths count from the run's video root; with copied videos, from the exported folder (in LLaVA-Hound's format, whose reader joins a video folder,
from its videos/). LLaMA-Factory and ms-swift take a folder of frames as a list of its pictures, and count the tags <video>, <image>, <audio> in all
texts: pairs that hold one are left out there, and counted. TRL 1.16's DPOTrainer trains on images only and ignores `videos`.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isrdpo.core import records
from isrdpo.core.clips import PICTURES, find_clip
from isrdpo.core.errors import MissingStage, RunError
from isrdpo.core.folders import display_path
from isrdpo.core.progress import progress_bar
from isrdpo.core.records import Preference
from isrdpo.core.runs import Run
from isrdpo.formats import hub

TAG = re.compile(r"<(video|image|audio)>")
SHARD = 100_000  # rows a parquet file
FAMILY = ("llava_llama", "llava_hound")  # model_type in the original layout, and in that of `hound.save`
TOWERS = {"image": "LanguageBind/LanguageBind_Image", "video": "LanguageBind/LanguageBind_Video_merge"}
SOURCE = "https://arxiv.org/abs/2406.11280"


def preferences(run: Run, t: int, target: Path, form: str, copy_videos: bool = False) -> str:
    """Writes iteration t's kept pairs into the new folder `target`, whole or not at all; returns what to say. Raises RunError."""
    if not run.done("judge", t):
        raise MissingStage(f"{display_path(run.folder)}: iteration {t} has no finished preferences; run `isrdpo stage judge --run {display_path(run.folder)} --iteration {t}`")
    found = records.read_jsonl(run.file(t, "preferences.jsonl"), Preference)
    kept = [pair for pair in found if form in ("llava-hound", "hf") or not TAG.search(pair.question + pair.chosen + pair.rejected)]
    if not kept:
        raise RunError(f"{display_path(run.file(t, 'preferences.jsonl'))}: no pair to export ({len(found)} in all)")
    root = run.videos_folder()
    with _Fresh(target) as part:
        if copy_videos:
            _copy(dict.fromkeys(pair.video for pair in kept), root, part / "videos")
        within = "videos/" if copy_videos and form != "llava-hound" else ""
        WRITERS[form](kept, part, lambda name: _media(root, name, within), run, t)
    note = f"; {len(found) - len(kept)} left out, their text holds a media tag" if len(kept) < len(found) else ""
    paths = "copied into videos/" if copy_videos else f"named as below {root}"
    return f"{display_path(target)}: {len(kept)} pairs of iteration {t} as {form}, videos {paths}{note}"


class _Fresh:
    """A folder that is made beside its place and renamed when the block ends well. Raises RunError where something is there already."""

    def __init__(self, target: Path) -> None:
        self.target, self.part = target, target.with_name(f".{target.name}.{os.getpid()}.part")

    def __enter__(self) -> Path:
        if self.target.is_symlink() or self.target.is_file() or (self.target.is_dir() and any(self.target.iterdir())):
            raise RunError(f"{display_path(self.target)}: something is there already; give a new or empty folder as --to")
        self.part.mkdir(parents=True)
        return self.part

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind:
            shutil.rmtree(self.part)
            return
        if self.target.is_dir():
            self.target.rmdir()
        os.replace(self.part, self.target)


def _copy(names: dict[str, None], root: Path, target: Path) -> None:
    for name in progress_bar(names, len(names), "videos"):
        source, place = find_clip(root, name), target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place)
        else:
            shutil.copyfile(source, place)


def _media(root: Path, name: str, within: str) -> str | list[str]:
    """A video's path, or the paths of its frames in order."""
    folder = root / name
    return [f"{within}{name}/{p.name}" for p in sorted(folder.iterdir()) if p.suffix.lower() in PICTURES] if folder.is_dir() else within + name


Media = Callable[[str], str | list[str]]


def _llava_hound(pairs: list[Preference], folder: Path, media: Media, run: Run, t: int) -> None:
    records.write_jsonl(folder / "preferences.jsonl", [
        {"id": p.id, "video": p.video, "prompt": f"<video>\n{p.question}", "chosen": p.chosen, "rejected": p.rejected} for p in pairs
    ])  # fmt: skip


def _llama_factory(pairs: list[Preference], folder: Path, media: Media, run: Run, t: int) -> None:
    def said(who: str, text: str) -> dict[str, str]:
        return {"from": who, "value": text}

    records.write_json(folder / "preferences.json", [
        {"conversations": [said("human", f"<video>{p.question}")], "chosen": said("gpt", p.chosen), "rejected": said("gpt", p.rejected), "videos": [media(p.video)]}
        for p in pairs
    ])  # fmt: skip
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "videos": "videos"}
    entry = {"file_name": "preferences.json", "formatting": "sharegpt", "ranking": True, "columns": columns}
    records.write_json(folder / "dataset_info.json", {f"{_slug(run)}_iteration_{t}": entry})


def _ms_swift(pairs: list[Preference], folder: Path, media: Media, run: Run, t: int) -> None:
    records.write_jsonl(folder / "preferences.jsonl", [
        {
            "messages": [{"role": "user", "content": f"<video>{p.question}"}, {"role": "assistant", "content": p.chosen}],
            "rejected_response": p.rejected, "videos": [media(p.video)],
        }
        for p in pairs
    ])  # fmt: skip


def _hf(pairs: list[Preference], folder: Path, media: Media, run: Run, t: int) -> None:
    """Columns id, videos, prompt, chosen, rejected, margin. A folder of frames stays one path: a column has one type."""
    import pyarrow
    from pyarrow import parquet

    within = "videos/" if (folder / "videos").is_dir() else ""
    rows = [
        {"id": p.id, "videos": [within + p.video], "prompt": [{"role": "user", "content": p.question}], "chosen": [{"role": "assistant", "content": p.chosen}],
         "rejected": [{"role": "assistant", "content": p.rejected}], "margin": None if p.margin is None else float(p.margin)}
        for p in pairs
    ]  # fmt: skip
    (folder / "data").mkdir()
    shards = range(0, len(rows), SHARD)
    for number, start in enumerate(shards):
        table = pyarrow.Table.from_pylist(rows[start : start + SHARD], schema=_features().arrow_schema)
        parquet.write_table(table, folder / "data" / f"train-{number:05d}-of-{len(shards):05d}.parquet")
    front = {"pretty_name": f"ISR-DPO preferences, iteration {t}", "task_categories": ["video-text-to-text"], "tags": ["dpo", "preference", "isr-dpo", "trl"],
             "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}], **_size_category(len(rows))}  # fmt: skip
    counts = {"pairs": len(rows), "videos": len({p.video for p in pairs}), "questions": len({p.question for p in pairs})}
    records.write_text(folder / "README.md", card(run, t, front, f"ISR-DPO preferences of iteration {t}", counts, _made(run, t), _columns(within)))


def _features() -> Any:
    from datasets import Features, List, Value

    turns = List({"role": Value("string"), "content": Value("string")})
    text = Value("string")
    return Features({"id": text, "videos": List(text), "prompt": turns, "chosen": turns, "rejected": turns, "margin": Value("float64")})


WRITERS = {"llava-hound": _llava_hound, "hf": _hf, "llama-factory": _llama_factory, "ms-swift": _ms_swift}
JUDGES = {"truth": "the known facts of the toy world decided between them", "random": "a coin decided between them"}  # judge.method; else the policy itself


def _made(run: Run, t: int) -> str:
    policy = "The base model" if t == 1 else f"The base model, trained for {t - 1} iteration{'s' if t > 2 else ''} on its own preferences,"
    judge = JUDGES.get(run.params.judge.method, "it judged its own answers itself")
    return f"{policy} answered each question twice; {judge}, and what was preferred is `chosen`. No human took part."


def _columns(within: str) -> str:
    where = "files below this folder" if within else "names below the run's video root; the videos are not in this repository"
    return (
        "`prompt`, `chosen` and `rejected` are messages (role, content) as TRL's preference format has them. `videos` are paths: " + where + ". "
        "`margin` is the verdict's mean log-odds over the orders display_path, null where verdicts were generated as text."
    )


def _size_category(count: int) -> dict[str, list[str]]:
    return {"size_categories": ["n<1K" if count < 1000 else "1K<n<10K" if count < 10_000 else "10K<n<100K" if count < 100_000 else "100K<n<1M"]}


def _slug(run: Run) -> str:
    return re.sub(r"\W+", "_", run.folder.name).strip("_") or "run"


def card(run: Run, t: int, front: dict[str, Any], title: str, counts: dict[str, int], made: str, more: str) -> str:
    """README.md: YAML front matter, then model, iteration, counts, provenance, how made. No path of this machine is in it."""
    import yaml

    p, kept = run.params, run.folder / "provenance.json"
    known = records.read_json(kept) if kept.exists() else {}
    base = p.model.path if hub.HUB_ID.fullmatch(p.model.path) and not Path(p.model.path).exists() else Path(p.model.path).name
    facts = {
        "base model": base, "iteration": f"{t} of {p.iterations}", **counts, "seed": p.seed, "made with": f"isrdpo, commit {known.get('commit') or 'unknown'}",
        "run created": known.get("created", "unknown"), "torch, transformers, trl": ", ".join(str(known.get("packages", {}).get(n)) for n in ("torch", "transformers", "trl")),
        "responses": f"temperature {p.respond.temperature}, top_p {p.respond.top_p}, top_k {p.respond.top_k}, description {p.respond.context}",
        "verdicts": f"{p.judge.method}, orders {p.judge.orders}, keep_surest {p.judge.keep_surest}",
    }  # fmt: skip
    head = yaml.safe_dump({"license": "other", "license_name": "unspecified", **front}, sort_keys=False, width=1000)
    table = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    rights = "No license is given here: videos, questions and the base model have licenses of their own, which apply."
    return f"---\n{head}---\n\n# {title}\n\n{made} Method: [ISR-DPO]({SOURCE}).\n\n| | |\n|---|---|\n{table}\n{more}\n\n{rights}\n"


def policy(run: Run, t: int, target: Path) -> str:
    """pi_{t+1} in LLaVA-Hound's original layout, with its towers' configs and its tokenizer, in the dtype it was saved in. Raises RunError."""
    source = run.file(t, "policy")
    if not run.done("train", t) or not source.is_dir():
        why = "was not kept (see keep_policies)" if run.done("train", t) else "is not trained"
        raise MissingStage(f"{display_path(run.folder)}: the policy of iteration {t} {why}; run `isrdpo stage train --run {display_path(run.folder)} --iteration {t}`")
    with _Fresh(target) as part:
        kind = original(source, part, run.params.model.image_tower, run.params.model.video_tower)
        front = {"library_name": "isrdpo", "tags": ["dpo", "isr-dpo", "video-text-to-text"]}
        more = "The layout is LLaVA-Hound's own (model_type llava_llama); `isrdpo.hound.load` reads it. LLaVA-Hound's code wants `llava` in the folder's name."
        made = "A video language model trained with DPO on its own verdicts about its own answers."
        records.write_text(part / "README.md", card(run, t, front, f"ISR-DPO policy after iteration {t}", {}, made, more))
    return f"{display_path(target)}: the policy after iteration {t} in LLaVA-Hound's layout, {kind}"


def original(source: Path, target: Path, image_tower: str | None = None, video_tower: str | None = None) -> str:
    """A checkpoint of LLaVA-Hound's family, rewritten in the original layout tensor by tensor; returns its dtype. Raises RunError for another family."""
    try:
        family = json.loads((source / "config.json").read_text()).get("model_type")
    except (OSError, ValueError) as error:
        raise RunError(f"{display_path(source)}/config.json: not readable ({error})") from error
    if family not in FAMILY:
        raise RunError(f"{display_path(source)}: model_type {family!r} is not LLaVA-Hound's; only that family has this layout, use the folder as it is")
    import torch

    from isrdpo.models import hound

    kinds = {tensor.dtype for key, tensor in hound._tensors(source).items() if not hound.DROPPED.search(key)}
    dtype = next(iter(kinds))
    for kind in kinds:
        dtype = torch.promote_types(dtype, kind)
    model, processor = hound.load(source, image_tower=image_tower, video_tower=video_tower, dtype=dtype)
    hound.save_original(model, processor, target, dtype)
    _named_as_upstream(target)
    return str(dtype).removeprefix("torch.")


def _named_as_upstream(folder: Path) -> None:
    """What LLaVA-Hound's own loader asks for beside the weights (RifleZhang/LLaVA-Hound-DPO at ec2381f6, llava_hound_dpo/llava/model: builder.py,
    multimodal_encoder/builder.py): towers named LanguageBind_Image and LanguageBind_Video_merge, of which it needs both, and a tokenizer_config.json,
    without which AutoTokenizer does not know the class. `hound.load` finds the towers' configs under the same names, in this folder."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if all(config.get(f"mm_{name}_tower") for name in TOWERS):
        (folder / "LanguageBind").mkdir()
        for name, official in TOWERS.items():
            os.replace(folder / config[f"mm_{name}_tower"], folder / official)
            config[f"mm_{name}_tower"] = official
        records.write_json(path, config)
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    records.write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False, "padding_side": "right", **special,
    })  # fmt: skip


def may_push(repo: str) -> None:
    """Raises RunError where a push cannot come to anything: before the work, not after it."""
    if not hub.HUB_ID.fullmatch(repo):
        raise RunError(f"--push {repo}: not a repository's name; give OWNER/NAME")
    if not hub.token():
        raise RunError(f"--push {repo}: no token; set HF_TOKEN in the environment (one that may write)")


def push(folder: Path, repo: str, kind: str, public: bool = False, endpoint: str | None = None) -> str:
    """Uploads the folder in one commit; a repository that is not there is made, private unless asked. Raises RunError."""
    may_push(repo)
    with hub.one_line(repo):
        api = hub.api(endpoint)
        api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        made = api.upload_folder(repo_id=repo, repo_type=kind, folder_path=folder, commit_message=f"isrdpo export: {folder.name}")
    return f"{repo}: uploaded, {made.commit_url}"
