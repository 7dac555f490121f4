"""How likely the model holds candidate answers after their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled
from iclens.lens.model.rotary import longest_alike
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.capture import run
from iclens.lens.read.margin import Readout
from iclens.lens.read.tracing import Trace
from iclens.lens.scores.deletions import run_texts
from iclens.lens.scores.knock_out import MOST_LOGITS, shared_attention


@torch.no_grad()
def score_candidates(
    traced: Trace, answers: Sequence[Sequence[Sequence[int]]], most_tokens: int = 1 << 12
) -> tuple[list[list[float]], float]:
    """log p(answer | prompt) of every candidate (token ids) of every prompt, the sum over all its tokens, in nats.

    The prompts' keys and values are those of a pass that is read at each one's last token first, so that only the
    answers' tokens run, `most_tokens` at once. Where the length of a text moves its positions, or layers see a window
    alone, whole texts run instead. The second number is the cost in forward passes, in the mean of the prompts.
    """
    lens_model = traced.lens_model
    lengths = (traced.readouts.positions[:, 0] + 1).tolist()
    first = torch.log_softmax(doubled(traced.logits[:, 0]), -1).cpu()
    scores = [[float(row[one[0]]) for one in some] for row, some in zip(first, answers, strict=True)]
    behind = [b for b, some in enumerate(answers) if any(len(one) > 1 for one in some)]
    if not behind:
        return scores, 0.0
    if _is_movable(lens_model, max(n + len(one) for n, some in zip(lengths, answers, strict=True) for one in some)):
        prompts = {b: traced.tokens.ids[b, : lengths[b]].tolist() for b in behind}
        texts = [(prompts[b], Readout(((0, 0, 1.0),), tuple(one))) for b in behind for one in answers[b]]
        whole = iter(run_texts(lens_model, texts, most_tokens).log_probabilities.tolist())
        for b in behind:
            scores[b] = [next(whole) for _ in answers[b]]
        return scores, len(texts) / len(answers)
    cost, m = 0.0, max(len(one) for b in behind for one in answers[b]) - 1
    rows = max(1, min(most_tokens, MOST_LOGITS // lens_model.n_vocabulary) // m)
    n_sets = min(rows, max(len(answers[b]) for b in behind))
    jobs = [(b, at) for b in behind for at in range(0, len(answers[b]), n_sets)]
    for begin in range(0, len(jobs), max(1, rows // n_sets)):
        some = jobs[begin : begin + max(1, rows // n_sets)]
        chosen = [answers[b][at : at + n_sets] for b, at in some]
        found = _continued(traced, [b for b, _ in some], [lengths[b] for b, _ in some], chosen, n_sets, m).tolist()
        for (b, at), own, more in zip(some, chosen, found, strict=True):
            for i in range(len(own)):
                scores[b][at + i] += more[i]
        cost += sum(n_sets * m / lengths[b] for b, _ in some) / len(answers)
    return scores, cost


def _is_movable(lens_model: LensModel, longest: int) -> bool:
    """Return whether a token's place, or what it sees, depends on more than the tokens before it."""
    config, alike = lens_model.text_config, longest_alike(lens_model)
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return any(window is not None for window in windows) or (alike is not None and longest > alike)


def _continued(
    traced: Trace, some: list[int], lengths: list[int], answers: list[Sequence[Sequence[int]]], n_sets: int, m: int
) -> Tensor:
    """Σ log p of the tokens after the first of every candidate: (prompts, n_sets), zero where there is none."""
    device = traced.tokens.ids.device
    ids = torch.zeros(len(some), n_sets, m + 1, dtype=torch.long)
    real = torch.zeros(ids.shape, dtype=torch.bool)
    for b, candidates in enumerate(answers):
        for i, one in enumerate(candidates):
            ids[b, i, : len(one)] = torch.tensor(one)
            real[b, i, : len(one)] = True
    ends, start = torch.tensor(lengths, device=device), max(lengths)
    prefix = (torch.arange(start, device=device) < ends[:, None])[:, None, None].expand(-1, n_sets, m, -1)
    own = torch.ones(m, m, dtype=torch.bool, device=device).tril().expand(len(some), 1, -1, -1)
    records = {layer.name: layer for layer in traced.layers}

    def attend(call: AttentionCall) -> Tensor:
        record, here = records[call.name], call.q.device
        k, v = record.k[some, :, :start], record.v[some, :, :start]
        return shared_attention(call, k, v, prefix.to(here), own.to(here))

    places = (ends[:, None] + torch.arange(m, device=device)).repeat_interleave(n_sets, 0)
    with attending(traced.lens_model, attend, places=places):
        logits = run(traced.lens_model, ids[..., :-1].flatten(0, 1).to(device), position_ids=places).cpu()
    log_p = torch.log_softmax(doubled(logits), -1).unflatten(0, (len(some), n_sets))
    picked = log_p.gather(-1, ids[..., 1:, None])[..., 0]
    return torch.where(real[..., 1:], picked, 0.0).sum(-1)
