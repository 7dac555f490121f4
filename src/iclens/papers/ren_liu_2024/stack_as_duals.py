"""Ren & Liu's Figs. 4 and 5: a Transformer layer, and a stack of them, as a sequence of dual models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iclens.dual import LayerDual, StackDual
from iclens.features import Mercer
from iclens.language.words import LABELS, sample_words
from iclens.matching.stacks import Pass, lab_pass
from iclens.recipes.best_of_many import over_seeds
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.lab_runs import lab_run, train_all
from iclens.recipes.seed_curves import seed_curve
from iclens.recipes.settings import chosen
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.training.default_dtype import default_dtype
from iclens.training.ensemble import run_model

_PAPER = "Ren & Liu 2024"

LAYER = Claim(
    "A whole Transformer layer (residual, norms and feed-forward block with it) gives the query what a dual model with "
    "an untrained offset predicts after one gradient step.",
    f"{_PAPER}, Fig. 4, made exact",
    "derived",
)
STACK = Claim(
    "Several layers are a sequence of dual models, each with its training data and test input from the one before.",
    f"{_PAPER}, Fig. 5",
    "stated",
)
STEP = Claim(
    "One step of gradient descent by autograd, on a real W for every head, carries the query from the dual's "
    "prediction before training to the layer's output.",
    f"{_PAPER}, Theorem 3.1 in Fig. 4",
    "derived",
)
MOVES = Claim(
    "Every dual's gradient step brings the query nearer to the answer, as the model's own read-out sees it.",
    f"{_PAPER}, Fig. 5: the query's representation moves layer by layer",
    "asked",
)

LAB = "trained in the lab"
BUNDLED = "bundled language model"
_TOLERANCE = 1e-10
_TOLERANCE_STEP = 1e-8

ReadOut = Callable[[Tensor], Tensor]
"""The loss at the query of a state (batch, d_model), in units of the loss at chance, (batch,)."""


@dataclass(frozen=True)
class StackSettings:
    """The model of the lab, and the prompts of both."""

    n_context: int = chosen(15, "demonstrations of a prompt of the lab")
    d: int = chosen(3, "width of the inputs of the linear task")
    n_layers: int = chosen(3, "of the lab's model; the bundled one has 4")
    width: int = chosen(32)
    n_heads: int = chosen(2)
    ffn_width: int = chosen(64, "ReLU, as the paper draws it; LayerNorm before each block")
    steps: int = chosen(4000, "Adam at 0.002 with a cosine schedule, 64 prompts a step")
    n_prompts: int = chosen(64, "a seed")
    n_word_demonstrations: int = chosen(12, "demonstrations of a prompt of the language model, 3 of the right category")
    n_seeds: int = chosen(5, "of the lab's weights and prompts; of the language model's prompts")


@recipe("ren-liu-figs-4-5")
class StackAsDuals(Recipe[StackSettings]):
    """The query's representation in trained models, moved from layer to layer by each dual's gradient step.

    A layer's output at the query is split as offset + W_0 φ(q) + gradient step, with the norms' scales and the
    feed-forward block's gates held at the values that they take there; the layers' duals are then put in sequence,
    from the embeddings alone, and compared with the states that the models' own code computes, in float64. Read out as
    the last layer is, states before and after each step have a loss of their own: squared error or cross-entropy over
    the labels, in units of the loss at chance. The splits are exact for any weights; which steps help is measured.
    """

    title = "A Transformer layer, and a stack of layers, as a sequence of dual models"
    reference = f"{_PAPER} (arXiv 2310.13220), Figs. 4 and 5"
    claims = (LAYER, STACK, STEP, MOVES)
    quick = Preset(StackSettings(steps=400, n_prompts=32, n_seeds=5), seconds=25)
    paper = Preset(StackSettings(), seconds=220)

    def parts(self, settings: StackSettings) -> list[Part]:
        """Return one part per model."""
        return [{"model": LAB}, {"model": BUNDLED}]

    def measure(self, part: Part, settings: StackSettings, progress: Progress) -> Table:
        """Every layer of every seed; for the first seed the way of one query in two dimensions."""
        rows: list[dict[str, Any]] = []
        found = _lab(settings, progress) if part["model"] == LAB else _bundled(settings, progress)
        for seed, (passed, read_out) in enumerate(found):
            stack = passed.stack()
            measured = _layers(passed, stack, read_out)
            rows += [{"seed": seed, **row} for row in measured]
            if seed == 0:
                largest = max(measured, key=lambda row: float(row["step_share"]))
                rows += _way(stack, int(largest["layer"]) - 1)
        return Table(rows)

    def check(self, table: Table, settings: StackSettings) -> list[Verdict]:
        """Residuals, and read-out losses before and after each step."""
        layers = table.only("layer_residual")
        n = len(layers)
        verdicts = []
        for claim, name, tolerance, what in (
            (LAYER, "layer_residual", _TOLERANCE, "of a layer's dual, fed with the model's own states"),
            (STACK, "stack_residual", _TOLERANCE, "of the sequence of duals, fed with the embeddings alone"),
            (STEP, "autograd_residual", _TOLERANCE_STEP, "after one autograd step with Mercer features"),
        ):
            worst = float(layers.column(name).max())
            numbers = f"largest relative residual {worst:.1e} {what}, over {n} layers (float64)"
            verdicts.append(
                claim.judged(worst <= tolerance, numbers, f"relative residual ≤ {tolerance:.0e} everywhere")
            )
        return [*verdicts, self._moves(layers)]

    @staticmethod
    def _moves(layers: Table) -> Verdict:
        helped: list[str] = []
        others: list[str] = []
        numbers = []
        n_asked = sum(len(layers.where(model=model).numbers("layer")) for model in layers.unique("model"))
        for model in layers.unique("model"):
            for layer in layers.where(model=model).numbers("layer"):
                gains = layers.where(model=model, layer=int(layer)).column("gain")
                gain = over_seeds(torch.from_numpy(gains), n_asked)
                name = (
                    f"layer {int(layer)} of the model {model}" if model == LAB else f"layer {int(layer)} of the {model}"
                )
                numbers.append(f"{name}: {gain:+.3f}")
                (helped if gain.low > 0 else others).append(name)
        return MOVES.judged(
            bool(helped),
            f"log₁₀ of the read-out's loss before the step over that after it: {'; '.join(numbers)}",
            "the 95 % interval over seeds of that logarithm, corrected for all layers (Bonferroni), lies above 0",
            f"the step is that of {', '.join(helped)}" if others else "",
        )

    def plot(self, table: Table, settings: StackSettings) -> Figure:
        """Return a row a model: one layer by demonstration, the stack, and the loss read out along the way."""
        models = [str(model) for model in table.unique("model")]
        figure = new_figure(13.0, 4.2 * len(models))
        axes = figure.subplots(len(models), 3, squeeze=False)
        for line, model in zip(axes, models, strict=True):
            rows = table.where(model=model)
            _draw_layer(line[0], rows, model)
            _draw_stack(line[1], rows, model)
            _draw_losses(line[2], rows.only("gain"), model)
        return figure


def _lab(settings: StackSettings, progress: Progress) -> Iterator[tuple[Pass, ReadOut]]:
    """The lab's model, once for each seed, on prompts of its task."""
    task = {"name": "linear", "d": settings.d}
    sizes = {name: getattr(settings, name) for name in ("n_layers", "n_heads", "width", "ffn_width")}
    model_options = {"name": "transformer", **sizes, "activation": "relu", "tokens": "joint"}
    training = {"batch": 64, "learning_rate": 0.002, "loss": "query", "schedule": "cosine", "evaluation_prompts": 100}
    configs = [lab_run(settings, seed, task, model_options, **training) for seed in range(settings.n_seeds)]
    for seed, run in enumerate(train_all(configs, progress)):
        with default_dtype(torch.float64):
            generator = torch.Generator().manual_seed(10_000 + seed)
            prompt = run.config.make_task().sample(generator, settings.n_prompts, settings.n_context)
        model: Any = run_model(run.config, run.tensors).double()
        passed = lab_pass(model, prompt)
        target = prompt.target

        def read_out(state: Tensor, model: Any = model, target: Tensor = target) -> Tensor:
            predicted = model.read_out(model.final_norm(state.unsqueeze(0)))[0]
            return (predicted - target).square().sum(-1) / target.square().sum(-1).mean()

        yield passed, read_out


