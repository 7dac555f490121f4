"""The patches really applied: the tokens that stay run alone, through a model whose MLPs have the updated weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import wide
from iclens.lens.patching.block import Block
from iclens.lens.patching.states import Pass, State, Text, alone, check
from iclens.lens.patching.update import Patch, Update, patch_of, units

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
        for one in patches:
            _patch(stack, one.block, [update.name for update in one.updates], one.last, partial(_itself, one), form)
        return alone(lens_model, text, whole)


def _itself(patch: Patch) -> Patch:
    return patch


def build(lens_model: LensModel, text: Text, whole: Pass, n_sources: int, form: Form = "offset") -> list[Patch]:
    """The patches of all blocks, made one after the other in a pass in which those below are applied already.

    Each block is patched from the states that it really meets, so that the rounding of those below does not add up.

    Raises:
        UserError: as `patch_of`; with `form="weights"`, an offset that no weight takes.
    """
    patches: list[Patch] = []

    @contextmanager
    def building(states: list[State]) -> Iterator[None]:
        with ExitStack() as stack:
            for block, state, below in zip(whole.blocks, whole.states, states, strict=True):
                check(lens_model, block, state)

                def made(block: Block = block, state: State = state, below: State = below) -> Patch:
                    if len(patches) == block.index:
                        patches.append(patch_of(lens_model, block, state, below, text.kept, n_sources))
                    return patches[block.index]

                _patch(stack, block, state.first, state.last, made, form)
            yield

    alone(lens_model, text, whole, building)
    return patches


def compared(whole: Pass, found: Pass, patches: Sequence[Patch]) -> PatchedRun:
    """A run with patched blocks beside the one with the context."""
    layers = tuple(patch.layer for patch in patches)
    off = []
    for layer in layers:
        own = whole.states[layer].output
        difference = (found.states[layer].output.to(own.device) - own).abs().max()
        off.append((difference / own.abs().max().clamp_min(torch.finfo(own.dtype).tiny)).cpu())
    return PatchedRun(wide(found.logits.detach()), wide(whole.logits), torch.stack(off), layers)


def _patch(
    stack: ExitStack, block: Block, first: Sequence[str], last: str, patch: Callable[[], Patch], form: Form
) -> None:
    """Give one block its updated weights until the stack is left; the patch is asked for when its MLP is reached."""

    def hook(module: nn.Module, add: Callable[[Tensor, Tensor], Tensor]) -> None:
        stack.callback(module.register_forward_hook(lambda module, args, output: add(args[0], output)).remove)

    def updated(x: Tensor, y: Tensor, place: int) -> Tensor:
        return _add_update(patch().updates[place], x, y)

    for place, name in enumerate(first):
        hook(block.linears[name], partial(updated, place=place))
    norm = block.layer.norm_after_mlp
    if form == "offset":
        # At the end of the branch, so that a norm on the stream behind it sees the sum.
        hook(norm or block.linears[last], lambda x, y: y + (patch().offset / patch().scale).to(y))
    elif norm is None:
        hook(block.linears[last], lambda x, y: _add_update(patch().offset_update, x, y))
    else:
        # (g + Δg) ⊙ û = g ⊙ û + Δg ⊙ û: a norm of PyTorch's takes one gain for all tokens.
        hook(norm, lambda x, y: y + (_gain_of(patch()).to(y.device) * units(norm, x)).to(y.dtype))


def _gain_of(patch: Patch) -> Tensor:
    """The change of the last norm's gain, of a block that has one."""
    assert patch.gain is not None
    return patch.gain


def _add_update(update: Update, x: Tensor, output: Tensor) -> Tensor:
    left, right = (part.to(output.device) for part in (update.left, update.right))
    return output + ((wide(x) * right).sum(-1, keepdim=True) * left).to(output.dtype)
