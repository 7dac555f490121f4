"""The exact knock-out: every dual model of the query's tokens trained without some demonstrations.

In every layer and head, the query's tokens do not attend to the tokens of the demonstrations that are knocked
out; the prompt's other tokens keep their keys and values. This is the exact prediction when those demonstrations
were never trained on (the normaliser D is recomputed), carried through all layers.

Only the query's tokens run again. The prompt's keys and values are shared: sets, query tokens and grouped heads stand
side by side as rows of one product with them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.model.placed import wide
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import MOST_SCORES, weigh
from iclens.lens.read.capture import relative, run
from iclens.lens.read.fused import fused_activations
from iclens.lens.read.padded import OfPrompts, take, unembedding_only
from iclens.lens.read.routing import routed_as
from iclens.lens.read.tracing import Trace

MOST_LOGITS = 1 << 26
"""Logits that are formed at once."""


@dataclass(frozen=True)
class KnockOuts(OfPrompts):
    """What the model says when its query never trains on some demonstrations.

    Attributes:
        margins: the margin without each set.
        log_probabilities: log p(answer) without it (zeros when the read-out names no answer).
        margin: the full margin.
        log_probability: the full log p(answer).
        residual: of the empty set, run in the same pass, against the full forward pass: largest difference of the
            logits relative to the largest logit.
    """

    margins: Float[Tensor, "*batch n_sets"]
    log_probabilities: Float[Tensor, "*batch n_sets"]
    margin: Float[Tensor, "*batch"]
    log_probability: Float[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]

    @property
    def margin_changes(self) -> Float[Tensor, "*batch n_sets"]:
        """Full minus knocked out: positive when the demonstrations supported the answer."""
        return self.margin[..., None] - self.margins

    @property
    def log_probability_changes(self) -> Float[Tensor, "*batch n_sets"]:
        """The same for the answer's log-probability."""
        return self.log_probability[..., None] - self.log_probabilities


def hidden_keys(
    groups: Int[Tensor, "batch n"], sets: Sequence[Sequence[Sequence[int]]]
) -> Bool[Tensor, "batch n_sets n"]:
    """Find which tokens each of a prompt's sets takes away; prompts with fewer sets are filled up with empty ones.

    `groups` holds every token's demonstration, −1 for none: no set takes the first token of a text away.

    Raises:
        UserError: a demonstration that does not exist.
    """
    most = max((len(own) for own in sets), default=0)
    hidden = torch.zeros(len(groups), most, groups.shape[1], dtype=torch.bool, device=groups.device)
    for row, own, chosen in zip(hidden, groups, sets, strict=True):
        n_known = int(own.max()) + 1
        for keys, members in zip(row, chosen, strict=False):
            for index in members:
                if not 0 <= index < n_known:
                    raise UserError(f"cannot knock out demonstration {index}: the prompt has {n_known}, from 0 on.")
                keys |= own == index
    return hidden


