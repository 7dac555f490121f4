"""Ren & Liu's open question: the equivalence on classification and language modelling, at depths 1 to 12."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from iclens.dual import LayerDual
from iclens.recipes.figures import band, log_ticks, new_figure
from iclens.recipes.lab_runs import train_all
from iclens.recipes.layers_as_duals import Pass, gpt2_pass, lab_pass
from iclens.recipes.recipe import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.seed_curves import seed_curve, seed_mean
from iclens.recipes.settings import chosen
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.tasks.word_batches import sample_batch
from iclens.tasks.words import VOCABULARY
from iclens.training.config import RunConfig
from iclens.training.default_dtype import default_dtype
from iclens.training.ensemble import run_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAPER = "Ren & Liu 2024"
_QUESTION = f"{_PAPER}, what the paper leaves open: beyond one layer and beyond regression"

REGRESSION, CLASSES, WORDS = "regression", "classification", "language modelling"

EXACT = {
    kind: Claim(
        f"On {kind}, a stack of layers with residuals, norms and feed-forward blocks equals its sequence of dual "
        "models, at every depth, freshly initialised and trained.",
        _QUESTION,
        "asked",
    )
    for kind in (REGRESSION, CLASSES, WORDS)
}
ROUNDING = Claim(
    "What differs is rounding: in single precision the residual is larger as the precision is coarser.",
    "ours: the identity is exact",
    "derived",
)
DEPTH = Claim("Rounding grows no faster than the number of layers.", _QUESTION, "asked")
HELD = Claim(
    "The equivalence refers to its own output: with norms and gates held where they are before the gradient step, the "
    "layers are not reproduced.",
    "ours: docs/theory/transformer-layer.md",
    "derived",
)

_TASKS: dict[str, dict[str, Any]] = {
    REGRESSION: {"name": "linear", "d": 4},
    CLASSES: {"name": "clusters", "d": 4, "n_classes": 3},
}
_TOLERANCE = 1e-10
_TOLERANCE_SINGLE = 1e-3
_COARSER = torch.finfo(torch.float32).eps / torch.finfo(torch.float64).eps


class Trained(NamedTuple):
    """A model in float64 that answers for one seed, with the loss before and after its training.

    Attributes:
        model: the lab's transformer or a GPT-2.
        prompts: a `Prompt`, or token ids (batch, n).
        fall: last over first training loss; 1 without training.
    """

    model: Any
    prompts: Any
    fall: float


@dataclass(frozen=True)
class BeyondSettings:
    """The depths, the models and their training."""

    depths: tuple[int, ...] = chosen((1, 2, 3, 4, 6, 8, 10, 12), "layers")
    width: int = chosen(32, "2 heads; a GELU block of twice the width; LayerNorm before each")
    n_context: int = chosen(10, "demonstrations: interleaved tokens x, y, causal; in language `word is label .`")
    steps: int = chosen(500, "Adam at 0.003, 16 prompts a step; in language on all next tokens")
    n_prompts: int = chosen(8, "compared, a seed")
    n_seeds: int = chosen(5)


@recipe("beyond-regression")
class BeyondRegression(Recipe[BeyondSettings]):
    """Stacks of 1 to 12 layers on three kinds of data, and the sequence of duals that each is said to be.

    The duals are built from the embeddings and the weights alone; their predictions at every token after every layer
    are compared with the states that the model's own code computes, in float64 and in float32. A fresh and a trained
    model of every depth, and the bundled language model. The identity holds for any weights: that trained models
    satisfy it too says nothing about learning. As a control, norms and gates are held where they are before the step.
    """

    title = "The equivalence on classification and language modelling, at depths 1 to 12"
    reference = f"{_PAPER} (arXiv 2310.13220), open question"
    claims = (*EXACT.values(), ROUNDING, DEPTH, HELD)
    quick = Preset(BeyondSettings(depths=(1, 4, 12), steps=60, n_prompts=4, n_seeds=3), seconds=35)
    paper = Preset(BeyondSettings(), seconds=1200)

    def parts(self, settings: BeyondSettings) -> list[Part]:
        """One a kind, depth, and training; and the bundled model."""
        made: list[Part] = [
            {"kind": kind, "depth": depth, "weights": weights}
            for kind in EXACT
            for depth in settings.depths
            for weights in ("fresh", "trained")
        ]
        return [*made, {"kind": WORDS, "depth": 4, "weights": "bundled"}]

    def measure(self, part: Part, settings: BeyondSettings, progress: Progress) -> Table:
        """Residuals of every seed in both precisions, and the control's distance."""
        rows = []
        for seed, found in enumerate(_models(part, settings, progress)):
            for dtype in (torch.float64, torch.float32):
                passed = _pass(found, dtype)
                row = {"seed": seed, "dtype": str(dtype).removeprefix("torch."), "fall": found.fall}
                rows.append(row | {"residual": _residual(passed), "held_before": _held_before(passed)})
        return Table(rows)

    def check(self, table: Table, settings: BeyondSettings) -> list[Verdict]:
        """Largest residuals by kind, precision and depth."""
        double, single = (table.where(dtype=dtype) for dtype in ("float64", "float32"))
        verdicts = []
        for kind, claim in EXACT.items():
            rows = double.where(kind=kind)
            worst = float(rows.column("residual").max())
            fall = float(np.median(rows.where(weights="trained").column("fall")))
            depths = rows.numbers("depth")
            verdicts.append(
                claim.judged(
                    worst <= _TOLERANCE,
                    f"largest relative residual {worst:.1e} over {len(rows)} models of {depths[0]:.0f} to "
                    f"{depths[-1]:.0f} layers (float64); training took the loss to × {fall:.2f} (median)",
                    f"relative residual ≤ {_TOLERANCE:.0e} at every token after every layer",
                )
            )
        return [*verdicts, _rounding(double, single), _depth(single), _held(double)]

    def plot(self, table: Table, settings: BeyondSettings) -> Figure:
        """A panel a kind: residuals of both precisions against the depth, and the control's distance."""
        figure = new_figure(13.0, 4.2)
        axes = figure.subplots(1, len(EXACT), sharey=True)
        for ax, kind in zip(axes, EXACT, strict=True):
            for weights, style in (("fresh", "--"), ("trained", "-")):
                rows = table.where(kind=kind, weights=weights)
                for dtype, colour in (("float64", "C0"), ("float32", "C1")):
                    x, low, mean, high = _log_curve(rows.where(dtype=dtype))
                    look = {"color": colour, "linestyle": style, "marker": "o", "ms": 4}
                    band(ax, x, low, mean, high, f"{dtype}, {weights}", **look)
                curve = seed_curve(rows.where(dtype="float64"), "depth", "held_before")
                ax.plot(curve.x, curve.mean, "C2", linestyle=style, marker="s", ms=4, label=f"control, {weights}")
            bundled = table.where(kind=kind, weights="bundled")
            for dtype, colour in (("float64", "C0"), ("float32", "C1")):
                if len(bundled):
                    at = bundled.where(dtype=dtype)
                    label = f"{dtype}, bundled model"
                    ax.plot(at.column("depth"), at.column("residual"), "*", color=colour, ms=11, label=label)
            log_ticks(ax.xaxis, table.where(kind=kind).numbers("depth"))
            ax.set(xlabel="layers", yscale="log", title=kind)
        axes[0].set_ylim(1e-17, 10)
        axes[0].set_ylabel("largest ‖dual − model‖ / ‖model‖")
        axes[-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.5)
        return figure


