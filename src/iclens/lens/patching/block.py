"""The MLP of one block as a patch needs it: the linear maps that read its input, and the last one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from iclens.errors import UserError
from iclens.lens.model.anatomy import Layer, is_linear
from iclens.lens.model.loading import LensModel


@dataclass(frozen=True)
class Block:
    """The linear maps of one block's MLP, by their paths in the layer.

    Attributes:
        index: of the layer.
        layer: its modules.
        linears: all linear maps outside its attention; in a pass, the last one that is called ends the MLP and all
            others read its input.
    """

    index: int
    layer: Layer
    linears: dict[str, nn.Module]


def blocks_of(lens_model: LensModel) -> tuple[Block, ...]:
    """The blocks of a model, each with its MLP.

    Raises:
        UserError: a mixture of experts, or an MLP that does not begin with a linear map of its input.
    """
    lens_model.require_causal()
    return tuple(_block(lens_model, i, layer) for i, layer in enumerate(lens_model.anatomy.layers))


def _block(lens_model: LensModel, index: int, layer: Layer) -> Block:
    if layer.held or layer.affine:
        raise UserError(
            f"layer {index} of {lens_model.name} is a mixture of experts ({lens_model.family.name}), whose router "
            "sends a patched input to other experts: iclens patches MLPs that are the same for every token."
        )
    attention = set(layer.attention.modules())
    named = layer.module.named_modules()
    linears = {name: module for name, module in named if is_linear(module) and module not in attention}
    if len(linears) < 2:
        raise UserError(
            f"layer {index} of {lens_model.name} has {len(linears)} linear maps outside its attention: a patch needs "
            "an MLP with one at least that reads its input, and another that ends it."
        )
    return Block(index, layer, linears)
