"""Training: an ensemble against single runs, and our GPT-2 against a plain loop and Garg's repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclens.benchmarks.case import (
    CASES,
    Absent,
    Agreement,
    Comparison,
    Context,
    Entry,
    Probe,
    Side,
    Target,
    on_gpu,
    takes,
)
from iclens.benchmarks.ceilings import Floor
from iclens.benchmarks.garg_repository import GargRepository, garg_repository
from iclens.sweeps.chunks import plan
from iclens.training.config import RunConfig
from iclens.training.ensemble import Ensemble

_MEMORY = 4 << 30
"""Bytes that a chunk of an ensemble may take."""


@CASES.register("training")
@takes(minutes=4)
@on_gpu
def training(context: Context) -> Iterator[Entry]:
    """Steps and whole runs: ensembles against single runs, our GPT-2 against transformers and Garg's repository."""
    if context.device == "cuda":
        # Launching kernels is what a run alone spends its time on there.
        target = Target("speed-up", 50.0, "256 tiny runs on a GPU")
        yield _ensemble("256 runs of width 16, a step", tiny_configs(256), "cuda", () if context.quick else (target,))
    else:
        runs = context.pick(4, 64)
        yield _ensemble(f"{runs} runs of width 16, a step", tiny_configs(runs))
        if not context.quick:
            yield _ensemble("32 runs of width 32, a step", small_configs(32))
        yield _whole_runs(context.pick(3, 32), context.pick(3, 100))
    yield from _garg(context)


def tiny_configs(n_runs: int) -> list[RunConfig]:
    """Runs of 15 tokens and batches of 16, which alone cannot keep a processor busy."""
    return _configs(n_runs, width=16, n_heads=2, batch=16, n_context=7)


def small_configs(n_runs: int) -> list[RunConfig]:
    """Runs of 49 tokens and batches of 64, which nearly can."""
    return _configs(n_runs, width=32, n_heads=2, batch=64, n_context=24)


def _configs(n_runs: int, *, width: int, n_heads: int, batch: int, n_context: int) -> list[RunConfig]:
    return [
        RunConfig.from_dict(
            {
                "seed": seed,
                "task": {"name": "linear", "d": 5},
                "model": {"width": width, "n_heads": n_heads, "n_layers": 1, "ffn_width": 2 * width},
                "training": {"batch": batch, "n_context": n_context, "steps": 1000},
            }
        )
        for seed in range(n_runs)
    ]


def chunked(configs: Sequence[RunConfig], size: int, device: str = "cpu") -> list[Ensemble]:
    """Numbers of runs in an ensemble."""
    return [Ensemble(configs[start : start + size], device) for start in range(0, len(configs), size)]


def _ensemble(what: str, configs: list[RunConfig], device: str = "cpu", targets: tuple[Target, ...] = ()) -> Comparison:
    size = plan(configs, _MEMORY, device=device).size
    together, alone = chunked(configs, size, device), chunked(configs, 1, device)
    n_parameters = together[0].optimizer.values[0].numel()
    settings = configs[0].training
    tokens = settings.batch * (2 * int(settings.n_context) + 1)
    return Comparison(
        f"{what} (trained {size} at a time)",
        Side("ensemble", lambda: [one.step() for one in together]),
        Side("one after another", lambda: [one.step() for one in alone]),
        lambda: [_same_parameters(chunked(configs, size, device), chunked(configs, 1, device), steps=3)],
        _floor(n_parameters * len(configs), tokens),
        targets,
    )


def _floor(n_parameters: int, tokens: int, dtype: str = "float32") -> Floor:
    return Floor(
        6.0 * n_parameters * tokens,
        # Adam reads and writes values and two moments, and reads gradients.
        7 * 4.0 * n_parameters,
        "6 · parameters · tokens of the batch; parameters and Adam's moments read and written",
        dtype,
    )


def _same_parameters(chunks: list[Ensemble], alone: list[Ensemble], steps: int) -> Agreement:
    for one in [*chunks, *alone]:
        for _ in range(steps):
            one.step()
    together = torch.cat([chunk.optimizer.values for chunk in chunks])
    single = torch.cat([one.optimizer.values for one in alone])
    # Adam divides by the root of a mean square: where that is near zero, rounding is a share of the whole step.
    return Agreement(f"parameters after {steps} steps", float((together - single).abs().max()), tolerance=steps * 1e-3)


