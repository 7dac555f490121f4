"""Batches of texts without padding.

The texts of a batch differ in length, and a padded batch is as long as its longest text: at GLUE's lengths it holds 1.5
to 2.5 times as many tokens as the texts do. All of an encoder but its attention treats every token alone, so that the
tokens of all texts can pass as one row. Attention alone gets them padded, and gives its outputs back as a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Bool, Int, Shaped
from torch import Tensor, nn

from iclens.attention import interface
from iclens.huggingface import register

NAME = "iclens_packed"
"""The attention implementation's name in transformers."""

PACKABLE = ("bert",)
"""Model types whose tokens meet in attention alone, and whose positions are given by `position_ids` from 0."""


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a row stand in the padded batch.

    Attributes:
        real: which places of the padded batch hold a token.
    """

    real: Bool[Tensor, "n_texts n_longest"]

    @cached_property
    def places(self) -> Int[Tensor, " n_tokens"]:
        """The place of every token in the padded batch, counted row by row."""
        return self.real.flatten().nonzero()[:, 0]

    @cached_property
    def positions(self) -> Int[Tensor, " n_tokens"]:
        """The position of every token in its text, from 0."""
        return (self.real.cumsum(-1) - 1).flatten()[self.places]

    @cached_property
    def mask(self) -> Bool[Tensor, "n_texts 1 n_longest n_longest"] | None:
        """Who may attend to whom in the padded batch; None where no place is empty."""
        if bool(self.real.all()):
            return None
        n_texts, n_longest = self.real.shape
        return self.real[:, None, None, :].expand(n_texts, 1, n_longest, n_longest).contiguous()

    def row(self, padded: Shaped[Tensor, "n_texts n_longest ..."]) -> Shaped[Tensor, "n_tokens ..."]:
        """The tokens of a padded batch in one row."""
        return padded.flatten(0, 1).index_select(0, self.places)

    def padded(self, row: Shaped[Tensor, "n_tokens ..."]) -> Shaped[Tensor, "n_texts n_longest ..."]:
        """The padded batch of a row, 0 at empty places."""
        empty = row.new_zeros(self.real.numel(), *row.shape[1:])
        return empty.index_copy(0, self.places, row).unflatten(0, tuple(self.real.shape))


def packable(encoder: nn.Module) -> bool:
    """Whether an encoder can be given packed batches."""
    config: Any = encoder.config
    return config.model_type in PACKABLE


def pack(encoder: nn.Module) -> None:
    """Let an encoder take packed batches, with the attention variant that is in it; padded ones it takes no more.

    Args:
        encoder: of a packable kind, with `iclens.attention.apply` done before.
    """
    register(NAME, _attend, _no_mask)
    encoder.set_attn_implementation(NAME)  # type: ignore[operator]


def states(encoder: nn.Module, inputs: Mapping[str, Tensor]) -> Shaped[Tensor, "n_texts n_longest width"]:
    """The last states of an encoder that `pack` has made ready, 0 at empty places.

    Args:
        encoder: the encoder.
        inputs: of the padded batch, each (n_texts, n_longest), an `attention_mask` among them.
    """
    packing = Packing(inputs["attention_mask"].bool())
    row = {name: packing.row(values)[None] for name, values in inputs.items() if name != "attention_mask"}
    found = encoder(**row, position_ids=packing.positions[None], packing=packing).last_hidden_state
    return packing.padded(found[0])


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    packing: Packing,
    **given: Any,
) -> tuple[Tensor, None]:
    """The outputs (1, n_tokens, heads, d_v) of one layer, each text attending to itself."""
    from transformers import AttentionInterface

    inner: Callable[..., Any] = interface.attend
    if not hasattr(module, interface.SUBMODULE):
        inner = AttentionInterface()["sdpa"]
    padded = (packing.padded(heads[0].transpose(0, 1)).transpose(1, 2) for heads in (query, key, value))
    outputs, _ = inner(module, *padded, packing.mask, **given)
    return packing.row(outputs)[None], None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The mask is the packing's."""
