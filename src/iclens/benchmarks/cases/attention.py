"""Attention variants against PyTorch's fused attention and their naive forms, and feature maps against Performer's."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from iclens.attention import AttentionVariant, build
from iclens.attention.attending import Attending
from iclens.benchmarks.case import CASES, Agreement, Comparison, Context, Entry, Probe, Side, on_gpu, takes
from iclens.benchmarks.ceilings import Floor
from iclens.benchmarks.peers import missing

HEADS, WIDTH = 8, 64

VARIANTS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "regularized": {"alpha": 0.5},
    "weight-decay": {"alpha": 0.5},
    "augmented": {"g1": "adapter", "g2": "adapter"},
    "negative": {"n_negatives": 1, "beta": 0.1},
    "negative, 3": {"n_negatives": 3, "beta": 0.1},
    "negative of keys": {"n_negatives": 1, "beta": 0.1, "selection": "key"},
    "momentum": {"momentum": 0.5},
}


@CASES.register("attention")
@takes(minutes=4, long=18)
@on_gpu
def attention(context: Context) -> Iterator[Entry]:
    """Attention variants: fused attention and the naive forms; random features: performer-pytorch. Also on a GPU."""
    on_gpu = context.device == "cuda"
    names = context.pick(("softmax", "negative"), ("negative",) if on_gpu else tuple(VARIANTS))
    sizes = context.pick((128,), *(((8192,),) if on_gpu else ((512, 2048), (512, 1024, 2048, 4096))))
    # On both sides the flash kernel, so that the fused attention is not a slower one.
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if on_gpu else contextlib.nullcontext():
        for n in sizes:
            for name in names:
                yield from _variant(context, name, n)
        if not on_gpu:
            yield from _naive(context)
            yield _random_features(context)


def _variant(context: Context, name: str, n: int) -> Iterator[Entry]:
    """Forward, and forward with backward, against fused attention (with its own maps where it has some)."""
    for is_causal in (False, True):
        for backward in (False, True):
            if is_causal and (backward or n == 512):
                continue
            size: dict[str, Any] = {"n": n, "is_causal": is_causal, "backward": backward, "device": context.device}
            products = 2 if not backward else 7
            # Scores and values forward; the backward pass forms the scores again and four products more.
            operations = products * 2.0 * HEADS * n * n * WIDTH / (2 if is_causal else 1)
            if name.startswith("negative"):
                operations *= 1.5 if not backward else 8 / 7
            bytes_ = 4.0 * HEADS * n * WIDTH * (4 if not backward else 12)
            words = ("causal, " if is_causal else "") + ("forward and backward" if backward else "forward")
            yield Comparison(
                f"{name}, {n:,} tokens, {words}",
                Side(name, variant_call(name, **size), _probe(name, size)),
                Side(_fused_name(name), variant_call(f"fused {name}", **size), _probe(f"fused {name}", size)),
                partial(agreements, name, min(n, 1000), is_causal, backward, context.device),
                Floor(
                    operations,
                    bytes_ if context.device == "cpu" else bytes_ / 2,
                    "2 · heads · tokens² · width for each product of scores (forward 2, with backward 7; negatives "
                    "one more to find them); half of it when causal",
                    "float32" if context.device == "cpu" else "bfloat16",
                ),
                most_pairs=7,
            )


def _fused_name(name: str) -> str:
    return "fused attention with its maps" if name == "augmented" else "fused attention"


def _probe(name: str, size: dict[str, Any], *, always: bool = False) -> Probe | None:
    # Memory says most where training needs it, and each probe costs seconds.
    wanted = size["backward"] and not size["is_causal"] and size["n"] in (128, 2048, 4096, 8192)
    found = Probe("iclens.benchmarks.cases.attention:variant_call", {"name": name, **size}, {"n": 16})
    return found if wanted or always else None


def variant_call(name: str, n: int, is_causal: bool, backward: bool, device: str) -> Callable[[], object]:
    """Attention of one kind on random tokens; names that begin with `fused ` or `naive ` are the references."""
    way, _, rest = name.partition(" ")
    variant = made(rest if way in ("fused", "naive") else name, device)
    generator = torch.Generator().manual_seed(1)
    q, k, v, cotangent = (
        torch.randn(1, HEADS, n, WIDTH, generator=generator).to(device, _dtype(device)) for _ in "qkvc"
    )
    leaves = [x.requires_grad_(backward) for x in (q, k, v)]

    def fused() -> Tensor:
        if rest == "augmented":
            changed = variant.modified(k, v, Attending.of(q, k, v, is_causal=is_causal))
            return scaled_dot_product_attention(q, *changed, is_causal=is_causal)
        return scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    def naive() -> Tensor:
        return variant.naive(q, k, v, Attending.of(q, k, v, is_causal=is_causal))

    def ours() -> Tensor:
        return variant(q, k, v, is_causal=is_causal)

    forward = {"fused": fused, "naive": naive}.get(way, ours)
    if not backward:
        return torch.no_grad()(forward)

    def both() -> list[Tensor | None]:
        for leaf in leaves:
            leaf.grad = None
        forward().backward(cotangent)
        return [leaf.grad for leaf in leaves]

    return both


def made(name: str, device: str) -> AttentionVariant:
    """Return a variant with the options of its entry in `VARIANTS`, the same weights every time."""
    kind = name.split(",")[0].split(" ")[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        variant = build(kind, n_heads=HEADS, d=WIDTH, d_v=WIDTH, **VARIANTS[name])
    return variant.to(device, _dtype(device))


def _dtype(device: str) -> torch.dtype:
    return torch.bfloat16 if device == "cuda" else torch.float32


def agreements(name: str, n: int, is_causal: bool, backward: bool, device: str) -> list[Agreement]:
    """Outputs, and gradients too if wanted, against the naive form, which keeps whole matrices: at few tokens."""
    size: dict[str, Any] = {"n": n, "is_causal": is_causal, "device": device}
    ours, naive = (cast(Tensor, variant_call(way, backward=False, **size)()) for way in (name, f"naive {name}"))
    # Half precision rounds every weight; float32 gradients add up rounding over all queries.
    tolerances = (3e-2, 6e-2) if device == "cuda" else (1e-5, 1e-4)
    found = [Agreement.of(f"{name} and its naive form, {n} tokens", ours, naive, tolerances[0])]
    if backward:
        mine, theirs = (
            cast(list[Tensor], variant_call(way, backward=True, **size)()) for way in (name, f"naive {name}")
        )
        for leaf, one, other in zip("qkv", mine, theirs, strict=True):
            found.append(Agreement.of(f"gradient of {leaf}", one, other, tolerances[1]))
    return found


def _naive(context: Context) -> Iterator[Entry]:
    n = context.pick(128, 1024)
    for name in context.pick(("negative",), ("softmax", "regularized", "weight-decay", "negative")):
        size: dict[str, Any] = {"n": n, "is_causal": False, "backward": True, "device": "cpu"}
        yield Comparison(
            f"{name}, {n:,} tokens, forward and backward",
            Side(name, variant_call(name, **size), _probe(name, size, always=True)),
            Side("naive form", variant_call(f"naive {name}", **size), _probe(f"naive {name}", size, always=True)),
            partial(agreements, name, n, False, True, "cpu"),
        )


def _random_features(context: Context) -> Entry:
    """Attention through positive random features, with Performer's own projection on both sides."""
    absent = missing("performer_pytorch")
    if absent is not None:
        return absent
    with warnings.catch_warnings():
        # The peer imports what is deprecated: not a warning about us.
        warnings.simplefilter("ignore", DeprecationWarning)
        from performer_pytorch.performer_pytorch import linear_attention, softmax_kernel

    from iclens.features.positive_random import PositiveRandomFeatures
    from iclens.kernels import SoftmaxKernel

    n, n_features = context.pick(128, 4096), 256
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, HEADS, n, WIDTH, generator=generator) for _ in range(3))
    q, k = q / 2, k / 2
    maps = PositiveRandomFeatures(n_features)
    kernel = SoftmaxKernel(scale=WIDTH**-0.5)
    directions = maps.directions(WIDTH).to(q)

    def ours() -> Tensor:
        phi_q, _ = maps.features(q, kernel)
        phi_k, log_scale = maps.features(k, kernel)
        phi_k = phi_k * (log_scale - log_scale.amax(-1, keepdim=True)).exp()[..., None]
        sums = phi_q @ (phi_k.mT @ torch.cat([v, v.new_ones(*v.shape[:-1], 1)], -1))
        return sums[..., :-1] / sums[..., -1:]

    def theirs() -> Tensor:
        options = {"projection_matrix": directions, "eps": 0.0}
        return linear_attention(
            softmax_kernel(q, is_query=True, **options), softmax_kernel(k, is_query=False, **options), v
        )

    def check() -> Sequence[Agreement]:
        return [Agreement.of("outputs with the same projection", ours(), theirs(), 1e-4)]

    # Two projections, the state and its use.
    operations = 2.0 * HEADS * n * n_features * (2 * WIDTH + 2 * (WIDTH + 1))
    return Comparison(
        f"attention through {n_features} positive random features, {n:,} tokens",
        Side("iclens", ours),
        Side("performer-pytorch", theirs),
        check,
        Floor(operations, 4.0 * HEADS * n * 4 * WIDTH, "2 · heads · tokens · features · (2 · width + 2 · (width + 1))"),
    )
