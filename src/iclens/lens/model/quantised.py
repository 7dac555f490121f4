"""Quantised weights: turned back into plain ones where transformers can, refused by name where it cannot.

Only plain linear maps are read exactly. Which checkpoints are turned back at loading, which after it, and which not at
all, is what transformers offers for each method of quantisation.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from iclens.errors import UserError

AT_LOADING = {
    "compressed-tensors": "CompressedTensorsConfig",
    "fp8": "FineGrainedFP8Config",
    "gguf": "GgufConfig",
    "mxfp4": "Mxfp4Config",
}
"""Methods of quantisation -> the class of transformers whose `dequantize=True` makes plain weights while loading."""

AFTER_LOADING = ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit")
"""Methods whose loaded model `model.dequantize()` turns back."""

_PACKAGES = {"bitsandbytes": "bitsandbytes", "compressed-tensors": "compressed_tensors"}
_MARKS = ("hf_quantizer", "is_quantized", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit")


def method_of(config: Any) -> str | None:
    """Return the method of quantisation that a configuration names, e.g. `"gptq"`; None for plain weights."""
    found = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if found is None:
        return None
    told = found if isinstance(found, dict) else found.to_dict()
    method = told.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in told or "load_in_8bit" in told else "")
    return str(getattr(method, "value", method) or "an unknown method")


def reading(method: str | None) -> dict[str, Any]:
    """Return the arguments with which `from_pretrained` turns quantised weights back; none for plain ones.

    Raises:
        UserError: transformers cannot turn back this method, or a package that it needs is missing.
    """
    if method is None:
        return {}
    package = _PACKAGES.get(method)
    if package is not None and find_spec(package) is None:
        needed = package.replace("_", "-")
        raise UserError(f"weights quantised with {method} need the package {needed}: `pip install {needed}` brings it.")
    if method in AFTER_LOADING:
        return {}
    import transformers

    kind = getattr(transformers, AT_LOADING.get(method, ""), None)
    if kind is None:
        raise UserError(_refusal(method))
    return {"quantization_config": kind(dequantize=True)}


def plain(model: Any, *, own: bool) -> Any:
    """Return the model with plain weights and without the marks of quantisation.

    Marks without quantised weights, as they are left on a model read from a GGUF file, are taken off the model itself:
    they would keep it from being copied into another type. Weights are turned back in a copy, or in the model itself if
    it is our `own`.

    Raises:
        UserError: its weights are quantised in a way that transformers cannot turn back.
    """
    method = method_of(model.config)
    if any(map(_is_packed, model.modules())):
        method = method or "an unknown method"
        if method not in AFTER_LOADING:
            raise UserError(_refusal(method))
        model = _turned_back(model if own else copy.deepcopy(model))
    if method is not None:
        _unmark(model)
    return model


def _turned_back(model: Any) -> Any:
    """Return the model itself with plain weights, if they are the ones that it computes with.

    Bitsandbytes repacks weights when they first run on a processor, and does not turn those back rightly.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    name, first = next((name, copy.deepcopy(one)) for name, one in model.named_modules() if _is_packed(one))
    model = model.dequantize(dtype=dtype)
    linear = model.get_submodule(name)
    x = torch.randn(8, linear.in_features, generator=torch.Generator().manual_seed(0)).to(linear.weight)
    with torch.no_grad():
        packed, turned = first(x), linear(x)
    # Computing in eight bits is off by a hundredth or two, wrong weights by more than one.
    if float((packed - turned).norm()) > 0.2 * float(packed.norm()):
        raise UserError(
            "bitsandbytes has repacked the weights of this model, which has run already, and does not turn them back: "
            "give the model before it runs, or its name."
        )
    return model


def _is_packed(module: nn.Module) -> bool:
    """Return whether a module holds its weights in another form than a plain tensor of numbers."""
    if any(hasattr(module, name) for name in ("qweight", "weight_packed", "quantization_scheme")):
        return True
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return False
    # Some packages keep the class of the module and change that of its tensor.
    return not weight.is_floating_point() or weight.dtype.itemsize < 2 or type(weight.data) is not torch.Tensor


def _unmark(model: Any) -> None:
    for part in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    for mark in _MARKS:
        # A class of transformers may define the mark as a constant.
        vars(model).pop(mark, None)


def _refusal(method: str) -> str:
    readable = ", ".join(sorted({*AT_LOADING, "bitsandbytes"}))
    return (
        f"the weights are quantised with {method}, which transformers cannot turn back into plain ones, and only those "
        f"are read exactly: load the original weights, which the model's page names, or a GGUF file of the model. "
        f"Turned back are {readable}."
    )
