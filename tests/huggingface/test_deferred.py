"""A deferred mask is transformers' own mask, row by row, and forms itself where someone computes with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import masking_utils
from transformers.masking_utils import sdpa_mask

from iclens.huggingface import DeferredMask, MaskRecipe, deferred_mask

BATCH, N = 3, 11


def padding(side: str) -> torch.Tensor:
    mask = torch.ones(BATCH, N, dtype=torch.bool)
    mask[0, slice(0, 4) if side == "left" else slice(-4, None)] = False
    return mask


def later_pictures(batch: Any, head: Any, query: Any, key: Any) -> Any:
    return (query > 5) & (key > 5)


PACKED = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]).expand(BATCH, -1)

MASKS: dict[str, dict[str, Any]] = {
    "causal, padded on the left": {"attention_mask": padding("left")},
    "causal, padded on the right": {"attention_mask": padding("right")},
    "causal, to be formed": {"allow_is_causal_skip": False},
    "sliding window": {
        "mask_function": masking_utils.sliding_window_causal_mask_function(4),
        "local_size": 4,
    },
    "sliding window, padded": {
        "mask_function": masking_utils.sliding_window_causal_mask_function(4),
        "local_size": 4,
        "attention_mask": padding("left"),
    },
    "chunks, padded": {
        "mask_function": masking_utils.chunked_causal_mask_function(4, torch.tensor([4, 0, 0])),
        "local_size": 4,
        "attention_mask": padding("left"),
    },
    "packed": {
        "mask_function": masking_utils.and_masks(
            masking_utils.causal_mask_function, masking_utils.packed_sequence_mask_function(PACKED)
        ),
        "allow_is_causal_skip": False,
    },
    "encoder, padded": {
        "mask_function": masking_utils.bidirectional_mask_function,
        "attention_mask": padding("right"),
        "allow_is_causal_skip": False,
        "allow_is_bidirectional_skip": True,
    },
    "the last queries": {"q_length": 4, "q_offset": N - 4, "attention_mask": padding("left")},
}


def both(name: str) -> tuple[torch.Tensor, DeferredMask]:
    arguments = {"batch_size": BATCH, "q_length": N, "kv_length": N} | MASKS[name]
    built, mask = sdpa_mask(**arguments), deferred_mask(**arguments)
    assert built is not None
    assert isinstance(mask, DeferredMask)
    return built, mask


@pytest.mark.parametrize("name", MASKS)
def test_every_row_is_that_of_the_mask_which_transformers_builds(name: str) -> None:
    built, mask = both(name)
    assert (mask.shape, mask.dtype, mask.device) == (built.shape, torch.bool, built.device)
    n_query = built.shape[2]
    for first, last in ((0, n_query), (0, 1), (2, 4), (n_query - 1, n_query)):
        rows = mask.recipe.rows(first, last)
        assert torch.equal(rows.expand(BATCH, -1, -1, -1), built[:, :, first:last])
    places = torch.randint(n_query, (BATCH, 5), generator=torch.Generator().manual_seed(0))
    picked = torch.stack([built[prompt, 0, row] for prompt, row in enumerate(places)])
    assert torch.equal(mask.recipe.rows_at(places), picked)
    assert torch.equal(mask.recipe.rows_at(places[:1]), built[:, 0, places[0]])


@pytest.mark.parametrize(
    ("arguments", "none"),
    [
        ({}, True),
        ({"attention_mask": torch.ones(BATCH, N, dtype=torch.bool)}, True),
        ({"attention_mask": padding("left")}, False),
        ({"local_size": 4}, False),
        ({"local_size": N + 1}, True),
        ({"always": True}, False),
        ({"allow_is_causal_skip": False, "allow_is_bidirectional_skip": True}, True),
    ],
)
def test_none_is_given_where_transformers_gives_none(arguments: dict[str, Any], none: bool) -> None:
    mask = deferred_mask(batch_size=BATCH, q_length=N, kv_length=N, **arguments)
    assert (mask is None) == none
    if "always" not in arguments:
        assert (sdpa_mask(batch_size=BATCH, q_length=N, kv_length=N, **arguments) is None) == none


@pytest.mark.parametrize("name", MASKS)
def test_whoever_computes_with_it_gets_the_mask_itself(name: str) -> None:
    built, mask = both(name)
    other = torch.rand(built.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.equal(mask & other, built & other)
    assert torch.equal(~mask, ~built)
    assert torch.equal(torch.where(mask, 0.0, -torch.inf), torch.where(built, 0.0, -torch.inf))
    assert torch.equal(mask.float(), built.float())
    assert torch.equal(mask[1:, :, :, :-1], built[1:, :, :, :-1])
    assert torch.equal(mask[:, :, -1], built[:, :, -1])
    scores = torch.randn(built.shape, generator=torch.Generator().manual_seed(2))
    assert torch.equal(scores.masked_fill(mask, 0.0), scores.masked_fill(built, 0.0))


def test_a_slice_of_the_whole_and_a_copy_elsewhere_are_deferred_still() -> None:
    _, mask = both("sliding window")
    for same in (mask[:, :, :, :N], mask[:, :, :N], mask[...], mask.detach(), mask.to("cpu")):
        assert isinstance(same, DeferredMask)
        assert same.recipe is mask.recipe
    elsewhere = mask.to("meta")
    assert isinstance(elsewhere, DeferredMask)
    assert elsewhere.device.type == "meta"


def test_arguments_by_position_and_a_callers_function_give_the_mask_itself() -> None:
    function = masking_utils.or_masks(masking_utils.causal_mask_function, later_pictures)
    arguments = {"batch_size": 1, "q_length": N, "kv_length": N, "mask_function": function, "use_vmap": True}
    made = deferred_mask(**arguments, allow_is_causal_skip=False)
    assert type(made) is torch.Tensor
    assert bool(made[0, 0, 6:, 6:].all())
    built = sdpa_mask(BATCH, N, N, attention_mask=padding("left"))
    assert torch.equal(deferred_mask(BATCH, N, N, attention_mask=padding("left")), built)
    assert type(deferred_mask(BATCH, N, N, attention_mask=padding("left"))) is torch.Tensor


def test_a_recipe_is_a_key_of_its_own() -> None:
    arguments = {"batch_size": 1, "q_length": 2, "kv_length": 2, "device": torch.device("cpu")}
    one, other = MaskRecipe(arguments), MaskRecipe(arguments)
    assert len({one: 1, other: 2}) == 2