def _whole_runs(n_runs: int, steps: int) -> Comparison:
    """From the configurations to the trained parameters: initial values, prompts, steps."""
    configs = tiny_configs(n_runs)
    size = plan(configs, _MEMORY).size

    def trained(chunks: list[Ensemble]) -> Tensor:
        for chunk in chunks:
            for _ in range(steps):
                chunk.step()
        return torch.cat([chunk.optimizer.values for chunk in chunks])

    return Comparison(
        f"{n_runs} whole runs of width 16, {steps} steps (trained {size} at a time)",
        Side("ensemble", lambda: trained(chunked(configs, size))),
        Side("one after another", lambda: trained(chunked(configs, 1))),
        lambda: [_same_parameters(chunked(configs, size), chunked(configs, 1), steps=3)],
        most_pairs=3,
        repeat=False,
        warm_up=False,
    )


def garg_config(quick: bool, device: str = "cpu") -> RunConfig:
    """Return the standard model of Garg et al.: 12 layers, 8 heads, width 256, d = 20, 41 points, batches of 64.

    On a GPU it is compiled, and its products are in bfloat16.
    """
    faster = {"dtype": "bfloat16", "compile": True} if device == "cuda" else {}
    sizes = {"n_layers": 2, "n_heads": 2, "width": 32} if quick else {"n_layers": 12, "n_heads": 8, "width": 256}
    return RunConfig.from_dict(
        {
            "task": {"name": "linear", "d": 20},
            "model": {"name": "gpt2", "max_points": 41, **sizes},
            "training": {
                "batch": 4 if quick else 64,
                "n_context": 40,
                "learning_rate": 1e-4,
                "steps": 500_000,
                **faster,
            },
        }
    )


def _garg(context: Context) -> Iterator[Entry]:
    ours = Ensemble([garg_config(context.quick, context.device)], context.device)
    n_parameters = ours.optimizer.values[0].numel()
    tokens = ours.configs[0].training.batch * 81
    floor = _floor(n_parameters, tokens, "bfloat16" if context.device == "cuda" else "float32")
    for name, make in LOOPS.items():
        theirs = make(Ensemble([garg_config(context.quick)], context.device))
        if isinstance(theirs, Absent):
            yield theirs
            continue
        size = {"name": name, "quick": context.quick, "device": context.device}
        yield Comparison(
            f"a step of Garg's {'small ' if context.quick else 'standard '}model, batch "
            f"{ours.configs[0].training.batch}",
            Side("ensemble of one run", ours.step, _probe({**size, "name": "ours"})),
            Side(name, theirs.step, _probe(size)),
            partial(same_losses, context.quick, make, context.device),
            floor,
            most_pairs=5,
            repeat=False,
        )


def _probe(size: dict[str, Any]) -> Probe:
    return Probe("iclens.benchmarks.cases.training:step_call", size, {"quick": True}, with_building=True)


def step_call(name: str, quick: bool, device: str) -> Callable[[], object]:
    """One training step of the standard model, ours or a loop's."""
    ours = Ensemble([garg_config(quick, device)], device)
    if name == "ours":
        return ours.step
    loop = LOOPS[name](ours)
    assert not isinstance(loop, Absent), loop.reason
    return loop.step


def same_losses(quick: bool, make: Callable[[Ensemble], Any], device: str = "cpu") -> list[Agreement]:
    """Return the losses of two steps from the same weights on the same prompts."""
    ours = Ensemble([garg_config(quick, device)], device)
    theirs = make(ours)
    losses = [(float(ours.step()), theirs.step()) for _ in range(2)]
    error = max(abs(one - other) / abs(other) for one, other in losses)
    # bfloat16 keeps 8 bits of every product.
    return [Agreement("losses of two steps", error, 1e-4 if device == "cpu" else 2e-2)]


