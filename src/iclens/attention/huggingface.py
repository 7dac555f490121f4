"""Putting an attention variant into a Hugging Face model, and taking it out again."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from iclens.attention import interface
from iclens.attention.interface import SUBMODULE
from iclens.attention.patchable import AttentionLayer, attention_layers
from iclens.attention.variant import AttentionVariant, build
from iclens.errors import UserError
from iclens.huggingface import configurations, register, restore

_LAYERS = ("all", "self", "cross")

NOTE_VERSION = 1
_BEFORE = "_iclens_before"


class Applied:
    """A variant that was put into a model; as a context manager, it gives the model and takes the variant out again.

    Attributes:
        model: the model.
        name: the variant's name.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model = model
        self.name = name
        self._record = _base(model).__dict__[_BEFORE]

    @property
    def variants(self) -> dict[str, nn.Module]:
        """The variant in each attention layer, by the layer's name; plain `softmax` in those that were not chosen."""
        return {
            name: module._modules[SUBMODULE]
            for name, module in _base(self.model).named_modules()
            if SUBMODULE in module._modules
        }

    @property
    def active(self) -> bool:
        """Whether this variant is still in the model."""
        return _base(self.model).__dict__.get(_BEFORE) is self._record

    def remove(self) -> None:
        """Take the variant out: `remove(self.model)`."""
        remove(self.model)

    def __enter__(self) -> Any:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.active:
            self.remove()


def apply(model: Any, name: str, *, layers: str | Sequence[int] = "all", **options: Any) -> Applied:
    """Replace the softmax attention of a Hugging Face model's layers by a variant.

    A variant with the layer's dimensions becomes the submodule `iclens_attention` of each attention layer: its
    parameters are trained, moved and saved with the model's, in the layer's dtype and on its device. The model's own
    weights, positions, cache, masks and factor of the scores stay as they are. Dropout on attention weights in
    training is the model's own, on the softmax part. The model's configuration notes name and options
    (`config.iclens_attention`), from which `from_pretrained` rebuilds a saved model.

    Args:
        model: an encoder, a decoder or both of transformers, with or without a head, also inside a PEFT model.
        name: a name in `iclens.attention.ATTENTIONS`.
        layers: `"all"`, or of an encoder-decoder only `"self"`, the attention within the input and within the output,
            or only `"cross"`, that of the output to the input; or the numbers of some attention layers, from 0, in the
            model's order. The other layers keep softmax attention. Across two sequences a query has no key of its own,
            which some variants (`regularized`, `weight-decay`) need.
        **options: the variant's own; each layer gets its own copy of them.

    Returns:
        A handle. `handle.remove()`, `remove(model)` or leaving `with apply(...) as model:` puts everything back.

    Raises:
        UserError: the family cannot be patched, the variant, an option or a layer is wrong, it needs a query's own key
            in a layer without one, or the model has a variant already. The model is then as it was.
    """
    base = _base(model)
    found = attention_layers(base)
    chosen = _chosen(found, layers, base)
    _check_unpatched(base)
    variants = {layer: _build(layer, name, copy.deepcopy(options), base) for layer in chosen}
    _check_own_keys(variants, name)
    note: dict[str, Any] = {"name": name, "options": _written(variants[chosen[0]]), "version": NOTE_VERSION}
    if layers != "all":
        note["layers"] = layers if isinstance(layers, str) else sorted(layers)
        variants = {layer: variants.get(layer) or _build(layer, "softmax", {}, base) for layer in found}
    before = [
        (config, config._attn_implementation) for config in configurations(base, [layer.module for layer in found])
    ]
    register(interface.NAME, interface.attend, interface.mask)
    base.__dict__[_BEFORE] = before
    for layer, variant in variants.items():
        layer.module.add_module(SUBMODULE, variant)
    base.config.iclens_attention = note
    try:
        base.set_attn_implementation(interface.NAME)
        for layer in found:
            if getattr(layer.module, "config", base.config)._attn_implementation != interface.NAME:
                raise UserError(f"{type(base).__name__} did not let its layer {layer.name} change its attention.")
    except BaseException:
        remove(base)
        raise
    return Applied(model, name)


