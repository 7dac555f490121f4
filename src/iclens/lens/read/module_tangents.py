"""Norms and activations whose forward derivatives take few passes over memory, where autograd spells them out.

With s the norm's scale, g = s w and c = x − μ x, as in `norms`, the tangent of y = g ⊙ c + b is

    dy = g ⊙ (dx − μ dx − c · s² · mean(c ⊙ dx))

and that of an activation is dx times its slope. The text itself is the same for all tangents, so that g, c and slopes
are formed once for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from iclens.lens.model.loading import LensModel
from iclens.lens.model.norms import bias_of, centre, gate, is_centred
from iclens.lens.model.placed import wide

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From a module's input, its output and the tangents of the input, (count, *shape), to those of the output."""


@contextmanager
def few_passes(lens_model: LensModel) -> Iterator[None]:
    """Take forward derivatives of a causal model's norms and activations by these rules inside the `with` block.

    A module whose `forward` somebody else has replaced is left alone, and so is a norm that does not say its epsilon;
    autograd has both. Everything is put back afterwards.
    """
    anatomy = lens_model.anatomy
    rules: dict[nn.Module, Rule] = {}
    for norm in (anatomy.final_norm, *(norm for layer in anatomy.layers for norm in layer.norms)):
        epsilon = next((getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name)), None)
        if norm is not None and isinstance(epsilon, float):
            rules[norm] = partial(_of_norm, norm, epsilon)
    for activation in (one for layer in anatomy.layers for one in layer.activations):
        rules[activation] = partial(_of_activation, activation.forward)
    chosen = [module for module in rules if "forward" not in vars(module)]
    try:
        for module in chosen:
            module.forward = partial(_run, module.forward, rules[module])
        yield
    finally:
        for module in chosen:
            vars(module).pop("forward", None)


def _run(forward: Callable[[Tensor], Tensor], rule: Rule, x: Tensor) -> Tensor:
    output: Tensor = _Module.apply(x, forward(x.detach()), rule)
    return output


def _of_norm(norm: nn.Module, epsilon: float, x: Tensor, y: Tensor, dx: Tensor) -> Tensor:
    values, change = wide(x), wide(dx)
    if values.dtype != x.dtype and not isinstance(norm, nn.LayerNorm):
        # An output in half precision would round the scale that is read off it.
        y = type(norm).forward(norm, values)
    c, bias = centre(norm, values), bias_of(norm)
    g = gate(norm, values, y if bias is None else y - bias)
    squared = torch.rsqrt(c.square().mean(-1, keepdim=True) + epsilon).square()
    along = (change * c).mean(-1, keepdim=True) * squared
    # An operation on three tensors, of which one is the same for a whole row, takes twice as long as two on two.
    found = (change * g).sub_(along * (c * g))
    if is_centred(norm):
        found.sub_(change.mean(-1, keepdim=True) * g)
    return found.to(dx.dtype)


def _of_activation(forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, dx: Tensor) -> Tensor:
    slope: Tensor = torch.func.jvp(forward, (x,), (torch.ones_like(x),))[1]
    return dx * slope


class _Module(Function):
    """A module's output with a forward derivative, which `vmap` is handed for all tangents at once."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, rule: Rule) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.inputs = inputs
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, None]:
        # The text itself is the same for every tangent.
        return _Module.forward(*inputs), None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: Any) -> Tensor:
        return _Tangents.apply(dx, *ctx.inputs)


class _Tangents(Function):
    @staticmethod
    def forward(dx: Tensor, x: Tensor, y: Tensor, rule: Rule) -> Tensor:
        return rule(x, y, dx[None])[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], dx: Tensor, x: Tensor, y: Tensor, rule: Rule
    ) -> tuple[Tensor, int]:
        dim = in_dims[0]
        assert dim is not None
        return rule(x, y, dx.movedim(dim, 0)), 0