@torch.no_grad()
def knock_out(
    traced: Trace,
    hidden: Bool[Tensor, "batch n_sets n"],
    *,
    most_tokens: int = 1 << 12,
    most_logits: int = MOST_LOGITS,
    most_scores: int = MOST_SCORES,
) -> KnockOuts:
    """Run every prompt's query again for each set of keys that it may not see.

    Args:
        traced: the full pass, whose queries start where the prompts' queries do.
        hidden: keys that the query's tokens do not attend to, from `hidden_keys`.
        most_tokens: query tokens that go through the model at once.
        most_logits: logits that are formed at once.
        most_scores: attention scores that are formed at once.

    Raises:
        UserError: no tokens before a query, masks that do not fit the prompts, or keys hidden in a query.
    """
    tokens = traced.tokens
    batch, n = tokens.ids.shape
    if hidden.shape[0] != batch or hidden.shape[2] != n:
        raise UserError(f"groups has {hidden.shape[2]} entries for a prompt of {n} tokens.")
    if int(tokens.starts.min()) == 0:
        raise UserError("the query starts at token 0: there are no demonstrations before it to knock out.")
    for own, start in zip(hidden, tokens.starts.tolist(), strict=True):
        if bool(own[:, start:].any()):
            raise UserError(f"groups assigns tokens of the query (from token {start} on) to a demonstration.")
    # The first set of every block knocks out nothing: the check against the full pass.
    nothing = hidden.new_zeros(batch, 1, n)
    rows = max(1, min(most_tokens // tokens.query_places.shape[1], most_logits // traced.logits[0].numel()))
    sets_at_once = max(1, min(hidden.shape[1], rows - 1))
    prompts_at_once = max(1, rows // (1 + sets_at_once))
    some_prompts = [slice(first, first + prompts_at_once) for first in range(0, batch, prompts_at_once)]
    home = tokens.ids.device
    blocks = []
    for sets in hidden.split(sets_at_once, 1):
        block = torch.cat([nothing, sets], 1)
        found = [_again(traced, block, some, most_scores) for some in some_prompts]
        blocks.append([torch.cat(part).to(home) for part in zip(*found, strict=True)])
    margins, answers, residuals = zip(*blocks, strict=True)
    return KnockOuts(
        torch.cat([margin[:, 1:] for margin in margins], 1),
        torch.cat([answer[:, 1:] for answer in answers], 1),
        traced.margins.to(home),
        traced.log_probabilities.to(home),
        torch.stack(residuals).amax(0),
    )


def _again(traced: Trace, hidden: Tensor, some: slice, most_scores: int) -> tuple[Tensor, Tensor, Tensor]:
    """Margins and log-probabilities (prompts, sets) of the prompts `some`, and how far the first set is off."""
    tokens = traced.tokens[some]
    starts, device = tokens.starts, tokens.ids.device
    n_prompts, n_sets, start = len(starts), hidden.shape[1], int(starts.max())
    places = traced.tokens.query_places[some]
    n_query = places.shape[1]
    blocked = hidden[some, :, :start] | (torch.arange(start, device=device) >= starts[:, None])[:, None]
    earlier = torch.ones(n_query, n_query, dtype=torch.bool, device=device).tril()
    allowed: dict[Hashable, tuple[Tensor, Tensor]] = {}
    records = {layer.name: layer for layer in traced.layers}

    def attend(call: AttentionCall) -> Tensor:
        record = records[call.name]
        key = id(record.query_mask)
        if key not in allowed:
            seen = record.query_mask[some]
            prefix = seen[:, None, :, :start] & ~blocked.to(seen.device)[:, :, None]
            own = take(seen.transpose(1, 2), places).transpose(1, 2) & earlier.to(seen.device)
            allowed[key] = prefix, own[:, None]
        return shared_attention(call, record.k[some, :, :start], record.v[some, :, :start], *allowed[key], most_scores)

    def each_set(rows: Tensor) -> Tensor:
        return rows.repeat_interleave(n_sets, 0)

    def first_set_as_before(own: Tensor, kept: Tensor) -> Tensor:
        """Routers return for the set that knocks out nothing what they returned in the full pass."""
        routed = own.reshape(n_prompts, n_sets, n_query, -1).clone()
        before = kept.to(own.device).reshape(*traced.tokens.ids.shape, -1)
        routed[:, 0] = take(before[some], places)
        return routed.reshape(own.shape)

    readouts = traced.readouts[some]
    read = readouts.positions - starts[:, None]
    with (
        attending(traced.lens_model, attend, places=each_set(places)),
        unembedding_only(traced.lens_model, each_set(read)),
        fused_activations(traced.lens_model),
        routed_as(traced.routes, first_set_as_before),
    ):
        logits = run(traced.lens_model, each_set(take(tokens.ids, places)), position_ids=each_set(places))
    logits = logits.unflatten(0, (n_prompts, n_sets))
    full = traced.logits[some].to(logits.device)
    return readouts.margin(logits), readouts.log_probability(logits), relative(logits[:, 0], full)


def shared_attention(
    call: AttentionCall,
    k: Float[Tensor, "prompts key_heads n_prefix d"],
    v: Float[Tensor, "prompts key_heads n_prefix d_v"],
    prefix: Bool[Tensor, "prompts n_sets n_query n_prefix"],
    own: Bool[Tensor, "prompts 1 n_query n_query"],
    most_scores: int = MOST_SCORES,
) -> Float[Tensor, "rows heads n_query d_v"]:
    """Attention of every set's query tokens to their prompt's shared prefix and to their own keys.

    The rows of `call` are prompts · sets, the sets of one prompt side by side. `k` and `v` belong to the prefixes.
    `prefix` and `own` say which tokens of the prefix, and which of their own, the query's tokens may see. Key heads
    are cut so that scores never take much more than `most_scores` numbers.
    """
    n_rows, _, n_query, width = call.q.shape
    n_prompts, n_sets, _, start = prefix.shape
    key_heads, groups = call.k.shape[1], call.groups
    mask = torch.cat([prefix, own.expand(-1, n_sets, -1, -1)], dim=-1).reshape(n_rows, 1, n_query, -1)
    step = max(1, most_scores // (n_rows * groups * n_query * (start + n_query)))
    outputs = []

    def beside(rows: Tensor) -> Tensor:
        """(rows, count, ·, width) -> (prompts, count, sets · ·, width): all sets of a prompt as one product."""
        return rows.unflatten(0, (n_prompts, n_sets)).transpose(1, 2).flatten(2, 3)

    def apart(products: Tensor) -> Tensor:
        return products.unflatten(2, (n_sets, -1)).transpose(1, 2).flatten(0, 1)

    for first in range(0, key_heads, step):
        some = slice(first, first + step)
        q = wide(call.q.reshape(n_rows, key_heads, groups * n_query, width)[:, some])
        count = q.shape[1]
        shared = apart(beside(q) @ wide(k[:, some]).transpose(-1, -2))
        scores = torch.cat([shared, q @ wide(call.k[:, some]).transpose(-1, -2)], dim=-1)
        scores = scores.reshape(n_rows, count * groups, n_query, -1) * call.scale
        sinks = None if call.sinks is None else call.sinks[first * groups : (first + count) * groups]
        weights = weigh(scores, mask, call.softcap, sinks).reshape(n_rows, count, groups * n_query, -1)
        values = wide(v[:, some]), wide(call.v[:, some])
        out = apart(beside(weights[..., :start]) @ values[0]) + weights[..., start:] @ values[1]
        outputs.append(out.reshape(n_rows, count * groups, n_query, -1).to(call.v.dtype))
    return torch.cat(outputs, dim=1)
