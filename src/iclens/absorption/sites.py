"""Which linear maps of a model are changed: the outputs of attention and MLP, or the MLP's first matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from iclens.errors import UserError
from iclens.lens.model.anatomy import Layer, is_linear
from iclens.lens.model.loading import LensModel

ATTENTION, MLP_IN, MLP_OUT = "attention", "mlp-in", "mlp-out"

TARGETS = (ATTENTION, MLP_IN, MLP_OUT)
"""W_O after the heads; the MLP's first matrices (gate and up, or fc1); its last matrix (down, or fc2)."""

USUAL = (ATTENTION, MLP_OUT)
"""What is changed where nothing else is said: measured, see docs/absorb.md."""


@dataclass(frozen=True, eq=False)
class Site:
    """A linear map that is changed.

    Attributes:
        module: the map.
        name: its name in the model.
        layer: its layer.
        target: one of `TARGETS`.
    """

    module: nn.Module
    name: str
    layer: int
    target: str


def sites_of(
    lens_model: LensModel, layers: Sequence[int] | None = None, targets: Sequence[str] = USUAL
) -> tuple[Site, ...]:
    """Find the maps of some layers, all by default, in the order of the layers.

    Raises:
        UserError: an unknown target or layer, or a model whose branches cannot be changed by these maps.
    """
    lens_model.require_causal()
    unknown = [one for one in targets if one not in TARGETS]
    if unknown or not targets:
        said = f"the target {unknown[0]!r} is not known" if unknown else "there is no target"
        raise UserError(f"{said}: give some of {', '.join(TARGETS)}.")
    n = lens_model.n_layers
    chosen = list(range(n)) if layers is None else sorted(set(layers))
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < n:
        raise UserError(f"the layers are {chosen}: {lens_model.name} has the layers 0 to {n - 1}.")
    names = {module: name for name, module in lens_model.model.named_modules()}
    found = []
    for number in chosen:
        layer = lens_model.anatomy.layers[number]
        _check_sum(lens_model, layer)
        modules = dict.fromkeys(targets, ()) | _maps(layer)
        for target in TARGETS:
            if target not in targets:
                continue
            if not modules[target]:
                raise UserError(
                    f"layer {number} of {lens_model.name} has no plain matrix for the target {target!r}, as layers of "
                    f"experts have none: give other targets or layers."
                )
            found += [Site(module, names[module], number, target) for module in modules[target]]
    return tuple(found)


def _maps(layer: Layer) -> dict[str, tuple[nn.Module, ...]]:
    """The maps of a layer by target; an MLP's last one is that which leads back to the stream."""
    out = layer.output
    assert out is not None
    attention = set(layer.attention.modules())
    held = {part for module in layer.held for part in module.modules()}
    linear = [m for m in layer.module.modules() if is_linear(m) and m not in attention and m not in held]
    width = widths(out)[1]
    last = [m for m in linear if widths(m)[1] == width and m is linear[-1]]
    plain = layer.mlp is not None and (not layer.held) and len(last) == 1
    return {
        ATTENTION: (out,),
        MLP_IN: tuple(m for m in linear if m is not last[0] and widths(m)[0] == width) if plain else (),
        MLP_OUT: tuple(last) if plain else (),
    }


def widths(module: nn.Module) -> tuple[int, int]:
    """Widths of a linear map's input and output."""
    rows, columns = module.weight.shape  # type: ignore[misc]
    return (int(columns), int(rows)) if isinstance(module, nn.Linear) else (int(rows), int(columns))


def _check_sum(lens_model: LensModel, layer: Layer) -> None:
    """Refuse layers whose sum passes through a norm."""
    if layer.norm_on_stream_after_attention is not None or layer.norm_on_stream_after_mlp is not None:
        raise UserError(
            f"{lens_model.name} ({lens_model.family.name}) has norms on its stream, behind each sum, so that what a "
            "branch adds is not what enters the next: iclens absorbs prompts only into models with norms before or "
            "behind their branches, such as GPT-2, Llama, Qwen, Mistral, GPT-NeoX, Phi, Gemma and OLMo."
        )
