"""Models of every depth on three kinds of data, and how far their sequences of duals are from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from iclens.dual import LayerDual
from iclens.language.batches import sample_batch
from iclens.language.words import VOCABULARY
from iclens.matching.stacks import Pass, lab_pass
from iclens.recipes.contract import Part, Progress
from iclens.recipes.lab_runs import lab_run, train_all
from iclens.recipes.settings import chosen
from iclens.training.config import RunConfig
from iclens.training.default_dtype import default_dtype
from iclens.training.ensemble import run_model

REGRESSION, CLASSES, WORDS = "regression", "classification", "language modelling"

_TASKS: dict[str, dict[str, Any]] = {
    REGRESSION: {"name": "linear", "d": 4},
    CLASSES: {"name": "clusters", "d": 4, "n_classes": 3},
}


class Trained(NamedTuple):
    """A model in float64 that answers for one seed, with the loss before and after its training.

    Attributes:
        model: the lab's transformer or a GPT-2.
        prompts: a `PromptBatch`, or token ids (batch, n).
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


def models(part: Part, settings: BeyondSettings, progress: Progress) -> Iterator[Trained]:
    """The model of every seed."""
    kind, depth, weights = str(part["kind"]), int(part["depth"] or 1), part["weights"]
    if kind == WORDS:
        for seed in range(settings.n_seeds):
            generator = torch.Generator().manual_seed(10_000 + seed)
            ids = sample_batch(generator, settings.n_prompts, settings.n_context + 1).tokens
            # The last word's label is what is asked for.
            ids = ids[:, : 4 * settings.n_context + 3]
            if weights == "bundled":
                from iclens.lens.model.loading import load

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
    width = settings.width
    model = {"name": "transformer", "n_layers": depth, "n_heads": 2, "width": width, "ffn_width": 2 * width}
    loss = "squared" if kind == REGRESSION else "cross-entropy"
    training = {"batch": 16, "learning_rate": 0.003, "loss_kind": loss, "evaluation_prompts": 2}
    return lab_run(settings, seed, _TASKS[kind], model, **training)


def _language_model(
    depth: int, settings: BeyondSettings, seed: int, steps: int, progress: Progress
) -> tuple[Any, float]:
    """Return a GPT-2 of the words' language, trained for some steps in float32; last over first loss."""
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


def pass_of(found: Trained, dtype: torch.dtype) -> Pass:
    """Return a forward pass in a precision; the weights of float32 are exact in float64."""
    model = found.model.to(dtype)
    if isinstance(found.prompts, Tensor):
        from iclens.lens.model.loading import LensModel
        from iclens.papers.ren_liu_2024.language_stacks import stack_pass

        return stack_pass(LensModel.wrap(model), found.prompts)
    prompt = type(found.prompts)(found.prompts.inputs.to(dtype), found.prompts.labels.to(dtype))
    return lab_pass(model, prompt)


@torch.no_grad()
def residual(passed: Pass) -> float:
    """Largest difference at any token after any layer, and at the end, relative to the token's own size."""
    stack = passed.stack()
    pairs = [*zip(stack.states(), passed.states, strict=True), (stack.predict(), passed.output)]
    return max(float(((dual - own).norm(dim=-1) / own.norm(dim=-1)).max()) for dual, own in pairs)


@torch.no_grad()
def held_before(passed: Pass) -> float:
    """The same at the query for layers whose norms and gates are held before the step: the worst layer's mean."""
    found = []
    for weights, x, own in zip(passed.weights.layers, passed.states, passed.states[1:], strict=False):
        dual = LayerDual.from_layer(weights, x, passed.demonstrations, -1, passed.mask)
        before = dual.heads.initial() if weights.b_O is None else dual.heads.initial() + weights.b_O
        held = weights.held_after_attention(dual.x_query, before)
        off = held(dual.x_query + dual.heads.predict()) - own[:, -1:]
        found.append(float((off.norm(dim=-1) / own[:, -1:].norm(dim=-1)).mean()))
    return max(found)
