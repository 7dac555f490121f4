"""Where negatives come from: which of the tokens, or which vectors."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from iclens.attention.attendable import fewest_attendable
from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.extreme_keys import Block, Chosen, has_kernel, lowest
from iclens.attention.product_blocks import ProductBlocks
from iclens.errors import UserError

Construction: TypeAlias = Literal["lowest", "hardest", "dissimilar", "random", "noise", "learned"]
"""How negatives are made. The words below are for negatives of queries; for negatives of keys the "score" is that of
key with key, k_iᵀk_j, and a key is never its own negative.

- `lowest`: the tokens with the lowest attention scores (Ren & Liu 2024);
- `hardest`: the tokens with the highest scores but the very highest, the one that the query is after;
- `dissimilar`: the tokens whose keys have the lowest cosine with the key of the query's own token;
- `random`: tokens drawn without regard to anything but position and seed;
- `noise`: vectors of independent standard normal numbers, drawn by position and seed;
- `learned`: vectors that are parameters.
"""

Selection: TypeAlias = Literal["query", "key"]
"""Whether every query has its own negatives, or every key has (then the same for all queries)."""

FROM_TOKENS = ("lowest", "hardest", "dissimilar", "random")


def check_names(construction: str, selection: str) -> None:
    """Refuse what is not known.

    Raises:
        UserError: an unknown construction or selection.
    """
    for what, value, known in (
        ("construction", construction, get_args(Construction)),
        ("selection", selection, get_args(Selection)),
    ):
        if value not in known:
            raise UserError(f"unknown {what} {value!r} of negatives. Known: {', '.join(known)}.")


def check_count(n_negatives: int, attending: Attending) -> None:
    """Refuse more negatives than a query can have; under causality early queries have fewer, which is not a mistake.

    Nor is a query that may attend to few keys beside others of its prompt that may attend to more, or a prompt that is
    hidden whole. The mask is not looked at where a program is compiled, captured or transformed.

    Raises:
        UserError: `n_negatives` is not less than the number of keys, or than the number that any query of some prompt
            may attend to.
    """
    if attending.is_causal:
        return
    if n_negatives >= attending.n_key:
        raise UserError(
            f"n_negatives={n_negatives}, but a query may attend to at most {attending.n_key} keys: it must be less."
        )
    fewest = None if attending.mask is None else fewest_attendable(attending.mask)
    if fewest is not None and n_negatives >= fewest.n_key:
        which = f"prompt {', '.join(map(str, fewest.prompt))} of the batch" if fewest.prompt else "the prompt"
        raise UserError(
            f"n_negatives={n_negatives}, but the mask leaves {which} with at most {fewest.n_key} keys for any of its "
            "queries: it must be less."
        )


def tokens_of_queries(
    q: Tensor, k: Tensor, attending: Attending, *, n_negatives: int, construction: str, seed: int
) -> Chosen:
    """Return the tokens that are the negatives of every query, index (..., n_heads, n_query, count).

    A query that may attend to m tokens has min(n_negatives, m − 1) of them: never all.
    """
    hardest = construction == "hardest"
    count, skip, spare = min(n_negatives, attending.n_key - 1), int(hardest), int(not hardest)
    if construction in ("lowest", "hardest") and has_kernel(k):
        from iclens.attention.gpu import extreme_keys

        if extreme_keys.supports(q, k, attending, count + skip):
            return extreme_keys.lowest_of_products(
                q, k, attending, count=count, skip=skip, spare=spare, highest=hardest
            )
    scores: Block
    n_batch = 1
    if construction == "random":
        scores = _drawn(seed, attending.first_position, k.device)
    else:
        if construction == "dissimilar":
            keys = torch.nn.functional.normalize(precise(k), dim=-1)
            q = attending.own(repeat_heads(keys, attending.n_heads))
        else:
            keys = -precise(k) if hardest else precise(k)
        scores = ProductBlocks(precise(q), repeat_heads(keys, attending.n_heads))
        n_batch = scores.n_batch

    def mask(start: int, stop: int, n_key: int) -> Tensor:
        assert attending.mask is not None
        rows = attending.mask.expand(*attending.mask.shape[:-2], attending.n_query, attending.n_key)
        return rows[..., start:stop, :n_key]

    return lowest(
        scores,
        None if attending.mask is None else mask,
        n_row=attending.n_query,
        n_key=attending.n_key,
        n_batch=n_batch,
        count=count,
        skip=skip,
        spare=spare,
        causal_from=attending.first_position if attending.is_causal else None,
    )


def tokens_of_keys(k: Tensor, attending: Attending, *, n_negatives: int, construction: str, seed: int) -> Chosen:
    """Return the tokens that are the negatives of every key, index (..., n_kv_heads, n_key, count).

    Candidates of key i are the other keys j that every query which may attend to i may attend to as well: a modified
    value then holds nothing that a query must not see. With `is_causal` these are among j < i.
    """
    products: Block
    n_batch = 1
    if construction == "random":
        products = _drawn(seed, 0, k.device)
    else:
        keys = precise(k)
        keys = torch.nn.functional.normalize(keys, dim=-1) if construction == "dissimilar" else keys
        products = ProductBlocks(keys, -keys if construction == "hardest" else keys)
        n_batch = products.n_batch

    def scores(start: int, stop: int, n_key: int) -> Tensor:
        block = products(start, stop, n_key)
        own = torch.arange(start, stop, device=k.device).unsqueeze(-1) == torch.arange(n_key, device=k.device)
        return block.masked_fill_(own, torch.inf)

    sees = None if attending.mask is None else attending.allowed(k.device)

    def mask(start: int, stop: int, n_key: int) -> Tensor:
        assert sees is not None
        seen = sees.float()
        return seen[..., start:stop].mT @ (1 - seen[..., :n_key]) == 0

    return lowest(
        scores,
        None if sees is None else mask,
        n_row=attending.n_key,
        n_key=attending.n_key,
        n_batch=n_batch,
        count=min(n_negatives, attending.n_key - 1),
        # Without a mask the key itself counts as a candidate, though its score is infinite.
        spare=1 if sees is None else 0,
        causal_from=0 if attending.is_causal else None,
    )


def indicator_naive(
    q: Tensor, k: Tensor, attending: Attending, *, n_negatives: int, construction: str, selection: str, seed: int
) -> Tensor:
    """1/|N| where a token is a negative of a query or key, 0 elsewhere, from the whole sorted score matrix."""
    n_key, allowed = attending.n_key, attending.allowed(k.device)
    keys = repeat_heads(k, attending.n_heads) if selection == "query" else k
    rows, offset = (q, attending.first_position) if selection == "query" else (k, 0)
    positions = torch.arange(rows.shape[-2], device=k.device).unsqueeze(-1) + offset
    columns = torch.arange(n_key, device=k.device)
    if construction == "random":
        scores = _uniform(seed, positions, columns)
    elif construction == "dissimilar":
        own = attending.own(keys) if selection == "query" else keys
        scores = (
            torch.nn.functional.normalize(precise(own), dim=-1)
            @ torch.nn.functional.normalize(precise(keys), dim=-1).mT
        )
    else:
        scores = precise(rows) @ precise(keys).mT
    if selection == "query":
        candidates = (
            torch.ones_like(scores, dtype=torch.bool)
            if allowed is None
            else allowed.expand(*allowed.shape[:-2], attending.n_query, n_key)
        )
        at_most = candidates.sum(-1, keepdim=True) - 1
    else:
        seen = torch.ones(1, n_key, dtype=torch.bool, device=k.device) if allowed is None else allowed
        candidates = ~(seen.unsqueeze(-1) & ~seen.unsqueeze(-2)).any(-3) & (positions != columns)
        candidates = candidates & (positions > columns) if attending.is_causal else candidates
        at_most = candidates.sum(-1, keepdim=True)
    scores, candidates = torch.broadcast_tensors(scores, candidates)
    hardest = construction == "hardest"
    ranked = (-scores if hardest else scores).masked_fill(~candidates, torch.inf).argsort(-1).argsort(-1)
    first = 1 if hardest and selection == "query" else 0
    n_chosen = at_most.clamp(0, n_negatives)
    member = (ranked >= first) & (ranked < first + n_chosen)
    return member / n_chosen.clamp_min(1)


def noise(seed: int, first_position: int, n_row: int, n_negatives: int, like: Tensor) -> Tensor:
    """Mean of the noise vectors of every position, (n_row, d_v): a function of position and seed alone."""
    positions = torch.arange(n_row, device=like.device).view(-1, 1, 1) + first_position
    columns = torch.arange(n_negatives * like.shape[-1], device=like.device).view(n_negatives, like.shape[-1])
    normal = 2**0.5 * torch.erfinv(2 * _uniform(seed, positions, columns) - 1)
    return normal.mean(-2).to(like.dtype)


def precise(x: Tensor) -> Tensor:
    """At least float32: in half precision many scores would tie. No gradient: a choice has none."""
    return x.detach().float() if x.dtype in (torch.float16, torch.bfloat16) else x.detach()


def _drawn(seed: int, first_position: int, device: torch.device) -> Block:
    def block(start: int, stop: int, n_key: int) -> Tensor:
        positions = torch.arange(start, stop, device=device).unsqueeze(-1) + first_position
        return _uniform(seed, positions, torch.arange(n_key, device=device))

    return block


def _uniform(seed: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Numbers in (0, 1) that look random, a function of (seed, row, column): no state to depend on."""
    low = 2**32 - 1
    x = (rows * 0x9E3779B1 + columns * 0x85EBCA77 + (seed + 1) * 0xC2B2AE3D) & low
    for multiplier in (0x7FEB352D, 0x6C078965, 0x2C1B3C6D):
        x = ((x ^ (x >> 16)) * multiplier) & low
    x = x ^ (x >> 15)
    return (x.double() + 0.5) / 2**32
