"""The exact knock-out: every dual model of the query's tokens trained without some demonstrations.

In every layer and head, the query's tokens do not attend to the tokens of the demonstrations that are knocked
out; the prompt's other tokens keep their keys and values. This is the exact prediction when those demonstrations
were never trained on (the normaliser D is recomputed), carried through all layers.

All sets run in one batched pass that re-runs only the query's tokens. The prompt's keys and values are shared:
sets, query tokens and grouped heads stand side by side as rows of one product with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import MOST_SCORES, weigh
from iclens.lens.read.capture import run
from iclens.lens.read.trace import Trace


@dataclass(frozen=True)
class KnockOutResult:
    """What the model says when its query never trains on some demonstrations.

    Attributes:
        sets: the demonstrations knocked out, one tuple per row.
        margins: the margin without them.
        log_probabilities: log p(answer) without them (zeros when the read-out names no answer).
        margin: the full margin.
        log_probability: the full log p(answer).
        residual: of the empty set, run in the same pass, against the full forward pass: largest difference of
            the logits relative to the largest logit.
    """

    sets: tuple[tuple[int, ...], ...]
    margins: Float[Tensor, " n_sets"]
    log_probabilities: Float[Tensor, " n_sets"]
    margin: float
    log_probability: float
    residual: float

    @property
    def margin_changes(self) -> Float[Tensor, " n_sets"]:
        """Full minus knocked out: positive when the demonstrations supported the answer."""
        return self.margin - self.margins

    @property
    def log_probability_changes(self) -> Float[Tensor, " n_sets"]:
        """The same for the answer's log-probability."""
        return self.log_probability - self.log_probabilities


@torch.no_grad()
def knock_out(
    traced: Trace,
    groups: Int[Tensor, " n"],
    sets: Sequence[Sequence[int]],
) -> KnockOutResult:
    """Knock out sets of demonstrations, all in one pass over the query's tokens.

    Args:
        traced: the full pass, from `trace`, with `query_start` at the query's first token.
        groups: for each token the index of its demonstration, or −1.
        sets: demonstrations to knock out together, one entry per set.

    Raises:
        UserError: no query's tokens, a demonstration that does not exist, or one that reaches into the query.
    """
    start, n = traced.query_start, len(traced.input_ids)
    if groups.shape[0] != n:
        raise UserError(f"groups has {groups.shape[0]} entries for a prompt of {n} tokens.")
    if start == 0:
        raise UserError("the query starts at token 0: there are no demonstrations before it to knock out.")
    if bool((groups[start:] >= 0).any()):
        raise UserError(f"groups assigns tokens of the query (from token {start} on) to a demonstration.")
    known = {int(g) for g in groups.unique() if g >= 0}
    for chosen in sets:
        for index in chosen:
            if index not in known:
                raise UserError(f"cannot knock out demonstration {index}: the prompt has {len(known)}, from 0 on.")
    every = [(), *(tuple(int(i) for i in chosen) for chosen in sets)]
    margins, answers, logits = _rerun(traced, _blocked(groups[:start].to(traced.input_ids.device), every))
    difference = float((logits - traced.logits).abs().max())
    return KnockOutResult(
        sets=tuple(every[1:]),
        margins=margins[1:],
        log_probabilities=answers[1:],
        margin=traced.margin,
        log_probability=traced.log_probability,
        residual=difference / max(float(traced.logits.abs().max()), torch.finfo(logits.dtype).tiny),
    )


def _blocked(groups: Tensor, sets: Sequence[tuple[int, ...]]) -> Bool[Tensor, "n_sets n_prefix"]:
    blocked = torch.zeros(len(sets), len(groups), dtype=torch.bool, device=groups.device)
    for row, chosen in zip(blocked, sets, strict=True):
        for index in chosen:
            row |= groups == index
    return blocked


def _rerun(traced: Trace, blocked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Margins and log-probabilities of every set, and the logits of the first."""
    start = traced.query_start
    query = traced.input_ids[start:]
    records = {layer.name: layer for layer in traced.layers}
    allowed: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(call: AttentionCall) -> Tensor:
        record = records[call.name]
        if id(record.query_mask) not in allowed:
            seen = record.query_mask
            prefix = seen[None, None, :, :start] & ~blocked.to(seen.device)[None, :, None]
            allowed[id(record.query_mask)] = prefix, seen[None, None, :, start:]
        prefix, own = allowed[id(record.query_mask)]
        return shared_attention(call, record.k[None, :, :start], record.v[None, :, :start], prefix, own)

    n_sets = len(blocked)
    positions = torch.tensor(traced.readout.positions, device=traced.lens_model.index_device) - start
    with attending(traced.lens_model, attend):
        logits = run(
            traced.lens_model,
            query.expand(n_sets, -1),
            position_ids=torch.arange(start, start + len(query), device=query.device).expand(n_sets, -1),
            logits_to_keep=positions,
        )
    return traced.readout.margin(logits), traced.readout.log_probability(logits), logits[0]


def shared_attention(
    call: AttentionCall,
    k: Float[Tensor, "prompts key_heads n_prefix d"],
    v: Float[Tensor, "prompts key_heads n_prefix d_v"],
    prefix: Bool[Tensor, "prompts n_sets n_query n_prefix"],
    own: Bool[Tensor, "prompts 1 n_query n_query"],
) -> Float[Tensor, "rows heads n_query d_v"]:
    """Attention of every set's query tokens to their prompt's shared prefix and to their own keys.

    Cut by key heads, so that scores never take much more than `MOST_SCORES` numbers.

    Args:
        call: the layer's call; its rows are prompts · sets, the sets of one prompt side by side.
        k: keys of each prompt's prefix.
        v: values of each prompt's prefix.
        prefix: which tokens of the prefix the query's tokens may see in each set.
        own: which of the query's own tokens they may see.
    """
    n_rows, _, n_query, width = call.q.shape
    n_prompts, n_sets, _, start = prefix.shape
    key_heads, groups = call.k.shape[1], call.groups
    mask = torch.cat([prefix, own.expand(-1, n_sets, -1, -1)], dim=-1).reshape(n_rows, 1, n_query, -1)
    per_head = n_rows * groups * n_query * (start + n_query)
    step = max(1, MOST_SCORES // per_head)
    outputs = []

    def beside(rows: Tensor) -> Tensor:
        """(rows, count, ·, width) -> (prompts, count, sets · ·, width): all sets of a prompt as one product."""
        return rows.unflatten(0, (n_prompts, n_sets)).transpose(1, 2).flatten(2, 3)

    def apart(products: Tensor) -> Tensor:
        return products.unflatten(2, (n_sets, -1)).transpose(1, 2).flatten(0, 1)

    for first in range(0, key_heads, step):
        some = slice(first, min(first + step, key_heads))
        q = call.q.reshape(n_rows, key_heads, groups * n_query, width)[:, some]
        count = q.shape[1]
        shared = apart(beside(q) @ k[:, some].transpose(-1, -2))
        scores = torch.cat([shared, q @ call.k[:, some].transpose(-1, -2)], dim=-1)
        scores = scores.reshape(n_rows, count * groups, n_query, -1) * call.scale
        weights = weigh(scores, mask, call.softcap).reshape(n_rows, count, groups * n_query, -1)
        out = apart(beside(weights[..., :start]) @ v[:, some]) + weights[..., start:] @ call.v[:, some]
        outputs.append(out.reshape(n_rows, count * groups, n_query, -1))
    return torch.cat(outputs, dim=1)