def _log_curve(rows: Table) -> tuple[np.ndarray, ...]:
    """Depths, and the geometric mean of the residual with its interval, low, mean, high."""
    logs = Table({"depth": row["depth"], "log": np.log10(max(float(row["residual"] or 0), 1e-18))} for row in rows)
    curve = seed_curve(logs, "depth", "log")
    return curve.x, 10**curve.low, 10**curve.mean, 10**curve.high


def _models(part: Part, settings: BeyondSettings, progress: Progress) -> Iterator[Trained]:
    """The model of every seed."""
    kind, depth, weights = str(part["kind"]), int(part["depth"] or 1), part["weights"]
    if kind == WORDS:
        for seed in range(settings.n_seeds):
            generator = torch.Generator().manual_seed(10_000 + seed)
            ids = sample_batch(generator, settings.n_prompts, settings.n_context + 1).tokens
            # The last word's label is what is asked for.
            ids = ids[:, : 4 * settings.n_context + 3]
            if weights == "bundled":
                from iclens.lens.loading import load

                yield Trained(load("bundled", dtype=torch.float64).model, ids, 1.0)
            else:
                steps = settings.steps if weights == "trained" else 0
                model, fall = _language_model(depth, settings, seed, steps, progress)
                yield Trained(model, ids, fall)
        return
    configs = [_config(kind, depth, settings, seed) for seed in range(settings.n_seeds)]
    runs = train_all(configs, progress) if weights == "trained" else None
    for seed, config in enumerate(configs):
        with default_dtype(torch.float64):
            task = config.make_task()
            prompt = task.sample(torch.Generator().manual_seed(10_000 + seed), settings.n_prompts, settings.n_context)
        if runs is None:
            with default_dtype(torch.float64):
                yield Trained(config.model_class()(task.d, task.d_y, [seed], **config.model.options), prompt, 1.0)
        else:
            losses = [value for _, name, _, value in runs[seed].metrics if name == "loss"]
            yield Trained(run_model(config, runs[seed].tensors).double(), prompt, losses[-1] / losses[0])


