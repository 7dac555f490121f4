"""How likely the model holds each candidate answer behind a prompt."""

from __future__ import annotations

import torch

from iclens.lens.answers import Answers
from iclens.lens.capture import run
from iclens.lens.loading import LensModel
from iclens.lens.rotary import longest_alike
from iclens.lens.tokens import TokenizedPrompt


@torch.no_grad()
def score_candidates(
    lens_model: LensModel, tokenized: TokenizedPrompt, answers: Answers, batch_size: int = 8
) -> tuple[float, ...]:
    """log p(answer | prompt) of every candidate, the sum over all its tokens, in nats.

    Candidates run in batches behind the prompt, padded on the right with a masked token, so that neither a padding
    token nor its position matters; one by one where the length of a text moves its positions.

    Args:
        lens_model: a causal language model.
        tokenized: the prompt.
        answers: the candidates.
        batch_size: how many run at once.
    """
    own = tokenized.input_ids
    device = lens_model.device
    alike = longest_alike(lens_model)
    if alike is not None and own.numel() + max(len(entry.token_ids) - 1 for entry in answers.candidates) > alike:
        batch_size = 1
    scores: list[float] = []
    for begin in range(0, len(answers.candidates), batch_size):
        batch = answers.candidates[begin : begin + batch_size]
        longest = max(len(entry.token_ids) for entry in batch)
        rows = torch.zeros(len(batch), own.numel() + longest - 1, dtype=torch.long)
        mask = torch.zeros_like(rows)
        for row, entry in enumerate(batch):
            ids = torch.cat([own.cpu(), torch.tensor(entry.token_ids[:-1], dtype=torch.long)])
            rows[row, : ids.numel()] = ids
            mask[row, : ids.numel()] = 1
        logits = run(lens_model, rows.to(device), mask.to(device), logits_to_keep=longest)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        log_probabilities = torch.log_softmax(logits[:, -longest:].to(dtype), dim=-1)
        for row, entry in enumerate(batch):
            at = torch.arange(len(entry.token_ids), device=logits.device)
            chosen = torch.tensor(entry.token_ids, device=logits.device)
            scores.append(float(log_probabilities[row, at, chosen].double().sum()))
    return tuple(scores)
