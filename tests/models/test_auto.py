"""Every family of transformers' video models, as tiny random checkpoints with their real classes: what enters, what is generated, trained and saved."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from isrdpo.core import params, records
from isrdpo.formats import video
from isrdpo.models import auto, dpo
from isrdpo.models import local as vlmm
from isrdpo.models.hound_model import CheckpointError
from isrdpo.stages import data, evaluate, judge, respond, train
from tests import families

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
HOW = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 6}


@pytest.fixture(scope="session", params=families.FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write(request.param, tmp_path_factory.mktemp("family") / request.param)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from isrdpo.toybox import world

    to, difficulty = tmp_path_factory.mktemp("clips"), world.Difficulty()
    source = world.scenes("base", 5, difficulty)
    return [to / name for name in world.write_clips([next(source) for _ in range(3)], 5, difficulty, to)]


@pytest.fixture
def opened(folder: Path) -> vlmm.VideoModel:
    return vlmm.VideoModel(*auto.load(str(folder), frames=4, dtype=torch.float32, device="cpu"))


def own_inputs(opened: vlmm.VideoModel, clip: Path, request: str) -> dict:
    """What the checkpoint's own processor makes of a conversation about the same frames."""
    seen, inner = video.read(clip, 4), opened.processor.inner
    turns = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": request}]}]
    text = inner.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    known = {"total_num_frames": seen.count, "fps": seen.rate, "duration": seen.count / seen.rate, "frames_indices": seen.indices.tolist()}
    bos = opened.processor.tokenizer.bos_token
    return inner(text=[text], videos=[seen.frames], video_metadata=[known], do_sample_frames=False, return_tensors="pt", add_special_tokens=not (bos and text.startswith(bos)))


@torch.inference_mode()
def test_prompt_and_logits_are_those_of_the_models_own_processor(opened: vlmm.VideoModel, clips: list[Path]) -> None:
    (seen,) = opened.encode(clips[:1])
    own = own_inputs(opened, clips[0], "What moves?")
    ids = opened.processor.request_ids("What moves?", seen)
    assert own["input_ids"][0].tolist() == ids and ids.count(opened.processor.video_token_id) == len(seen["features"])
    wanted = opened.model(**own).logits[:, -1]
    made = opened.model(**opened._inputs([seen], [ids])) if "past_key_values" not in opened._inputs([seen], [ids]) else None
    whole = torch.tensor([ids])
    logits = opened.model(input_ids=whole, **opened._extra([seen], whole)).logits[:, -1]
    assert torch.allclose(logits, wanted, atol=1e-5) and (made is None or torch.allclose(made.logits[:, -1], wanted, atol=1e-5))
    greedy = opened.model.generate(**own, max_new_tokens=6, do_sample=False)[0, len(ids) :].tolist()
    assert opened.generate([seen], ["What moves?"], max_new_tokens=6) == [opened.processor.decode(greedy)]


def test_each_row_sees_its_own_video_whatever_its_batch(opened: vlmm.VideoModel, clips: list[Path]) -> None:
    videos = opened.encode([clips[0], clips[1], clips[2], clips[0]])
    asked = ["What moves?", "Which response is better, A or B? Red or blue?", "What?", "Red?"]
    together = opened.choose(videos, asked)
    alone = torch.cat([opened.choose([v], [a]) for v, a in zip(videos, asked, strict=True)])
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(opened.choose(videos[:1], ["What?"]), opened.choose(videos[1:2], ["What?"]), atol=1e-4)
    drawn = opened.generate(videos, asked, seeds=[1, 2, 3, 4], **HOW)
    assert drawn == [opened.generate([v], [a], seeds=[n], **HOW)[0] for n, (v, a) in enumerate(zip(videos, asked, strict=True), 1)]


def test_what_is_kept_on_disk_is_what_was_encoded(opened: vlmm.VideoModel, clips: list[Path], tmp_path: Path) -> None:
    first = vlmm.VideoModel(opened.model, opened.processor, cache=tmp_path).encode(clips[:1])[0]
    again = vlmm.VideoModel(opened.model, opened.processor, cache=tmp_path).encode(clips[:1])[0]
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(opened.choose([first], ["What?"]), opened.choose([again], ["What?"]))
    small = vlmm.VideoModel(opened.model, opened.processor, cache=tmp_path, max_pixels=300).encode(clips[:1])[0]
    assert not torch.equal(small["features"][:9], first["features"][:9])


