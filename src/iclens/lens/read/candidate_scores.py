"""How likely the model holds candidate answers behind their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.model.rotary import longest_alike
from iclens.lens.read.capture import run
from iclens.lens.read.padded import PaddedTokens, unembedding_only
from iclens.lens.read.readout import Readout
from iclens.lens.read.readouts import Readouts


@torch.no_grad()
def score_candidates(
    lens_model: LensModel, rows: Sequence[tuple[Int[Tensor, " _"], Sequence[int]]], most_tokens: int = 1 << 12
) -> list[float]:
    """log p(answer | prompt) of every row, the sum over all the answer's tokens, in nats.

    Rows run side by side, filled up on the right, where a causal model's real tokens never look; one by one where the
    length of a text moves its positions.

    Args:
        lens_model: a causal language model.
        rows: a prompt's token ids, and the ids of an answer behind it.
        most_tokens: tokens of one pass, filled-up ones counted; a longer row is a pass of its own.
    """
    longest = max((len(ids) + len(answer) - 1 for ids, answer in rows), default=1)
    alike = longest_alike(lens_model)
    step = 1 if alike is not None and longest > alike else max(1, most_tokens // longest)
    scores: list[float] = []
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        whole = [torch.cat([ids.cpu(), torch.tensor(answer[:-1], dtype=torch.long)]) for ids, answer in some]
        tokens = PaddedTokens.of(whole, [0] * len(some), lens_model.device)
        answers = [Readout(((0, 0, 1.0),), tuple(answer)) for _, answer in some]
        readouts = Readouts.of(answers, [len(ids) - 1 for ids, _ in some], lens_model.device)
        with unembedding_only(lens_model, readouts.positions):
            logits = run(lens_model, tokens.ids, position_ids=tokens.places)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        scores += readouts.log_probability(wide).double().tolist()
    return scores
