"""Putting the lens's own attention function into a model for a while, and taking it out again.

Transformers calls a registered function for every attention layer, with q, k, v after rotary positions and
QK-norms, and a registered mask function once per forward pass. What the function does is up to the handler of the
active session; the session lives in a context variable, so that threads and nested uses do not mix.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from iclens.attention.interface import NAME as VARIANT
from iclens.errors import UserError
from iclens.huggingface import (
    DeferredMask,
    MaskRecipe,
    as_bool,
    deferred_mask,
    implementation,
    register,
    unhandled_term,
)
from iclens.lens.model.loading import LensModel

NAME = "iclens"
_TERMS = ("position_bias", "cache")


@dataclass(frozen=True)
class Plain:
    """Every earlier token and its own in a causal layer, every token in an encoder's.

    There are `n_key` tokens, of which the last `n_query` have queries; rows are formed on `device`.
    """

    causal: bool
    n_query: int
    n_key: int
    device: torch.device

    def rows(self, first: int, last: int) -> Bool[Tensor, "_ 1 rows n_key"]:
        """Form the rows of the queries first … last − 1."""
        return self.rows_at(torch.arange(first, last, device=self.device)[None])[:, None]

    def rows_at(self, positions: Int[Tensor, "_ rows"]) -> Bool[Tensor, "_ rows n_key"]:
        """Form the rows of some queries: others in each prompt, or the same in all (a leading 1)."""
        own = positions.to(self.device)[..., None] + (self.n_key - self.n_query)
        return torch.arange(self.n_key, device=self.device) <= (
            own if self.causal else torch.full_like(own, self.n_key)
        )


@dataclass(frozen=True, eq=False)
class Given:
    """A mask that the caller of the model made: True = may attend; the prompts may share one."""

    mask: Bool[Tensor, "_ 1 n_query n_key"]

    def at(self, places: Int[Tensor, " n"], rows: slice) -> Bool[Tensor, "rows n"]:
        """Some rows for one prompt, as they were given; what a caller made says nothing of other places."""
        return self.mask[0, 0, rows]

    def rows(self, first: int, last: int) -> Bool[Tensor, "_ 1 rows n_key"]:
        """Cut out the rows of the queries first … last − 1."""
        return self.mask[:, :, first:last]

    def rows_at(self, positions: Int[Tensor, "_ rows"]) -> Bool[Tensor, "_ rows n_key"]:
        """Pick the rows of some queries: others in each prompt, or the same in all (a leading 1)."""
        n_prompts = max(len(positions), len(self.mask))
        prompts = torch.arange(n_prompts, device=self.mask.device)[:, None]
        return self.mask[:, 0].expand(n_prompts, -1, -1)[prompts, positions.to(self.mask.device)]


Seen = Plain | Given | MaskRecipe
"""All have `rows(first, last)` and `rows_at(positions)`; a recipe is of windows, chunks and padding."""


@dataclass(frozen=True)
class AttentionCall:
    """What one attention layer hands to its interface.

    Attributes:
        name: the module's name in the model.
        q: (batch, query heads, n_query, d).
        k: (batch, key heads, n_key, d): not repeated for grouped heads.
        v: (batch, key heads, n_key, d_v).
        seen: which tokens the queries may attend to; layers that share a mask share it.
        scale: factor of the scores.
        softcap: c of c·tanh(scores/c), or None.
        sinks: (query heads,), a learned score of each head that takes part in the softmax and has no value, or None.
    """

    name: str
    q: Tensor
    k: Tensor
    v: Tensor
    seen: Seen
    scale: float
    softcap: float | None
    sinks: Tensor | None

    @property
    def groups(self) -> int:
        """Query heads that share one key head."""
        return self.q.shape[1] // self.k.shape[1]

    @property
    def key(self) -> Hashable:
        """What is equal for layers whose rows are the same tensors: their mask, and the device of the rows.

        Whoever keeps it keeps the mask's description alive with it, so that no other mask gets the same key.
        """
        return self.seen, self.q.device

    def rows(self, first: int = 0, last: int | None = None) -> Bool[Tensor, "_ 1 rows n_key"]:
        """Form the mask of the queries first … last − 1 (all by default), with a leading axis of the batch or of 1."""
        return self.seen.rows(first, self.q.shape[2] if last is None else last).to(self.q.device)

    def rows_at(self, positions: Int[Tensor, "_ rows"]) -> Bool[Tensor, "_ rows n_key"]:
        """Form the mask of the queries at some positions, others in each prompt or the same in all; no other rows."""
        return self.seen.rows_at(positions).to(self.q.device)


Handler = Callable[[AttentionCall], Tensor]
"""From a call to the heads' output (batch, query heads, n_query, d_v)."""


