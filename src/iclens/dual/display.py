"""A dual model as a small table, for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from iclens.dual.model import DualModel

MOST_ROWS = 50


@torch.no_grad()
def table(dual: DualModel) -> str:
    """Each demonstration's share of D, the length of its part of the step, and its alignment before and after.

    The numbers are means over all leading axes (batch, heads, runs) and queries.
    """
    weights = dual.weights().flatten(0, -2).mean(0)
    sizes = dual.contributions().norm(dim=-1).flatten(0, -2).mean(0)
    alignment = dual.alignment()
    before, after = (values.flatten(0, -2).mean(0) for values in (alignment.before, alignment.after))
    rows = "".join(
        f"<tr><th>#{i}</th><td>{weights[i]:.3f}</td><td>{sizes[i]:.3g}</td><td>{before[i]:+.3f}</td>"
        f"<td>{after[i]:+.3f}</td></tr>"
        for i in range(min(dual.n_demonstrations, MOST_ROWS))
    )
    left_out = max(0, dual.n_demonstrations - MOST_ROWS)
    more = f"<p>… and {left_out} more demonstrations.</p>" if left_out else ""
    n_models = dual.log_normalizer.numel()
    kind = type(dual.kernel).__name__
    return (
        f"<p><b>DualModel</b>, {kind}: {n_models} quer{'y' if n_models == 1 else 'ies'}, {dual.k.shape[-2]} keys in "
        f"{dual.n_demonstrations} demonstrations and W<sub>0</sub>, whose share is {1 - float(weights.sum()):.3f}"
        f"{'' if n_models == 1 else '; means over the queries'}.</p><table><thead><tr><th></th><th>weight</th>"
        "<th>length of its part</th><th>alignment before</th><th>after</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{more}"
    )