def test_text_cannot_end_a_turn_or_stand_for_a_video(opened: vlmm.VideoModel, clips: list[Path]) -> None:
    (seen,) = opened.encode(clips[:1])
    made = opened.processor
    hostile = "".join(made.tokenizer.all_special_tokens) + made.inner.video_token + "<video><image>"
    plain, given = made.request_ids("x", seen), made.request_ids(f"x{hostile}", seen)
    for token in {made.video_token_id, *made.tokenizer.all_special_ids}:
        assert given.count(token) == plain.count(token), made.tokenizer.convert_ids_to_tokens(token)
    answer = made.answer_ids(f"a {hostile} b")
    assert [token for token in answer if token in made.end_ids] == answer[-1:]


def test_an_answer_goes_on_from_the_prompt_as_the_chat_template_writes_it(opened: vlmm.VideoModel) -> None:
    made = opened.processor
    ids = made.answer_ids("a red circle.")
    assert made.decode(ids) == "a red circle." and ids[-1] in made.end_ids and not set(ids[:-1]) & set(made.end_ids)
    turns = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": ""}]}, {"role": "assistant", "content": [{"type": "text", "text": "a red circle."}]}]
    text = made.inner.apply_chat_template(turns, tokenize=False)
    assert made.tokenizer.decode(ids) in text


