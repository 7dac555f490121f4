"""A family's paths bound to the modules of one model, each checked to be what the lens takes it for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from iclens.errors import UserError
from iclens.lens.model.families import Family
from iclens.lens.model.norms import is_centred
from iclens.lens.model.placed import home_of


@dataclass(frozen=True)
class Layer:
    """The modules of one layer that the lens reads; those that a family lacks are None."""

    name: str
    module: nn.Module
    attention_name: str
    attention: nn.Module
    output: nn.Module | None
    mlp: nn.Module | None
    activation: nn.Module | None
    norms: tuple[nn.Module, ...]
    norm_after_attention: nn.Module | None
    norm_after_mlp: nn.Module | None
    norm_on_stream_after_attention: nn.Module | None
    norm_on_stream_after_mlp: nn.Module | None


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
    """Find and check the modules that `family` names in `model`.

    Raises:
        UserError: a module is missing, quantised, adapted or of a kind that is not handled exactly.
    """
    base = model.base_model
    trunk, _, _ = family.layers.rpartition(".")
    names = {module: name for name, module in model.named_modules()}
    stack = _find(base, family.layers, family)
    layers = []
    for layer in stack.children():
        norms = [_find(layer, path, family, optional=True) for path in family.norms]
        attention = _find(layer, family.attention, family)
        layers.append(
            Layer(
                name=names[layer],
                module=layer,
                attention_name=names[attention],
                attention=attention,
                output=_find(layer, family.output, family) if family.causal else None,
                mlp=_find(layer, family.mlp, family) if family.causal else None,
                activation=_find(layer, family.activation, family) if family.causal else None,
                norms=tuple(norm for norm in norms if norm is not None),
                norm_after_attention=_find(layer, family.norm_after_attention, family),
                norm_after_mlp=_find(layer, family.norm_after_mlp, family),
                norm_on_stream_after_attention=_find(layer, family.norm_on_stream_after_attention, family),
                norm_on_stream_after_mlp=_find(layer, family.norm_on_stream_after_mlp, family),
            )
        )
    if not layers:
        raise UserError(f"the {family.name} model has no layers: there is no attention to read.")
    head = model.get_output_embeddings() if family.causal else None
    if family.causal and head is None:
        raise UserError(
            f"{type(model).__name__} has no unembedding: load the model with its language-modelling head "
            "(AutoModelForCausalLM)."
        )
    anatomy = Anatomy(
        base=base.get_submodule(trunk),
        layers=tuple(layers),
        final_norm=_find(base, family.final_norm, family, optional=True),
        projection=_find(base, family.projection, family, optional=True),
        head=head,
    )
    if family.causal:
        _check(anatomy, names)
    return anatomy


def _find(root: nn.Module, path: str | None, family: Family, optional: bool = False) -> Any:
    if path is None:
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
    linear = [layer.output for layer in anatomy.layers] + [anatomy.projection, anatomy.head]
    for module in linear:
        if module is not None and not is_linear(module):
            raise UserError(
                f"{names.get(module)} is a {type(module).__name__}, not a plain linear map: merge adapters and load "
                "unquantised weights before explaining the model."
            )
    norms = [norm for layer in anatomy.layers for norm in layer.norms]
    norms += [anatomy.final_norm] if anatomy.final_norm is not None else []
    # Norms of queries and keys end in the held attention weights: no bias of theirs reaches the margin.
    known = set(norms) | {norm for layer in anatomy.layers for norm in layer.attention.modules()}
    for norm in norms:
        is_centred(norm)
    for module in anatomy.base.modules():
        if isinstance(module, nn.Linear) and type(module) is not nn.Linear:
            raise UserError(
                f"{names.get(module)} is a {type(module).__name__}, not a plain linear map: merge adapters and load "
                "unquantised weights before explaining the model."
            )
        if _adds_a_bias(module) and not is_linear(module) and module not in known:
            raise UserError(
                f"{names.get(module)} ({type(module).__name__}) adds a bias that iclens cannot attribute: "
                "the path would not sum to the margin."
            )
    for layer in anatomy.layers:
        activation = layer.activation
        assert activation is not None
        probe = next(anatomy.base.parameters())
        zero = torch.zeros(1, dtype=probe.dtype, device=home_of(anatomy.base))
        with torch.no_grad():
            if float(type(activation).forward(activation, zero).abs().max()) != 0.0:
                raise UserError(
                    f"the activation {type(activation).__name__} is not zero at zero, so that σ(u)/u is no "
                    "gate: iclens does not handle it."
                )


def _adds_a_bias(module: nn.Module) -> bool:
    return isinstance(getattr(module, "bias", None), nn.Parameter)
