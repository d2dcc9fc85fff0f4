"""An encoded video as named tensors: the names and types that caches on disk were written with."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from isrdpo.models.interface import EncodedVideo


def full_video() -> EncodedVideo:
    return EncodedVideo(
        features=torch.arange(6.0).view(2, 3),
        deep=tuple(torch.full((2, 3), float(number)) for number in range(11)),
        extra={"video_grid_thw": torch.tensor([[1, 2, 3]])},
        text="<0.5 s><v>é",
        stacked=False,
    )


def test_names_and_types_are_those_of_the_cache_on_disk() -> None:
    tensors = full_video().tensors()
    deep = [f"features.deep.{number}" for number in range(11)]
    assert list(tensors) == ["features", *deep, "extra.video_grid_thw", "text", "stacked"]
    assert tensors["text"].dtype == torch.uint8
    assert bytes(tensors["text"].tolist()) == "<0.5 s><v>é".encode()
    assert tensors["stacked"].dtype == torch.bool and not tensors["stacked"]
    assert list(EncodedVideo(torch.zeros(2, 3)).tensors()) == ["features"]


def test_a_video_comes_back_from_disk_as_it_was_written(tmp_path: Path) -> None:
    for video in (full_video(), EncodedVideo(torch.ones(2, 3))):
        save_file(video.tensors(), tmp_path / "video.safetensors")
        again = EncodedVideo.from_tensors(load_file(tmp_path / "video.safetensors"))
        assert torch.equal(again.features, video.features)
        assert len(again.deep) == len(video.deep)
        assert all(torch.equal(a, b) for a, b in zip(again.deep, video.deep, strict=True))
        assert again.extra.keys() == video.extra.keys()
        assert all(torch.equal(again.extra[name], video.extra[name]) for name in video.extra)
        assert (again.text, again.stacked) == (video.text, video.stacked)


def test_without_features_it_is_no_video() -> None:
    with pytest.raises(KeyError, match="features"):
        EncodedVideo.from_tensors({"text": torch.zeros(1, dtype=torch.uint8)})


def test_its_memory_is_that_of_its_tensors() -> None:
    assert EncodedVideo(torch.zeros(2, 3)).nbytes == 24
    assert EncodedVideo(torch.zeros(2, 3), deep=(torch.zeros(2, 3),), text="abc").nbytes == 51


def test_two_videos_are_equal_only_if_they_are_the_same_object() -> None:
    features = torch.zeros(2, 3)
    one = EncodedVideo(features)
    other = EncodedVideo(features)
    assert len({one, other, one}) == 2
