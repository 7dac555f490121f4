"""What the lens must know about a family of models: where its attention, norms, gates and branches are.

A causal family adds, to a residual stream, an attention branch and an MLP branch per layer:

    x ← S₁(x + m N₁(attention(...)));   x ← S₂(x + m N₂(mlp(...)));   logits = f(W_U P(N(x)) + b)

where N₁, N₂ (norms on the branches), S₁, S₂ (norms on the stream), P (a projection) and N may be absent, m is
a constant and f acts on every logit alone. Parallel residuals are the same sum. Everything else (rotary
positions, grouped heads, windows, soft caps) is seen by the attention interface and needs no word here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from iclens.registry import Registry

Affine = Callable[..., tuple[Tensor, Tensor]]
"""From a module and its arguments to the part that is linear in the first of them, and the rest."""


@dataclass(frozen=True)
class Family:
    """Where the parts of a family's models are. Paths are relative to the base model or to one layer.

    Attributes:
        name: the configuration's `model_type`.
        causal: True for language models read from left to right; False for encoders, which are only captured.
        layers: path of the list of layers.
        attention: path, in a layer, of the module that calls the attention interface.
        output: path, in a layer, of the linear map W_O after the heads (causal families).
        mlp: path, in a layer, of the module whose output is the MLP branch (causal families).
        activations: paths, in a layer, of its activation modules; those absent are skipped, because dense and sparse
            layers have others, but each layer of a causal family has one at least, or a path of `affine`.
        gated: True when the activations multiply other linear maps (SwiGLU and its kin).
        held: paths, in a layer, of modules whose outputs weigh other branches and are held at their values: routers
            of experts, the gate on a shared expert; those absent are skipped.
        affine: (path in a layer, function) of modules that are affine once the gates inside them are held, and that
            have no modules of their own for these gates. The function takes the module and what it is called with,
            and returns the part that is linear in the first argument and the rest, which sum to the module's output.
        norms: paths, in a layer, of all norms that act on the stream, its branches or the values (those absent are
            skipped).
        norm_after_attention: N₁, a norm on the attention branch before it is added.
        norm_after_mlp: N₂.
        norm_on_stream_after_attention: S₁, a norm on the stream after the sum.
        norm_on_stream_after_mlp: S₂.
        final_norm: path of the norm before the unembedding, or None.
        projection: path of a linear map between the final norm and the unembedding, or None.
        branch_scale: m.
        single: keys of checks that hold no better in float64 than in float32, because the model computes parts in
            float32 whatever its weights are: `"capture"` where that is the softmax of the attention that is compared
            with, `"knock_out"` where it is an operation whose last digit depends on how many tokens run together.
        query_scale: factor of the queries that an attention module (first argument) applies at some positions (second
            one), where it counts these from the first token of a pass, whatever positions it is given; None without.
    """

    name: str
    causal: bool
    layers: str
    attention: str
    output: str = ""
    mlp: str = ""
    activations: tuple[str, ...] = ()
    gated: bool = False
    held: tuple[str, ...] = ()
    affine: tuple[tuple[str, Affine], ...] = ()
    norms: tuple[str, ...] = ()
    norm_after_attention: str | None = None
    norm_after_mlp: str | None = None
    norm_on_stream_after_attention: str | None = None
    norm_on_stream_after_mlp: str | None = None
    final_norm: str | None = None
    projection: str | None = None
    branch_scale: float = 1.0
    single: tuple[str, ...] = ()
    query_scale: Callable[[Any, Tensor], Tensor] | None = None


FAMILIES: Registry[Callable[[Any], Family]] = Registry("model family", "iclens.families", package=__package__)
"""`model_type` -> a function from a configuration to its `Family`.

The function raises `UserError` for a configuration that it does not handle exactly. The first paragraph of its
docstring says what is particular to the family and handled: `iclens explain --list-models` and the docs show it.
"""

REFUSED: Registry[Callable[[Any], str]] = Registry("refused model family", "iclens.refused", package=__package__)
"""`model_type` -> a function from a configuration to the reason why it is refused, a clause that stands after a colon.

The first paragraph of its docstring is the reason for the whole family.
"""


def llama_layout(config: Any, **changes: Any) -> Family:
    """Return the layout of Llama and most of its descendants; `changes` are fields of `Family`."""
    fields: dict[str, Any] = {
        "name": config.model_type,
        "causal": True,
        "layers": "layers",
        "attention": "self_attn",
        "output": "self_attn.o_proj",
        "mlp": "mlp",
        "activations": ("mlp.act_fn",),
        "gated": True,
        "norms": ("input_layernorm", "post_attention_layernorm"),
        "final_norm": "norm",
    }
    return Family(**(fields | changes))
