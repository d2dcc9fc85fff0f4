"""Rows of different length in one tensor: shared prefixes, padding, branches side by side."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from isrdpo.models import packing

PAD = 0


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes)).eval()


def test_the_first_difference_is_the_place_where_rows_part() -> None:
    assert packing.first_difference([1, 2, 3, 9], [1, 2, 4]) == 2
    assert packing.first_difference([1], [2]) == 0
    with pytest.raises(ValueError, match="begins with the other"):
        packing.first_difference([1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], 2),
        ([[1, 2, 3]], 2),
        ([[1, 2], [1, 2], [1, 2, 3]], 1),
        ([[1, 2, 3], [2, 2, 3]], 0),
        ([[7], [7, 8]], 0),
    ],
)
def test_shared_ids_leave_something_of_each_row(rows: list[list[int]], length: int) -> None:
    assert packing.shared_length(rows) == length


def test_an_answer_is_cut_at_its_first_end() -> None:
    assert packing.until_end([5, 6, 2, 7, 3], [3, 2]) == [5, 6]
    assert packing.until_end([5, 6], [2]) == [5, 6]
    assert packing.until_end([2, 5], [2]) == []


def test_padding_goes_in_behind_the_prefix() -> None:
    padded = packing.pad_rows([[1, 2, 3], [4]], PAD)
    assert padded["input_ids"].tolist() == [[1, 2, 3], [0, 0, 4]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert packing.positions(padded["attention_mask"]).tolist() == [[0, 1, 2], [-1, -1, 0]]
    behind = packing.pad_rows([[8, 9, 1, 2], [8, 9, 3]], PAD, prefix=2)
    assert behind["input_ids"].tolist() == [[8, 9, 1, 2], [8, 9, 0, 3]]
    assert behind["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 1]]
    assert packing.positions(behind["attention_mask"]).tolist() == [[0, 1, 2, 3], [0, 1, 1, 2]]


def test_branches_stand_side_by_side_and_each_begins_behind_the_prefix() -> None:
    packed = packing.pack([([1, 2], [[3, 4], [5]]), ([6], [[7]])], PAD)
    assert packed.input_ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    assert packed.part.tolist() == [[0, 0, 1, 1, 2], [0, 1, -1, -1, -1]]
    first, second = packed.attention_mask[:, 0].int().tolist()
    assert first == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert second == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 0, 1]]


def test_values_are_laid_out_at_their_branch() -> None:
    packed = packing.pack([([1, 2], [[3, 4], [5]]), ([6], [[7]])], PAD)
    labels = packed.lay_out([[[-100, 4], [5]], [[7]]], -100)
    assert labels.tolist() == [[-100, -100, -100, 4, 5], [-100, 7, -100, -100, -100]]
    assert labels.dtype == torch.int64
    weights = packed.lay_out([[[0.0, 0.5], [1.0]], [[0.25]]], 0.0)
    assert weights.tolist() == [[0.0, 0.0, 0.0, 0.5, 1.0], [0.0, 0.25, 0.0, 0.0, 0.0]]
    assert weights.dtype == torch.float32


@torch.inference_mode()
def test_a_packed_branch_has_the_logits_that_it_has_alone(model: LlamaForCausalLM) -> None:
    sequences = [([1, 5, 9], [[7, 3, 4], [8], [7, 3, 5, 6]]), ([2], [[11, 12]])]
    packed = packing.pack(sequences, PAD)
    logits = model(
        input_ids=packed.input_ids, position_ids=packed.position_ids, attention_mask=packed.attention_mask
    ).logits
    for row, (prefix, branches) in enumerate(sequences):
        for number, branch in enumerate(branches, 1):
            alone = model(input_ids=torch.tensor([prefix + branch])).logits[0, len(prefix) :]
            assert torch.allclose(logits[row, packed.part[row] == number], alone, atol=1e-5)


@torch.inference_mode()
def test_rows_behind_a_cached_prefix_have_the_logits_that_they_have_alone(model: LlamaForCausalLM) -> None:
    rows = [[1, 5, 9, 7, 3], [1, 5, 9, 8], [1, 5, 9, 7, 3, 4]]
    shared = packing.shared_length(rows)
    cache = model(input_ids=torch.tensor([rows[0][:shared]] * len(rows)), use_cache=True).past_key_values
    padded = packing.pad_rows(rows, PAD, shared)
    together = model(
        input_ids=padded["input_ids"][:, shared:],
        attention_mask=padded["attention_mask"],
        position_ids=packing.positions(padded["attention_mask"])[:, shared:],
        past_key_values=cache,
    ).logits[:, -1]
    alone = torch.cat([model(input_ids=torch.tensor([row])).logits[:, -1] for row in rows])
    assert torch.allclose(together, alone, atol=1e-5)
