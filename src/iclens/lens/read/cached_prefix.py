"""Texts with one beginning, read by the model's own attention: the beginning runs once and stays in the model's cache.

Where `prefix_tree` puts an attention of its own into the model, this leaves whatever is there, so that a model with an
attention variant can be read too. It needs every state to depend on earlier tokens alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.huggingface import implementation
from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled
from iclens.lens.model.rotary import longest_alike
from iclens.lens.read.padded import unembedding_only
from iclens.lens.read.shared_texts import Numbers, Read, read_texts


@torch.no_grad()
def read_behind_prefix(
    lens_model: LensModel,
    rows: Sequence[Sequence[int]],
    positions: Int[Tensor, "n_texts n_positions"],
    read: Read,
    most_tokens: int,
) -> Numbers:
    """Run texts and read numbers of each, as `read_texts` does, with the model's own attention.

    What all of them begin with is read once. Where they share nothing before the first position that is read, or the
    length of a text moves its positions, every text is read whole.

    Args:
        lens_model: the model, a decoder.
        rows: token ids of each text.
        positions: where the logits of each are needed.
        read: what is read of them.
        most_tokens: how many go through the model at once, the shared beginning not counted.
    """
    shared = min(_alike(rows), int(positions.min()))
    if len(rows) < 2 or shared == 0 or longest_alike(lens_model) is not None:
        return read_texts(lens_model, rows, positions, read, most_tokens, shared=False)
    found: dict[int, Numbers] = {}
    with implementation(lens_model.model, None):
        start = torch.tensor([list(rows[0][:shared])], device=lens_model.device)
        with unembedding_only(lens_model, torch.zeros(1, 1, dtype=torch.long, device=lens_model.device)):
            cache = lens_model.model(input_ids=start, use_cache=True).past_key_values
        for some in _of_like_length([len(row) - shared for row in rows], most_tokens):
            logits = _behind(lens_model, cache, [rows[i][shared:] for i in some], shared, positions[some] - shared)
            found.update(zip(some, zip(*read(some, doubled(logits)), strict=True), strict=True))
    return tuple(torch.stack(parts) for parts in zip(*(found[i] for i in range(len(rows))), strict=True))


def _behind(
    lens_model: LensModel, cache: object, ends: Sequence[Sequence[int]], shared: int, positions: Tensor
) -> Float[Tensor, "n_texts n_positions vocabulary"]:
    """The logits behind a cached beginning; what is filled up on the right comes after all that is read."""
    own = copy.deepcopy(cache)
    own.batch_repeat_interleave(len(ends))  # type: ignore[attr-defined]
    longest = max(map(len, ends))
    ids = torch.tensor([[*end, *[end[-1]] * (longest - len(end))] for end in ends], device=lens_model.device)
    places = torch.arange(shared, shared + longest, device=lens_model.device).expand(len(ends), -1)
    with unembedding_only(lens_model, positions.to(lens_model.device)):
        return lens_model.model(input_ids=ids, position_ids=places, past_key_values=own, use_cache=True).logits


def _of_like_length(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Texts of like length together, by their numbers, with at most so many tokens where they are filled up."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * lengths[i] <= most_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _alike(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all texts begin with alike."""
    count = 0
    for tokens in zip(*rows, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count
