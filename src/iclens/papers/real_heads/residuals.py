"""A language model's heads, layers and states against their duals, and the bound with everything in it measured."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from iclens.bounds import measured_gap
from iclens.errors import UserError
from iclens.identities.checks import relative
from iclens.kernels import SignedLog
from iclens.lens import HeadRecord, LensModel
from iclens.lens.read.capture import attention_outputs, capture, run
from iclens.lens.read.heads import head_dual
from iclens.papers.ren_liu_2024.language_stacks import stack_pass

BOUNDS = ("frobenius", "spectral", "printed")


@torch.no_grad()
def head_residuals(
    lens_model: LensModel, input_ids: Int[Tensor, " n"], groups: Int[Tensor, " n"]
) -> tuple[list[list[float]], list[float]]:
    """How far duals are from the model, by (layer, head) and by layer: max |dual − model| / max |model| over tokens.

    Of every head, at every token: W_0 φ(q) and the demonstrations' parts of the gradient step, summed, against the
    head's output. Of every layer: the duals of its heads through W_O against the output of the attention module in a
    pass of the model's own, with its own attention; NaN where a family has no such map.
    """
    ids, own, heads, layers = input_ids[None], dict[str, Tensor](), [], []
    with attention_outputs(lens_model, own.__setitem__):
        run(lens_model, ids, logits_to_keep=1)
    records = capture(lens_model, ids, last_logits=1).records
    for record, layer in zip(records, lens_model.anatomy.layers, strict=True):
        duals = [record.dual(head, groups=groups) for head in range(record.q.shape[1])]
        found = torch.stack([dual.initial() + dual.contributions().sum(-2) for dual in duals])
        heads.append([relative(ours, theirs) for ours, theirs in zip(found, record.output[0], strict=True)])
        if layer.output is None:
            layers.append(math.nan)
        else:
            through = layer.output(found.transpose(0, 1).flatten(1)[None])
            layers.append(relative(through, own[layer.attention_name]))
    return heads, layers


def step_residuals(lens_model: LensModel, input_ids: Int[Tensor, " n"], groups: Int[Tensor, " n"]) -> list[list[float]]:
    """How far a real W, trained by autograd for one step, is from each head's output at the last token.

    In float64 over Mercer features; NaN where the kernel has none (a soft cap).
    """
    found = []
    for record in capture(lens_model, input_ids[None], last_logits=1).records:
        row = []
        for head in range(record.q.shape[1]):
            dual = record.dual(head, len(input_ids) - 1, groups, dtype=torch.float64)
            if record.softcap is not None:
                row.append(math.nan)
            else:
                row.append(relative(dual.explicit("mercer").train().prediction, dual.predict()))
        found.append(row)
    return found


@torch.no_grad()
def stack_residuals(lens_model: LensModel, input_ids: Int[Tensor, " n"], groups: Int[Tensor, " n"]) -> list[float]:
    """How far the sequence of duals is from the model's own states after each layer, relative to a token's own size.

    Each dual is fed with what the one before predicts; the worst token counts. Empty for a family whose layers are not
    written as dual weights.
    """
    try:
        passed = stack_pass(lens_model, input_ids[None], groups)
    except UserError:
        return []
    states = zip(passed.stack().states()[1:], passed.states[1:], strict=True)
    return [float(((ours - own).norm(dim=-1) / own.norm(dim=-1)).max()) for ours, own in states]


@torch.no_grad()
def bound_cells(
    record: HeadRecord, head: int, n_resamples: int, delta: float, generator: torch.Generator
) -> dict[str, Any]:
    """Theorem 3.2 of one head, on half of the tokens that the last one sees; the other half measures the gap.

    Medians over the resamples, as log10; the gap is its mean over them. `…_over_gap` is how many times the measured gap
    a bound is, where that is positive; `…_over_range` how many times the range of the loss. Empty for a soft cap.
    """
    if record.softcap is not None:
        return {}
    q, k, v = (tensor.double() for tensor in record.head(head))
    seen = record.rows_at(torch.tensor([[len(q) - 1]]))[0, 0]
    k, v = k[seen], v[seen]
    sink = None if record.sinks is None else record.sinks[head].double()
    dual = head_dual(q[-1:], k, v, len(k), scale=record.scale, sink=sink)
    found = measured_gap(dual, len(k) // 2, n_resamples, delta=delta, generator=generator)

    def log10(number: SignedLog) -> float:
        return float(number.log_abs.median()) / math.log(10)

    gap = float(found.mean.value)
    bounds = found.bounds
    cells: dict[str, Any] = {
        "n_pairs": len(k) // 2,
        "log10_w": log10(bounds.w_frobenius),
        "log10_rho": log10(bounds.rho_values),
        "log10_trace": log10(bounds.trace),
        "log10_range": log10(bounds.loss_range),
        "log10_gap": float(found.mean.log_abs) / math.log(10) if gap > 0 else None,
    }
    for name in BOUNDS:
        bound = bounds.by_name[name]
        cells[f"coverage_{name}"] = float(found.coverage[name].min())
        cells[f"{name}_over_range"] = log10(bound.gap) - cells["log10_range"]
        if gap > 0:
            cells[f"{name}_over_gap"] = log10(bound.gap) - cells["log10_gap"]
    return cells
