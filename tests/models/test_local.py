"""The calls of a policy, on a tiny random LLaVA-Hound. What a whole stage promises is in tests/stages."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from isrdpo.core import params, prompts, records
from isrdpo.models import hound, local
from isrdpo.models.hound_processor import video_inputs
from isrdpo.models.interface import CheckpointError, EncodedVideo
from isrdpo.models.local import LocalPolicy
from isrdpo.stages import data

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
SAMPLING = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def policy(random_base: Path) -> LocalPolicy:
    return LocalPolicy(*hound.load(random_base))


@pytest.fixture
def clips(make_run: Callable) -> list[Path]:
    run = make_run("clips")
    data.run(run, 1)
    samples = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)
    return [run.clip(sample.video) for sample in samples[:5]]


def equal(one: EncodedVideo, other: EncodedVideo) -> bool:
    a = one.tensors()
    b = other.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def another(policy: LocalPolicy, **changes: object) -> LocalPolicy:
    """A policy with the same model, and nothing encoded yet."""
    return LocalPolicy(policy.model, policy.processor, **changes)


def test_features_are_bit_equal_whatever_was_encoded_before(
    policy: LocalPolicy, clips: list[Path], tmp_path: Path
) -> None:
    cache = tmp_path / "features"
    alone = [another(policy).encode([clip])[0] for clip in clips]
    another(policy, cache=cache).encode(clips[2:4])
    cold = another(policy, cache=cache)
    together = cold.encode([*clips, clips[0]])
    assert all(equal(a, b) for a, b in zip([*alone, alone[0]], together, strict=True))
    assert all(equal(a, b) for a, b in zip(alone, cold.encode(clips), strict=True))
    width = policy.model.config.text_config.hidden_size
    assert alone[0].features.shape == (policy.processor.video_tokens, width)
    assert not equal(alone[0], alone[1])
    assert len(list(cache.rglob("*.safetensors"))) == 5


def test_a_torn_cache_file_is_written_again(policy: LocalPolicy, clips: list[Path], tmp_path: Path) -> None:
    encoded = another(policy, cache=tmp_path).encode(clips[:1])[0]
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    for torn in (b"", whole[: len(whole) // 2]):
        file.write_bytes(torn)
        assert equal(encoded, another(policy, cache=tmp_path).encode(clips[:1])[0])
        assert file.read_bytes() == whole
        assert not list(tmp_path.rglob("*.part"))


def test_the_cache_goes_by_content_span_and_weights(
    policy: LocalPolicy, clips: list[Path], tmp_path: Path, random_base: Path
) -> None:
    cache = tmp_path / "features"
    copy = tmp_path / "other_name.mp4"
    copy.write_bytes(clips[0].read_bytes())

    def files(one: LocalPolicy, *paths: Path) -> set[Path]:
        """The cache files that encoding the clips adds."""
        before = set(cache.rglob("*.safetensors"))
        one.encode(list(paths))
        return set(cache.rglob("*.safetensors")) - before

    assert len(files(another(policy, cache=cache), clips[0])) == 1
    assert not files(another(policy, cache=cache), clips[0], copy)
    assert len(files(another(policy, cache=cache), clips[1])) == 1
    assert len(files(another(policy, cache=cache, span="first_10s"), copy)) == 1
    assert len(files(another(policy, cache=cache, max_pixels=300), copy)) == 1
    changed, processor = hound.load(random_base)
    with torch.no_grad():
        changed.model.multi_modal_projector.linear_1.weight[0, 0] += 1
    assert len(files(LocalPolicy(changed, processor, cache=cache), copy)) == 1
    trained, processor = hound.load(random_base)
    with torch.no_grad():
        trained.lm_head.weight[0, 0] += 1
    assert not files(LocalPolicy(trained, processor, cache=cache), copy)


def test_memory_is_bounded(policy: LocalPolicy, clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    one = another(policy)
    size = one.encode(clips[:1])[0].nbytes
    monkeypatch.setattr(local, "MEMORY", 2 * size)
    assert len(one.encode(clips)) == 5
    assert list(one._memory) == clips[-2:]


def test_rows_come_back_in_order_and_do_not_see_each_other(policy: LocalPolicy, clips: list[Path]) -> None:
    videos = policy.encode(clips)
    seeds = [3, 1, 4, 1, 5]
    requests = ["What?", "What moves in the video, and where to?", "Red?", "What?", "Is the circle red?"]
    order = [4, 2, 0, 3, 1]
    shuffled_videos = [videos[i] for i in order]
    shuffled_requests = [requests[i] for i in order]
    together = policy.generate(videos, requests, seeds=seeds, **SAMPLING)
    shuffled = policy.generate(
        shuffled_videos, shuffled_requests, seeds=[seeds[i] for i in order], **SAMPLING
    )
    assert shuffled == [together[i] for i in order]
    scores = policy.choose(videos, requests)
    for row, (video, request, seed) in enumerate(zip(videos, requests, seeds, strict=True)):
        assert policy.generate([video], [request], seeds=[seed], **SAMPLING) == [together[row]]
        assert torch.allclose(scores[row], policy.choose([video], [request])[0], atol=1e-5)
    assert torch.allclose(scores[order], policy.choose(shuffled_videos, shuffled_requests), atol=1e-5)


def test_a_video_asked_about_several_times_is_read_once(policy: LocalPolicy, clips: list[Path]) -> None:
    one, two = policy.encode(clips[:2])
    videos = [one, one, two, one]
    requests = ["What moves in the video?", "Red?", "Red?", "What?"]
    batches = []

    def note_rows(module: torch.nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        batches.append(len(output.last_hidden_state))

    handle = policy.model.model.language_model.register_forward_hook(note_rows, with_kwargs=True)
    together = policy.choose(videos, requests)
    handle.remove()
    assert batches == [2, 4]  # the shared beginning of two videos, then what differs of four prompts
    alone = [policy.choose([video], [request]) for video, request in zip(videos, requests, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    draws = policy.generate(videos, requests, seeds=[1, 2, 3, 4], **SAMPLING)
    for row, (video, request) in enumerate(zip(videos, requests, strict=True)):
        assert policy.generate([video], [request], seeds=[row + 1], **SAMPLING) == [draws[row]]


def test_without_sharing_each_prompt_reads_its_video_and_says_the_same(
    policy: LocalPolicy, clips: list[Path]
) -> None:
    videos = policy.encode(clips[:2]) * 2
    requests = ["What moves in the video?", "Red?", "Red?", "What?"]
    apart = another(policy, share=False)
    assert torch.allclose(apart.choose(videos, requests), policy.choose(videos, requests), atol=1e-5)
    seeds = [1, 2, 3, 4]
    draws = apart.generate(videos, requests, seeds=seeds, **SAMPLING)
    assert draws == policy.generate(videos, requests, seeds=seeds, **SAMPLING)


def test_each_row_sees_its_own_video(policy: LocalPolicy, clips: list[Path]) -> None:
    one, two = policy.encode(clips[:2])
    requests = ["What moves?"] * 2
    straight = policy.choose([one, two], requests)
    crossed = policy.choose([two, one], requests)
    assert torch.allclose(straight, crossed.flip(0), atol=1e-5)
    assert not torch.allclose(straight, crossed, atol=1e-5)


def test_a_choice_is_the_log_probability_of_the_first_differing_token(
    policy: LocalPolicy, clips: list[Path]
) -> None:
    videos = policy.encode(clips[:1])
    request = "Which?"
    a, b = (policy.processor.answer_ids(reply) for reply in prompts.REPLIES)
    place = next(i for i in range(len(a)) if a[i] != b[i])
    ids = torch.tensor([policy.processor.request_ids(request) + a[:place]])
    with torch.inference_mode():
        logits = policy.model(input_ids=ids, **video_inputs(videos[0].features[None])).logits[0, -1]
    expected = logits.log_softmax(-1)[[a[place], b[place]]]
    swapped = policy.choose(videos, [request], prompts.REPLIES[::-1])
    assert torch.allclose(policy.choose(videos, [request])[0], expected, atol=1e-5)
    assert torch.allclose(swapped[0], expected.flip(0), atol=1e-5)


def test_sampling_needs_a_seed_per_row_and_no_prompt_is_no_call(
    policy: LocalPolicy, clips: list[Path]
) -> None:
    videos = policy.encode(clips[:2])
    for seeds in (None, [1]):
        with pytest.raises(ValueError, match="one seed per request"):
            policy.generate(videos, ["What?"] * 2, seeds=seeds, **SAMPLING)
    assert policy.generate([], [], max_new_tokens=5) == []


def test_room_is_what_the_positions_leave(policy: LocalPolicy, clips: list[Path]) -> None:
    request = "What?"
    video = policy.encode(clips[:1])[0]
    positions = policy.model.config.text_config.max_position_embeddings
    room = policy.room(request, video)
    assert room == positions - len(policy.processor.request_ids(request)) > 0
    assert policy.room("What moves? " * positions, video) < 1


@pytest.mark.parametrize(
    ("limit", "rope", "positions"),
    [
        (4096, {"rope_type": "default"}, 4096),
        (4096, {"rope_type": "linear", "factor": 4.0}, 16384),
        (32768, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        (131072, {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 131072),
        (131072, {"rope_type": "longrope", "original_max_position_embeddings": 4096}, 131072),
        (4096, {"full_attention": {"rope_type": "linear", "factor": 8.0}}, 4096),
        (4096, None, 4096),
        (None, None, local.POSITIONS),
    ],
)
def test_positions_are_those_of_the_config(limit: int | None, rope: dict | None, positions: int) -> None:
    config = SimpleNamespace(max_position_embeddings=limit, rope_parameters=rope)
    assert local.count_positions(config) == positions


def test_a_config_without_any_limit_has_a_stated_one() -> None:
    assert local.count_positions(SimpleNamespace()) == local.POSITIONS == 32768


def test_what_a_page_says_of_the_model(policy: LocalPolicy) -> None:
    processor = policy.processor
    number = sum(parameter.numel() for parameter in policy.model.parameters())
    sizes = {"frames": processor.frames, "image_size": processor.image_size}
    assert policy.summary() == sizes | {"parameters": number}
    assert policy.cannot_share == ""
    assert policy.cannot_explain == ""


def test_a_saved_policy_is_opened_again(policy: LocalPolicy, clips: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    local.save_policy(policy.model, policy.processor, folder)
    settings = params.load(PRESET, [f"run={tmp_path / 'run'}", "model.device=cpu"])
    cache = tmp_path / "features"
    again = local.open_policy(settings, str(folder), cache)
    video = again.encode(clips[:1])[0]
    assert equal(video, policy.encode(clips[:1])[0])
    assert len(list(cache.rglob("*.safetensors"))) == 1
    assert torch.equal(again.choose([video], ["What?"]), policy.choose([video], ["What?"]))
    assert not (tmp_path / "run").exists()
    quantized = settings.override("train", {"method": "lora"}).override("model", {"quantize": "4bit"})
    with pytest.raises(CheckpointError, match="not quantized"):
        local.open_policy(quantized, str(folder))


def test_the_device_is_the_named_one_else_a_gpu_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = params.load(PRESET, []).override("model", {"device": "auto"})
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local.device_of(settings.model) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local.device_of(settings.model) == "cuda"
    for rank, device in (("0", "cuda:0"), ("1", "cuda:1"), ("2", "cuda:0")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert local.device_of(settings.model) == device
    assert local.device_of(settings.override("model", {"device": "cuda:1"}).model) == "cuda:1"
    assert local.device_of(settings.override("model", {"device": "cpu"}).model) == "cpu"
