"""Adapters (PEFT): merged into their model, so that its linear maps are plain again; the user's model stays as it was.

W + B A of LoRA, and what its relatives add or multiply, becomes one matrix. Learned prompts and prefixes are no part of
any matrix: they are refused by name.
"""

from __future__ import annotations

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.lens.model.files import first_line


def check_adapter(folder: Path) -> None:
    """Refuse an adapter that is not a change of the model's matrices, before the model is loaded.

    Raises:
        UserError: the package peft is missing, or the adapter cannot be merged or read.
    """
    if find_spec("peft") is None:
        raise UserError("an adapter needs the package peft: `pip install 'iclens[adapters]'` brings it.")
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:
        # peft raises whatever an unknown or damaged configuration leads to.
        raise UserError(f"the adapter_config.json of {folder} cannot be read: {first_line(error)}") from error
    _check_mergeable(config, str(folder))


def with_adapter(model: Any, folder: Path) -> Any:
    """Return the model with the adapter of a folder merged into its matrices; the model itself is changed.

    Raises:
        UserError: the adapter does not fit the model, or cannot be merged.
    """
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            # peft asks transformers by names that are going out of use.
            warnings.simplefilter("ignore", FutureWarning)
            # A missing tensor would leave a part of the adapter at its random start.
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            wrapped = PeftModel.from_pretrained(model, str(folder))
    except Exception as error:
        # Shapes that differ, modules that are not there and damaged files each raise their own kind.
        raise UserError(f"the adapter {folder} does not fit its model: {first_line(error)}") from error
    return _merge(wrapped)


def without_adapters(model: Any) -> Any:
    """Return the model itself, or a copy with what is adapted in it merged: a `get_peft_model`, or `model.add_adapter`.

    The adapters that are active are merged; where the user has switched them off, none is.

    Raises:
        UserError: an adapter that cannot be merged.
    """
    if not getattr(model, "peft_config", None):
        return model
    for config in model.peft_config.values():
        _check_mergeable(config, "the model")
    return _merge(copy.deepcopy(model)).eval()


def _check_mergeable(config: Any, name: str) -> None:
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning or config.is_adaption_prompt or kind in ("XLORA", "POLY"):
        does = "depends on the text" if kind in ("XLORA", "POLY") else "adds learned positions to the text"
        raise UserError(
            f"{name} is adapted by {kind}, which {does} and cannot be merged into the model's matrices: iclens "
            "explains merged adapters, e.g. LoRA."
        )


def _merge(model: Any) -> Any:
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    off = any(layer.disable_adapters for layer in layers)
    try:
        with warnings.catch_warnings():
            # The user may have merged it already.
            warnings.filterwarnings("ignore", message=".*already merged.*")
            if hasattr(model, "merge_and_unload"):
                return model.unload() if off else model.merge_and_unload(safe_merge=True)
            _merge_within(model, off)
            return model
    except Exception as error:
        # Not every kind of adapter can be merged, and each says so by an error of its own.
        raise UserError(f"the adapter cannot be merged into the model's matrices: {first_line(error)}") from error


def _merge_within(model: Any, off: bool) -> None:
    """Merge adapters that transformers itself has put into a model, which has no method for it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in [pair for pair in model.named_modules() if isinstance(pair[1], BaseTunerLayer)]:
        if off:
            layer.unmerge()
        else:
            layer.merge(safe_merge=True)
        model.set_submodule(name, layer.get_base_layer())
    vars(model).pop("peft_config", None)
    model._hf_peft_config_loaded = False
