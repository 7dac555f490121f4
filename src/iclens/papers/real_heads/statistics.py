"""Heads measured on a real model: what they average, and what their duals would say if trained to the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from iclens.dual import leave_one_out
from iclens.errors import UserError
from iclens.lens import HEAD_COLUMNS, Lens
from iclens.lens.read.capture import capture
from iclens.lens.read.heads import HeadRecord
from iclens.papers.real_heads.prompts import OnPrompts, PromptSettings, asked, model_of, reading
from iclens.papers.real_heads.statistics_claims import CLAIMS, judged, values
from iclens.recipes.contract import Part, Preset, Progress, recipe
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.settings import chosen
from iclens.recipes.table import Table
from iclens.recipes.verdict import Verdict
from iclens.report import head_maps
from iclens.training.default_dtype import default_dtype

MAPS = ("relative_disagreement", "first_weight", "largest_change", "condition", "end_distance", "nearest_time")


@dataclass(frozen=True)
class HeadSettings(PromptSettings):
    """Prompts, and the ridge parameter of the end.

    Raises:
        UserError: counts that do not fit, or a ridge parameter that is not positive.
    """

    ridge: float = chosen(1e-3, "λ beside keys whose kernel is 1 with themselves")
    n_left_out: int = chosen(1, "prompts a task on which every token of every head is left out by brute force")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ridge > 0:
            raise UserError(f"ridge={self.ridge} must be positive.")
        if self.n_left_out < 0:
            raise UserError(f"n_left_out={self.n_left_out} is at least 0.")


@recipe("heads-real")
class HeadsOnRealModels(OnPrompts):
    """Every head of a real language model at the token where the answer begins, in float64 from the model's tensors.

    A head's output is argmin_b Σ_i α_i ‖v_i − b‖²: what is left is its disagreement. Without token i it would be out −
    α_i (v_i − out)/(1 − α_i), which is compared with attention over the other tokens. Read as a dual model, the output
    is one step of gradient descent on a linear loss, and with the keys' features at length 1 also one step on the
    squared loss ½ Σ_i ‖W φ_i − v_i‖². Gradient flow on that, αᵀ C⁻¹ (I − e^{−tC}) V with t in units of the head's own
    step and C_ij = exp(−‖k_i − k_j‖²/(2√d)), ends in kernel ridge regression, αᵀ (C + λI)⁻¹ V; the flow is that of the
    same penalised loss. Distances are relative to the output's length. The definition of this comparison was chosen
    when the norms of the keys and the eigenvalues of C on one prompt were known, which is not among those reported; no
    distance was.
    """

    title = "Heads of a real model: what they average, one step, and the end"
    reference = "our question; Nadaraya-Watson regression (2501.12352) and LUCID (2602.10410)"
    claims = CLAIMS
    quick = Preset(HeadSettings(tasks=("antonym",), n_prompts=1, n_demonstrations=4), seconds=26)
    paper = Preset(HeadSettings(), seconds=150)

    def parts(self, settings: PromptSettings) -> list[Part]:
        """A prompt each."""
        return [{"task": task, "number": n} for n in range(settings.n_prompts) for task in settings.tasks]

    def measure(self, part: Part, settings: PromptSettings, progress: Progress) -> Table:
        """One row a head."""
        mine = _mine(settings)
        with default_dtype(torch.float32):
            lens = reading(model_of(settings), asked(part, settings))
            n = lens.tokenized.n_tokens
            progress(0, 2, f"{part['task']}: {n} tokens")
            rows = lens.head_statistics(ridge=mine.ridge).to_rows()
            progress(1, 2, "every token left out")
            if int(part["number"] or 0) < mine.n_left_out:
                for row, residual in zip(rows, left_out_residuals(lens), strict=True):
                    row["left_out_residual"] = residual
        return Table({"n_tokens": n, **{key: one for key, one in row.items() if one is not None}} for row in rows)

    def check(self, table: Table, settings: PromptSettings) -> list[Verdict]:
        """Shares of heads, prompt by prompt."""
        return judged(table)

    def summaries(self, table: Table, settings: PromptSettings) -> dict[str, Table]:
        """Medians over heads and prompts, by layer."""
        if not len(table):
            return {}
        rows = []
        for layer in table.numbers("layer"):
            of_layer = table.where(layer=int(layer))
            known = {name: values(of_layer, name) for name in HEAD_COLUMNS}
            rows.append({"layer": int(layer)} | {name: float(np.nanmedian(one)) for name, one in known.items()
                                                  if not np.isnan(one).all()})  # fmt: skip
        return {"medians over heads and prompts": Table(rows)}

    def plot(self, table: Table, settings: PromptSettings) -> Figure:
        """Maps over layers and heads: medians over prompts."""
        figure = new_figure(14.0, 5.0)
        maps = medians(table)
        if maps:
            head_maps(maps, [name for name in MAPS if name in maps], figure)
        return figure


def _mine(settings: PromptSettings) -> HeadSettings:
    assert isinstance(settings, HeadSettings)
    return settings


def medians(table: Table) -> dict[str, np.ndarray]:
    """Every number's median over prompts as a map (n_layers, n_heads)."""
    if not len(table):
        return {}
    layers, heads = (table.column(name).astype(int) for name in ("layer", "head"))
    found = {}
    for name in HEAD_COLUMNS:
        column = values(table, name)
        if np.isnan(column).all():
            continue
        found[name] = np.full((layers.max() + 1, heads.max() + 1), np.nan)
        for layer, head in set(zip(layers.tolist(), heads.tolist(), strict=True)):
            own = column[(layers == layer) & (heads == head)]
            if not np.isnan(own).all():
                # Not the mean of the middle two: of infinite and finite times there is none.
                found[name][layer, head] = np.nanquantile(own, 0.5, method="lower")
    return found


@torch.no_grad()
def left_out_residuals(lens: Lens) -> list[float]:
    """Of every head, how far out_{−i} in closed form is from attention over the other tokens, at worst of all i.

    Relative to the longest value; in float64, at the prompt's last token.
    """
    ids = lens.tokenized.input_ids.to(lens.model.index_device)
    records = capture(lens.model, ids[None], last_logits=1).records
    return [_left_out(record, head, len(ids)) for record in records for head in range(record.q.shape[1])]


def _left_out(record: HeadRecord, head: int, n: int) -> float:
    dual = record.dual(head, n - 1, dtype=torch.float64)
    closed = dual.v - leave_one_out(dual)[0]
    scores = dual.kernel.log(dual.q, dual.k).log_abs[0]
    scores = scores if dual.mask is None else scores.masked_fill(~dual.mask[0], -torch.inf)
    others = scores.expand(len(scores), -1).masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    without = others.softmax(-1) @ dual.v
    seen = scores > -torch.inf
    return float(((closed - without)[seen].norm(dim=-1) / dual.v.norm(dim=-1).max()).max())
