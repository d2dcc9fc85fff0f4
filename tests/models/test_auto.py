"""Every family of transformers' video models, as tiny random checkpoints with their real classes.

What enters, what is generated, what is trained, and what is saved.
"""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from isrdpo.core import params, records
from isrdpo.core.runs import Run
from isrdpo.formats import video
from isrdpo.models import auto, dpo, local
from isrdpo.models.interface import CheckpointError
from isrdpo.models.local import LocalPolicy
from isrdpo.stages import data, evaluate, judge, respond, train
from tests import families

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 6}
THREE_DIMENSIONAL = ("qwen2_5_vl", "qwen3_vl")  # families whose positions in a video are so
SMALL_RUN = (
    "video.frames=4",
    "iterations=2",
    "keep_policies=all",
    "max_bad_share=1.0",
    "data.samples=8",
    "data.questions=4",
    "data.fixed_pairs=2",
    "respond.temperature=1.5",
    "respond.context_temperature=1.5",
    "respond.max_new_tokens=6",
    "respond.context_max_new_tokens=6",
    "respond.batch_size=4",
    "judge.batch_size=4",
    "judge.keep_surest=1.0",
    "judge.orders=1",
    "evaluate.max_new_tokens=6",
    "evaluate.batch_size=4",
    "train.batch_size=4",
    "train.epochs=1",
    "train.learning_rate=1e-4",
)
SMALL_LORA = ("train.method=lora", "train.lora_r=4", "train.lora_dropout=0")