def remove(model: Any) -> None:
    """Take the variant out of a model and choose the attention implementation it had before.

    The model's outputs are then bitwise what they were before `apply`, as long as its own weights are.

    Args:
        model: the model given to `apply`, or a larger one that contains it.

    Raises:
        UserError: no variant is in the model.
    """
    holder = next((part for part in _base(model).modules() if _BEFORE in part.__dict__), None)
    if holder is None:
        raise UserError(f"{type(model).__name__} has no attention variant to remove.")
    for module in list(holder.modules()):
        module._modules.pop(SUBMODULE, None)
    restore(holder.__dict__.pop(_BEFORE))
    if hasattr(holder.config, SUBMODULE):
        delattr(holder.config, SUBMODULE)


def _base(model: Any) -> Any:
    """The model of transformers inside an adapter's or a compiler's wrapping."""
    while True:
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif "_orig_mod" in getattr(model, "_modules", {}):
            model = model._orig_mod
        else:
            return model


def _chosen(found: list[AttentionLayer], layers: str | Sequence[int], model: Any) -> list[AttentionLayer]:
    if not isinstance(layers, str):
        _check_numbers(layers, len(found), model)
        return [layer for number, layer in enumerate(found) if number in layers]
    if layers not in _LAYERS:
        raise UserError(f"unknown layers {layers!r}. Known: {', '.join(_LAYERS)}.")
    chosen = [layer for layer in found if layers == "all" or layer.crosses == (layers == "cross")]
    if not chosen:
        raise UserError(f"{type(model).__name__} has no layer that attends across two sequences: leave out layers=.")
    return chosen


def _check_numbers(layers: Sequence[int], n_layers: int, model: Any) -> None:
    if not layers:
        raise UserError("layers is empty: name at least one layer, or leave it out for all of them.")
    for number in layers:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < n_layers:
            raise UserError(
                f"layers holds {number!r}: {type(model).__name__} has the attention layers 0 to {n_layers - 1}."
            )
    if len(set(layers)) < len(layers):
        raise UserError(f"layers names a layer twice: {', '.join(map(str, layers))}.")


def _check_own_keys(variants: dict[AttentionLayer, AttentionVariant], name: str) -> None:
    for layer, variant in variants.items():
        if layer.crosses and variant.self_aligned:
            raise UserError(
                f"{name!r} needs a key of its own for every query, and {layer.name} attends to another sequence: put "
                "it into the other layers only, layers='self'."
            )


def _check_unpatched(model: Any) -> None:
    note = getattr(model.config, SUBMODULE, None)
    named = f"the variant {note['name']!r}" if isinstance(note, dict) and "name" in note else "a variant"
    if any(_BEFORE in part.__dict__ or SUBMODULE in part._modules for part in model.modules()):
        raise UserError(f"the model has {named} already: call iclens.attention.remove(model) before applying another.")
    if model.config._attn_implementation == interface.NAME:
        raise UserError(
            "the model shares its configuration object with one that has a variant: build each with its own, "
            "copy.deepcopy(config)."
        )
    if note is not None:
        raise UserError(
            f"the model's configuration says that its checkpoint was saved with {named}, which plain transformers left "
            "out when loading it: load it with iclens.attention.from_pretrained. To drop what was trained there and "
            f"start afresh, del model.config.{SUBMODULE} first."
        )


def _build(layer: AttentionLayer, name: str, options: dict[str, Any], model: Any) -> AttentionVariant:
    like = next((p for p in layer.module.parameters() if p.is_floating_point()), None)
    device = torch.device("cpu") if like is None else like.device
    # Transformers builds a model without storage before it loads one; the variants' values are needed even then.
    with torch.device("cpu"):
        variant = build(name, n_heads=layer.n_heads, d=layer.d, d_v=layer.d_v, n_kv_heads=layer.n_kv_heads, **options)
    variant.to(device=None if device.type == "meta" else device, dtype=model.dtype if like is None else like.dtype)
    return variant.train(layer.module.training)


def _written(variant: AttentionVariant) -> dict[str, Any] | None:
    """The variant's options as the configuration stores them; None when one of them, say a module, has no text."""
    try:
        return json.loads(json.dumps(variant.options(), allow_nan=False))
    except (TypeError, ValueError):
        return None
