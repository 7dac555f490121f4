"""Every head of a prompt in numbers: what it averages, and what its dual would answer if it were trained to the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.data_frame import data_frame
from iclens.display_text import plain
from iclens.dual import Counterfactual, DualModel, disagreement, leave_one_out
from iclens.dual.counterfactual import RIDGE
from iclens.errors import UserError
from iclens.lens.model.placed import doubled
from iclens.lens.read.heads import head_dual
from iclens.lens.read.tracing import LayerTrace

HEAD_COLUMNS: dict[str, str] = {
    "disagreement": "Σ_i α_i ‖v_i − out‖²: what the mean leaves of the values, in squared units of the values",
    "relative_disagreement": "that over Σ_i α_i ‖v_i‖², in [0, 1]: 0 where all values say the same",
    "first_weight": "attention weight of the text's first token, in [0, 1]",
    "first_length": "length of the first token's value over the median of the others'; none where it is not seen",
    "own_weight": "attention weight of the token that asks, in [0, 1]",
    "n_effective": "exp of the entropy of the weights: so many tokens are averaged, from 1",
    "largest_change": "max_i ‖out − out_{−i}‖ / ‖out‖: what leaving the most important token out changes",
    "condition": "condition number of the keys' normalised kernel C + λI, from 1: how alike the keys are",
    "one_step_distance": "‖flow(1) − out‖ / ‖out‖: gradient flow on the squared loss for the time of one step",
    "end_distance": "‖end − out‖ / ‖out‖: trained to the end, kernel ridge regression on normalised keys",
    "nearest_time": "where the flow comes nearest to the output, in steps of the head; inf at the end",
    "nearest_distance": "‖flow(nearest_time) − out‖ / ‖out‖",
    "kernel_ridge_distance": "the same as end_distance with keys as long as they are; none where rounding decides it",
}
"""What is measured of every head at one token, and what it means. NaN where a head has no such number."""


@dataclass(frozen=True, eq=False)
class HeadStatistics:
    """Numbers of every head of every layer, at one token of a prompt.

    `statistics["disagreement"]` is a map (n_layers, n_heads); `to_rows` and `to_pandas` give the long table, one row a
    head; `print` shows the medians of every layer. `iclens.report.head_maps` draws the maps. `HEAD_COLUMNS` says what
    each number means.

    Attributes:
        model: whose heads these are.
        position: the token that asks, from 0.
        ridge: λ of the counterfactual, or None.
        values: a map (n_layers, n_heads) by name, in float64.
    """

    model: str
    position: int
    ridge: float | None
    values: dict[str, Float[Tensor, "n_layers n_heads"]]

    def __getitem__(self, name: str) -> Float[Tensor, "n_layers n_heads"]:
        """One number as a map over layers and heads.

        Raises:
            UserError: there is no such number.
        """
        if name not in self.values:
            raise UserError(f"heads have no number {name!r}: there are {', '.join(self.values)}.")
        return self.values[name]

    def to_rows(self) -> list[dict[str, int | float | None]]:
        """One dictionary a head: layer and head, from 0, then `HEAD_COLUMNS`; None where a head has no such number."""
        columns = {name: one.tolist() for name, one in self.values.items()}
        n_layers, n_heads = next(iter(self.values.values())).shape
        return [
            {"layer": layer, "head": head}
            | {
                name: None if one[layer][head] != one[layer][head] else one[layer][head]
                for name, one in columns.items()
            }
            for layer in range(n_layers)
            for head in range(n_heads)
        ]

    def to_pandas(self) -> Any:
        """The rows as a data frame.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(self.to_rows())

    def __repr__(self) -> str:
        n_layers, n_heads = self.values["disagreement"].shape
        return f"HeadStatistics({self.model!r}, {n_layers} layers of {n_heads} heads, at token {self.position})"

    def __str__(self) -> str:
        """A line a layer: medians over its heads."""
        shown = {
            "relative_disagreement": "disagree",
            "first_weight": "first",
            "n_effective": "tokens",
            "largest_change": "one out",
            "end_distance": "to the end",
            "nearest_time": "nearest t",
        }
        lines = [
            f"{self!r}: medians over the heads of a layer",
            f"{'layer':>5}" + "".join(f"{t:>12}" for t in shown.values()),
        ]
        for layer in range(len(self.values["disagreement"])):
            cells = (plain(_median(self.values[name][layer])) for name in shown)
            lines.append(f"{layer:>5}" + "".join(f"{cell:>12}" for cell in cells))
        return "\n".join(lines)