def _config(kind: str, depth: int, settings: BeyondSettings, seed: int) -> RunConfig:
    return RunConfig.from_dict(
        {
            "seed": seed,
            "task": _TASKS[kind],
            "model": {
                "name": "transformer",
                "n_layers": depth,
                "n_heads": 2,
                "width": settings.width,
                "ffn_width": 2 * settings.width,
            },
            "training": {
                "steps": settings.steps,
                "batch": 16,
                "n_context": settings.n_context,
                "learning_rate": 0.003,
                "loss_kind": "squared" if kind == REGRESSION else "cross-entropy",
                "evaluate_every": 0,
                "evaluation_prompts": 2,
            },
        }
    )


def _language_model(
    depth: int, settings: BeyondSettings, seed: int, steps: int, progress: Progress
) -> tuple[Any, float]:
    """A GPT-2 of the words' language, trained for some steps in float32; last over first loss."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]), default_dtype(torch.float32):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(VOCABULARY), n_positions=4 * settings.n_context + 4, n_embd=settings.width,
                n_layer=depth, n_head=2, n_inner=2 * settings.width, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
        losses = []
        for step in range(steps):
            ids = sample_batch(generator, 16, settings.n_context + 1).tokens
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            progress(seed * steps + step, settings.n_seeds * steps, f"training {depth} layers, loss {losses[-1]:.3g}")
    return model.double().eval(), losses[-1] / losses[0] if losses else 1.0


def _pass(found: Trained, dtype: torch.dtype) -> Pass:
    """A forward pass in a precision; the weights of float32 are exact in float64."""
    model = found.model.to(dtype)
    if isinstance(found.prompts, Tensor):
        return gpt2_pass(model, found.prompts)
    prompt = type(found.prompts)(found.prompts.inputs.to(dtype), found.prompts.labels.to(dtype))
    return lab_pass(model, prompt)


@torch.no_grad()
def _residual(passed: Pass) -> float:
    """Largest difference at any token after any layer, and at the end, relative to the token's own size."""
    stack = passed.stack()
    pairs = [*zip(stack.states(), passed.states, strict=True), (stack.predict(), passed.output)]
    return max(float(((dual - own).norm(dim=-1) / own.norm(dim=-1)).max()) for dual, own in pairs)


@torch.no_grad()
def _held_before(passed: Pass) -> float:
    """The same at the query for layers whose norms and gates are held before the step: the worst layer's mean."""
    found = []
    for weights, x, own in zip(passed.weights.layers, passed.states, passed.states[1:], strict=False):
        dual = LayerDual.from_layer(weights, x, passed.demonstrations, -1, passed.mask)
        before = dual.heads.initial() if weights.b_O is None else dual.heads.initial() + weights.b_O
        held = weights.held_after_attention(dual.x_query, before)
        off = held(dual.x_query + dual.heads.predict()) - own[:, -1:]
        found.append(float((off.norm(dim=-1) / own[:, -1:].norm(dim=-1)).mean()))
    return max(found)


def _rounding(double: Table, single: Table) -> Verdict:
    ratios = single.column("residual") / np.maximum(double.column("residual"), 1e-18) / _COARSER
    worst, middle = float(single.column("residual").max()), float(np.median(ratios))
    return ROUNDING.judged(
        worst <= _TOLERANCE_SINGLE and 0.05 <= middle <= 20,
        f"largest relative residual {worst:.1e} (float32); float32 over float64, in units of the ratio of their "
        f"precisions: {middle:.2g} (median)",
        f"float32 residual ≤ {_TOLERANCE_SINGLE:.0e}, and the median ratio between 1/20 and 20 of the precisions'",
    )


def _depth(single: Table) -> Verdict:
    """Power of the depth, one number a kind, weights and seed; the bundled model has one depth only."""
    powers = []
    rows = Table(row for row in single if row["weights"] != "bundled")
    for kind in rows.unique("kind"):
        for weights in rows.unique("weights"):
            for seed in rows.unique("seed"):
                line = rows.where(kind=kind, weights=weights, seed=seed)
                at, values = line.column("depth"), np.maximum(line.column("residual"), 1e-18)
                powers.append(np.polyfit(np.log(at), np.log(values), 1)[0])
    found = seed_mean(np.array(powers))
    return DEPTH.judged(
        found.high <= 1.0,
        f"the residual grows as the depth to the power {found:.2f} (float32, {found.n} series of depths)",
        "the upper end of the power's 95 % interval is at most 1",
    )


def _held(double: Table) -> Verdict:
    rows = Table(row for row in double if row["weights"] != "fresh")
    least, middle = float(rows.column("held_before").min()), float(np.median(rows.column("held_before")))
    return HELD.judged(
        least >= 1e-4,
        f"held before the step, the worst layer of every trained model is off by {least:.1e} at least, {middle:.1e} in "
        "the median",
        "a relative distance of at least 1e-4 in every trained model",
    )