@dataclass(frozen=True)
class _Session:
    names: dict[torch.nn.Module, str]
    handler: Handler
    causal: bool
    wants_mask: bool
    query_scale: Callable[[Any, Tensor], Tensor] | None
    places: Tensor | None
    # By id, and with the caller's own tensor, which is kept so that no other gets its id.
    given: dict[int, tuple[Tensor, Given]] = field(default_factory=dict)

    def placed(self, module: torch.nn.Module, q: Tensor) -> Tensor:
        """The queries as they are at the places of their tokens, where the model took them for the first ones."""
        if self.query_scale is None or self.places is None:
            return q
        first = torch.arange(q.shape[2])[None]
        mine, own = (self.query_scale(module, at).double() for at in (self.places.cpu(), first))
        return q * (mine / own)[:, None, :, None].to(q)

    def seen(self, mask: Tensor | None, name: str, q: Tensor, k: Tensor) -> Seen:
        """What the mask of a layer says, and what its absence says."""
        if mask is None:
            return Plain(self.causal, q.shape[2], k.shape[2], q.device)
        if isinstance(mask, DeferredMask):
            return mask.recipe
        if mask.shape[1] != 1:
            raise UserError(f"{name} was given a mask for each head: the lens takes one for all heads.")
        if id(mask) not in self.given:
            allowed = as_bool(mask, name, "The lens takes").expand(-1, -1, q.shape[2], k.shape[2])
            self.given[id(mask)] = mask, Given(allowed)
        return self.given[id(mask)][1]


_ACTIVE: ContextVar[_Session | None] = ContextVar("iclens_session", default=None)


@contextmanager
def attending(
    lens_model: LensModel, handler: Handler, *, wants_mask: bool = False, places: Int[Tensor, "_ n"] | None = None
) -> Iterator[None]:
    """Run the model's attention through `handler`, which computes the heads' output, inside the `with` block.

    The model is in evaluation mode meanwhile. Its attention implementation and its modes are put back
    afterwards, also after an exception. One model must not be used by two threads at once.

    With `wants_mask` every mask is transformers' own, also a plainly causal (or full) one, which is otherwise taken as
    known: an independent check. A pass over the last tokens of texts names their `places`.

    Raises:
        UserError: the model has an attention variant, which `handler` would silently take the place of.
    """
    if lens_model.model.config._attn_implementation == VARIANT:
        raise UserError(
            f"{lens_model.name} has an attention variant in it, and the lens reads softmax attention: take it out with "
            "iclens.attention.remove(model)."
        )
    register(NAME, _attention, _mask)
    names = {layer.attention: layer.attention_name for layer in lens_model.anatomy.layers}
    family = lens_model.family
    token = _ACTIVE.set(_Session(names, handler, family.causal, wants_mask, family.query_scale, places))
    try:
        with implementation(lens_model.model, NAME):
            yield
    finally:
        _ACTIVE.reset(token)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    return deferred_mask(*args, always=_active().wants_mask, **kwargs)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    session = _active()
    name = session.names.get(module)
    if name is None:
        raise UserError(f"{type(module).__name__} calls the attention interface but is no layer of its family.")
    term = unhandled_term(kwargs, _TERMS, any_tensor=True)
    if term is not None:
        what, verb = (term, "handle") if term in _TERMS else (f"a tensor {term!r}", "know")
        raise UserError(f"{name} passes {what} to its attention, which iclens does not {verb}.")
    seen = session.seen(attention_mask, name, query, key)
    scale = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
    cap, sinks = None if softcap is None else float(softcap), None if s_aux is None else s_aux.detach()
    call = AttentionCall(name, session.placed(module, query), key, value, seen, scale, cap, sinks)
    return session.handler(call).transpose(1, 2).contiguous(), None


def _active() -> _Session:
    session = _ACTIVE.get()
    if session is None:
        raise RuntimeError(
            "the attention implementation 'iclens' runs only inside the lens; choose another with "
            "model.set_attn_implementation."
        )
    return session
