"""The exact knock-out on all later edges: training weights of zero, for demonstrations that act through each other.

The knock-out of the query's tokens leaves what later demonstrations have read from the one that is knocked out. Here no
later token outside of a demonstration sees it, which is nearer to deleting its text. Every set is a pass over the whole
prompt.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from iclens.lens.read.capture import relative
from iclens.lens.read.tracing import Trace
from iclens.lens.read.weighted import Edges
from iclens.lens.scores.influence import logits_at
from iclens.lens.scores.knock_out import KnockOuts


@torch.no_grad()
def cut_out(
    traced: Trace, hidden: Bool[Tensor, "batch n_sets n"], edges: Edges, *, most_tokens: int = 1 << 12
) -> KnockOuts:
    """Run every prompt again for each set of demonstrations that no later token sees.

    Args:
        traced: the full pass.
        hidden: the tokens of each set, from `hidden_keys`.
        edges: which edges are cut where they lead to these tokens.
        most_tokens: tokens that go through the model at once.
    """
    tokens, home = traced.tokens, traced.tokens.ids.device
    batch, _, n = hidden.shape
    # The first set knocks out nothing: the check against the full pass.
    every = torch.cat([hidden.new_zeros(batch, 1, n), hidden], 1)
    prompts = torch.arange(batch, device=home).repeat_interleave(every.shape[1])
    weights = torch.where(every.flatten(0, 1), 0.0, 1.0)
    found = []
    for some, own in zip(prompts.split(max(1, most_tokens // n)), weights.split(max(1, most_tokens // n)), strict=True):
        readouts = traced.readouts[some]
        logits = logits_at(traced.lens_model, tokens[some], readouts, edges[some], own)
        off = relative(logits, traced.logits[some].to(logits.device))
        found.append([one.to(home) for one in (readouts.margin(logits), readouts.log_probability(logits), off)])
    margins, answers, residuals = (torch.cat(one).unflatten(0, every.shape[:2]) for one in zip(*found, strict=True))
    return KnockOuts(
        margins[:, 1:],
        answers[:, 1:],
        traced.margins.to(home),
        traced.log_probabilities.to(home),
        residuals[:, 0],
    )
