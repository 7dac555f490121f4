"""A dual model as a small table, for notebooks."""

from __future__ import annotations

import html

import torch
from jaxtyping import Float
from torch import Tensor

MOST_ROWS = 50


@torch.no_grad()
def table(
    title: str,
    weights: Float[Tensor, "*batch n_query n_demonstrations"],
    sizes: Float[Tensor, "*batch_v n_query n_demonstrations"],
    before: Float[Tensor, "*batch n_query n_demonstrations"],
    after: Float[Tensor, "*batch n_query n_demonstrations"],
) -> str:
    """Lay out each demonstration's numbers as HTML: means over all leading axes (batch, heads, runs) and queries.

    Args:
        title: what the model is, in a line.
        weights: shares of D.
        sizes: lengths of the parts of the step.
        before: alignment before the step.
        after: alignment after it.
    """
    n_models = weights.shape[:-1].numel()
    weights, sizes, before, after = (values.flatten(0, -2).mean(0) for values in (weights, sizes, before, after))
    rows = "".join(
        f"<tr><th>#{i}</th><td>{weights[i]:.3f}</td><td>{sizes[i]:.3g}</td><td>{before[i]:+.3f}</td>"
        f"<td>{after[i]:+.3f}</td></tr>"
        for i in range(min(len(weights), MOST_ROWS))
    )
    left_out = max(0, len(weights) - MOST_ROWS)
    more = f"<p>… and {left_out} more demonstrations.</p>" if left_out else ""
    return (
        f"<p>{html.escape(title)} The share of W<sub>0</sub> is {1 - float(weights.sum()):.3f}"
        f"{'' if n_models == 1 else '; means over the queries'}.</p><table><thead><tr><th></th><th>weight</th>"
        "<th>length of its part</th><th>alignment before</th><th>after</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{more}"
    )