def _bundled(settings: StackSettings, progress: Progress) -> Iterator[tuple[Pass, ReadOut]]:
    """The bundled model on held-out prompts of its words, other ones for each seed."""
    from iclens.lens.model.loading import load
    from iclens.papers.ren_liu_2024.language_stacks import stack_pass

    lens_model = load("bundled", dtype=torch.float64)
    model, tokenizer = lens_model.model, lens_model.tokenizer
    labels = torch.tensor(tokenizer.convert_tokens_to_ids(list(LABELS)))
    for seed in range(settings.n_seeds):
        progress(seed, settings.n_seeds, "reading prompts")
        generator = torch.Generator().manual_seed(seed)
        drawn = [sample_words(generator, settings.n_word_demonstrations, 3) for _ in range(settings.n_prompts)]
        ids = torch.tensor([tokenizer(prompt.text())["input_ids"] for prompt in drawn])
        answers = torch.tensor([LABELS.index(prompt.answer) for prompt in drawn])
        # A demonstration is four tokens, `word is label .`, and the query two.
        shown = torch.arange(settings.n_word_demonstrations).repeat_interleave(4)
        none = torch.tensor([-1])
        groups = torch.cat([none.expand(ids.shape[1] - len(shown) - 2), shown, none.expand(2)])

        def read_out(state: Tensor, answers: Tensor = answers) -> Tensor:
            logits = model.lm_head(model.transformer.ln_f(state))[:, labels]
            return torch.nn.functional.cross_entropy(logits, answers, reduction="none") / math.log(len(LABELS))

        yield stack_pass(lens_model, ids, groups), read_out


