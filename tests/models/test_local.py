"""The four calls of a video language model, on a tiny random one. What a whole stage promises is in test_stages.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isrdpo.core import prompts, records
from isrdpo.models import hound
from isrdpo.models import local as vlmm
from isrdpo.stages import data

HOW = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def model(random_base: Path) -> vlmm.VideoModel:
    return vlmm.VideoModel(*hound.load(random_base))


@pytest.fixture
def clips(make_run: Callable) -> list[Path]:
    run = make_run("clips")
    data.run(run, 1)
    return [run.clip(s.video) for s in records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)][:5]


def equal(one: vlmm.Video, other: vlmm.Video) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_features_are_bit_equal_whatever_was_encoded_before(model: vlmm.VideoModel, clips: list[Path], tmp_path: Path) -> None:
    alone = [vlmm.VideoModel(model.model, model.processor).encode([clip])[0] for clip in clips]
    warm = vlmm.VideoModel(model.model, model.processor, cache=tmp_path / "features")
    warm.encode(clips[2:4])
    cold = vlmm.VideoModel(model.model, model.processor, cache=tmp_path / "features")
    together = cold.encode([*clips, clips[0]])
    assert all(equal(a, b) for a, b in zip([*alone, alone[0]], together, strict=True))
    assert all(equal(a, b) for a, b in zip(alone, cold.encode(clips), strict=True))
    assert alone[0]["features"].shape == (model.processor.video_tokens, model.model.config.text_config.hidden_size)
    assert not equal(alone[0], alone[1]) and len(list((tmp_path / "features").rglob("*.safetensors"))) == 5


def test_a_torn_cache_file_is_made_again(model: vlmm.VideoModel, clips: list[Path], tmp_path: Path) -> None:
    made = vlmm.VideoModel(model.model, model.processor, cache=tmp_path).encode(clips[:1])[0]
    (stored,) = tmp_path.rglob("*.safetensors")
    whole = stored.read_bytes()
    for torn in (b"", whole[: len(whole) // 2]):
        stored.write_bytes(torn)
        assert equal(made, vlmm.VideoModel(model.model, model.processor, cache=tmp_path).encode(clips[:1])[0])
        assert stored.read_bytes() == whole and not list(tmp_path.rglob("*.part"))


def test_the_cache_goes_by_content_span_and_weights(model: vlmm.VideoModel, clips: list[Path], tmp_path: Path, random_base: Path) -> None:
    def stored(made: vlmm.VideoModel, clip: Path) -> Path | None:
        return made._stored(clip)

    one = vlmm.VideoModel(model.model, model.processor, cache=tmp_path / "f")
    copy = tmp_path / "other_name.mp4"
    copy.write_bytes(clips[0].read_bytes())
    assert stored(one, clips[0]) == stored(one, copy) != stored(one, clips[1])
    assert stored(one, copy) != stored(vlmm.VideoModel(model.model, model.processor, "first_10s", tmp_path / "f"), copy)
    changed, processor = hound.load(random_base)
    with torch.no_grad():
        changed.model.multi_modal_projector.linear_1.weight[0, 0] += 1
    assert stored(one, copy) != stored(vlmm.VideoModel(changed, processor, cache=tmp_path / "f"), copy)


def test_memory_held_is_bounded(model: vlmm.VideoModel, clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made = vlmm.VideoModel(model.model, model.processor)
    each = made.encode(clips[:1])[0]["features"].nbytes
    monkeypatch.setattr(vlmm, "HELD", 2 * each)
    assert len(made.encode(clips)) == 5 and list(made._held) == clips[-2:]


def test_rows_come_back_in_order_and_do_not_see_each_other(model: vlmm.VideoModel, clips: list[Path]) -> None:
    videos, seeds = model.encode(clips), [3, 1, 4, 1, 5]
    asked = [text for text in ("What?", "What moves in the video, and where to?", "Red?", "What?", "Is the circle red?")]
    together = model.generate(videos, asked, seeds=seeds, **HOW)
    order = [4, 2, 0, 3, 1]
    shuffled = model.generate([videos[i] for i in order], [asked[i] for i in order], seeds=[seeds[i] for i in order], **HOW)
    assert shuffled == [together[i] for i in order]
    scores = model.choose(videos, asked)
    assert together == [model.generate([videos[i]], [asked[i]], seeds=[seeds[i]], **HOW)[0] for i in range(5)]
    assert torch.allclose(scores, torch.cat([model.choose([videos[i]], [asked[i]]) for i in range(5)]), atol=1e-5)
    assert torch.allclose(scores[order], model.choose([videos[i] for i in order], [asked[i] for i in order]), atol=1e-5)


def test_a_video_asked_about_several_times_is_read_once(model: vlmm.VideoModel, clips: list[Path]) -> None:
    one, two = model.encode(clips[:2])
    videos, asked = [one, one, two, one], [text for text in ("What moves in the video?", "Red?", "Red?", "What?")]
    rows = []
    handle = model.model.model.language_model.register_forward_hook(lambda module, args, kwargs, out: rows.append(len(out.last_hidden_state)), with_kwargs=True)
    together = model.choose(videos, asked)
    handle.remove()
    assert rows == [2, 4]  # the shared beginning of two videos, then what differs of four prompts
    assert torch.allclose(together, torch.cat([model.choose([v], [a]) for v, a in zip(videos, asked, strict=True)]), atol=1e-5)
    drawn = model.generate(videos, asked, seeds=[1, 2, 3, 4], **HOW)
    assert drawn == [model.generate([v], [a], seeds=[n], **HOW)[0] for n, (v, a) in enumerate(zip(videos, asked, strict=True), 1)]


def test_each_row_sees_its_own_video(model: vlmm.VideoModel, clips: list[Path]) -> None:
    one, two = model.encode(clips[:2])
    prompt = "What moves?"
    straight, crossed = model.choose([one, two], [prompt] * 2), model.choose([two, one], [prompt] * 2)
    assert torch.allclose(straight, crossed.flip(0), atol=1e-5) and not torch.allclose(straight, crossed, atol=1e-5)


def test_a_choice_is_the_log_probability_of_the_first_differing_token(model: vlmm.VideoModel, clips: list[Path]) -> None:
    videos, prompt = model.encode(clips[:1]), "Which?"
    a, b = (model.processor.answer_ids(reply) for reply in prompts.REPLIES)
    at = next(i for i in range(len(a)) if a[i] != b[i])
    ids = torch.tensor([model.processor.request_ids(prompt) + a[:at]])
    with torch.inference_mode():
        logits = model.model(input_ids=ids, **hound.video_inputs(videos[0]["features"][None])).logits[0, -1]
    expected = logits.log_softmax(-1)[[a[at], b[at]]]
    assert torch.allclose(model.choose(videos, [prompt])[0], expected, atol=1e-5)
    assert torch.allclose(model.choose(videos, [prompt], prompts.REPLIES[::-1])[0], expected.flip(0), atol=1e-5)


def test_sampling_needs_a_seed_a_row_and_no_prompt_is_no_call(model: vlmm.VideoModel, clips: list[Path]) -> None:
    videos = model.encode(clips[:2])
    for seeds in (None, [1]):
        with pytest.raises(ValueError, match="one seed a request"):
            model.generate(videos, ["What?"] * 2, seeds=seeds, **HOW)
    assert model.generate([], [], max_new_tokens=5) == []


def test_room_is_what_the_positions_leave(model: vlmm.VideoModel, clips: list[Path]) -> None:
    prompt, seen = "What?", model.encode(clips[:1])[0]
    positions = model.model.config.text_config.max_position_embeddings
    assert model.room(prompt, seen) == positions - len(model.processor.request_ids(prompt)) > 0
    assert model.room("What moves? " * positions, seen) < 1
