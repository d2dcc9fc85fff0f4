"""Names of hub repositories."""

import pytest

from isrdpo.core.hub_ids import is_hub_id


@pytest.mark.parametrize("name", ["SNUMPR/isrt_video_llava_7b_9th", "Qwen/Qwen2.5-VL-7B-Instruct"])
def test_a_repository_is_an_owner_and_a_name(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name", ["", "toybox", "/outputs/base", "outputs/run/policy", "my model/base", "owner/name\n"]
)
def test_a_path_is_none(name: str) -> None:
    assert not is_hub_id(name)