@torch.no_grad()
def _layers(passed: Pass, stack: StackDual, read_out: ReadOut) -> list[dict[str, float | int]]:
    """Every layer's residuals, and the losses before and after its step, means over the prompts."""
    rows: list[dict[str, float | int]] = []
    for place, (step, own) in enumerate(zip(stack.steps(), passed.states[1:], strict=True)):
        size = own[:, -1].norm(dim=-1)
        alone = LayerDual.from_layer(
            passed.weights.layers[place], passed.states[place], passed.demonstrations, -1, passed.mask
        )
        before, after = step.before[:, -1], step.after[:, -1]
        loss_before, loss_after = float(read_out(before).mean()), float(read_out(after).mean())
        split = (alone.offset() + alone.initial() + alone.contributions().sum(-2))[:, 0]
        rows.append(
            {
                "layer": place + 1,
                "layer_residual": float(((split - own[:, -1]).norm(dim=-1) / size).max()),
                "stack_residual": float(((after - own[:, -1]).norm(dim=-1) / size).max()),
                "autograd_residual": float(((_by_autograd(alone) - own[:, -1]).norm(dim=-1) / size).max()),
                "step_share": float(((after - before).norm(dim=-1) / size).mean()),
                "loss_in": float(read_out(passed.states[place][:, -1]).mean()),
                "loss_before": loss_before,
                "loss_after": loss_after,
                "gain": math.log10(loss_before / loss_after),
            }
        )
    return rows


def _by_autograd(layer: LayerDual) -> Tensor:
    """Return the layer's output at its one query, every head's W trained by one autograd step."""
    trained = layer.duals().explicit(Mercer()).train()
    return (layer.offset() + trained.prediction.sum(1).squeeze(-2))[:, 0]


@torch.no_grad()
def _way(stack: StackDual, one_layer: int) -> list[dict[str, float | int | str]]:
    """The way of the first prompt's query through all layers, and through one of them demonstration by demonstration.

    Each on the plane of its points' first two principal components.
    """
    steps = stack.steps()
    points = [stack.states()[0][0, -1]]
    for step in steps:
        points += [step.before[0, -1], step.after[0, -1]]
    layer = stack.layers[one_layer]
    start = steps[one_layer].before[0, -1]
    chain = [layer.x[0, -1], start, *(start + layer.contributions()[0, -1].cumsum(0))]
    rows: list[dict[str, float | int | str]] = []
    for name, places in (("stack", points), ("layer", chain)):
        flat, share = _plane(torch.stack(places))
        for place, (x, y) in enumerate(flat.tolist()):
            rows.append({"way": name, "place": place, "x": x, "y": y, "share": share, "one_layer": one_layer + 1})
    return rows


