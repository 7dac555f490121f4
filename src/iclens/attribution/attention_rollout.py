"""Attention rollout: attention weights multiplied through the layers."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.read.attend import repeat, weigh
from iclens.lens.read.capture import capture
from iclens.lens.scores.method import ATTRIBUTIONS, Scores


@ATTRIBUTIONS.register("attention_rollout")
@torch.no_grad()
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Row of the read-out in Π_l (½ I + ½ Ā_l), Ā_l the mean of the heads' attention matrices.

    Source: Abnar & Zuidema 2020, "Quantifying attention flow in transformers", section 3.
    """
    taken = capture(lens.model, lens.input_ids[None].to(lens.model.device))
    lens.passes.forward_passes += 1
    n = len(lens.input_ids)
    positions = lens.readouts.positions[0].tolist()
    rows = torch.eye(n, device=taken.output.device, dtype=taken.output.dtype)[positions]
    for record in reversed(taken.records):
        k = repeat(record.k, record.q.shape[1] // record.k.shape[1])
        scores = record.q @ k.transpose(-1, -2) * record.scale
        mean = weigh(scores, record.mask, record.softcap, record.sinks)[0].mean(0)
        rows = 0.5 * rows + 0.5 * rows @ mean
    return Scores(lens.by_demonstration(rows.sum(0)), 1.0)
