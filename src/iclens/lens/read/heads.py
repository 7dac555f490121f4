"""Heads as they were computed in a forward pass, and each as the dual model of its output.

Source: Ren & Liu 2024, Theorem 3.1: a head's output is the prediction of a dual model trained on its keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iclens.dual import DualModel, TrainingWeights
from iclens.errors import UserError
from iclens.kernels import SoftcappedKernel
from iclens.lens.model.placed import cast
from iclens.lens.model.session import AttentionCall
from iclens.lens.read.attend import with_sink


def head_dual(
    q: Float[Tensor, "*batch n_query d"],
    k: Float[Tensor, "*batch_k n_key d"],
    v: Float[Tensor, "*batch_v n_key d_v"],
    demonstrations: int | Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    mask: Bool[Tensor, "*batch_m _ n_key"] | None = None,
    sink: Float[Tensor, "*heads"] | None = None,
    training_weights: TrainingWeights | None = None,
) -> DualModel:
    """Make the dual model of heads from a language model: a soft cap c·tanh(scores/c) is a kernel of its own.

    The learned sink of a head, or of each of several, is one more training pair after all others, of no demonstration:
    its target is 0, and its kernel with every query e^sink.

    Leading axes are free. Keys and values are not repeated: heads that share a key head are consecutive. All other
    arguments are those of `DualModel.from_attention`.

    Raises:
        UserError: what `DualModel.from_attention` refuses.
    """
    if sink is not None:
        n = k.shape[-2]
        q, k, v = with_sink(q, k, v, sink, scale)
        mask = None if mask is None else nn.functional.pad(mask, (0, 1), value=True)
        if not isinstance(demonstrations, int) and demonstrations.shape[-1] == n:
            fill = False if demonstrations.dtype == torch.bool else -1
            demonstrations = nn.functional.pad(demonstrations, (0, 1), value=fill)
    how: dict[str, Any] = {"training_weights": training_weights}
    how |= {"scale": scale} if softcap is None else {"kernel": SoftcappedKernel(scale, softcap)}
    return DualModel.from_attention(q, k, v, demonstrations, mask, **how)


class Head(NamedTuple):
    """One head's tensors in one prompt: queries (n, d), keys (n, d) and values (n, d_v)."""

    q: Float[Tensor, "n d"]
    k: Float[Tensor, "n d"]
    v: Float[Tensor, "n d_v"]


@dataclass(frozen=True)
class HeadRecord(AttentionCall):
    """One attention layer as it was computed, all heads: what it was called with, and what it gave.

    Attributes:
        output: the heads' outputs before W_O.
        real: False for the rows of padding tokens; these are left out of reports.
    """

    output: Float[Tensor, "batch heads n d_v"]
    real: Bool[Tensor, "batch n"]

    @property
    def mask(self) -> Bool[Tensor, "batch 1 n n"]:
        """Form the whole mask (sliding windows, causality and padding are in it); True = may attend."""
        return self.rows().expand(len(self.q), -1, -1, -1)

    def head(self, head: int, prompt: int = 0) -> Head:
        """Pick one head's queries and the keys and values that it shares with the other heads of its group.

        Raises:
            UserError: there is no such head or prompt.
        """
        n_prompts, n_heads = self.q.shape[:2]
        if not 0 <= head < n_heads:
            raise UserError(f"there is no head {head} in {self.name}: it has {n_heads} heads, counted from 0.")
        if not 0 <= prompt < n_prompts:
            raise UserError(f"there is no prompt {prompt}: the pass read {n_prompts}, counted from 0.")
        shared = head // self.groups
        return Head(self.q[prompt, head], self.k[prompt, shared], self.v[prompt, shared])

    def dual(
        self,
        head: int,
        queries: int | Sequence[int] | None = None,
        groups: int | Tensor | None = None,
        prompt: int = 0,
        *,
        dtype: torch.dtype | None = None,
        training_weights: TrainingWeights | None = None,
    ) -> DualModel:
        """Make the dual model of one head: its `predict()` is `output[prompt, head, queries]`.

        Args:
            head: the query head.
            queries: positions whose outputs are predicted; None for all tokens. Only their rows of the mask are formed.
            groups: the demonstrations, as in `DualModel.from_attention`; None makes every token one of its own.
            prompt: which prompt of the batch.
            dtype: computed in this type, say float64 (in memory where the device has none); None for the model's own.
            training_weights: how often each demonstration counts in this head alone, as in
                `DualModel.from_attention`; None for once.

        Raises:
            UserError: there is no such head, prompt or position, or what `DualModel.from_attention` refuses.
        """
        q, k, v = (cast(tensor, dtype or tensor.dtype) for tensor in self.head(head, prompt))
        n = len(q)
        chosen = list(range(n)) if queries is None else [queries] if isinstance(queries, int) else list(queries)
        for position in chosen:
            if not -n <= position < n:
                raise UserError(f"query position {position} is outside the {n} tokens.")
        places = torch.tensor(chosen, device=q.device) % n
        masks = self.rows_at(places[None])
        mask = masks[prompt if len(masks) > 1 else 0]
        groups = n if groups is None else groups
        how: dict[str, Any] = {"scale": self.scale, "softcap": self.softcap, "mask": mask.to(q.device)}
        sink = None if self.sinks is None else self.sinks[head].to(q.device)
        return head_dual(q[places], k, v, groups, **how, sink=sink, training_weights=training_weights)
