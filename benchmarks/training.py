"""What training costs: an ensemble against its runs one after another, and our GPT-2 against a plain loop.

    python benchmarks/training.py [--cases tiny small garg] [--pairs 5] [--threads 2] [--json FILE]

`tiny`: 64 runs of width 16, prompts of 15 tokens, batches of 16. `small`: 32 runs of width 32, 49 tokens, batches of
64. Both sides are whole optimiser steps of `iclens.training.ensemble.Ensemble`, prompts drawn and Adam included; the
chunk of an ensemble is the one that `iclens sweep` measures. The parameters after the steps are compared first.

`garg`: a step of the standard model of Garg et al. (12 layers, 8 heads, width 256, d = 20, 41 points, batch 64)
against the plain loop around `transformers.GPT2Model` with a linear read-in and read-out, Adam, and `.item()` at each
step. Both start from the same weights and see the same prompts; the losses are compared first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from iclens.sweeps.chunks import plan
from iclens.training.config import RunConfig
from iclens.training.ensemble import Ensemble
from pairs import machine, ratio

GIB = 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="compile both sides of tiny and small")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.cases:
        rows.append({"case": name, **CASES[name](options)})
        print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "threads": options.threads, "rows": rows}, indent=2))
    return 0


def tiny(options: argparse.Namespace) -> dict[str, object]:
    return ensembles(64, width=16, n_heads=2, batch=16, n_context=7, options=options)


def small(options: argparse.Namespace) -> dict[str, object]:
    return ensembles(32, width=32, n_heads=2, batch=64, n_context=24, options=options)


def ensembles(
    n_runs: int, *, width: int, n_heads: int, batch: int, n_context: int, options: argparse.Namespace
) -> dict[str, object]:
    def config(seed: int) -> RunConfig:
        return RunConfig.from_dict(
            {
                "seed": seed,
                "task": {"name": "linear", "d": 5},
                "model": {"width": width, "n_heads": n_heads, "n_layers": 1, "ffn_width": 2 * width},
                "training": {"batch": batch, "n_context": n_context, "steps": 1000, "compile": options.compile},
            }
        )

    configs = [config(seed) for seed in range(n_runs)]
    chosen = plan(configs, 4 * GIB)
    chunks = [Ensemble(configs[start : start + chosen.size]) for start in range(0, n_runs, chosen.size)]
    alone = [Ensemble([one]) for one in configs]
    error = agreement(chunks, alone)

    def together() -> None:
        for chunk in chunks:
            chunk.step()

    def one_by_one() -> None:
        for one in alone:
            one.step()

    found = ratio(one_by_one, together, options.pairs)
    return {
        "runs": n_runs,
        "chunk": chosen.size,
        "milliseconds a run and step": {size: round(1e3 * value, 3) for size, value in chosen.measured.items()},
        "error": error,
        "times faster": dataclasses.asdict(found),
    }


def agreement(chunks: list[Ensemble], alone: list[Ensemble]) -> float:
    for one in [*chunks, *alone]:
        for _ in range(3):
            one.step()
    ensemble = torch.cat([chunk.optimizer.values for chunk in chunks])
    single = torch.cat([one.optimizer.values for one in alone])
    error = float((ensemble - single).abs().max())
    # Adam divides by the root of a mean square: where that is near zero, rounding is a share of the whole step.
    assert error < 3 * 1e-3, f"the ensemble is off by {error}"
    return error


def garg(options: argparse.Namespace) -> dict[str, object]:
    config = RunConfig.from_dict(
        {
            "task": {"name": "linear", "d": 20},
            "model": {"name": "gpt2", "max_points": 41},
            "training": {"batch": 64, "n_context": 40, "learning_rate": 1e-4, "steps": 500_000},
        }
    )
    ours = Ensemble([config])
    theirs = PlainLoop(ours)
    losses = [(float(ours.step()), theirs.step()) for _ in range(2)]
    error = max(abs(one - other) / other for one, other in losses)
    assert error < 1e-4, f"the losses differ: {losses}"
    found = ratio(theirs.step, ours.step, options.pairs)
    return {"losses": losses, "error": error, "times faster": dataclasses.asdict(found)}


class PlainLoop:
    """The loop of a script: GPT2Model on interleaved tokens, all prefixes, Adam, the loss printed at every step."""

    def __init__(self, ours: Ensemble) -> None:
        from transformers import GPT2Config, GPT2Model

        source = {name: value[0] for name, value in ours.model.named_parameters()}
        config = GPT2Config(
            n_positions=81, n_embd=256, n_layer=12, n_head=8, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, use_cache=False
        )
        self.model = GPT2Model(config)
        self.read_in, self.read_out = torch.nn.Linear(20, 256), torch.nn.Linear(256, 1)
        with torch.no_grad():
            for layer, name in ((self.read_in, "read_in"), (self.read_out, "read_out")):
                layer.weight.copy_(source[f"{name}.weight"].mT)
                layer.bias.copy_(source[f"{name}.bias"])
            self.model.wpe.weight.copy_(source["positions"])
            for place, block in enumerate(self.model.h):
                for target, name in (
                    (block.attn.c_attn, "qkv"),
                    (block.attn.c_proj, "out"),
                    (block.mlp.c_fc, "ffn.0"),
                    (block.mlp.c_proj, "ffn.2"),
                    (block.ln_1, "norm_attention"),
                    (block.ln_2, "norm_ffn"),
                ):
                    target.weight.copy_(source[f"blocks.{place}.{name}.weight"])
                    target.bias.copy_(source[f"blocks.{place}.{name}.bias"])
            self.model.ln_f.weight.copy_(source["final_norm.weight"])
            self.model.ln_f.bias.copy_(source["final_norm.bias"])
        parameters = [
            *self.read_in.parameters(), *self.read_out.parameters(),
            *(value for name, value in self.model.named_parameters() if not name.startswith("wte")),
        ]  # fmt: skip
        self.optimizer = torch.optim.Adam(parameters, lr=1e-4)
        self.prompts: Callable[[int], tuple[Tensor, Tensor]] = Ensemble(ours.configs).stream.at
        self.count = 0

    def step(self) -> float:
        xs, ys = (one[0] for one in self.prompts(self.count))
        self.count += 1
        wide = torch.cat([ys, torch.zeros(*ys.shape[:-1], xs.shape[-1] - 1)], -1)
        tokens = torch.stack([xs, wide], 2).view(len(xs), -1, xs.shape[-1])[:, :-1]
        hidden = self.model(inputs_embeds=self.read_in(tokens)).last_hidden_state
        loss = (self.read_out(hidden)[:, ::2] - ys).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


CASES: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {"tiny": tiny, "small": small, "garg": garg}

if __name__ == "__main__":
    raise SystemExit(main())
