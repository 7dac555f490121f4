"""A mask that says who may attend to whom without being formed: rows of it are made when they are asked for.

Transformers describes a mask by a function of (batch, head, query, key). `deferred_mask` keeps that description and
hands the model a tensor of the mask's shape without storage, which models pass on or slice to the length it has. When
one computes with it, the mask is formed for that computation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils._pytree import tree_map

_NO_SKIPS = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
"""Arguments of `sdpa_mask` with which it gives a mask also where None would do."""


@dataclass(frozen=True, eq=False)
class MaskRecipe:
    """How to make any rows of a mask (batch, 1, n_query, n_key), True = may attend: the arguments of `sdpa_mask`."""

    arguments: Mapping[str, Any]
    # The block that was asked for last: at ordinary lengths the whole mask, which every layer asks for in turn.
    _last: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, 1, n_query, n_key)."""
        return self.arguments["batch_size"], 1, self.arguments["q_length"], self.arguments["kv_length"]

    def rows(self, first: int, last: int) -> Bool[Tensor, "batch 1 rows n_key"]:
        """Form the rows of the queries first … last − 1."""
        made = self._last.get((first, last))
        if made is None:
            offset = self.arguments.get("q_offset", 0) + first
            made = self._made(q_length=last - first, q_offset=offset)
            self._last.clear()
            self._last[first, last] = made
        return made

    def rows_at(self, positions: Int[Tensor, "_ rows"]) -> Bool[Tensor, "batch rows n_key"]:
        """Form the rows of some queries: others in each prompt of the batch, or the same in all (a leading 1)."""
        from transformers.masking_utils import causal_mask_function

        function = self.arguments.get("mask_function", causal_mask_function)
        places = positions.to(self.arguments["device"]) + self.arguments.get("q_offset", 0)
        places = places.expand(self.arguments["batch_size"], -1)

        def at_places(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
            return function(batch, head, places[batch, row], key)

        return self._made(q_length=places.shape[1], q_offset=0, mask_function=at_places)[:, 0]

    def at(self, places: Int[Tensor, " n"], rows: slice) -> Bool[Tensor, "rows n"]:
        """Form some rows for one prompt whose tokens stand at other places than their own: windows count by these."""
        from transformers.masking_utils import causal_mask_function

        function = self.arguments.get("mask_function", causal_mask_function)
        places = places.to(self.arguments["device"])
        own = places[rows]

        def at_places(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
            return function(batch, head, own[row], places[key])

        return self._made(q_length=len(own), q_offset=0, mask_function=at_places)[0, 0]

    def _made(self, **changed: Any) -> Tensor:
        from transformers.masking_utils import sdpa_mask

        return sdpa_mask(**(dict(self.arguments) | _NO_SKIPS | changed))


class DeferredMask(Tensor):
    """A bool tensor of a mask's shape, without storage; its recipe makes what of it is needed."""

    recipe: MaskRecipe

    @staticmethod
    def __new__(cls, recipe: MaskRecipe, device: torch.device) -> DeferredMask:
        """Make the stand-in for the mask of `recipe` on a device."""
        mask = Tensor._make_wrapper_subclass(cls, recipe.shape, dtype=torch.bool, device=device)
        mask.recipe = recipe
        return mask

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Pass views of the whole mask and copies to other devices on as deferred masks; form it for anything else."""
        kwargs, mask = kwargs or {}, args[0] if args else None
        if function in _VIEWS and isinstance(mask, DeferredMask):
            shape = function(torch.empty(mask.shape, device="meta"), *args[1:], **kwargs).shape
            if shape == mask.shape:
                return DeferredMask(mask.recipe, mask.device)
        if function is torch.ops.aten._to_copy.default and kwargs.get("dtype") in (None, torch.bool):
            return DeferredMask(args[0].recipe, torch.device(kwargs.get("device") or args[0].device))
        return function(*tree_map(_formed, args), **tree_map(_formed, kwargs))


_VIEWS = (torch.ops.aten.slice.Tensor, torch.ops.aten.alias.default, torch.ops.aten.detach.default)


def _formed(thing: Any) -> Any:
    return thing.recipe.rows(0, thing.shape[2]).to(thing.device) if isinstance(thing, DeferredMask) else thing


def deferred_mask(*args: Any, always: bool = False, **kwargs: Any) -> Tensor | None:
    """Stand in for `transformers.masking_utils.sdpa_mask`, with the same arguments, without forming the mask.

    Arguments by position, which transformers never gives, or a function of the caller's own (`use_vmap`) lead to a
    mask that is formed.

    Returns:
        Unless `always`, None where `sdpa_mask` gives None: for a mask that is plainly causal, or for an encoder without
        padding. Otherwise a `DeferredMask`.
    """
    from transformers.masking_utils import sdpa_mask

    kwargs |= _NO_SKIPS if always else {}
    if args or kwargs.get("use_vmap", False) or torch.compiler.is_compiling():
        return sdpa_mask(*args, **kwargs)
    # Given a function that names no query and no key, transformers decides about None and forms no mask.
    if sdpa_mask(**(kwargs | {"mask_function": _everywhere})) is None:
        return None
    device = torch.device(kwargs.get("device", "cpu"))
    return DeferredMask(MaskRecipe(kwargs | {"device": device}), device)


def _everywhere(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=batch.device)
