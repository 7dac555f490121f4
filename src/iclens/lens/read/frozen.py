"""A model with its attention weights, norms and gates held at their values: linear in its token embeddings.

The held network returns the model's own numbers, because every constant is read off the very pass that uses it:
attention weights are computed from detached queries and keys, norms keep their scale, a gated MLP keeps σ(gate),
a plain one keeps σ(u)/u. Gradients through it are those of the linear network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from iclens.lens.model.anatomy import is_linear
from iclens.lens.model.loading import LensModel
from iclens.lens.model.norms import bias_of
from iclens.lens.model.placed import at_hand
from iclens.lens.model.session import Handler, attending
from iclens.lens.read.attend import fast
from iclens.lens.read.held import held_attention, held_norm, held_ratio


@dataclass
class Leaves:
    """What enters the held network, filled during its forward and backward passes.

    Attributes:
        embeddings: outputs of the embedding modules; gradients are taken with respect to them.
        bias: after the backward pass, ⟨gradient, bias⟩ of each token, summed over all biased modules.
        unembedded: the unembedding's own output (batch, n_positions, n_vocabulary), before a soft cap or a scale.
    """

    embeddings: list[Tensor] = field(default_factory=list)
    bias: Tensor | None = None
    unembedded: Tensor | None = None


@contextmanager
def holding(lens_model: LensModel, n: int, attend: Handler = fast) -> Iterator[Leaves]:
    """Hold the model's weights, norms and gates inside the `with` block.

    Parameters take no gradients meanwhile. Hooks and flags are removed afterwards, also after an exception.

    Args:
        lens_model: a causal language model.
        n: number of tokens of the pass: prompts times their length.
        attend: computes attention from detached queries and keys.
    """
    anatomy = lens_model.anatomy
    leaves = Leaves(bias=torch.zeros(n, dtype=torch.float64, device=lens_model.device))
    norms = {norm for layer in anatomy.layers for norm in layer.norms}
    norms |= {anatomy.final_norm} if anatomy.final_norm is not None else set()
    parameters = [p for p in lens_model.model.parameters() if p.requires_grad]
    with ExitStack() as stack:
        stack.callback(_require_grad, parameters)
        for parameter in parameters:
            parameter.requires_grad_(False)

        def hook(module: nn.Module, function: Callable[..., Any]) -> None:
            stack.callback(module.register_forward_hook(function).remove)

        for module in anatomy.base.modules():
            if isinstance(module, nn.Embedding):
                hook(module, _leaf(leaves))
            elif module in norms:
                hook(module, _hold_norm(leaves, n))
            elif is_linear(module) and module.bias is not None:
                hook(module, _watch_bias(leaves, n))
        gate = _hold_gate if lens_model.family.gated else _hold_ratio
        for activation in {layer.activation for layer in anatomy.layers}:
            assert activation is not None
            hook(activation, gate)
        assert anatomy.head is not None
        hook(anatomy.head, _keep_unembedded(leaves))

        stack.enter_context(attending(lens_model, partial(held_attention, attend=attend)))
        if lens_model.is_offloaded:
            # The backward pass wants every layer's weights again, which are larger than the device.
            stack.enter_context(torch.autograd.graph.save_on_cpu())
        stack.enter_context(torch.enable_grad())
        yield leaves


def _require_grad(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(True)


def _leaf(leaves: Leaves) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_(True)
        leaves.embeddings.append(leaf)
        return leaf

    return hook


def _hold_norm(leaves: Leaves, n: int) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        with at_hand(module):
            out = held_norm(module, args[0], output)
            _collect(out, bias_of(module), leaves, n)
        return out

    return hook


def _watch_bias(leaves: Leaves, n: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        with at_hand(module):
            _collect(output, bias_of(module), leaves, n)

    return hook


def _collect(output: Tensor, bias: Tensor | None, leaves: Leaves, n: int) -> None:
    if bias is None or not output.requires_grad:
        return
    constant = bias.detach()

    def add(gradient: Tensor) -> None:
        assert leaves.bias is not None
        # OPT runs its MLP on (batch · n, width), so tokens are addressed after flattening.
        leaves.bias += (gradient.reshape(n, -1) @ constant).to(leaves.bias)

    output.register_hook(add)


def _hold_gate(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.detach()


def _hold_ratio(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return held_ratio(module, args[0], output)


def _keep_unembedded(leaves: Leaves) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        leaves.unembedded = output

    return hook
