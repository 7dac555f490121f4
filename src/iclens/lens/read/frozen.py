"""A model with its attention weights, norms and gates held at their values: linear in its token embeddings.

The held network returns the model's own numbers, because every constant is read off the very pass that uses it:
attention weights are computed from detached queries and keys, norms keep their scale, a gated MLP keeps σ(gate),
a plain one keeps σ(u)/u. Gradients through it are those of the linear network.

The forward pass costs what the model's own costs. In the backward pass attention weights are formed again in blocks of
rows, for the values alone, which is less work than the fused kernel's gradient of queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function

from iclens.lens.model.anatomy import is_linear
from iclens.lens.model.families import Affine
from iclens.lens.model.loading import LensModel
from iclens.lens.model.norms import bias_of, pull_back, ratio
from iclens.lens.model.placed import at_hand, has_double, wide
from iclens.lens.model.session import AttentionCall, Handler, attending
from iclens.lens.read.attend import MOST_SCORES, blocks, fast, softmax_rows


@dataclass
class Leaves:
    """What enters the held network, filled during its forward and backward passes by hooks, which are its methods.

    Attributes:
        bias: after the backward pass, ⟨gradient, bias⟩ of each token, summed over all biased modules.
        embeddings: outputs of the embedding modules; gradients are taken with respect to them.
        unembedded: the unembedding's own output (batch, n_positions, n_vocabulary), before a soft cap or a scale.
    """

    bias: Float[Tensor, " n"]
    embeddings: list[Tensor] = field(default_factory=list)
    unembedded: Tensor | None = None

    def embed(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Let gradients begin at an embedding module's output."""
        self.embeddings.append(output.detach().requires_grad_(True))
        return self.embeddings[-1]

    def hold_norm(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Hold a norm's scale."""
        with at_hand(module):
            out = held_norm(module, args[0], output)
            self._collect(out, bias_of(module))
        return out

    def watch_bias(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Collect what a linear module's bias contributes."""
        with at_hand(module):
            self._collect(output, bias_of(module))

    def unembed(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Keep the unembedding's output."""
        self.unembedded = output

    def run_affine(self, module: nn.Module, function: Affine, *args: Any) -> Tensor:
        """Stand in for a module's `forward`: its output, with the gates inside it held."""
        with at_hand(module):
            linear, rest = function(module, *args)
        output = linear + rest
        self._collect(output, rest)
        return output

    def _collect(self, output: Tensor, bias: Tensor | None) -> None:
        if bias is None or not output.requires_grad:
            return
        constant = bias.detach()

        def add(gradient: Tensor) -> None:
            # OPT runs its MLP on (batch · n, width), so tokens are addressed after flattening.
            wide_gradient, wide_constant = wide(gradient), wide(constant)
            several = wide_constant.ndim > 1
            share = (wide_gradient * wide_constant).sum(-1) if several else wide_gradient @ wide_constant
            self.bias += share.reshape(len(self.bias), -1).sum(-1).to(self.bias)

        output.register_hook(add)


@contextmanager
def holding(lens_model: LensModel, n: int, attend: Handler = fast) -> Iterator[Leaves]:
    """Hold a causal model's weights, norms and gates inside the `with` block, for a pass over n tokens in all.

    Attention is `attend`'s, from detached queries and keys. Parameters take no gradients meanwhile. Hooks and flags are
    removed afterwards, also after an exception.
    """
    anatomy = lens_model.anatomy
    assert anatomy.head is not None
    home = lens_model.device
    leaves = Leaves(torch.zeros(n, dtype=torch.float64, device=home if has_double(home) else "cpu"))
    norms = {anatomy.final_norm, *(norm for layer in anatomy.layers for norm in layer.norms)}
    hooks: list[tuple[nn.Module | None, Callable[..., Any]]] = []
    for module in anatomy.base.modules():
        if isinstance(module, nn.Embedding):
            hooks.append((module, leaves.embed))
        elif module in norms:
            hooks.append((module, leaves.hold_norm))
        elif is_linear(module) and module.bias is not None:
            hooks.append((module, leaves.watch_bias))
    gate = hold if lens_model.family.gated else _hold_ratio
    hooks += [(activation, gate) for activation in {one for layer in anatomy.layers for one in layer.activations}]
    hooks += [(module, hold) for layer in anatomy.layers for module in layer.held]
    hooks.append((anatomy.head, leaves.unembed))

    with ExitStack() as stack:
        for parameter in lens_model.model.parameters():
            if parameter.requires_grad:
                stack.callback(parameter.requires_grad_, True)
                parameter.requires_grad_(False)
        for watched, hook in hooks:
            assert watched is not None
            stack.callback(watched.register_forward_hook(hook).remove)
        for module, function in (one for layer in anatomy.layers for one in layer.affine):
            stack.enter_context(patched(module, partial(leaves.run_affine, module, function)))
        stack.enter_context(attending(lens_model, partial(held_attention, attend=attend)))
        if lens_model.is_offloaded:
            # The backward pass wants every layer's weights again, which are larger than the device.
            stack.enter_context(torch.autograd.graph.save_on_cpu())
        stack.enter_context(torch.enable_grad())
        yield leaves


def hold(module: nn.Module, args: Any, output: Any) -> Any:
    """Hold all that a module returns at its value: routers return several tensors."""
    if isinstance(output, tuple):
        return tuple(hold(module, args, part) for part in output)
    return output.detach() if isinstance(output, Tensor) else output


@contextmanager
def patched(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute by `forward` inside the block; what somebody else had put there comes back."""
    before = vars(module).get("forward")
    try:
        module.forward = forward
        yield
    finally:
        vars(module).pop("forward", None)
        if before is not None:
            module.forward = before


def _hold_ratio(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return held_ratio(module, args[0], output)


_ROWS = 128
"""Queries of a block: small enough that a causal layer skips most of the keys that they do not see."""


def held_attention(call: AttentionCall, attend: Handler) -> Tensor:
    """Return the heads' output by `attend`, linear in the values: attention weights take no gradient."""
    return _Attention.apply(call.v, call.q.detach(), call.k.detach(), call, attend)


def held_norm(norm: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return a norm's own output y for the input x, with its scale held: affine in x."""
    return _Elementwise.apply(x, [y.detach()], lambda x, y, gradient: pull_back(norm, x, y, gradient), norm)


def held_ratio(activation: nn.Module, u: Tensor, y: Tensor) -> Tensor:
    """Return an activation's own output y for the input u, with y / u held: linear in u."""
    return _Elementwise.apply(u, [y.detach()], lambda u, y, gradient: gradient * ratio(activation, u, y), activation)


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, q: Tensor, k: Tensor, call: AttentionCall, attend: Handler) -> Tensor:
        # Saved rather than kept, so that a model that is brought in layer by layer can put them aside.
        ctx.save_for_backward(q, k)
        ctx.call = replace(call, q=q[:0], k=k[:0], v=v[:0])
        return attend(replace(call, q=q.detach(), k=k.detach(), v=v.detach()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k = ctx.saved_tensors
        return pull_to_values(replace(ctx.call, q=q, k=k), gradients[0]), None, None, None, None


class _Elementwise(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: list[Tensor], back: Callable[..., Tensor], module: nn.Module) -> Tensor:
        ctx.save_for_backward(x, *y)
        ctx.back, ctx.module = back, module
        return y[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with at_hand(ctx.module):
            back = ctx.back(*map(wide, (*ctx.saved_tensors, gradients[0])))
        return back.to(gradients[0].dtype), None, None, None


def pull_to_values(
    call: AttentionCall, gradient: Tensor, *, rows: int = _ROWS, most_scores: int = MOST_SCORES
) -> Tensor:
    """Σ_t α_tj gradient_t for every key j: the gradient of the heads' output with respect to the values.

    From the gradient of that output, (batch, query heads, n_query, d_v), and a call whose values are not used; weights
    are formed for some queries at once, `rows` and `most_scores` at most.
    """
    batch, key_heads, n_key = call.k.shape[:3]
    pulled = wide(gradient.new_zeros(batch, key_heads, n_key, gradient.shape[-1]))
    for some, keys, mask in blocks(call, most_scores, rows):
        weights = softmax_rows(replace(call, k=wide(call.k[:, :, keys])), wide(call.q[:, :, some]), mask[..., keys])
        # Query heads of a group stand side by side, so that their gradients add up in one product.
        folded = weights.reshape(batch, key_heads, -1, weights.shape[-1])
        pulled[:, :, keys] += folded.transpose(-1, -2) @ wide(gradient[:, :, some]).reshape(
            batch, key_heads, folded.shape[2], -1
        )
    return pulled.to(gradient.dtype)
