"""Putting the lens's own attention function into a model for a while, and taking it out again.

Transformers calls a registered function for every attention layer, with q, k, v after rotary positions and
QK-norms, and a registered mask function once per forward pass. Both are registered, because without the mask
function causality is lost silently. What the function does is up to the handler of the active session; the
session lives in a context variable, so that threads and nested uses do not mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from iclens.errors import UserError
from iclens.huggingface import as_bool, implementation, register, unhandled_term
from iclens.lens.model.loading import LensModel

NAME = "iclens"


@dataclass(frozen=True)
class AttentionCall:
    """What one attention layer hands to its interface.

    Attributes:
        name: the module's name in the model.
        q: (batch, query heads, n_query, d).
        k: (batch, key heads, n_key, d): not repeated for grouped heads.
        v: (batch, key heads, n_key, d_v).
        mask: bool (batch, 1, n_query, n_key), True = may attend; None when the layer is causal (or, in an
            encoder, full) without further masking.
        scale: factor of the scores.
        softcap: c of c·tanh(scores/c), or None.
        causal: what `mask=None` means.
    """

    name: str
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None
    scale: float
    softcap: float | None
    causal: bool

    @property
    def groups(self) -> int:
        """Query heads that share one key head."""
        return self.q.shape[1] // self.k.shape[1]

    def rows(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """The mask of the queries first … last − 1: bool (batch or 1, 1, their number, n_key)."""
        n_query, n_key = self.q.shape[2], self.k.shape[2]
        last = n_query if last is None else last
        if self.mask is not None:
            return self.mask[:, :, first:last]
        seen = torch.arange(n_key, device=self.q.device)
        own = torch.arange(first, last, device=self.q.device)[:, None] + (n_key - n_query)
        allowed = seen <= own if self.causal else torch.ones_like(seen <= own)
        return allowed[None, None]

    @property
    def key(self) -> int:
        return id(self.mask)

    def rows_at(self, positions: torch.Tensor) -> torch.Tensor:
        rows = self.rows().expand(len(positions), 1, -1, -1)[:, 0]
        positions = positions.to(rows.device)
        return rows[torch.arange(len(rows), device=rows.device)[:, None], positions]


Handler = Callable[[AttentionCall], torch.Tensor]
"""From a call to the heads' output (batch, query heads, n_query, d_v)."""


@dataclass(frozen=True)
class _Session:
    names: dict[int, str]
    handler: Handler
    causal: bool
    wants_mask: bool


_ACTIVE: ContextVar[_Session | None] = ContextVar("iclens_session", default=None)

_TERMS = ("s_aux", "position_bias", "cache")


@contextmanager
def attending(lens_model: LensModel, handler: Handler, *, wants_mask: bool = False) -> Iterator[None]:
    """Run the model's attention through `handler` inside the `with` block.

    The model is in evaluation mode meanwhile. Its attention implementation and its modes are put back
    afterwards, also after an exception. One model must not be used by two threads at once.

    Args:
        lens_model: the model.
        handler: computes the heads' output.
        wants_mask: pass the mask always; otherwise None stands for a plain causal (or full) one, which need not
            be formed.
    """
    register(NAME, _attention, _mask)
    names = {id(layer.attention): layer.attention_name for layer in lens_model.anatomy.layers}
    token = _ACTIVE.set(_Session(names, handler, lens_model.family.causal, wants_mask))
    try:
        with implementation(lens_model.model, NAME):
            yield
    finally:
        _ACTIVE.reset(token)


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    from transformers.masking_utils import sdpa_mask

    session = _active()
    if session.wants_mask:
        kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(*args, **kwargs)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    session = _active()
    name = session.names.get(id(module))
    if name is None:
        raise UserError(f"{type(module).__name__} calls the attention interface but is no layer of its family.")
    term = unhandled_term(kwargs, _TERMS, any_tensor=True)
    if term in _TERMS:
        raise UserError(f"{name} passes {term} to its attention, which iclens does not handle.")
    if term is not None:
        raise UserError(f"{name} passes a tensor {term!r} to its attention, which iclens does not know.")
    if attention_mask is not None:
        attention_mask = as_bool(attention_mask, name, "The lens takes")
    call = AttentionCall(
        name=name,
        q=query,
        k=key,
        v=value,
        mask=attention_mask,
        scale=float(query.shape[-1] ** -0.5 if scaling is None else scaling),
        softcap=None if softcap is None else float(softcap),
        causal=session.causal,
    )
    return session.handler(call).transpose(1, 2).contiguous(), None


def _active() -> _Session:
    session = _ACTIVE.get()
    if session is None:
        raise RuntimeError(
            "the attention implementation 'iclens' runs only inside the lens; choose another with "
            "model.set_attn_implementation."
        )
    return session
