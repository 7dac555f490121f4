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
from jaxtyping import Float
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

    def _collect(self, output: Tensor, bias: Tensor | None) -> None:
        if bias is None or not output.requires_grad:
            return
        constant = bias.detach()

        def add(gradient: Tensor) -> None:
            # OPT runs its MLP on (batch · n, width), so tokens are addressed after flattening.
            self.bias += (gradient.reshape(len(self.bias), -1) @ constant).to(self.bias)

        output.register_hook(add)


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
    assert anatomy.head is not None
    leaves = Leaves(torch.zeros(n, dtype=torch.float64, device=lens_model.device))
    norms = {anatomy.final_norm, *(norm for layer in anatomy.layers for norm in layer.norms)}
    hooks: list[tuple[nn.Module | None, Callable[..., Any]]] = []
    for module in anatomy.base.modules():
        if isinstance(module, nn.Embedding):
            hooks.append((module, leaves.embed))
        elif module in norms:
            hooks.append((module, leaves.hold_norm))
        elif is_linear(module) and module.bias is not None:
            hooks.append((module, leaves.watch_bias))
    gate = _hold_gate if lens_model.family.gated else _hold_ratio
    hooks += [(activation, gate) for activation in {layer.activation for layer in anatomy.layers}]
    hooks.append((anatomy.head, leaves.unembed))

    with ExitStack() as stack:
        for parameter in lens_model.model.parameters():
            if parameter.requires_grad:
                stack.callback(parameter.requires_grad_, True)
                parameter.requires_grad_(False)
        for watched, hook in hooks:
            assert watched is not None
            stack.callback(watched.register_forward_hook(hook).remove)
        stack.enter_context(attending(lens_model, partial(held_attention, attend=attend)))
        if lens_model.is_offloaded:
            # The backward pass wants every layer's weights again, which are larger than the device.
            stack.enter_context(torch.autograd.graph.save_on_cpu())
        stack.enter_context(torch.enable_grad())
        yield leaves


def _hold_gate(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.detach()


def _hold_ratio(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return held_ratio(module, args[0], output)
