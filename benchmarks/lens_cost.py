"""What the lens costs against a plain forward pass, at the shape of GPT-2 small and 512 tokens.

    python benchmarks/lens_cost.py [--tokens 512] [--pairs 9] [--threads 2] [--json FILE]

Outputs are compared before anything is timed: a ratio is printed only when they agree. The floor of a plain forward is
2 · parameters · tokens operations without the unembedding; capturing the read-out row of every head adds
2 · heads · tokens · width operations a layer, a thousandth of that.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
from pathlib import Path

import torch
from captum.attr import FeatureAblation
from transformers import GPT2Config, GPT2LMHeadModel

from iclens import DualModel
from iclens.lens.gradient_step import gradient_step
from iclens.lens.knock_out import knock_out
from iclens.lens.loading import LensModel
from iclens.lens.readout import Readout
from iclens.lens.trace import trace
from pairs import machine, ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--demonstrations", type=int, default=16)
    parser.add_argument("--query-tokens", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    # First, before the model below raises the peak of this process.
    memory = long_context()
    print(f"one head, 32,768 keys, one query: {memory}")
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).eval()
    lens_model = LensModel.wrap(model, name="gpt2-small-shaped")
    n, n_demonstrations = options.tokens, options.demonstrations
    ids = torch.randint(0, model.config.vocab_size, (n,))
    query_start = n - options.query_tokens
    width = query_start // n_demonstrations
    groups = torch.arange(n) // width
    groups[groups >= n_demonstrations] = -1
    groups[query_start:] = -1
    readout = Readout.contrast(n - 1, 11, list(range(12, 21)))
    sets = [(i,) for i in range(n_demonstrations)]

    @torch.no_grad()
    def forward() -> torch.Tensor:
        return model(input_ids=ids[None], use_cache=False).logits[0, -1]

    @torch.no_grad()
    def forward_last_logits() -> torch.Tensor:
        return model(input_ids=ids[None], use_cache=False, logits_to_keep=1).logits[0, -1]

    def contributions() -> torch.Tensor:
        return gradient_step(trace(lens_model, ids, readout, query_start)).contributions

    def contributions_and_knock_out() -> torch.Tensor:
        traced = trace(lens_model, ids, readout, query_start)
        gradient_step(traced)
        return knock_out(traced, groups, sets).margins

    def margin(embeddings_mask: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=embeddings_mask, use_cache=False, logits_to_keep=1).logits
        return logits[:, -1, 11] - logits[:, -1, 12:21].mean(-1)

    ablation = FeatureAblation(margin)
    feature_mask = torch.where(groups < 0, n_demonstrations, groups)[None]

    @torch.no_grad()
    def captum() -> torch.Tensor:
        return ablation.attribute(ids[None], feature_mask=feature_mask, perturbations_per_eval=n_demonstrations)

    traced = trace(lens_model, ids, readout, query_start)
    step = gradient_step(traced)
    agree = {
        "logits of the traced pass against the plain pass": float(
            (traced.logits[-1] - forward()).abs().max() / forward().abs().max()
        ),
        "contributions and the rest against the margin": step.residual,
        "knock-out of nothing against the plain pass": knock_out(traced, groups, sets).residual,
    }
    print(json.dumps(agree, indent=1))
    if max(agree.values()) > 1e-5:
        print("outputs disagree: no ratio is printed")
        return 1

    cases = {
        "contributions / forward (all logits)": (contributions, forward, 1.3),
        "contributions / forward (last logits only)": (contributions, forward_last_logits, 1.3),
        "contributions + knock-out of 16 / forward (all logits)": (contributions_and_knock_out, forward, 2.5),
        "contributions + knock-out of 16 / forward (last logits only)": (
            contributions_and_knock_out,
            forward_last_logits,
            2.5,
        ),
    }
    results = {}
    for name, (a, b, target) in cases.items():
        found = ratio(a, b, options.pairs)
        results[name] = dataclasses.asdict(found) | {"target": target}
        print(f"{name:<62} {found.median:5.2f} ({found.low:.2f}–{found.high:.2f}), target ≤ {target}")
    name = "captum feature ablation of 16 / contributions + knock-out of 16"
    found = ratio(captum, contributions_and_knock_out, max(3, options.pairs // 3), warm_up=1)
    results[name] = dataclasses.asdict(found) | {"target": 5}
    print(f"{name:<62} {found.median:5.2f} ({found.low:.2f}–{found.high:.2f}), target ≥ 5")
    results["one head, 32,768 keys, one query"] = memory
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "residuals": agree, "ratios": results}, indent=1))
    return 0


def long_context() -> dict[str, float]:
    """Growth of the process's peak memory over the contributions of 4,096 demonstrations, for one query."""
    q, k, v = torch.randn(1, 64), torch.randn(32768, 64), torch.randn(32768, 64)
    groups = torch.arange(32768) // 8
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    DualModel.from_attention(q, k, v, groups).contributions()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "peak_growth_MiB": grown / 1024,
        "keys_and_values_MiB": 2 * k.numel() * 4 / 2**20,
        "dense_n_by_n_MiB": 4096.0,
    }


if __name__ == "__main__":
    raise SystemExit(main())
