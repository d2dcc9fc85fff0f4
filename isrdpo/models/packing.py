"""Token rows of different length in one tensor: padded, behind a shared prefix, or as branches side by side.

Pure functions on ids; nothing here knows a model. Two ways to read a prefix once for several rows behind it:

* `pad_rows` for generation: the prefix is read first and stays in the cache; each row goes on from it.
* `pack` for training: prefix and branches stand in one row; a mask keeps the branches from seeing each other.

Shapes: B rows, L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Ids = list[int]
PREFIX = 0
PADDING = -1


def first_difference(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the first place where two rows differ. Raises ValueError where one begins with the other."""
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    raise ValueError("no difference: one row of ids begins with the other")


def shared_length(rows: Sequence[Sequence[int]]) -> int:
    """Return how many ids all rows begin with, at most one less than the shortest row has.

    Something of each row is left behind the prefix, since the model must read a token to go on from it.
    """
    limit = min(map(len, rows)) - 1
    for place, column in enumerate(zip(*rows, strict=False)):
        if place == limit or len(set(column)) > 1:
            return place
    return limit


def until_end(row: Sequence[int], end_ids: Sequence[int]) -> Ids:
    """Return the ids before the first one that ends an answer; all of them where none does."""
    for place, token in enumerate(row):
        if token in end_ids:
            return list(row[:place])
    return list(row)


def pad_rows(rows: Sequence[Ids], pad: int, prefix: int = 0) -> dict[str, Tensor]:
    """Fill rows up to the longest one: input_ids and attention_mask (1 a token, 0 padding), int64 [B, L].

    The padding goes in behind the first `prefix` ids. So all rows end at the same place, as generation
    needs, and a prefix that they share stays at the same place too. With 0, that is padding on the left.
    """
    longest = max(map(len, rows))
    ids = []
    mask = []
    for row in rows:
        gap = longest - len(row)
        ids.append(row[:prefix] + [pad] * gap + row[prefix:])
        mask.append([1] * prefix + [0] * gap + [1] * (len(row) - prefix))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def positions(attention_mask: Tensor) -> Tensor:
    """Return each token's position in its row [B, L], counted without the padding."""
    return attention_mask.cumsum(-1) - 1


@dataclass(frozen=True)
class Packed:
    """Sequences of one prefix with branches behind it, each sequence in one row.

    `input_ids`: [B, L], the prefix, then the branches one after the other, then padding.
    `position_ids`: [B, L]; for each branch they start again behind the prefix, as if it stood there alone.
    `attention_mask`: bool [B, 1, L, L], True where a token sees another: what precedes it in the prefix and
    in its branch. A padding token sees the prefix and itself: a row of a softmax must not be empty.
    `part`: [B, L], 0 for the prefix, 1 and up for the branches, -1 for padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    part: Tensor

    def lay_out(self, values: Sequence[Sequence[Sequence[float]]], fill: float) -> Tensor:
        """Return [B, L]: `values[row][k]` at the tokens of branch k + 1, one value each; `fill` elsewhere."""
        laid_out = torch.full(self.part.shape, fill)
        for row, branches in enumerate(values):
            for number, branch in enumerate(branches, 1):
                laid_out[row, self.part[row] == number] = torch.tensor(branch, dtype=laid_out.dtype)
        return laid_out


def pack(sequences: Sequence[tuple[Ids, Sequence[Ids]]], pad: int) -> Packed:
    """Lay (prefix, branches) out side by side, a sequence per row, padded on the right.

    A branch is everything behind the prefix: what is left of a prompt, and its answer. Its logits are those
    of prefix and branch read alone, but the prefix (with a whole video in it) is computed once. For a DPO
    step, the prefix is the prompt without its last token and the branches are that token with chosen, and
    with rejected.
    """
    length = max(len(prefix) + sum(map(len, branches)) for prefix, branches in sequences)
    input_ids = torch.full((len(sequences), length), pad)
    position_ids = torch.zeros_like(input_ids)
    part = torch.full_like(input_ids, PADDING)
    for row, (prefix, branches) in enumerate(sequences):
        end = len(prefix)
        input_ids[row, :end] = torch.tensor(prefix, dtype=torch.int64)
        position_ids[row, :end] = torch.arange(end)
        part[row, :end] = PREFIX
        for number, branch in enumerate(branches, 1):
            begin = end
            end = begin + len(branch)
            input_ids[row, begin:end] = torch.tensor(branch, dtype=torch.int64)
            position_ids[row, begin:end] = len(prefix) + torch.arange(len(branch))
            part[row, begin:end] = number
    return Packed(input_ids, position_ids, branch_mask(part), part)


def branch_mask(part: Tensor) -> Tensor:
    """Return the mask bool [B, 1, L, L] that belongs to `part` [B, L]; see `Packed`."""
    length = part.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    prefix_or_own = (part[:, None, :] == PREFIX) | (part[:, None, :] == part[:, :, None])
    token = (part != PADDING)[:, None, :]
    mask = (causal & prefix_or_own & token) | torch.eye(length, dtype=torch.bool)
    return mask[:, None]