@pytest.fixture(scope="session", params=families.FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write(request.param, tmp_path_factory.mktemp("family") / request.param)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from isrdpo.toybox import world

    root = tmp_path_factory.mktemp("clips")
    difficulty = world.Difficulty()
    source = world.scenes("base", 5, difficulty)
    scenes = [next(source) for _ in range(3)]
    return [root / name for name in world.write_clips(scenes, 5, difficulty, root)]


def load(folder: Path, **options: str) -> tuple[transformers.PreTrainedModel, auto.TransformersProcessor]:
    return auto.load(str(folder), frames=4, dtype=torch.float32, device="cpu", **options)


@pytest.fixture
def policy(folder: Path) -> LocalPolicy:
    return LocalPolicy(*load(folder))


def inner_inputs(policy: LocalPolicy, path: Path, request: str) -> dict:
    """A conversation about the same frames, as the checkpoint's own processor makes it."""
    clip = video.read_clip(path, 4)
    inner = policy.processor.inner
    turns = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": request}]}]
    text = inner.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    metadata = {
        "total_num_frames": clip.count,
        "fps": clip.rate,
        "duration": clip.count / clip.rate,
        "frames_indices": clip.indices.tolist(),
    }
    bos = policy.processor.tokenizer.bos_token
    return inner(
        text=[text],
        videos=[clip.frames],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
        add_special_tokens=not (bos and text.startswith(bos)),
    )


@torch.inference_mode()
def test_prompt_and_logits_are_those_of_the_models_own_processor(
    policy: LocalPolicy, clips: list[Path]
) -> None:
    model = policy.model
    processor = policy.processor
    (encoded,) = policy.encode(clips[:1])
    inner = inner_inputs(policy, clips[0], "What moves?")
    ids = processor.request_ids("What moves?", encoded)
    assert inner["input_ids"][0].tolist() == ids
    assert ids.count(processor.video_token_id) == len(encoded.features)
    expected = model(**inner).logits[:, -1]
    row = torch.tensor([ids])
    logits = model(input_ids=row, **policy._video_inputs([encoded], row)).logits[:, -1]
    assert torch.allclose(logits, expected, atol=1e-5)
    inputs = policy._inputs([encoded], [ids])
    if "past_key_values" not in inputs:
        assert torch.allclose(model(**inputs).logits[:, -1], expected, atol=1e-5)
    greedy = model.generate(**inner, max_new_tokens=6, do_sample=False)[0, len(ids) :].tolist()
    assert policy.generate([encoded], ["What moves?"], max_new_tokens=6) == [processor.decode(greedy)]


def test_each_row_sees_its_own_video_whatever_its_batch(policy: LocalPolicy, clips: list[Path]) -> None:
    videos = policy.encode([clips[0], clips[1], clips[2], clips[0]])
    requests = ["What moves?", "Which response is better, A or B? Red or blue?", "What?", "Red?"]
    together = policy.choose(videos, requests)
    alone = [policy.choose([one], [request]) for one, request in zip(videos, requests, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
    first = policy.choose(videos[:1], ["What?"])
    assert not torch.allclose(first, policy.choose(videos[1:2], ["What?"]), atol=1e-4)
    draws = policy.generate(videos, requests, seeds=[1, 2, 3, 4], **SAMPLING)
    for row, (one, request) in enumerate(zip(videos, requests, strict=True)):
        assert policy.generate([one], [request], seeds=[row + 1], **SAMPLING) == [draws[row]]


def test_a_family_that_cannot_share_or_explain_says_so_by_name(policy: LocalPolicy, folder: Path) -> None:
    assert policy.cannot_explain.startswith(f"{policy.model.config.model_type}: heat maps")
    if folder.name in THREE_DIMENSIONAL:
        assert policy.cannot_share.startswith(f"{folder.name}: each prompt reads its video for itself")
    else:
        assert policy.cannot_share == ""
    assert policy.summary()["image_size"] is None


def test_prompts_share_their_video_exactly_where_the_family_can(
    policy: LocalPolicy, clips: list[Path]
) -> None:
    videos = policy.encode(clips[:1]) * 2
    rows = policy._prompts(videos, ["What moves?", "Red?"])
    assert ("past_key_values" in policy._inputs(videos, rows)) == (policy.cannot_share == "")


def test_what_is_kept_on_disk_is_what_was_encoded(
    policy: LocalPolicy, clips: list[Path], tmp_path: Path
) -> None:
    def encode(**options: int) -> auto.EncodedVideo:
        return LocalPolicy(policy.model, policy.processor, cache=tmp_path, **options).encode(clips[:1])[0]

    first = encode()
    again = encode()
    tensors = again.tensors()
    assert first.tensors().keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in first.tensors().items())
    assert {"features", "text", "stacked"} <= tensors.keys()
    assert torch.equal(policy.choose([first], ["What?"]), policy.choose([again], ["What?"]))
    small = encode(max_pixels=300)
    assert not torch.equal(small.features[:9], first.features[:9])


def test_text_cannot_end_a_turn_or_stand_for_a_video(policy: LocalPolicy, clips: list[Path]) -> None:
    (encoded,) = policy.encode(clips[:1])
    processor = policy.processor
    tokenizer = processor.tokenizer
    hostile = "".join(tokenizer.all_special_tokens) + processor.inner.video_token + "<video><image>"
    plain_ids = processor.request_ids("x", encoded)
    hostile_ids = processor.request_ids(f"x{hostile}", encoded)
    for token in {processor.video_token_id, *tokenizer.all_special_ids}:
        assert hostile_ids.count(token) == plain_ids.count(token), tokenizer.convert_ids_to_tokens(token)
    answer = processor.answer_ids(f"a {hostile} b")
    assert [token for token in answer if token in processor.end_ids] == answer[-1:]


def test_an_answer_goes_on_from_the_prompt_as_the_chat_template_writes_it(policy: LocalPolicy) -> None:
    processor = policy.processor
    answer = "a red circle."
    ids = processor.answer_ids(answer)
    assert processor.decode(ids) == answer
    assert ids[-1] in processor.end_ids
    assert not set(ids[:-1]) & set(processor.end_ids)
    turns = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": ""}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    text = processor.inner.apply_chat_template(turns, tokenize=False)
    assert processor.tokenizer.decode(ids) in text


def small_run(folder: Path, place: Path, *more: str) -> Run:
    overrides = [f"run={place}", f"model.path={folder}", *SMALL_RUN, *more]
    return Run.create(params.load(PRESET, overrides))


def first_loss(run: Run, t: int) -> float:
    """The loss of the first step, before any update."""
    rows = run.file(t, "train.csv").read_text().splitlines()
    return float(rows[1].split(",")[2])


@pytest.mark.slow
def test_the_whole_loop_goes_round_twice(folder: Path, tmp_path: Path) -> None:
    """The train stage fails unless the first loss is ln 2; iteration 2 reads the policy of iteration 1."""
    lora = folder.name in ("qwen2_5_vl", "llava_onevision")
    run = small_run(folder, tmp_path / "run", *(SMALL_LORA if lora else ("train.method=full",)))
    for t in (1, 2):
        for stage in (data, respond, judge, train, evaluate):
            stage.run(run, t)
        assert records.read_json(run.marker_path("train", t))["counts"]["pairs"] > 0
        assert abs(first_loss(run, t) - math.log(2)) < 1e-4
    before, after = (local.open_policy(run.params, run.policy(t)) for t in (1, 2))
    clip = run.clip(records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[0].video)
    old_video = before.encode([clip])
    new_video = after.encode([clip])
    assert not torch.equal(before.choose(old_video, ["What?"]), after.choose(new_video, ["What?"]))
    assert torch.equal(old_video[0].features, new_video[0].features), "what is frozen has moved"
    assert len(records.read_jsonl(run.file(2, "answers.jsonl"), records.Answer)) == 4
    saved = Path(run.policy(2))
    config = (saved / "config.json").read_text()
    assert str(tmp_path) not in config
    assert str(folder) not in config
    transformers.AutoModelForImageTextToText.from_pretrained(saved)
    transformers.AutoProcessor.from_pretrained(saved)


def test_training_sees_what_generation_sees(policy: LocalPolicy, clips: list[Path], tmp_path: Path) -> None:
    """The trainer says of two replies what the next-token scores say of them; another video changes both."""
    processor = policy.processor
    videos = dict(zip("ab", policy.encode(clips[:2]), strict=True))
    replies = ("My choice is A.", "My choice is B.")
    pair = records.Preference("1", "a", "What moves?", *replies, None)
    row = dpo.training_row(pair, processor, videos["a"])
    first_ids, second_ids = (processor.answer_ids(reply) for reply in replies)
    place = next(n for n, (a, b) in enumerate(zip(first_ids, second_ids, strict=False)) if a != b)
    row |= {"chosen_ids": first_ids[: place + 1], "rejected_ids": second_ids[: place + 1]}
    scores = policy.choose([videos["a"]], ["What moves?"], replies)[0]
    settings = params.load(PRESET, []).override("train", {"method": "lora", "lora_r": 4}).train
    trainer = dpo.make_trainer(policy.model, processor, [row], videos.__getitem__, settings, tmp_path, seed=0)
    first, second = trainer.compute_ref_log_probs(trainer.model, trainer.data_collator([row]))
    assert (first - second).item() == pytest.approx((scores[0] - scores[1]).item(), abs=1e-4)
    other_batch = trainer.data_collator([row | {"video": "b"}])
    other_first, other_second = trainer.compute_ref_log_probs(trainer.model, other_batch)
    if len(videos["a"].features) == len(videos["b"].features):
        assert abs(other_first - first).item() > 1e-4
        assert abs(other_second - second).item() > 1e-4


def refusal(folder: Path, **options: str) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as error:
        load(folder, **options)
    text = str(error.value)
    assert str(folder) in text or "quantize" in text
    assert "\n" not in text
    return text


def test_what_a_family_does_not_support_is_said_by_name_before_any_work(tmp_path: Path) -> None:
    assert "no config.json" in refusal(tmp_path)
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "text")
    assert "'gpt2' is not to be loaded as a video language model" in refusal(tmp_path / "text")
    whole = families.write("llava_onevision", tmp_path / "whole")
    (whole / "chat_template.jinja").unlink()
    assert "llava_onevision is not supported: it has not a chat template" in refusal(whole)
    torn = families.write("video_llava", tmp_path / "torn")
    state = load_file(torn / "model.safetensors")
    del state[next(name for name in state if name.endswith("q_proj.weight"))]
    save_file(state, torn / "model.safetensors", metadata={"format": "pt"})
    assert "1 keys are missing" in refusal(torn)
    assert "q_proj" in refusal(torn)


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantized_base_is_trained_under_lora_and_merged_into_the_whole_weights(
    tmp_path: Path, bits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two iterations on a CPU: only the language model's layers are quantized, and only they change."""
    pytest.importorskip("bitsandbytes")
    by_64 = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4}  # 4bit packs by 64
    monkeypatch.setattr(families, "LLM", families.LLM | by_64)
    folder = families.write("llava_onevision", tmp_path / "base")
    run = small_run(folder, tmp_path / "run", *SMALL_LORA, f"model.quantize={bits}")
    for t in (1, 2):
        for stage in (data, respond, judge, train):
            stage.run(run, t)
        assert abs(first_loss(run, t) - math.log(2)) < 1e-4
    modules = local.open_policy(run.params, run.policy(2)).model.named_modules()
    quantized = [name for name, module in modules if "bit" in type(module).__name__.lower()]
    assert quantized
    assert all(name.startswith("model.language_model.layers.") for name in quantized)
    whole = run.params.override("model", {"quantize": "none"})
    old, new = (local.open_policy(whole, run.policy(t)).model.state_dict() for t in (1, 2))
    changed = {name.removesuffix(".weight") for name in old if not torch.equal(old[name], new[name])}
    assert changed == set(quantized)


def test_quantizing_is_refused_where_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = families.write("smolvlm", tmp_path / "whole")
    monkeypatch.setattr(auto, "is_bitsandbytes_available", lambda: False)
    expected = "model.quantize=4bit: needs bitsandbytes, which is not installed"
    assert expected in refusal(whole, quantize="4bit")
    with pytest.raises(params.ParamsError, match="quantized weights are trained under LoRA only"):
        params.load(PRESET, ["model.quantize=4bit"])


def test_a_checkpoints_own_sampling_settings_do_not_work_behind_ours_and_are_kept(tmp_path: Path) -> None:
    whole = families.write("qwen2_5_vl", tmp_path / "whole")
    path = whole / "generation_config.json"
    settings = {"repetition_penalty": 1.9, "do_sample": True, "temperature": 0.1, "top_k": 1}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    model, processor = load(whole)
    assert model.generation_config.repetition_penalty in (None, 1.0)
    processor.save(model, tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert saved["repetition_penalty"] == 1.9
