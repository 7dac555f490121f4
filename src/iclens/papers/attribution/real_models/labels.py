"""Wrong labels among the demonstrations: finding them, and answering better without what scores lowest."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.huggingface import implementation
from iclens.lens import LensModel
from iclens.lens.model.rotary import forget_longer_prompts
from iclens.lens.prompt.tokens import encode
from iclens.lens.read.padded import PaddedTokens, unembedding_only
from iclens.lens.scores.faithfulness import auc
from iclens.papers.attribution.real_models.data import Pair, Task, answering
from iclens.papers.attribution.removal import found_by
from iclens.papers.attribution.scoring import MOST_TOKENS
from iclens.recipes.table import Cell

N_POOL, N_FLIPPED, N_FLIPPED_CURATION, N_DROPPED = 20, 4, 5, 10
CHECKED = (2, 4, 6, 8, 10, 12, 16)
ALL, TRUTH, CHANCE = "(nothing dropped)", "(the truth)", "(random)"

QUERY_FREE = ("label_surprise", "label_surprise_orders", "label_doubt", "detail_self", "random")
"""Methods whose scores do not depend on the query: one is enough for them."""


def wrong_label_rows(
    lens_model: LensModel, task: Task, methods: Sequence[str], n_queries: int, seed: int
) -> list[dict[str, Cell]]:
    """Give a row for each method: AUROC of flipped demonstrations scoring lowest, and their share among the lowest."""
    pool, wrong, queries = _pool(task, N_FLIPPED, n_queries, seed)
    wrong_mask = torch.tensor(wrong)
    rows: list[dict[str, Cell]] = []
    for name, (values, passes, seconds) in _summed(lens_model, task, pool, queries, methods, seed).items():
        found: dict[str, Cell] = {f"found_{k}": found_by(values, wrong_mask, k) for k in CHECKED}
        rows.append({"method": name, "auroc": float(auc(-values, wrong_mask)), **found})
        rows[-1] |= {"passes": passes, "seconds": seconds}
    return rows


def curation_rows(
    lens_model: LensModel, task: Task, methods: Sequence[str], n_validation: int, n_test: int, seed: int
) -> list[dict[str, Cell]]:
    """Return a row a method: accuracy on new queries without the half of the demonstrations that scores lowest.

    Beside them what nothing dropped gives, a random half, and the half that leaves out what is wrong.
    """
    pool, wrong, queries = _pool(task, N_FLIPPED_CURATION, n_validation + n_test, seed)
    validation, test = queries[:n_validation], queries[n_validation:]
    summed = _summed(lens_model, task, pool, validation, methods, seed)
    generator = torch.Generator().manual_seed(seed + 3)
    chance = torch.rand(len(pool), generator=generator, dtype=torch.float64)
    free = {"passes": 0.0, "seconds": 0.0}
    ranked = {name: (values, {"passes": p, "seconds": s}) for name, (values, p, s) in summed.items()}
    ranked |= {CHANCE: (chance, free), TRUTH: (chance - torch.tensor(wrong).double(), free)}
    rows: list[dict[str, Cell]] = [{"method": ALL, "accuracy": accuracy(lens_model, task, pool, test)}]
    for name, (values, cost) in ranked.items():
        kept = values.argsort(stable=True)[N_DROPPED:].sort().values.tolist()
        rows.append({"method": name, "accuracy": accuracy(lens_model, task, [pool[i] for i in kept], test), **cost})
    return rows


@torch.no_grad()
def accuracy(lens_model: LensModel, task: Task, demonstrations: Sequence[Pair], queries: Sequence[Pair]) -> float:
    """How often the right label is the likeliest one; the demonstrations run once for all queries.

    Raises:
        UserError: two labels begin with the same token.
    """
    tokenizer = lens_model.tokenizer
    texts = [task.asked(demonstrations, query).prompt for query in queries]
    rows = [torch.tensor(encode(one.text, tokenizer, one.add_special_tokens)[0]) for one in texts]
    firsts = [_first(lens_model, texts[0].text, texts[0].lead + label) for label in task.labels]
    if len(set(firsts)) < len(firsts):
        raise UserError(f"two labels of {task.name} begin with the same token: their likeliest cannot be told by it.")
    start = _shared(rows)
    forget_longer_prompts(lens_model)
    device = lens_model.device
    with implementation(lens_model.model, None):
        before = lens_model.model(input_ids=rows[0][None, :start].to(device), use_cache=True, logits_to_keep=1)
        right = 0
        at_once = max(1, MOST_TOKENS // (max(map(len, rows)) - start))
        for first in range(0, len(rows), at_once):
            some = [row[start:] for row in rows[first : first + at_once]]
            tokens = PaddedTokens.of(some, [0] * len(some), device)
            cache = copy.deepcopy(before.past_key_values)
            cache.batch_repeat_interleave(len(some))
            with unembedding_only(lens_model, (tokens.lengths - 1)[:, None]):
                logits = lens_model.model(
                    input_ids=tokens.ids, past_key_values=cache, position_ids=tokens.places + start
                ).logits[:, 0]
            said = logits[:, firsts].argmax(-1).tolist()
            right += sum(
                task.labels[i] == query[1] for i, query in zip(said, queries[first : first + at_once], strict=True)
            )
    return right / len(queries)


def _first(lens_model: LensModel, text: str, label: str) -> int:
    """Return the first token of a label after a text."""
    own = encode(text, lens_model.tokenizer, True)[0]
    return int(encode(text + label, lens_model.tokenizer, True)[0][len(own)])


def _shared(rows: Sequence[Tensor]) -> int:
    """Return how many tokens all rows begin with, one of each left over."""
    shortest = min(map(len, rows))
    same = torch.stack([row[:shortest] for row in rows]).eq(rows[0][:shortest]).all(0)
    return min(int(same.long().cumprod(0).sum()), shortest - 1)


def _pool(task: Task, n_flipped: int, n_queries: int, seed: int) -> tuple[list[Pair], list[bool], list[Pair]]:
    generator = torch.Generator().manual_seed(seed)
    drawn = task.drawn(generator, N_POOL + n_queries)
    pool, wrong = task.flipped(drawn[:N_POOL], n_flipped, generator)
    return pool, wrong, drawn[N_POOL:]


def _summed(
    lens_model: LensModel, task: Task, pool: Sequence[Pair], queries: Sequence[Pair], methods: Sequence[str], seed: int
) -> dict[str, tuple[Float[Tensor, " n"], float, float]]:
    """Every method's scores summed over the queries, each for its right label; passes and seconds in all."""
    found: dict[str, tuple[Tensor, float, float]] = {}
    for number, query in enumerate(queries):
        subject = answering(lens_model, task.asked(pool, query))
        chosen = [name for name in methods if number == 0 or name not in QUERY_FREE]
        for name, one in subject.scored(chosen, seed).items():
            values, passes, seconds = found.get(name, (0.0, 0.0, 0.0))
            found[name] = values + one.scores.values, passes + one.passes, seconds + one.seconds
    return found
