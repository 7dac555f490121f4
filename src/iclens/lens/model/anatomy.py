"""A family's paths bound to the modules of one model, each checked to be what the lens takes it for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from iclens.errors import UserError
from iclens.lens.model.families import Affine, Family
from iclens.lens.model.norms import is_centred
from iclens.lens.model.placed import home_of


@dataclass(frozen=True)
class Layer:
    """The modules of one layer that the lens reads; those that a family lacks are None."""

    module: nn.Module
    attention_name: str
    attention: nn.Module
    output: nn.Module | None
    mlp: nn.Module | None
    activations: tuple[nn.Module, ...]
    held: tuple[nn.Module, ...]
    affine: tuple[tuple[nn.Module, Affine], ...]
    norms: tuple[nn.Module, ...]
    norm_after_attention: nn.Module | None
    norm_after_mlp: nn.Module | None
    norm_on_stream_after_attention: nn.Module | None
    norm_on_stream_after_mlp: nn.Module | None


_SEVERAL = ("activations", "held", "norms")
"""Modules of a layer to which paths of the family's with the same name lead, where they are there."""
_PARTS = [f.name for f in fields(Layer) if f.name not in ("module", "attention_name", "affine", *_SEVERAL)]
"""Modules of a layer to which a path of the family's with the same name leads."""


@dataclass(frozen=True)
class Anatomy:
    """The modules of one model that the lens reads.

    Attributes:
        base: the trunk that holds embeddings, layers and final norm, without the unembedding.
        layers: one entry per layer, in order.
        final_norm: the norm before the unembedding, or None.
        projection: a linear map between the final norm and the unembedding, or None.
        head: the unembedding, None for encoders.
    """

    base: nn.Module
    layers: tuple[Layer, ...]
    final_norm: nn.Module | None
    projection: nn.Module | None
    head: nn.Module | None


def matrix(linear: nn.Module) -> torch.Tensor:
    """W of y = W x + b, (width out, width in), for `nn.Linear` and for transposed convolutional layouts."""
    weight: torch.Tensor = linear.weight  # type: ignore[assignment]
    return weight if isinstance(linear, nn.Linear) else weight.T


def is_linear(module: nn.Module) -> bool:
    """True for the two linear maps that are read as they stand; adapters and quantised ones are not."""
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def bind(model: Any, family: Family) -> Anatomy:
    """Find the modules that `family` names in `model`.

    Raises:
        UserError: a module is missing, quantised, adapted or of a kind that is not handled exactly.
    """
    base, trunk = model.base_model, family.layers.rpartition(".")[0]
    names = {module: name for name, module in model.named_modules()}
    layers = []
    for layer in _find(base, family.layers, family).children():
        parts = {part: _find(layer, getattr(family, part), family) for part in _PARTS}
        for part in _SEVERAL:
            found = (_find(layer, path, family, optional=True) for path in getattr(family, part))
            parts[part] = tuple(module for module in found if module is not None)
        inner = ((_find(layer, path, family, optional=True), function) for path, function in family.affine)
        affine = tuple((module, function) for module, function in inner if module is not None)
        if family.causal and not parts["activations"] and not affine:
            raise UserError(
                f"a layer of the {family.name} model has none of the activations {', '.join(family.activations)}: it "
                "is not built as its family."
            )
        layers.append(Layer(layer, attention_name=names[parts["attention"]], affine=affine, **parts))
    if not layers:
        raise UserError(f"the {family.name} model has no layers: there is no attention to read.")
    head = model.get_output_embeddings() if family.causal else None
    if family.causal and head is None:
        raise UserError(
            f"{type(model).__name__} has no unembedding: load the model with its language-modelling head "
            "(AutoModelForCausalLM)."
        )
    final_norm, projection = (
        _find(base, path, family, optional=True) for path in (family.final_norm, family.projection)
    )
    anatomy = Anatomy(base.get_submodule(trunk), tuple(layers), final_norm, projection, head)
    if family.causal:
        _check(anatomy, names)
    return anatomy


def _find(root: nn.Module, path: str | None, family: Family, optional: bool = False) -> Any:
    if not path:
        return None
    try:
        return root.get_submodule(path)
    except AttributeError:
        if optional:
            return None
        raise UserError(
            f"the {family.name} model has no module {path!r} in {type(root).__name__}: it is not built as its family."
        ) from None


def _check(anatomy: Anatomy, names: dict[nn.Module, str]) -> None:
    # What is held at its value adds nothing of its own, whatever it is.
    held = {part for layer in anatomy.layers for module in layer.held for part in module.modules()}
    read = [*(layer.output for layer in anatomy.layers), anatomy.projection, anatomy.head]
    others = [module for module in anatomy.base.modules() if isinstance(module, nn.Linear) and module not in held]
    for module in [*read, *others]:
        if module is not None and not is_linear(module):
            raise UserError(
                f"{names.get(module)} is a {type(module).__name__}, not a plain linear map: merge adapters and load "
                "unquantised weights before explaining the model."
            )
    norms = [norm for layer in anatomy.layers for norm in (*layer.norms, anatomy.final_norm) if norm is not None]
    for norm in norms:
        is_centred(norm)
    # Norms of queries and keys end in the held attention weights: no bias of theirs reaches the margin.
    known = held.union(norms, *(layer.attention.modules() for layer in anatomy.layers))
    known |= {module for layer in anatomy.layers for module, _ in layer.affine}
    for module in anatomy.base.modules():
        adds_a_bias = any("bias" in name for name, _ in module.named_parameters(recurse=False))
        if adds_a_bias and not is_linear(module) and module not in known:
            raise UserError(
                f"{names.get(module)} ({type(module).__name__}) adds a bias that iclens cannot attribute: "
                "the path would not sum to the margin."
            )
    zero = torch.zeros(1, dtype=next(anatomy.base.parameters()).dtype, device=home_of(anatomy.base))
    for activation in {activation for layer in anatomy.layers for activation in layer.activations}:
        with torch.no_grad():
            at_zero = type(activation).forward(activation, zero)
        if bool(at_zero.any()):
            raise UserError(
                f"the activation {type(activation).__name__} is not zero at zero, so that σ(u)/u is no "
                "gate: iclens does not handle it."
            )