def _median(values: Float[Tensor, " n"]) -> float:
    """The median of the numbers that there are, some of which may be infinite; NaN where there are none."""
    known = values[~values.isnan()].sort().values
    return float((known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2) if len(known) else torch.nan


@torch.no_grad()
def head_statistics(
    layers: Sequence[LayerTrace], model: str, position: int, row: int, ridge: float | None = RIDGE
) -> HeadStatistics:
    """Measure every head of a traced prompt, in float64.

    Args:
        layers: of the trace, a batch of one.
        model: its name.
        position: the token that asks, from 0.
        row: its place among the positions that are read.
        ridge: λ of the counterfactual; None leaves out what needs it, which takes time O(n³) for each key head.

    Raises:
        UserError: the token sees no other, or `ridge` is not positive and finite.
    """
    if position < 1:
        raise UserError("the first token sees no other, so that its heads average nothing: read a later one.")
    found = [_of_layer(layer, position, row, ridge) for layer in layers]
    n_heads = layers[0].q.shape[1]
    none = torch.full((n_heads,), torch.nan, dtype=torch.float64)
    values = {name: torch.stack([one.get(name, none) for one in found]) for name in HEAD_COLUMNS}
    return HeadStatistics(model, position, ridge, values)


def _of_layer(layer: LayerTrace, position: int, row: int, ridge: float | None) -> dict[str, Tensor]:
    seen = layer.mask[0, row].nonzero().squeeze(-1).to(layer.k.device)
    dual = _dual(layer, row, seen)
    weights, out = dual.coefficients, dual.predict()
    size = out.norm(dim=-1).clamp_min(torch.finfo(out.dtype).tiny)
    apart, n = disagreement(dual), len(seen)
    lengths = dual.v.norm(dim=-1)[..., :n]
    sees_first = int(seen[0]) == 0
    changes = (weights.unsqueeze(-1) * leave_one_out(dual))[..., :n, :].norm(dim=-1)
    found = {
        "disagreement": apart.total,
        "relative_disagreement": apart.relative,
        "first_weight": weights[..., 0] if sees_first else torch.zeros_like(size),
        "own_weight": weights[..., int((seen == position).nonzero())],
        "n_effective": torch.special.entr(weights).sum(-1).exp(),
        "largest_change": changes.amax(-1) / size,
    }
    if sees_first:
        found["first_length"] = lengths[..., :1] / lengths[..., 1:].median(-1, keepdim=True).values
    if ridge is not None and layer.softcap is None:
        found |= _trained(Counterfactual.of(dual, ridge), out, size)
    return {name: one.expand(size.shape).flatten().cpu() for name, one in found.items()}


def _dual(layer: LayerTrace, row: int, seen: Tensor) -> DualModel:
    """All heads at one token: those that share their keys are queries of one dual, so that these are decomposed once.

    With learned sinks, which differ from head to head, each head is alone.
    """
    q, k, v = doubled(layer.q[0, :, row]), doubled(layer.k[0])[:, seen], doubled(layer.v[0])[:, seen]
    groups, sinks = len(q) // len(k), None
    if layer.sinks is not None:
        sinks = doubled(layer.sinks)
        k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
    q = q.reshape(len(k), -1, q.shape[-1])
    return head_dual(q, k, v, len(seen), scale=layer.scale, softcap=layer.softcap, sink=sinks)


def _trained(end: Counterfactual, out: Tensor, size: Tensor) -> dict[str, Tensor]:
    nearest = end.nearest()

    def off(answer: Tensor) -> Tensor:
        return (answer - out).norm(dim=-1) / size

    return {
        "condition": end.condition,
        "one_step_distance": off(end.flow(1.0)),
        "end_distance": off(end.end()),
        "nearest_time": nearest.time,
        "nearest_distance": nearest.distance / size,
        "kernel_ridge_distance": off(end.kernel_ridge()),
    }