def _plane(points: Tensor) -> tuple[Tensor, float]:
    """Coordinates on the plane of most variance, and the share of the variance that lies in it."""
    centred = points - points.mean(0)
    _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].mT, float(sizes[:2].square().sum() / sizes.square().sum())


def _arrow(ax: Any, start: np.ndarray, end: np.ndarray, colour: str, style: str) -> None:
    ax.annotate(
        "",
        xy=end,
        xytext=start,
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "linestyle": style,
            "linewidth": 1.6,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )


def _draw_layer(ax: Any, rows: Table, model: str) -> None:
    way = rows.where(way="layer").sorted_by("place")
    at = np.stack([way.column("x"), way.column("y")], 1)
    ax.plot(at[:2, 0], at[:2, 1], "C0:", label="offset + W₀φ(q)")
    ax.plot(at[1:, 0], at[1:, 1], "C1o-", ms=3, label="gradient, by demonstration")
    ax.plot(*at[0], "s", ms=6, color="C0", label="enters the layer")
    ax.plot(*at[-1], "*", ms=12, color="C2", label="leaves it")
    layer = int(way.column("one_layer")[0])
    ax.set(
        xlabel="1st principal component",
        ylabel="2nd principal component",
        title=f"{model}:\nthe query in layer {layer} ({100 * way.column('share')[0]:.0f} % of the variance)",
    )
    ax.legend(fontsize="small")


def _draw_stack(ax: Any, rows: Table, model: str) -> None:
    way = rows.where(way="stack").sorted_by("place")
    at = np.stack([way.column("x"), way.column("y")], 1)
    ax.plot(*at[0], "s", color="C0", ms=6, label="embedding")
    ax.plot([], [], "C0:", label="offset + W₀φ(q)")
    ax.plot([], [], "C1-", label="gradient step")
    # Arrows alone would not widen the axes.
    ax.plot(at[1::2, 0], at[1::2, 1], ".", color="C0", ms=4)
    for layer, place in enumerate(range(0, len(at) - 1, 2), 1):
        _arrow(ax, at[place], at[place + 1], "C0", ":")
        _arrow(ax, at[place + 1], at[place + 2], "C1", "-")
        ax.annotate(str(layer), at[place + 2], textcoords="offset points", xytext=(5, 5))
    ax.plot(at[2::2, 0], at[2::2, 1], "o", color="C2", ms=5, label="output of layer 1, 2, …")
    ax.margins(0.12)
    ax.set(
        xlabel="1st principal component",
        title=f"{model}:\nthe query in all layers ({100 * way.column('share')[0]:.0f} % of the variance)",
    )
    ax.legend(fontsize="small")


def _draw_losses(ax: Any, rows: Table, model: str) -> None:
    for name, look, label in (
        ("loss_in", "C3^", "enters the layer"),
        ("loss_before", "C0s", "before its gradient step"),
        ("loss_after", "C1o", "after it"),
    ):
        curve = seed_curve(rows, "layer", name)
        reach = np.nan_to_num(np.stack([curve.mean - curve.low, curve.high - curve.mean]))
        shift = {"loss_in": -0.12, "loss_before": 0.0, "loss_after": 0.12}[name]
        ax.errorbar(curve.x + shift, curve.mean, yerr=reach, fmt=look, ms=6, label=label)
    ax.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
    ax.set_yscale("log")
    ax.set_xticks(rows.numbers("layer"))
    ax.set(
        xlabel="layer",
        ylabel="loss of the state, read out / loss at chance",
        title=f"{model}:\nmean and 95 % interval over {len(rows.unique('seed'))} seeds",
    )
    ax.legend(fontsize="small")
