"""The exact knock-out in many prompts: every demonstration of each of them, in one pass over all queries' tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.lens.many.reading import take, unembedding_only
from iclens.lens.many.trace import BatchTrace
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.capture import run
from iclens.lens.scores.knock_out import shared_attention

_MOST_LOGITS = 1 << 26
"""Logits that are formed at once."""


class KnockOuts(NamedTuple):
    """`KnockOutResult` of every prompt; rows behind a prompt's last demonstration are of no meaning.

    Attributes:
        margin_changes: full margin minus the margin without each demonstration.
        log_probability_changes: the same for the answer's log-probability.
        residuals: of knocking out nothing, against the full pass.
    """

    margin_changes: Float[Tensor, "batch most_demonstrations"]
    log_probability_changes: Float[Tensor, "batch most_demonstrations"]
    residuals: Float[Tensor, " batch"]


@torch.no_grad()
def knock_out_batch(
    traced: BatchTrace, groups: Int[Tensor, "batch n"], n_demonstrations: Sequence[int], most_tokens: int
) -> KnockOuts:
    """Knock out every demonstration of every prompt, one at a time.

    Args:
        traced: the full pass.
        groups: for each token the index of its demonstration, or −1.
        n_demonstrations: how many each prompt has.
        most_tokens: query tokens that go through the model at once.
    """
    tokens = traced.tokens
    n_sets = 1 + max(n_demonstrations)
    n_query = tokens.query_places.shape[1]
    n_logits = n_sets * traced.logits[0].numel()
    step = max(1, min(most_tokens // (n_sets * n_query), _MOST_LOGITS // n_logits))
    pieces = [
        _knock_out(traced, groups, n_sets, slice(first, first + step)) for first in range(0, len(tokens.ids), step)
    ]
    return KnockOuts(*(torch.cat(part) for part in zip(*pieces, strict=True)))


def _knock_out(traced: BatchTrace, groups: Tensor, n_sets: int, some: slice) -> KnockOuts:
    """The prompts `some` of a batch."""
    tokens = traced.tokens
    starts, device = tokens.starts[some], tokens.ids.device
    n_prompts, start = len(starts), int(starts.max())
    places = tokens.query_places[some]
    n_query = places.shape[1]
    # Set 0 knocks out nothing, set i demonstration i − 1.
    sets = torch.arange(-1, n_sets - 1, device=device)
    blocked = (groups[some, None, :start] == sets[:, None]) & (sets[:, None] >= 0)
    blocked = blocked | (torch.arange(start, device=device) >= starts[:, None])[:, None]
    earlier = torch.ones(n_query, n_query, dtype=torch.bool, device=device).tril()
    allowed: dict[int, tuple[Tensor, Tensor]] = {}
    records = {layer.name: layer for layer in traced.layers}

    def attend(call: AttentionCall) -> Tensor:
        record = records[call.name]
        if id(record.query_mask) not in allowed:
            seen = record.query_mask[some]
            prefix = seen[:, None, :, :start] & ~blocked.to(seen.device)[:, :, None]
            own = take(seen.transpose(1, 2), places).transpose(1, 2) & earlier.to(seen.device)
            allowed[id(record.query_mask)] = prefix, own[:, None]
        prefix, own = allowed[id(record.query_mask)]
        return shared_attention(call, record.k[some, :, :start], record.v[some, :, :start], prefix, own)

    def each_set(rows: Tensor) -> Tensor:
        return rows.repeat_interleave(n_sets, 0)

    here = traced.reading.some(some)
    read = here.positions - starts[:, None]
    with attending(traced.lens_model, attend), unembedding_only(traced.lens_model, each_set(read)):
        logits = run(traced.lens_model, each_set(take(tokens.ids[some], places)), position_ids=each_set(places))
    logits = logits.unflatten(0, (n_prompts, n_sets))
    margins, log_probabilities = here.margin(logits), here.log_probability(logits)
    full = traced.logits[some].to(logits.device)
    largest = full.abs().flatten(1).amax(1).clamp_min(torch.finfo(full.dtype).tiny)
    return KnockOuts(
        traced.margins[some, None].to(margins.device) - margins[:, 1:],
        traced.log_probabilities[some, None].to(margins.device) - log_probabilities[:, 1:],
        (logits[:, 0] - full).abs().flatten(1).amax(1) / largest,
    )
