"""A language model's layers as the arrays that `iclens.dual` reads: the other road, to hold the lens against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from iclens.dual import FeedForward, LayerWeights, Norm, Rotary, StackWeights
from iclens.errors import UserError
from iclens.lens.model.anatomy import Layer, matrix
from iclens.lens.model.loading import LensModel, rotary_settings
from iclens.lens.model.norms import bias_of, is_centred
from iclens.lens.read.capture import run
from iclens.matching.stacks import Pass

_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu-tanh", "silu": "silu"}


@torch.no_grad()
def stack_weights(lens_model: LensModel) -> StackWeights:
    """Write a GPT-2's or a Llama's layers and its final norm as `StackWeights`; embeddings and logits stay outside.

    Raises:
        UserError: another family, an activation whose gate is not known, or rotary positions that depend on how long
            the text is.
    """
    family = lens_model.family.name
    if family not in _LAYERS:
        raise UserError(f"layers of {family} are not written as dual weights: those of {' and '.join(_LAYERS)} are.")
    final = lens_model.anatomy.final_norm
    layers = tuple(_LAYERS[family](layer, lens_model) for layer in lens_model.anatomy.layers)
    return StackWeights(layers, None if final is None else _norm(final))


@torch.no_grad()
def stack_pass(
    lens_model: LensModel, input_ids: Int[Tensor, "batch n"], demonstrations: Int[Tensor, " n"] | None = None
) -> Pass:
    """Run a GPT-2 or a Llama by its own code on prompts of one length, and give the weights to read it with.

    Args:
        lens_model: the model.
        input_ids: token ids.
        demonstrations: group ids of the tokens; None for every token but the last as one of its own.

    Raises:
        UserError: what `stack_weights` refuses.
    """
    n = input_ids.shape[1]
    if demonstrations is None:
        demonstrations = torch.cat([torch.arange(n - 1), torch.tensor([-1])])
    weights, anatomy = stack_weights(lens_model), lens_model.anatomy
    states: list[Tensor] = []
    last: list[Tensor] = []

    def keep_input(module: nn.Module, args: Any, kwargs: Any) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def keep_output(module: nn.Module, args: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    modules = [layer.module for layer in anatomy.layers]
    hooks = [modules[0].register_forward_pre_hook(keep_input, with_kwargs=True)]
    hooks += [module.register_forward_hook(keep_output) for module in modules]
    if anatomy.final_norm is not None:
        hooks.append(anatomy.final_norm.register_forward_hook(lambda module, args, output: last.append(output)))
    try:
        run(lens_model, input_ids, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    mask = torch.ones(n, n, dtype=torch.bool, device=input_ids.device).tril()
    return Pass(weights, tuple(states), last[0] if last else states[-1], demonstrations, mask)


def _norm(module: nn.Module) -> Norm:
    eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
    make = Norm.layer if is_centred(module) else Norm.rms
    bias = bias_of(module)
    return make(module.weight.detach(), None if bias is None else bias.detach(), float(eps))  # type: ignore[arg-type, operator]


def _activation(config: Any, name: str) -> str:
    chosen = getattr(config, name)
    if chosen not in _ACTIVATIONS:
        raise UserError(f"the gate of the activation {chosen!r} is not known.")
    return _ACTIVATIONS[chosen]


def _map(linear: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return a linear map as a right factor of rows, and its bias."""
    bias = bias_of(linear)
    return matrix(linear).detach().mT, None if bias is None else bias.detach()


def _gpt2(layer: Layer, lens_model: LensModel) -> LayerWeights:
    block: Any = layer.module
    W, b = _map(block.attn.c_attn)
    W_O, b_O = _map(block.attn.c_proj)
    heads = (3, lens_model.n_heads, -1)
    assert b is not None
    W_1, b_1 = _map(block.mlp.c_fc)
    W_2, b_2 = _map(block.mlp.c_proj)
    W_Q, W_K, W_V = W.unflatten(-1, heads).permute(1, 2, 0, 3)
    b_Q, b_K, b_V = b.unflatten(-1, heads)
    return LayerWeights(
        W_Q,
        W_K,
        W_V,
        W_O.unflatten(0, heads[1:]),
        b_Q,
        b_K,
        b_V,
        b_O,
        _norm(block.ln_1),
        _norm(block.ln_2),
        FeedForward(W_1, W_2, _activation(lens_model.text_config, "activation_function"), b_1, b_2),
        scale=block.attn.scaling,
    )


def _llama(layer: Layer, lens_model: LensModel) -> LayerWeights:
    block: Any = layer.module
    attention, mlp, d = block.self_attn, block.mlp, block.self_attn.head_dim
    (W_Q, b_Q), (W_K, b_K), (W_V, b_V) = (
        (W.unflatten(-1, (-1, d)).movedim(-2, 0), None if b is None else b.unflatten(-1, (-1, d)))
        for W, b in map(_map, (attention.q_proj, attention.k_proj, attention.v_proj))
    )
    W_O, b_O = _map(attention.o_proj)
    (W_1, b_1), (W_2, b_2), (W_gate, b_gate) = map(_map, (mlp.up_proj, mlp.down_proj, mlp.gate_proj))
    activation = _activation(lens_model.text_config, "hidden_act")
    return LayerWeights(
        W_Q,
        W_K,
        W_V,
        W_O.unflatten(0, (-1, d)),
        b_Q,
        b_K,
        b_V,
        b_O,
        _norm(block.input_layernorm),
        _norm(block.post_attention_layernorm),
        FeedForward(W_1, W_2, activation, b_1, b_2, W_gate, b_gate),
        scale=attention.scaling,
        rotary=_rotary(lens_model),
    )


def _rotary(lens_model: LensModel) -> Rotary:
    kinds = {str(rope.get("rope_type")) for rope in rotary_settings(lens_model.text_config).values()}
    stretched = kinds & {"dynamic", "longrope"}
    if stretched:
        raise UserError(f"rotary positions of type {stretched.pop()!r} depend on how long the text is.")
    turning: Any = lens_model.anatomy.base.get_submodule("rotary_emb")
    # The model computes its angles in single precision, whatever the type of its weights.
    return Rotary(turning.inv_freq.float(), float(turning.attention_scaling))


_LAYERS: dict[str, Callable[[Layer, LensModel], LayerWeights]] = {"gpt2": _gpt2, "llama": _llama}
