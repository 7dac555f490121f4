"""The patches really applied: the tokens that stay run alone, through a model whose MLPs have the updated weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import at_hand, wide
from iclens.lens.patching.states import Pass, Text, alone
from iclens.lens.patching.update import Patch, Update, with_gain
from iclens.lens.read.frozen import patched

Form = Literal["offset", "weights"]
"""Where the offset goes: to the end of the MLP's branch, or into a weight too: its last matrix, or its norm's gain."""

FORMS: tuple[Form, ...] = ("offset", "weights")


@dataclass(frozen=True)
class PatchedRun:
    """What the model gives on the tokens that stay alone, with patched weights, beside what it gives with the context.

    Attributes:
        logits: with patched weights, at the positions that are read.
        expected: the model's own with the context.
        blocks: of each patched block's output, at all tokens that stay: the largest difference from what it is with the
            context, over the largest entry of that.
        layers: their numbers.
    """

    logits: Float[Tensor, "n_positions vocabulary"]
    expected: Float[Tensor, "n_positions vocabulary"]
    blocks: Float[Tensor, " n_layers"]
    layers: tuple[int, ...]

    @property
    def off(self) -> float:
        """max |logits − expected| / max |expected|."""
        return float((self.logits - self.expected).abs().max() / self.expected.abs().max())

    @property
    def worst_block(self) -> float:
        """The largest difference of a block's output, relative."""
        return float(self.blocks.max())


def apply(lens_model: LensModel, text: Text, whole: Pass, patches: Sequence[Patch], form: Form = "offset") -> Pass:
    """Run the tokens that stay alone, at their own positions, with some blocks patched.

    Every token has a matrix of its own there, W + left_t right_tᵀ; its product with the token's input is formed as
    W x + left_t ⟨right_t, x⟩, with x the input of this very run. Gradients flow where they are enabled.

    Raises:
        UserError: with `form="weights"`, an offset that no weight takes.
    """
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(_patched(patch, form))
        return alone(lens_model, text, whole)


def compared(whole: Pass, found: Pass, patches: Sequence[Patch]) -> PatchedRun:
    """A run with patched blocks beside the one with the context."""
    layers = tuple(patch.layer for patch in patches)
    off = []
    for layer in layers:
        own = whole.states[layer].output
        difference = (found.states[layer].output.to(own.device) - own).abs().max()
        off.append((difference / own.abs().max().clamp_min(torch.finfo(own.dtype).tiny)).cpu())
    return PatchedRun(wide(found.logits.detach()), wide(whole.logits), torch.stack(off), layers)


@contextmanager
def _patched(patch: Patch, form: Form) -> Iterator[None]:
    """Give one block its updated weights inside."""
    layer = patch.block.layer
    updates = list(patch.updates)
    with ExitStack() as stack:
        if form == "offset":
            # At the end of the branch, so that a norm on the stream behind it sees the sum.
            end = layer.norm_after_mlp or patch.block.linears[patch.last]
            stack.callback(end.register_forward_hook(partial(_add_offset, patch)).remove)
        elif patch.gain is None:
            updates.append(patch.offset_update)
        else:
            norm = layer.norm_after_mlp
            assert norm is not None
            stack.enter_context(patched(norm, _with_own_gains(norm, patch.gain)))
        for update in updates:
            hook = partial(_add_update, update)
            stack.callback(patch.block.linears[update.name].register_forward_hook(hook).remove)
        yield


def _add_update(update: Update, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    left, right = (part.to(output.device) for part in (update.left, update.right))
    x = wide(args[0])
    return output + ((x * right).sum(-1, keepdim=True) * left).to(output.dtype)


def _add_offset(patch: Patch, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output + (patch.offset / patch.scale).to(output)


def _with_own_gains(norm: nn.Module, gain: Tensor) -> Callable[[Tensor], Tensor]:
    """A norm's forward with a gain of its own at every token."""

    def forward(x: Tensor) -> Tensor:
        with at_hand(norm):
            weight = norm.weight
            assert isinstance(weight, Tensor)
            return with_gain(norm, weight + gain.to(weight), x)

    return forward
