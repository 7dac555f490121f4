"""What the attention variants cost against PyTorch's fused attention: 8 heads of width 64, float32.

    python benchmarks/attention.py [--tokens 512 1024 2048 4096] [--causal] [--pairs 9] [--threads 2] [--json FILE]
    python benchmarks/attention.py --device cuda [--causal]

On a GPU the numbers are bfloat16, the fused attention is the flash kernel on both sides, and the case is `negative` at
8,192 tokens unless others are named; the comparison with the reference is made at 1,000 tokens.

Outputs are compared with the naive reference before anything is timed (up to 1,024 tokens: the reference keeps whole
matrices). `augmented` is timed against fused attention plus its own maps. The peak of memory is that of one forward and
backward pass in a fresh process, above that of the inputs; without a GPU it needs Linux, and is null elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
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
    parser.add_argument("--tokens", type=int, nargs="+", help="default: 512 1024 2048 4096, on a GPU 8192")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: all, on a GPU negative")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", choices=["fused", *VARIANTS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that this PyTorch can use.")
    options.tokens = options.tokens or ([8192] if on_gpu else [512, 1024, 2048, 4096])
    options.variants = options.variants or (["negative"] if on_gpu else list(VARIANTS))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if on_gpu else contextlib.nullcontext():
        return run(options)


def run(options: argparse.Namespace) -> int:
    device = options.device
    if options.memory_of:
        print(json.dumps(memory(options.memory_of, options.tokens[0], options.causal, device)))
        return 0
    rows = []
    for n in options.tokens:
        for name in options.variants:
            row = measured(name, n, options.causal, options.pairs, device)
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
        for name in ("fused", *options.variants)
    }
    where = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    print("peak MiB above the inputs:", "not measured" if None in peaks["fused"].values() else peaks)
    if options.json:
        result = {"machine": machine(), "device": where, "causal": options.causal, "rows": rows, "peak_mib": peaks}
        options.json.write_text(json.dumps(result, indent=2))
    return 0


def measured(name: str, n: int, is_causal: bool, pairs: int, device: str) -> dict[str, object]:
    torch.manual_seed(0)
    variant, (q, k, v) = made(name, device), inputs(n, device)
    error = None
    if n <= 1024:
        error = error_of(name, variant, (q, k, v), is_causal)
    elif device == "cuda":
        error = error_of(name, variant, inputs(1000, device), is_causal)

    def fused() -> Tensor:
        if name == "augmented":
            attending = Attending.of(q, k, v, is_causal=is_causal)
            return scaled_dot_product_attention(q, *variant.modified(k, v, attending), is_causal=is_causal)
        return scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    def ours() -> Tensor:
        return variant(q, k, v, is_causal=is_causal)

    with torch.no_grad():
        forward = ratio(finished(ours, device), finished(fused, device), pairs)
    cotangent = torch.randn(1, 8, n, 64).to(q)
    ours_both, fused_both = (finished(with_backward(call, cotangent), device) for call in (ours, fused))
    both = ratio(ours_both, fused_both, pairs)
    return {
        "variant": name,
        "tokens": n,
        "error": error,
        "forward": dataclasses.asdict(forward),
        "both": dataclasses.asdict(both),
    }


@torch.no_grad()
def error_of(name: str, variant: AttentionVariant, leaves: Sequence[Tensor], is_causal: bool) -> float:
    q, k, v = leaves
    expected = variant.naive(q, k, v, Attending.of(q, k, v, is_causal=is_causal))
    error = float((variant(q, k, v, is_causal=is_causal) - expected).abs().max() / expected.abs().max())
    assert error < (3e-2 if q.dtype == torch.bfloat16 else 1e-5), f"{name} is off by {error}"
    return error


def made(name: str, device: str) -> AttentionVariant:
    variant = build(name.split(",")[0].split(" ")[0], **WIDTHS, **VARIANTS[name])
    return variant.to(device, dtype(device))


def dtype(device: str) -> torch.dtype:
    return torch.bfloat16 if device == "cuda" else torch.float32


def inputs(n: int, device: str) -> list[Tensor]:
    return [torch.randn(1, 8, n, 64).to(device, dtype(device)).requires_grad_() for _ in range(3)]


def finished(call: Callable[[], object], device: str) -> Callable[[], object]:
    """The call until the GPU is done with it."""

    def until_done() -> None:
        call()
        torch.cuda.synchronize()

    return until_done if device == "cuda" else call


def with_backward(call: Callable[[], Tensor], cotangent: Tensor) -> Callable[[], object]:
    # Gradients add up in the leaves: the same small cost on both sides.
    def both() -> None:
        call().backward(cotangent)

    return both


def peak(name: str, n: int, options: argparse.Namespace) -> float | None:
    command = [sys.executable, __file__, "--memory-of", name, "--tokens", str(n), "--threads", str(options.threads)]
    command += ["--device", options.device, *(["--causal"] * options.causal)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def memory(name: str, n: int, is_causal: bool, device: str) -> float | None:
    if device == "cpu" and not _CLEAR_REFS.exists():
        return None
    call = scaled_dot_product_attention if name == "fused" else made(name, device)
    call(*inputs(16, device), is_causal=is_causal).sum().backward()
    leaves = inputs(n, device)
    reset_peak(device)
    before = peak_so_far(device)
    call(*leaves, is_causal=is_causal).sum().backward()
    return round((peak_so_far(device) - before) / 2**20, 1)


_CLEAR_REFS = Path("/proc/self/clear_refs")


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        # The import of torch has a peak of its own, which would hide a smaller one; "5" sets it back (man 5 proc).
        _CLEAR_REFS.write_text("5")


def peak_so_far(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) * 1024


if __name__ == "__main__":
    raise SystemExit(main())