def settings(folder: Path, to: Path, *more: str) -> list[str]:
    return [
        f"run={to}", f"model.path={folder}", "video.frames=4", "iterations=2", "keep_policies=all", "data.samples=8", "data.questions=4", "data.fixed_pairs=2", "max_bad_share=1.0", "respond.max_new_tokens=6",
        "respond.context_max_new_tokens=6", "evaluate.max_new_tokens=6", "respond.batch_size=4", "judge.batch_size=4", "judge.keep_surest=1.0", "judge.orders=1",
        "evaluate.batch_size=4", "train.batch_size=4", "train.epochs=1", "train.learning_rate=1e-4", "respond.temperature=1.5", "respond.context_temperature=1.5", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_whole_loop_goes_round_twice(folder: Path, tmp_path: Path) -> None:
    """Respond, judge, DPO (the stage fails unless the first loss is ln 2), evaluate; the policy of iteration 1 is read back in iteration 2."""
    from isrdpo.core.runs import Run

    method = "lora" if folder.name in ("qwen2_5_vl", "llava_onevision") else "full"
    run = Run.create(params.load(PRESET, settings(folder, tmp_path / "run", f"train.method={method}", "train.lora_r=4", "train.lora_dropout=0")))
    for t in (1, 2):
        for stage in (data, respond, judge, train, evaluate):
            stage.run(run, t)
        first = records.read_json(run.marker_path("train", t))["counts"]["pairs"]
        rows = (run.file(t, "train.csv")).read_text().splitlines()
        assert first > 0 and abs(float(rows[1].split(",")[2]) - math.log(2)) < 1e-4
    before, after = (vlmm.open_model(run.params, run.policy(t)) for t in (1, 2))
    clip = run.clip(records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[0].video)
    assert not torch.equal(before.choose(before.encode([clip]), ["What?"]), after.choose(after.encode([clip]), ["What?"]))
    assert torch.equal(before.encode([clip])[0]["features"], after.encode([clip])[0]["features"]), "what is frozen has moved"
    assert len(records.read_jsonl(run.file(2, "answers.jsonl"), records.Answer)) == 4
    saved = Path(run.policy(2))
    assert str(tmp_path) not in (saved / "config.json").read_text() and str(folder) not in (saved / "config.json").read_text()
    transformers.AutoModelForImageTextToText.from_pretrained(saved), transformers.AutoProcessor.from_pretrained(saved)


def test_training_sees_what_generation_sees(opened: vlmm.VideoModel, clips: list[Path], tmp_path: Path) -> None:
    """What the next-token scores say of two replies is what the trainer says of them, for chosen and for rejected; another video changes both."""
    videos, replies = dict(zip("ab", opened.encode(clips[:2]), strict=True)), ("My choice is A.", "My choice is B.")
    pair = records.Preference("1", "a", "What moves?", *replies, None)
    row = dpo.row(pair, opened.processor, videos["a"])
    ids = [opened.processor.answer_ids(reply) for reply in replies]
    at = next(n for n, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
    row |= {"chosen_ids": ids[0][: at + 1], "rejected_ids": ids[1][: at + 1]}
    scores = opened.choose([videos["a"]], ["What moves?"], replies)[0]
    chosen = params.load(PRESET, []).override("train", {"method": "lora", "lora_r": 4}).train
    trainer = dpo.trainer(opened.model, opened.processor, [row], videos.__getitem__, chosen, tmp_path, seed=0)
    first, second = trainer.compute_ref_log_probs(trainer.model, trainer.data_collator([row]))
    assert (first - second).item() == pytest.approx((scores[0] - scores[1]).item(), abs=1e-4)
    other = trainer.compute_ref_log_probs(trainer.model, trainer.data_collator([row | {"video": "b"}]))
    if len(videos["a"]["features"]) == len(videos["b"]["features"]):
        assert abs(other[0] - first).item() > 1e-4 and abs(other[1] - second).item() > 1e-4


def refused(folder: Path, **options: str) -> str:
    with pytest.raises(CheckpointError) as error:
        auto.load(str(folder), frames=4, dtype=torch.float32, device="cpu", **options)
    text = str(error.value)
    assert str(folder) in text or "quantize" in text
    assert "\n" not in text
    return text


def test_what_a_family_does_not_support_is_said_by_name_before_any_work(tmp_path: Path) -> None:
    assert "no config.json" in refused(tmp_path)
    words = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=16)
    transformers.GPT2LMHeadModel(words).save_pretrained(tmp_path / "text")
    assert "'gpt2' is not to be loaded as a video language model" in refused(tmp_path / "text")
    whole = families.write("llava_onevision", tmp_path / "whole")
    (whole / "chat_template.jinja").unlink()
    assert "llava_onevision is not supported: it has not a chat template" in refused(whole)
    torn = families.write("video_llava", tmp_path / "torn")
    state = __import__("safetensors.torch", fromlist=["x"]).load_file(torn / "model.safetensors")
    lost = next(name for name in state if name.endswith("q_proj.weight"))
    del state[lost]
    __import__("safetensors.torch", fromlist=["x"]).save_file(state, torn / "model.safetensors", metadata={"format": "pt"})
    assert "1 keys are missing" in refused(torn) and "q_proj" in refused(torn)


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantized_base_is_trained_under_lora_and_merged_into_the_whole_weights(tmp_path: Path, bits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes on a CPU: two iterations, each first loss ln 2; only the LLM's layers are quantized, only they change."""
    pytest.importorskip("bitsandbytes")
    from isrdpo.core.runs import Run

    monkeypatch.setattr(families, "LLM", families.LLM | {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4})  # 4bit packs by 64
    folder = families.write("llava_onevision", tmp_path / "base")
    more = ["train.method=lora", "train.lora_r=4", "train.lora_dropout=0", f"model.quantize={bits}"]
    run = Run.create(params.load(PRESET, settings(folder, tmp_path / "run", *more)))
    for t in (1, 2):
        for stage in (data, respond, judge, train):
            stage.run(run, t)
        assert abs(float(run.file(t, "train.csv").read_text().splitlines()[1].split(",")[2]) - math.log(2)) < 1e-4
    opened = vlmm.open_model(run.params, run.policy(2)).model
    quantized = [name for name, module in opened.named_modules() if "bit" in type(module).__name__.lower()]
    assert quantized and all(name.startswith("model.language_model.layers.") for name in quantized)
    whole = run.params.override("model", {"quantize": "none"})
    old, new = (vlmm.open_model(whole, run.policy(t)).model.state_dict() for t in (1, 2))
    changed = {name.removesuffix(".weight") for name in old if not torch.equal(old[name], new[name])}
    assert changed == set(quantized)


def test_quantizing_is_refused_where_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = families.write("smolvlm", tmp_path / "whole")
    monkeypatch.setattr(auto, "is_bitsandbytes_available", lambda: False)
    assert "model.quantize=4bit: needs bitsandbytes, which is not installed" in refused(whole, quantize="4bit")
    with pytest.raises(params.ParamsError, match="quantized weights are trained under LoRA only"):
        params.load(PRESET, ["model.quantize=4bit"])


def test_a_checkpoints_own_sampling_settings_do_not_work_behind_ours_and_are_kept(tmp_path: Path, clips: list[Path]) -> None:
    whole = families.write("qwen2_5_vl", tmp_path / "whole")
    path = whole / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.9, "do_sample": True, "temperature": 0.1, "top_k": 1}))
    load: Callable = lambda: auto.load(str(whole), frames=4, dtype=torch.float32, device="cpu")  # noqa: E731
    model, processor = load()
    assert model.generation_config.repetition_penalty in (None, 1.0)
    auto.save(model, processor, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text())["repetition_penalty"] == 1.9
