"""The equivalence on a real model: every head of every layer, the layers in order, and the bound, as a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from iclens.errors import UserError
from iclens.lens.read.capture import capture
from iclens.papers.real_heads.equivalence_claims import CLAIMS, by_layer, judged, numbers
from iclens.papers.real_heads.prompts import OnPrompts, PromptSettings, asked, model_of, reading
from iclens.papers.real_heads.residuals import BOUNDS, bound_cells, head_residuals, stack_residuals, step_residuals
from iclens.recipes.contract import Part, Preset, Progress, recipe
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.settings import chosen
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Verdict
from iclens.training.default_dtype import default_dtype


@dataclass(frozen=True)
class EquivalenceSettings(PromptSettings):
    """Prompts, how many of them in double precision too, and how the bound's gap is measured.

    Raises:
        UserError: counts that do not fit, or a δ outside (0, 1).
    """

    n_prompts: int = chosen(2, "prompts a task")
    n_demonstrations: int = chosen(6, "of a prompt")
    n_double: int = chosen(1, "prompts a task that are read in float64 too")
    n_bounds: int = chosen(1, "prompts a task whose bounds are measured")
    n_resamples: int = chosen(20, "draws of half of a prompt's tokens, for the bound and the gap")
    delta: float = chosen(0.05, "the paper's δ is free")

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.n_double, self.n_bounds) < 0 or self.n_resamples < 2:
            raise UserError("n_double and n_bounds are at least 0, n_resamples at least 2.")
        if not 0 < self.delta < 1:
            raise UserError(f"delta={self.delta} must lie strictly between 0 and 1.")


@recipe("equivalence-real")
class EquivalenceOnRealModels(OnPrompts):
    """Theorem 3.1, the stack of layers and Theorem 3.2 on a real language model, with prompts of public data.

    The demonstrations of a prompt are what the duals are trained on; its other tokens make W_0. Of every head, at every
    token, W_0 φ(q) and the demonstrations' parts of the step, summed, are compared with the head's output; of every
    layer, the duals through W_O with the attention module in a pass of the model's own; after every layer, the states
    of a sequence of duals that is fed from the embeddings alone with the model's. Heads that share keys and values are
    each a dual of their own. At the last token a real W is trained by autograd for one step, in float64. The identity
    holds for any weights: that it holds for trained ones says nothing about learning.

    For the bound, all tokens that the last one sees are the population: half of them are drawn, many times, as the
    demonstrations that Ŵ is trained on, and the others measure the loss of unseen tokens. w, ρ and Tr K_S are measured.
    Tokens of a text are no independent draws from it, but those that are drawn here are. Bounds are shown over the
    measured gap, and over the range of the loss: from 1 on they say nothing.
    """

    title = "The equivalence and the bound on a real model"
    reference = "Ren & Liu 2024 (arXiv 2310.13220), Theorems 3.1 and 3.2, Fig. 5"
    claims = CLAIMS
    quick = Preset(EquivalenceSettings(tasks=("antonym",), n_prompts=1, n_demonstrations=4), seconds=32)
    paper = Preset(EquivalenceSettings(), seconds=190)

    def parts(self, settings: PromptSettings) -> list[Part]:
        """A prompt each, in single precision; the first ones of a task in double too."""
        return [
            {"task": task, "number": number, "dtype": dtype}
            for number in range(settings.n_prompts)
            for task in settings.tasks
            for dtype in ("float32", "float64")
            if dtype == "float32" or number < _mine(settings).n_double
        ]

    def measure(self, part: Part, settings: PromptSettings, progress: Progress) -> Table:
        """One row a head, and one a layer."""
        dtype = str(part["dtype"])
        with default_dtype(torch.float32):
            model = model_of(settings, getattr(torch, dtype))
            tokens = reading(model, asked(part, settings)).tokenized
            ids, groups = tokens.input_ids.to(model.index_device), tokens.groups.to(model.index_device)
            bounds = dtype == "float32" and int(part["number"] or 0) < _mine(settings).n_bounds
            progress(0, 4, f"{part['task']}: {len(ids)} tokens, heads and layers, {dtype}")
            heads, layers = head_residuals(model, ids, groups)
            progress(1, 4, "layers in their order")
            stack = stack_residuals(model, ids, groups)
            progress(2, 4, "one step of autograd")
            steps = step_residuals(model, ids, groups) if dtype == "float64" else []
            records = capture(model, ids[None], last_logits=1).records if bounds else ()
            generator = torch.Generator().manual_seed(settings.seed)
            rows: list[dict[str, Any]] = []
            for layer, residuals in enumerate(heads):
                progress(3000 + 1000 * layer // len(heads), 4000, f"layer {layer}")
                of_layer = {"layer_residual": layers[layer]} | ({"stack_residual": stack[layer]} if stack else {})
                rows.append({"layer": layer, "n_tokens": len(ids), **of_layer})
                for head, residual in enumerate(residuals):
                    row: dict[str, Cell] = {"layer": layer, "head": head, "head_residual": residual}
                    if steps:
                        row["step_residual"] = steps[layer][head]
                    if bounds:
                        found = _mine(settings)
                        row |= bound_cells(records[layer], head, found.n_resamples, found.delta, generator)
                    rows.append(row)
        return Table(rows)

    def check(self, table: Table, settings: PromptSettings) -> list[Verdict]:
        """Largest residuals, coverage, and the bound over range and gap."""
        return judged(table, _mine(settings).delta)

    def summaries(self, table: Table, settings: PromptSettings) -> dict[str, Table]:
        """Medians of what goes into the bound, by layer; and how much the bounds say, by task."""
        names = (
            "log10_w",
            "log10_rho",
            "log10_trace",
            "log10_range",
            "log10_gap",
            *(f"{one}_over_gap" for one in BOUNDS),
        )
        found = {name: by_layer(table, name, lambda values: float(np.median(values))) for name in names}
        layers = sorted(found["log10_trace"])
        if not layers:
            return {}
        rows = [{"layer": layer, **{name: found[name].get(layer) for name in names}} for layer in layers]
        tasks = []
        for task in table.unique("task"):
            own = table.where(task=task)
            over = {name: numbers(own, f"{name}_over_range") for name in BOUNDS}
            if len(over[BOUNDS[0]]):
                pairs = {"task": task, "N": float(np.median(numbers(own, "n_pairs")))}
                tasks.append(pairs | {f"{name} below range": float((one < 0).mean()) for name, one in over.items()})
        return {
            "the bound and what goes into it: medians over heads and prompts, log10": Table(rows),
            "share of heads whose bound is below the range of the loss, by task": Table(tasks),
        }

    def plot(self, table: Table, settings: PromptSettings) -> Figure:
        """Residuals by layer; the bounds over the measured gap, and over the range of the loss, by layer."""
        figure = new_figure(11.0, 7.4)
        residual, printed, gap, extent = figure.subplots(2, 2).ravel()
        for colour, (kind, label) in enumerate(
            (("head", "a head"), ("layer", "attention, through $W_O$"), ("stack", "states, duals in sequence"))
        ):
            for dtype, style in (("float32", "-"), ("float64", "--")):
                rows = table.where(dtype=dtype) if "dtype" in table.names else Table()
                found = by_layer(rows, f"{kind}_residual", lambda values: float(values.max()))
                if found:
                    values = np.maximum(list(found.values()), 1e-18)
                    residual.plot(list(found), values, f"C{colour}{style}", label=f"{label}, {dtype}")
        residual.set(yscale="log", xlabel="layer", ylabel="largest relative residual", title="dual against model")
        if residual.lines:
            residual.legend(fontsize="x-small", handlelength=3.5)
        _draw_bounds(printed, table, ("printed",), "over_gap", "bound over the measured gap")
        _draw_bounds(gap, table, ("frobenius", "spectral"), "over_gap", "bound over the measured gap")
        _draw_bounds(extent, table, ("frobenius", "spectral"), "over_range", "bound over the range of the loss")
        extent.axhline(1, color="gray", linestyle=":")
        return figure


def _mine(settings: PromptSettings) -> EquivalenceSettings:
    assert isinstance(settings, EquivalenceSettings)
    return settings


_SHOWN = {"frobenius": "Frobenius, no $d_o$", "spectral": "spectral, $\\sqrt{d_o}$", "printed": "as printed, $d_o$"}


def _draw_bounds(ax: Any, table: Table, names: tuple[str, ...], of: str, title: str) -> None:
    """The median over heads and prompts of every layer, with the middle half of them."""
    for name in names:
        colour = BOUNDS.index(name)
        column = f"{name}_{of}"
        found = by_layer(table, column, lambda values: float(np.median(values)))
        if not found:
            continue
        rows = {layer: numbers(table.where(layer=layer), column) for layer in found}
        low, high = (np.array([np.quantile(values, share) for values in rows.values()]) for share in (0.25, 0.75))
        ax.plot(list(found), _power(np.array(list(found.values()))), f"C{colour}o-", ms=3, label=_SHOWN[name])
        ax.fill_between(list(found), _power(low), _power(high), color=f"C{colour}", alpha=0.2, linewidth=0)
    ax.set(yscale="log", xlabel="layer", ylabel="median of the heads, middle half", title=title)
    if ax.lines:
        ax.legend(fontsize="x-small")


def _power(log10: np.ndarray) -> np.ndarray:
    return 10.0 ** np.clip(log10, -300, 300)
