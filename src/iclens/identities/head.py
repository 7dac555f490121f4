"""One softmax head: Ren & Liu 2024, Theorem 3.1, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from iclens.dual import DualModel
from iclens.identities.checks import Setting, identity, relative, worst

_SCORES = (0.1, 1.0, 30.0, 1e3, 1e4)
"""Largest |score| of the inputs, from nearly uniform attention to one that overflows exp by far."""


def _inputs(
    setting: Setting, *, largest_scores: tuple[float, ...] = _SCORES, largest_n: int = 257
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None, int, float]]:
    """(q, k, v, mask, number of demonstrations, largest |score|) over sizes, masks and scores."""
    generator = setting.generator()
    for n_key, d in ((1, 1), (2, 128), (15, 11), (64, 64), (257, 32)):
        for largest in largest_scores if n_key <= largest_n else ():
            q, k, v = (setting.randn(generator, 2, n, width) for n, width in ((3, d), (n_key, d), (n_key, 7)))
            factor = (largest / (q @ k.mT * d**-0.5).abs().max()).sqrt()
            mask = torch.rand(2, 3, n_key, generator=generator).to(setting.device) < 0.7
            mask[..., 0] = True
            for chosen in (None, mask):
                yield q * factor, k * factor, v, chosen, max(1, n_key * 2 // 3), largest


def _allowed(largest: float) -> float:
    """Rounding of a score of size s is s · eps: residuals are divided by this."""
    return max(1.0, largest / 10)


@identity(
    "theorem-3.1",
    statement="softmax attention = the dual model's prediction W φ(q) after one gradient step",
    source="Ren & Liu 2024, Theorem 3.1",
    tolerance_single=2e-6,
)
def theorem(setting: Setting) -> float:
    """Against PyTorch's own attention of the same dtype, divided by max(1, largest |score|/10)."""
    return worst(
        relative(DualModel.from_attention(q, k, v, n, mask=mask).predict(), _attention(q, k, v, mask)) / _allowed(size)
        for q, k, v, mask, n, size in _inputs(setting)
    )


@identity(
    "decomposition",
    statement="W_0 φ(q) + the demonstrations' contributions = attention",
    source="Ren & Liu 2024, Theorem 3.1 (derived: W_0 and D)",
    tolerance_single=4e-6,
)
def decomposition(setting: Setting) -> Iterator[float]:
    """Against the size of the values, divided by max(1, largest |score|/10)."""
    for q, k, v, mask, n, size in _inputs(setting):
        dual = DualModel.from_attention(q, k, v, n, mask=mask)
        found = dual.initial() + dual.contributions().sum(-2)
        yield ((found - _attention(q, k, v, mask)).abs().max() / v.abs().max() / _allowed(size)).item()


@identity(
    "knock-out",
    statement="without(i) = attention over the other keys, D recomputed",
    source="derived (docs/theory/dual-model.md)",
    tolerance_single=4e-6,
)
def knock_out(setting: Setting) -> float:
    """Leaves out the first demonstration and compares with attention on the shorter context."""
    return worst(
        relative(DualModel.from_attention(q, k, v, n).without(0), _attention(q, k[:, 1:], v[:, 1:], None)) / _allowed(s)
        for q, k, v, mask, n, s in _inputs(setting)
        if mask is None and k.shape[-2] > 1
    )


@identity(
    "autograd-step",
    statement="a real W over Mercer features, trained by autograd for one step, gives attention",
    source="Ren & Liu 2024, Theorem 3.1 (derived: empirical Mercer map)",
    tolerance=1e-8,
)
def autograd_step(setting: Setting) -> float:
    """Scores up to 30 in absolute value, float64."""
    return worst(_trained(setting, steps=1, order="batch"))


@identity(
    "many-small-steps",
    statement="k full-batch steps at η/k land on attention",
    source="derived: the loss is linear in W",
    tolerance=1e-8,
)
def many_small_steps(setting: Setting) -> float:
    """Five steps."""
    return worst(_trained(setting, steps=5, order="batch"))


@identity(
    "one-demonstration-at-a-time",
    statement="one demonstration a step, in any order, lands on attention",
    source="derived: the loss is linear in W",
    tolerance=1e-8,
)
def one_demonstration_at_a_time(setting: Setting) -> float:
    """Return the order of the prompt reversed."""
    return worst(_trained(setting, steps=1, order="reversed"))


@identity(
    "loss-drop",
    statement="the step lowers Theorem 3.1's loss by ‖W − W_0‖²_F / η",
    source="derived: the loss is linear in W",
    tolerance=1e-9,
)
def loss_drop(setting: Setting) -> Iterator[float]:
    """The loss from Gram matrices against the norm of the trained explicit weights."""
    for q, k, v, mask, n, _ in _inputs(setting, largest_scores=(0.1, 1.0, 5.0), largest_n=64):
        dual = DualModel.from_attention(q, k, v, n, mask=mask)
        explicit = dual.explicit("mercer")
        training = explicit.train()
        norm = (training.W - training.W_0).norm(dim=(-2, -1)) * (-explicit.features.log_scale_q).exp()
        loss = dual.loss()
        yield relative(loss.before - loss.after, norm.square())


@identity(
    "weight-norm",
    statement="‖Ŵ‖²_F = (1/D²) Tr(V Vᵀ K), from Gram matrices",
    source="derived (docs/theory/bound.md)",
    tolerance=1e-9,
)
def weight_norm(setting: Setting) -> Iterator[float]:
    """Against the Frobenius norm of the trained explicit weights."""
    for q, k, v, mask, n, _ in _inputs(setting, largest_scores=(0.1, 1.0, 5.0), largest_n=64):
        dual = DualModel.from_attention(q, k, v, n, mask=mask)
        explicit = dual.explicit("mercer")
        norm = explicit.train().W.norm(dim=(-2, -1)) * (-explicit.features.log_scale_q).exp()
        yield relative(dual.weight_norm(), norm)


@identity(
    "causal-growth",
    statement="causal attention at t = the dual model trained on the first t tokens",
    source="derived (causal mask)",
    tolerance_single=4e-6,
)
def causal_growth(setting: Setting) -> float:
    """Return a causal mask against growing contexts."""
    generator = setting.generator()
    q, k, v = (setting.randn(generator, 2, 24, 8) for _ in range(3))
    mask = torch.ones(24, 24, dtype=torch.bool, device=setting.device).tril()
    whole = DualModel.from_attention(q, k, v, 24, mask=mask).predict()
    grown = [_attention(q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1], None) for t in range(24)]
    return relative(whole, torch.cat(grown, -2))


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _trained(setting: Setting, steps: int, order: str) -> Iterator[float]:
    for q, k, v, mask, n, _ in _inputs(setting, largest_scores=(0.1, 30.0), largest_n=64):
        dual = DualModel.from_attention(q, k, v, n, mask=mask)
        schedule = list(reversed(range(n))) if order == "reversed" else "batch"
        training = dual.explicit("mercer").train(steps=steps, order=schedule)  # type: ignore[arg-type]
        yield relative(training.prediction, _attention(q, k, v, mask))
