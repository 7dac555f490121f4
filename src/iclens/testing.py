"""What every attention variant must satisfy; third parties hold their own against it in their tests."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from iclens.attention import AttentionVariant, HeadShape, build, name_of, softmax_attention
from iclens.attention.attending import Attending
from iclens.errors import UserError

_SHAPE = HeadShape(n_heads=4, d=8, d_v=8, n_kv_heads=2)


class Check(NamedTuple):
    """One law that held.

    Attributes:
        name: which.
        error: the largest relative error that was found: largest difference over largest entry of the reference, or
            for `fast float32` the norm of the difference over that of the reference.
        tolerance: what was allowed.
    """

    name: str
    error: float
    tolerance: float


def check_attention(
    variant: str | Callable[[HeadShape], AttentionVariant],
    *,
    sizes: Sequence[int] = (1, 7, 63, 1000),
    seed: int = 0,
    **options: Any,
) -> list[Check]:
    """Hold an attention variant against everything that a variant promises.

    - `fast`: `forward` against `naive` at every size, without a mask, causal, and with masks that leave out keys and
      whole rows. In float64 to 1e-12. In float32 to 1e-6 in norm, against `naive` in float32 and in float64; and every
      single entry to 1e-6 of the largest, or to twice the error that plain fused attention or `naive` has there on the
      same numbers, if that is more;
    - `gradients`: those of q, k, v and all parameters against the naive ones, at every size, in float64 (1e-10) and
      float32 (1e-5);
    - `dual`: the output is the prediction of the declared gradient step plus the declared residual, with the step in
      kernel form (1e-10) and taken by autograd on a real W (1e-6);
    - `neutral`: at neutral strength it is softmax attention to one unit in the last place;
    - `causal`: every row of causal attention is that of the shorter context (growing training sets, a KV cache), and
      `is_causal` agrees with the same mask given as a tensor;
    - `permutation` of the context, where the variant declares that it does not matter;
    - `batching`: a batch is its members, with any leading axes;
    - `groups`: grouped heads are repeated heads;
    - `masked`: keys that nobody may attend to change nothing and get no gradient; rows with nothing to attend to stay
      finite;
    - `bfloat16`: within its rounding of the float64 reference on the same numbers;
    - `options`: they rebuild the variant through JSON.

    Parameters are moved off their start (by seeded normal numbers) wherever the start would hide them.

    Args:
        variant: a registered name, or a function (or class) that makes the variant for a `HeadShape`.
        sizes: numbers of tokens at which the fast path and its gradients are compared; those that the variant refuses
            (too few tokens for its negatives) are skipped without causality.
        seed: of everything random.
        **options: the variant's options, when a name is given.

    Returns:
        The checks, with the errors found.

    Raises:
        AssertionError: a law does not hold; the message says which, where and by how much.
    """
    return _Checker(variant, sizes, seed, options).run()


class _Checker:
    def __init__(
        self,
        variant: str | Callable[[HeadShape], AttentionVariant],
        sizes: Sequence[int],
        seed: int,
        options: dict[str, Any],
    ) -> None:
        if not isinstance(variant, str) and options:
            raise UserError("options go with a registered name; a function makes the variant with its own.")
        self.given, self.options, self.sizes, self.seed = variant, options, sizes, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.found: dict[str, Check] = {}
        self.title = (
            f"{variant}({options})" if isinstance(variant, str) else getattr(variant, "__name__", repr(variant))
        )

    def run(self) -> list[Check]:
        before = torch.get_default_dtype()
        state = torch.get_rng_state()
        try:
            torch.manual_seed(self.seed)
            torch.set_default_dtype(torch.float64)
            self.neutral()
            self.variant = self.moved(self.make(_SHAPE))
            for check in (
                self.fast,
                self.gradients,
                self.dual,
                self.causal,
                self.permutation,
                self.batching,
                self.groups,
                self.masked,
                self.bfloat16,
                self.rebuilt,
            ):
                check()
        finally:
            torch.set_default_dtype(before)
            torch.set_rng_state(state)
        return list(self.found.values())

    def make(self, shape: HeadShape) -> AttentionVariant:
        if not isinstance(self.given, str):
            return self.given(shape).double()
        sizes = {"n_heads": shape.n_heads, "d": shape.d, "d_v": shape.d_v, "n_kv_heads": shape.n_kv_heads}
        return build(self.given, **sizes, **self.options).double()

    def moved(self, variant: AttentionVariant) -> AttentionVariant:
        with torch.no_grad():
            for parameter in variant.parameters():
                parameter.add_(0.3 * self.normal(*parameter.shape))
        return variant

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def tensors(self, n_query: int, n_key: int, *leading: int) -> tuple[Tensor, Tensor, Tensor]:
        s = self.variant.shape if hasattr(self, "variant") else _SHAPE
        return (
            self.normal(*leading, s.n_heads, n_query, s.d),
            self.normal(*leading, s.n_kv_heads, n_key, s.d),
            self.normal(*leading, s.n_kv_heads, n_key, s.d_v),
        )

    def mask(self, n_query: int, n_key: int, *leading: int) -> Tensor:
        """Return a random mask with a key that nobody may attend to, and a row that may attend to nothing."""
        mask = torch.rand(*leading, 1, n_query, n_key, generator=self.generator) < 0.7
        mask[..., n_key // 2] = n_key == 1
        mask[..., n_query // 2, :] = False
        return mask

    def naive(self, variant: AttentionVariant, q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
        mask = how.pop("mask", None)
        return variant.naive(q, k, v, Attending.of(q, k, v, mask, self_aligned=variant.self_aligned, **how))

    def holds(
        self,
        name: str,
        actual: Tensor,
        expected: Tensor,
        tolerance: float,
        where: str = "",
        *,
        measure: Callable[[Tensor, Tensor], float] | None = None,
    ) -> None:
        assert actual.shape == expected.shape, f"{self.title}: {name}{where}: {actual.shape} is not {expected.shape}"
        error = (measure or _relative)(actual, expected)
        assert error <= tolerance, f"{self.title}: {name}{where}: relative error {error:.2e} > {tolerance:.2e}"
        before = self.found.get(name, Check(name, 0.0, 0.0))
        self.found[name] = Check(name, max(error, before.error), max(tolerance, before.tolerance))

    def refused(self, q: Tensor, k: Tensor, v: Tensor, how: dict[str, Any]) -> bool:
        """Return whether the variant refuses the call for want of tokens; under causality it may not."""
        if how.get("is_causal"):
            return False
        try:
            self.variant(q, k, v, **how)
        except UserError:
            return True
        return False

    def ways(self, n_query: int, n_key: int, *leading: int) -> list[dict[str, Any]]:
        causal = {"is_causal": True}
        ways: list[dict[str, Any]] = [{}, causal, {"mask": self.mask(n_query, n_key, *leading)}]
        return [*ways, {"mask": self.mask(n_query, n_key, *leading), "scale": 0.7, **causal}]

    def neutral(self) -> None:
        fresh = self.make(_SHAPE)
        options = fresh.neutral_options()
        if options is None:
            return
        neutral = type(fresh)(_SHAPE, **options)
        for dtype in (torch.float32, torch.float64):
            for n in (7, 63):
                q, k, v = (x.to(dtype) for x in self.tensors(n, n, 2))
                for is_causal in (False, True):
                    expected = softmax_attention(q, k, v, is_causal=is_causal)
                    actual = neutral.to(dtype)(q, k, v, is_causal=is_causal)
                    self.holds(f"neutral {dtype}".replace("torch.", ""), actual, expected, torch.finfo(dtype).eps)

    def fast(self) -> None:
        for n in self.sizes:
            n_queries = {n, max(1, n // 3)}
            for n_query in n_queries:
                q, k, v = self.tensors(n_query, n, 1 if n > 100 else 2)
                for how in self.ways(n_query, n, 1 if n > 100 else 2)[: 2 if n > 100 else 4]:
                    if self.refused(q, k, v, how):
                        continue
                    where = f" at n_query={n_query}, n_key={n}, {', '.join(how) or 'no mask'}"
                    with torch.no_grad():
                        expected = self.naive(self.variant, q, k, v, **how)
                        self.holds("fast float64", self.variant(q, k, v, **how), expected, 1e-12, where)
                        self.fast_single(q.float(), k.float(), v.float(), how, where)

    def fast_single(self, q: Tensor, k: Tensor, v: Tensor, how: dict[str, Any], where: str) -> None:
        single, exact = copy.deepcopy(self.variant).float(), [x.double() for x in (q, k, v)]
        actual, naive = single(q, k, v, **how), self.naive(single, q, k, v, **how)
        in_double = self.naive(copy.deepcopy(single).double(), *exact, **how)
        for expected in (naive, in_double):
            self.holds("fast float32", actual, expected, 1e-6, where, measure=_relative_norm)
        plain = _relative(softmax_attention(q, k, v, **how), softmax_attention(*exact, **how))
        rounding = max(plain, _relative(naive, in_double))
        self.holds("fast float32 by entries", actual, in_double, max(1e-6, 2 * rounding), where)

    def gradients(self) -> None:
        for n_query, n in ((5, 63), *((n, n) for n in self.sizes)):
            n_batch = 1 if n > 100 else 2
            q, k, v = self.tensors(n_query, n, n_batch)
            for how in self.ways(n_query, n, n_batch)[: 2 if n > 100 else 4]:
                if self.refused(q, k, v, how):
                    continue
                cotangent = self.normal(n_batch, self.variant.shape.n_heads, n_query, self.variant.shape.d_v)
                for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
                    of_dtype = copy.deepcopy(self.variant).to(dtype)
                    leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
                    wanted = [*leaves, *of_dtype.parameters()]
                    found = []
                    for out in (of_dtype(*leaves, **how), self.naive(of_dtype, *leaves, **how)):
                        found.append(torch.autograd.grad(out, wanted, cotangent.to(dtype), materialize_grads=True))
                    labels = ["q", "k", "v", *(name for name, _ in of_dtype.named_parameters())]
                    size = max(float(x.abs().max()) for x in found[1]) or 1.0
                    for label, actual, expected in zip(labels, *found, strict=True):
                        # One size for all: a gradient that is zero but for rounding has none of its own.
                        where = f" of {label} at n_query={n_query}, n_key={n}, {', '.join(how) or 'no mask'}"
                        name = f"gradients {dtype}".replace("torch.", "")
                        self.holds(name, (actual - expected) / size + 1, torch.ones_like(actual), tolerance, where)

    def dual(self) -> None:
        q, k, v = self.tensors(7, 9)
        mask = torch.rand(1, 7, 9, generator=self.generator) < 0.7
        mask = mask | torch.ones(7, 9, dtype=torch.bool).tril(2).triu(2)
        mask[..., 0] = True
        for how in ({}, {"is_causal": True}, {"mask": mask}):
            output = self.variant(q, k, v, **how)
            for demonstrations in (None, 4):
                dual = self.variant.dual(q, k, v, demonstrations, **how)
                where = f" with demonstrations={demonstrations}, {', '.join(how) or 'no mask'}"
                self.holds("dual", dual.forward(), output, 1e-10, where)
                if demonstrations is None:
                    trained = dual.stepped.explicit("mercer").train().prediction.squeeze(-2)
                    by_hand = dual.after(trained if dual.residual is None else trained + dual.residual)
                    self.holds("dual by autograd", by_hand, output, 1e-6, where)
                if dual.residual is None:
                    step = self.variant.dual_step(q, k, v, demonstrations, **how)
                    self.holds("dual", step, output, 1e-10, where)
                loss = self.variant.dual_loss(q, k, v, demonstrations, **how)
                if isinstance(dual.decay, float) and dual.decay == 0:
                    assert bool((loss.after <= loss.before).all()), (
                        f"{self.title}: the step does not lower its loss{where}"
                    )

    def causal(self) -> None:
        n = 9
        q, k, v = self.tensors(n, n, 2)
        whole = self.variant(q, k, v, is_causal=True)
        tensor = torch.ones(n, n, dtype=torch.bool).tril()
        self.holds("causal", self.variant(q, k, v, tensor, is_causal=True), whole, 1e-12, " with the mask as well")
        if not self.refused(q, k, v, {"mask": tensor}):
            self.holds("causal", self.variant(q, k, v, tensor), whole, 1e-12, " as a mask")
        for t in range(n):
            shorter = self.variant(q[..., t : t + 1, :], k[..., : t + 1, :], v[..., : t + 1, :], is_causal=True)
            self.holds("causal", whole[..., t : t + 1, :], shorter, 1e-12, f" at token {t}")
        last = self.variant(q[..., 6:, :], k, v, is_causal=True)
        self.holds("causal", last, whole[..., 6:, :], 1e-12, " with a cache")

    def permutation(self) -> None:
        if not self.variant.permutes:
            return
        q, k, v = self.tensors(5, 11, 2)
        mask = self.mask(5, 11, 2)
        order = torch.randperm(11, generator=self.generator)
        expected = self.variant(q, k, v)
        self.holds("permutation", self.variant(q, k[..., order, :], v[..., order, :]), expected, 1e-12)
        expected = self.variant(q, k, v, mask)
        actual = self.variant(q, k[..., order, :], v[..., order, :], mask[..., order])
        self.holds("permutation", actual, expected, 1e-12, " with a mask")

    def batching(self) -> None:
        q, k, v = self.tensors(5, 7, 2, 3)
        mask = self.mask(5, 7, 2, 3)
        for how in ({}, {"is_causal": True}):
            whole = self.variant(q, k, v, mask, **how)
            for i, j in itertools.product(range(2), range(3)):
                alone = self.variant(q[i, j], k[i, j], v[i, j], mask[i, j], **how)
                self.holds("batching", whole[i, j], alone, 1e-12, f" of member {i}, {j}")
        shared = self.variant(q, k[0, 0], v[0, 0], mask[0, 0])
        self.holds(
            "batching", shared[1, 2], self.variant(q[1, 2], k[0, 0], v[0, 0], mask[0, 0]), 1e-12, " of shared keys"
        )

    def groups(self) -> None:
        s = self.variant.shape
        repeated = self.make(HeadShape(s.n_heads, s.d, s.d_v, s.n_heads))
        times = s.n_heads // s.n_kv_heads
        own = self.variant.state_dict()
        for name, value in repeated.state_dict().items():
            for axis, (a, b) in enumerate(zip(own[name].shape, value.shape, strict=True)):
                if a != b:
                    own[name] = own[name].repeat_interleave(times, axis)
        repeated.load_state_dict(own)
        q, k, v = self.tensors(5, 7, 2)
        for how in self.ways(5, 7, 2):
            expected = repeated(q, k.repeat_interleave(times, -3), v.repeat_interleave(times, -3), **how)
            self.holds("groups", self.variant(q, k, v, **how), expected, 1e-12)

    def masked(self) -> None:
        q, k, v = (x.requires_grad_() for x in self.tensors(6, 9, 2))
        for is_causal in (False, True):
            mask = self.mask(6, 9, 2)
            mask[..., 4] = False
            own = self.variant.self_aligned
            hidden = 1 if own else 4
            mask[..., hidden] = False
            out = self.variant(q, k, v, mask, is_causal=is_causal)
            assert bool(out.isfinite().all()), f"{self.title}: masked: a row with nothing to attend to is not finite"
            cotangent = self.normal(*out.shape)
            gradients = torch.autograd.grad(out, [q, k, v], cotangent, materialize_grads=True)
            for label, gradient in zip("qkv", gradients, strict=True):
                assert bool(gradient.isfinite().all()), f"{self.title}: masked: the gradient of {label} is not finite"
            with torch.no_grad():
                other_k, other_v = k.clone(), v.clone()
                other_k[..., hidden, :] += 3
                other_v[..., hidden, :] -= 5
                changed = self.variant(q, other_k, other_v, mask, is_causal=is_causal)
            self.holds("masked", changed, out, 1e-12, " of a key that nobody sees")
            for label, gradient in zip("kv", gradients[1:], strict=True):
                assert not bool(gradient[..., hidden, :].any()), (
                    f"{self.title}: masked: {label} of a hidden key has a gradient"
                )

    def bfloat16(self) -> None:
        half = copy.deepcopy(self.variant).to(torch.bfloat16)
        exact = copy.deepcopy(half).double()
        for n in (7, 63):
            q, k, v = (x.bfloat16() for x in self.tensors(n, n, 2))
            for how in self.ways(n, n, 2)[:3]:
                if self.refused(q.double(), k.double(), v.double(), how):
                    continue
                actual = half(q, k, v, **how).double()
                expected = self.naive(exact, q.double(), k.double(), v.double(), **how)
                # Where a choice of negatives turns on the rounding of modified keys, only the naive form that rounds
                # them alike makes the same one.
                rounded = self.naive(half, q, k, v, **how).double()
                same_choice = (actual - expected).abs().amax(-1) <= (actual - rounded).abs().amax(-1)
                nearest = torch.where(same_choice.unsqueeze(-1), expected, rounded)
                self.holds("bfloat16", actual, nearest, 4 * torch.finfo(torch.bfloat16).eps, f" at n={n}")

    def rebuilt(self) -> None:
        try:
            name, options = name_of(self.variant), json.loads(json.dumps(self.variant.options()))
        except UserError:
            return
        s = self.variant.shape
        again = build(name, n_heads=s.n_heads, d=s.d, d_v=s.d_v, n_kv_heads=s.n_kv_heads, **options).double()
        again.load_state_dict(self.variant.state_dict())
        q, k, v = self.tensors(7, 7, 2)
        self.holds("options", again(q, k, v), self.variant(q, k, v), 0.0)


def _relative(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest entry of `expected`; 0 for two zeros, NaN when either is."""
    actual, expected = actual.detach().double(), expected.detach().double()
    difference = (actual - expected).abs().max()
    return float(difference / expected.abs().max()) if bool(difference) else 0.0


def _relative_norm(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖, Frobenius; 0 for two zeros, NaN when either is."""
    actual, expected = actual.detach().double(), expected.detach().double()
    difference = (actual - expected).norm()
    return float(difference / expected.norm()) if bool(difference) else 0.0
