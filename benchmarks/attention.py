"""What the attention variants cost against PyTorch's fused attention: 8 heads of width 64, float32.

    python benchmarks/attention.py [--tokens 512 1024 2048 4096] [--causal] [--pairs 9] [--threads 2] [--json FILE]

Outputs are compared with the naive reference before anything is timed (up to 1,024 tokens: the reference keeps whole
matrices). `augmented` is timed against fused attention plus its own maps. The peak of memory is that of one forward and
backward pass in a fresh process, above that of the inputs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from iclens.attention import AttentionVariant, build
from iclens.attention.attending import Attending
from pairs import machine, ratio

VARIANTS: dict[str, dict[str, object]] = {
    "softmax": {},
    "regularized": {"alpha": 0.5},
    "weight-decay": {"alpha": 0.5},
    "augmented": {"g1": "adapter", "g2": "adapter"},
    "negative": {"k": 1, "beta": 0.1},
    "negative, 3": {"k": 3, "beta": 0.1},
    "negative of keys": {"k": 1, "beta": 0.1, "selection": "key"},
}
WIDTHS = {"n_heads": 8, "d": 64, "d_v": 64}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", choices=["fused", *VARIANTS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(memory(options.memory_of, options.tokens[0], options.causal))
        return 0
    rows = []
    for n in options.tokens:
        for name in options.variants:
            row = measured(name, n, options.causal, options.pairs)
            rows.append(row)
            print(
                f"{n:5d} tokens  {name:17s} forward {row['forward']['median']:.2f} "
                f"[{row['forward']['low']:.2f}, {row['forward']['high']:.2f}]  "
                f"with backward {row['both']['median']:.2f} [{row['both']['low']:.2f}, {row['both']['high']:.2f}]  "
                f"error {row['error']}",
                flush=True,
            )
    peaks = {
        name: {n: peak(name, n, options) for n in (options.tokens[0], options.tokens[-1])}
        for name in ("fused", "negative")
    }
    print(f"peak MiB above the inputs: {peaks}")
    if options.json:
        result = {"machine": machine(), "causal": options.causal, "rows": rows, "peak_mib": peaks}
        options.json.write_text(json.dumps(result, indent=2))
    return 0


def measured(name: str, n: int, is_causal: bool, pairs: int) -> dict[str, object]:
    torch.manual_seed(0)
    variant, (q, k, v) = made(name), inputs(n)
    error = None
    if n <= 1024:
        with torch.no_grad():
            expected = variant.naive(q, k, v, Attending.of(q, k, v, is_causal=is_causal))
            error = float((variant(q, k, v, is_causal=is_causal) - expected).abs().max() / expected.abs().max())
        assert error < 1e-5, f"{name} is off by {error}"

    def fused() -> Tensor:
        if name == "augmented":
            attending = Attending.of(q, k, v, is_causal=is_causal)
            return scaled_dot_product_attention(q, *variant.modified(k, v, attending), is_causal=is_causal)
        return scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    def ours() -> Tensor:
        return variant(q, k, v, is_causal=is_causal)

    with torch.no_grad():
        forward = ratio(ours, fused, pairs)
    cotangent = torch.randn(1, 8, n, 64)
    both = ratio(with_backward(ours, cotangent), with_backward(fused, cotangent), pairs)
    return {
        "variant": name,
        "tokens": n,
        "error": error,
        "forward": dataclasses.asdict(forward),
        "both": dataclasses.asdict(both),
    }


def made(name: str) -> AttentionVariant:
    return build(name.split(",")[0].split(" ")[0], **WIDTHS, **VARIANTS[name])


def inputs(n: int) -> list[Tensor]:
    return [torch.randn(1, 8, n, 64, requires_grad=True) for _ in range(3)]


def with_backward(call: Callable[[], Tensor], cotangent: Tensor) -> Callable[[], object]:
    # Gradients add up in the leaves: the same small cost on both sides.
    def both() -> None:
        call().backward(cotangent)

    return both


def peak(name: str, n: int, options: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory-of", name, "--tokens", str(n), "--threads", str(options.threads)]
    return float(subprocess.run([*command, *(["--causal"] * options.causal)], capture_output=True, check=True).stdout)


def memory(name: str, n: int, is_causal: bool) -> float:
    call = scaled_dot_product_attention if name == "fused" else made(name)
    small = [torch.randn(1, 8, 16, 64, requires_grad=True) for _ in range(3)]
    call(*small, is_causal=is_causal).sum().backward()
    leaves = inputs(n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call(*leaves, is_causal=is_causal).sum().backward()
    return round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1)


if __name__ == "__main__":
    raise SystemExit(main())