class Loop:
    """A model on interleaved tokens that starts from our weights and sees our prompts."""

    def __init__(self, ours: Ensemble, backbone: Any, read_in: torch.nn.Linear, read_out: torch.nn.Linear) -> None:
        source = {name: value[0] for name, value in ours.model.named_parameters()}
        targets: list[tuple[Any, str]] = [(backbone.ln_f, "final_norm")]
        for place, block in enumerate(backbone.h):
            parts = (
                (block.attn.c_attn, "qkv"),
                (block.attn.c_proj, "out"),
                (block.mlp.c_fc, "ffn.0"),
                (block.mlp.c_proj, "ffn.2"),
                (block.ln_1, "norm_attention"),
                (block.ln_2, "norm_ffn"),
            )
            targets += [(target, f"blocks.{place}.{name}") for target, name in parts]
        with torch.no_grad():
            for layer, name in ((read_in, "read_in"), (read_out, "read_out")):
                layer.weight.copy_(source[f"{name}.weight"].mT)
                layer.bias.copy_(source[f"{name}.bias"])
            for target, name in targets:
                target.weight.copy_(source[f"{name}.weight"])
                target.bias.copy_(source[f"{name}.bias"])
            positions = source["positions"]
            backbone.wpe.weight[: len(positions)].copy_(positions)
        for module in (backbone, read_in, read_out):
            module.to(ours.device)
        self.prompts: Callable[[int], tuple[Tensor, Tensor]] = Ensemble(ours.configs, ours.device).stream.at
        self.count = 0

    def next_prompts(self) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels of the next step."""
        xs, ys = (one[0] for one in self.prompts(self.count))
        self.count += 1
        return xs, ys


class TransformersLoop(Loop):
    """The loop of a script: GPT2Model on interleaved tokens, all prefixes, Adam, the loss read at every step."""

    def __init__(self, ours: Ensemble) -> None:
        from transformers import GPT2Config, GPT2Model

        options = ours.configs[0].model.options
        config = GPT2Config(
            n_positions=81, n_embd=options["width"], n_layer=options["n_layers"], n_head=options["n_heads"],
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, use_cache=False,
        )  # fmt: skip
        self.model = GPT2Model(config)
        self.read_in, self.read_out = torch.nn.Linear(20, options["width"]), torch.nn.Linear(options["width"], 1)
        super().__init__(ours, self.model, self.read_in, self.read_out)
        parameters = [
            *self.read_in.parameters(),
            *self.read_out.parameters(),
            *(value for name, value in self.model.named_parameters() if not name.startswith("wte")),
        ]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-4)

    def step(self) -> float:
        """Take one optimiser step and return the loss before it."""
        xs, ys = self.next_prompts()
        wide = torch.cat([ys, ys.new_zeros(*ys.shape[:-1], xs.shape[-1] - 1)], -1)
        tokens = torch.stack([xs, wide], 2).view(len(xs), -1, xs.shape[-1])[:, :-1]
        hidden = self.model(inputs_embeds=self.read_in(tokens)).last_hidden_state
        loss = (self.read_out(hidden)[:, ::2] - ys).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


class GargLoop(Loop):
    """The published training step on the published model, fed with our prompts."""

    def __init__(self, ours: Ensemble, repository: GargRepository) -> None:
        options = ours.configs[0].model.options
        self.model = repository.models.TransformerModel(
            n_dims=20,
            n_positions=101,
            n_embd=options["width"],
            n_layer=options["n_layers"],
            n_head=options["n_heads"],
        )
        super().__init__(ours, self.model._backbone, self.model._read_in, self.model._read_out)
        self.train_step = repository.train_step
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def step(self) -> float:
        """Take one optimiser step and return the loss before it."""
        xs, ys = self.next_prompts()
        loss, _ = self.train_step(self.model, xs, ys[..., 0], self.optimizer, torch.nn.functional.mse_loss)
        return loss


def _garg_loop(ours: Ensemble) -> GargLoop | Absent:
    repository = garg_repository()
    return repository if isinstance(repository, Absent) else GargLoop(ours, repository)


LOOPS: dict[str, Callable[[Ensemble], TransformersLoop | GargLoop | Absent]] = {
    "transformers.GPT2Model in a loop": TransformersLoop,
    "training step of Garg's repository": _garg_loop,
}
