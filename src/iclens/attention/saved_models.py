"""Loading a model that was saved with an attention variant in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from iclens.attention.huggingface import NOTE_VERSION, apply
from iclens.attention.interface import SUBMODULE
from iclens.attention.variant import build, name_of
from iclens.errors import UserError


def from_pretrained(
    folder: str | Path,
    *,
    auto_class: Any = None,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
    strict: bool = True,
    **loading: Any,
) -> Any:
    """Rebuild a model that `save_pretrained` stored with an attention variant, with every trained number.

    The configuration names the variant and its options. Transformers builds and loads the model; the variants are
    attached in between, so that their parameters are loaded like any other of the model's.

    Args:
        folder: a folder, or a name that transformers can load.
        auto_class: the class to load with, such as `AutoModelForSequenceClassification` or `LlamaForCausalLM`; by
            default the architecture that the configuration names.
        variant: the variant expected; an error if the checkpoint has another.
        options: the variant's options expected, completed by its defaults. Needed when the checkpoint could not store
            them (a module of the user's among them).
        strict: refuse a checkpoint that lacks weights of the model or has others. The variant's must match always.
        **loading: passed to transformers' `from_pretrained`: `dtype`, `device_map`, `local_files_only`, ...
            Only safetensors are loaded unless `use_safetensors=False` is among them.

    Returns:
        The model, in evaluation mode, as after `apply`.

    Raises:
        UserError: the checkpoint has no variant, another one or other options than expected, or its weights do not
            fit the model.
    """
    from transformers import AutoConfig

    shared = {key: loading[key] for key in ("cache_dir", "revision", "token", "local_files_only") if key in loading}
    config = loading.pop("config", None) or AutoConfig.from_pretrained(folder, trust_remote_code=False, **shared)
    loading.setdefault("use_safetensors", True)
    name, own, layers = _read_note(getattr(config, SUBMODULE, None), folder)
    if variant is not None and variant != name:
        raise UserError(f"{folder} was saved with the attention variant {name!r}, not with {variant!r}.")
    if own is None:
        if options is None:
            raise UserError(
                f"{folder} was saved with options of {name!r} that have no text, such as a module: pass them again, "
                "from_pretrained(folder, options={...})."
            )
        own, options = dict(options), None
    model_class = _model_class(config, auto_class, folder)
    delattr(config, SUBMODULE)

    unsaved: dict[str, torch.Tensor] = {}
    loaded = _with_variant(model_class, name, {"layers": layers, **own}, unsaved)
    model, report = loaded.from_pretrained(folder, config=config, output_loading_info=True, **loading)
    model.__class__ = model_class
    _check_report(report, model, folder, name, strict)
    if options is not None:
        _check_options(model, name, options, folder)
    for module in model.modules():
        if SUBMODULE in module._modules:
            like = next((p for key, p in module.named_parameters() if SUBMODULE not in key), None)
            module._modules[SUBMODULE].to(device=None if like is None else like.device)
    for key, buffer in unsaved.items():
        owner, _, attribute = key.rpartition(".")
        held = getattr(model.get_submodule(owner), attribute)
        setattr(model.get_submodule(owner), attribute, buffer.to(held.device, held.dtype))
    return model.eval()


def _with_variant(model_class: Any, name: str, options: Mapping[str, Any], unsaved: dict[str, torch.Tensor]) -> Any:
    """The model class, with the variant attached as soon as a model is built, so that its parameters are loaded.

    Fixed numbers that the variants hold outside the checkpoint are kept in `unsaved`: loading empties them.
    """

    def build_model(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, config, *args, **kwargs)
        handle = apply(self, name, **options)
        for layer, variant in handle.variants.items():
            stored = variant.state_dict()
            unsaved.update(
                {f"{layer}.{SUBMODULE}.{key}": buffer for key, buffer in variant.named_buffers() if key not in stored}
            )

    same = {key: getattr(model_class, key) for key in ("__module__", "__qualname__")}
    return type(model_class.__name__, (model_class,), {"__init__": build_model, **same})


def _read_note(note: Any, folder: str | Path) -> tuple[str, dict[str, Any] | None, str | Sequence[int]]:
    if note is None:
        raise UserError(
            f"{folder} was saved without an attention variant: load it with transformers and call "
            "iclens.attention.apply(model, name)."
        )
    fields = note if isinstance(note, dict) else {}
    version, name, options = fields.get("version"), fields.get("name"), fields.get("options")
    if not isinstance(name, str) or not isinstance(options, dict | None) or not isinstance(version, int):
        raise UserError(f"the config of {folder} has an unreadable {SUBMODULE} entry: {json.dumps(note, default=str)}.")
    if version > NOTE_VERSION:
        raise UserError(
            f"{folder} was saved by a newer iclens (its {SUBMODULE} entry has version {version}, this one reads up to "
            f"{NOTE_VERSION}): upgrade iclens."
        )
    return name, options, fields.get("layers", "all")


def _model_class(config: Any, auto_class: Any, folder: str | Path) -> Any:
    import transformers
    from transformers.models.auto.auto_factory import _get_model_class

    if auto_class is None:
        architectures = getattr(config, "architectures", None) or [None]
        found = getattr(transformers, str(architectures[0]), None)
        if found is None:
            raise UserError(f"the config of {folder} names no architecture of transformers: pass auto_class=.")
        return found
    mapping = getattr(auto_class, "_model_mapping", None)
    if mapping is None:
        return auto_class
    if type(config) not in mapping:
        raise UserError(f"{auto_class.__name__} has no model of the family {config.model_type!r}.")
    return _get_model_class(config, mapping)


def _check_report(report: Mapping[str, Any], model: Any, folder: str | Path, name: str, strict: bool) -> None:
    lacking, extra = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if not strict:
        lacking, extra = ([key for key in keys if f".{SUBMODULE}." in key] for keys in (lacking, extra))
    if lacking or extra:
        parts = ([f"lacks {_some(lacking)}"] if lacking else []) + ([f"has {_some(extra)} besides"] if extra else [])
        raise UserError(
            f"the weights in {folder} do not fit a {type(model).__name__} with the variant {name!r} of its config: the "
            f"checkpoint {' and '.join(parts)}. Was it saved with another variant, or another head?"
        )


def _some(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"


def _check_options(model: torch.nn.Module, name: str, options: Mapping[str, Any], folder: str | Path) -> None:
    held: Any = (m._modules[SUBMODULE] for m in model.modules() if SUBMODULE in m._modules)
    variant = next(variant for variant in held if name_of(variant) == name)
    own, shape = variant.options(), variant.shape
    sizes = {"n_heads": shape.n_heads, "d": shape.d, "d_v": shape.d_v, "n_kv_heads": shape.n_kv_heads}
    # Built, so that wrong names are refused and options have the form in which the model's were saved.
    expected = build(name, **sizes, **(own | options)).options()
    for key in options:
        if own[key] != expected[key]:
            raise UserError(f"{folder} was saved with {name!r}, {key}={own[key]!r}, not {key}={expected[key]!r}.")
