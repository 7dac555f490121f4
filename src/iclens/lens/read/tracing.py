"""One forward pass that serves the gradient step, the path and the knock-out.

Attention runs on PyTorch's fast kernel, keys and values are kept by reference, attention weights are formed only for
the positions that are read, and no n × n tensor is kept. With `held=True` the same pass keeps what the path's backward
pass needs: weights, norms and gates are held at their values, and the numbers are the model's own.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iclens.dual import DualModel, TrainingWeights
from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import cast, wide
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import fast, softmax_rows
from iclens.lens.read.capture import against_own_pass, attention_outputs, relative, run
from iclens.lens.read.finite import check_finite
from iclens.lens.read.frozen import Leaves, holding
from iclens.lens.read.fused import fused_activations
from iclens.lens.read.heads import head_dual
from iclens.lens.read.margin import Readouts
from iclens.lens.read.padded import PaddedTokens, take, unembedding_only
from iclens.lens.read.routing import Routes, recording_routes, routed_as


@dataclass(frozen=True)
class LayerTrace:
    """What one attention layer leaves behind, at the read-out positions except for its keys and values.

    Attributes:
        name: the attention module's name in the model.
        mask: which tokens the read-out positions may see.
        q: queries; they, the weights and the output are kept in no less than single precision.
        k: keys, by reference, like the values.
        output: the heads' output, before W_O.
        query_mask: which tokens the query's tokens may see (causality, windows); shared between layers.
        scale: factor of the scores.
        softcap: c of c·tanh(scores/c), or None.
        sinks: the heads' learned sinks, or None; with them the rows of `weights` sum to less than one.
    """

    name: str
    q: Float[Tensor, "batch heads n_positions d"]
    weights: Float[Tensor, "batch heads n_positions n"]
    mask: Bool[Tensor, "batch n_positions n"]
    k: Float[Tensor, "batch key_heads n d"]
    v: Float[Tensor, "batch key_heads n d_v"]
    output: Float[Tensor, "batch heads n_positions d_v"]
    query_mask: Bool[Tensor, "batch n_query n"]
    scale: float
    softcap: float | None
    sinks: Float[Tensor, " heads"] | None

    @property
    def sink_weights(self) -> Float[Tensor, "batch heads n_positions"] | None:
        """The attention that learned sinks take; None without them."""
        return None if self.sinks is None else 1.0 - self.weights.sum(-1)

    def dual(
        self,
        head: int,
        groups: int | Int[Tensor, " n"],
        *,
        prompt: int = 0,
        rows: slice = slice(None),
        dtype: torch.dtype | None = None,
        training_weights: TrainingWeights | None = None,
    ) -> DualModel:
        """Make the dual model of one query head: its `predict()` is the head's `output` at the read-out positions.

        Of one prompt, and of some `rows` of its positions; `groups` are the demonstrations, as in
        `DualModel.from_attention`; computed in `dtype`, say float64 (in memory where the device has none), or as the
        queries are kept. A learned sink is one more training pair after all tokens, of no demonstration.
        `training_weights` count in this head alone.
        """
        shared = head // (self.q.shape[1] // self.k.shape[1])
        q, k, v = self.q[prompt, head, rows], self.k[prompt, shared], self.v[prompt, shared]
        q, k, v = (cast(tensor, dtype or self.q.dtype) for tensor in (q, k, v))
        sink = None if self.sinks is None else self.sinks[head].to(q.device)
        how: dict[str, Any] = {"scale": self.scale, "softcap": self.softcap, "sink": sink}
        mask = self.mask[prompt, rows].to(q.device)
        return head_dual(q, k, v, groups, **how, mask=mask, training_weights=training_weights)


@dataclass(frozen=True)
class Trace:
    """A forward pass of some prompts, as far as it is needed to explain what is read of them.

    Attributes:
        lens_model: the model.
        tokens: the prompts.
        readouts: what is read from their logits.
        layers: one entry per layer.
        inputs: a module -> its input (batch, n_positions, width) at the read-out positions (norms, every layer).
        outputs: a module -> its output there (norms, attention, MLPs, the last layer, unembedding).
        attended: every attention module's own output (batch, n, width), for the check.
        logits: at the read-out positions.
        routes: what the routers of a model in half precision returned.
        leaves: what the path's backward pass starts from; None when the pass was not held.
    """

    lens_model: LensModel
    tokens: PaddedTokens
    readouts: Readouts
    layers: tuple[LayerTrace, ...]
    inputs: dict[nn.Module, Tensor]
    outputs: dict[nn.Module, Tensor]
    attended: dict[str, Tensor]
    logits: Float[Tensor, "batch n_positions vocabulary"]
    routes: Routes
    leaves: Leaves | None

    @property
    def capped(self) -> bool:
        """Whether a layer caps its scores."""
        return any(layer.softcap is not None for layer in self.layers)

    @property
    def margins(self) -> Float[Tensor, " batch"]:
        """Every prompt's margin: the number that everything else explains."""
        return self.readouts.margin(self.logits)

    @property
    def log_probabilities(self) -> Float[Tensor, " batch"]:
        """log p(answer) of every prompt, zero when its read-out names no answer."""
        return self.readouts.log_probability(self.logits)


def trace(lens_model: LensModel, tokens: PaddedTokens, readouts: Readouts, *, held: bool = False) -> Trace:
    """Run a causal model once over prompts, and keep what explains what is read of their logits.

    With `held`, also what `path` needs is kept, about the activations of the pass.

    Raises:
        UserError: a prompt or a read-out does not fit the model.
    """
    if held and torch.is_inference_mode_enabled():
        raise UserError("the path needs gradients, which torch.inference_mode() forbids: use torch.no_grad() instead.")
    tokens.check(lens_model)
    readouts.check(tokens, lens_model.n_vocabulary)
    batch, n = tokens.ids.shape
    positions = readouts.positions
    layers: dict[str, LayerTrace] = {}
    masks: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def attend(call: AttentionCall) -> Tensor:
        output = fast(call)
        if call.key not in masks:
            masks[call.key] = call.rows_at(tokens.query_places), call.rows_at(positions)
        seen, read = masks[call.key]
        q, out = (wide(take(x.detach().transpose(1, 2), positions).transpose(1, 2)) for x in (call.q, output))
        with torch.no_grad():
            weights = softmax_rows(replace(call, k=wide(call.k)), q, read[:, None])
        k, v = call.k, call.v.detach()
        if not held:
            # Where one product gives queries, keys and values, these are parts of a larger tensor.
            k, v = (x.clone() if x.untyped_storage().nbytes() > x.nbytes else x for x in (k, v))
        layers[call.name] = LayerTrace(
            call.name, q, weights, read, k, v, out, seen, call.scale, call.softcap, call.sinks
        )
        return output

    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}
    attended: dict[str, Tensor] = {}
    anatomy = lens_model.anatomy
    assert anatomy.head is not None

    def rows(hidden: Any) -> Tensor:
        # Layers return tuples in some families, and so do MLPs that choose experts. OPT runs its MLP on
        # (batch · n, width), so rows are addressed after they are put apart again.
        hidden = hidden if isinstance(hidden, Tensor) else hidden[0]
        return take(hidden.detach().reshape(batch, n, -1), positions)

    def keep_rows(module: nn.Module, args: Any, output: Any) -> None:
        inputs[module], outputs[module] = rows(args[0]), rows(output)

    def keep_end(module: nn.Module, args: Any, output: Any) -> None:
        outputs[module] = rows(output)

    def keep_logits(module: nn.Module, args: Any, output: Tensor) -> None:
        outputs[module] = output.detach()

    def keep_input(module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs[module] = rows(args[0] if args else kwargs["hidden_states"])

    with ExitStack() as stack:
        leaves = stack.enter_context(holding(lens_model, batch * n, attend)) if held else None
        if leaves is None:
            stack.enter_context(torch.no_grad())
            stack.enter_context(attending(lens_model, attend))
        # After the hooks of `holding`, so that what is kept is what goes on through the network.
        for module in _watched(lens_model):
            stack.callback(module.register_forward_hook(keep_rows).remove)
        stack.enter_context(attention_outputs(lens_model, attended.__setitem__))
        for layer in anatomy.layers:
            stack.callback(layer.module.register_forward_pre_hook(keep_input, with_kwargs=True).remove)
        stack.callback(anatomy.layers[-1].module.register_forward_hook(keep_end).remove)
        stack.callback(anatomy.head.register_forward_hook(keep_logits).remove)
        stack.enter_context(unembedding_only(lens_model, positions))
        stack.enter_context(fused_activations(lens_model))
        routes = stack.enter_context(recording_routes(lens_model))
        logits = run(lens_model, tokens.ids, position_ids=tokens.places).detach()
    check_finite(lens_model, tokens, logits)
    ordered = tuple(layers[layer.attention_name] for layer in anatomy.layers)
    return Trace(lens_model, tokens, readouts, ordered, inputs, outputs, attended, logits, routes, leaves)


def _watched(lens_model: LensModel) -> list[nn.Module]:
    """Modules whose inputs and outputs at the read-out positions the direct path runs through."""
    anatomy = lens_model.anatomy
    found: list[nn.Module | None] = [anatomy.final_norm]
    for layer in anatomy.layers:
        found += [layer.output, layer.mlp, layer.norm_after_attention, layer.norm_after_mlp]
        found += [layer.norm_on_stream_after_attention, layer.norm_on_stream_after_mlp]
    return [module for module in found if module is not None]


@torch.no_grad()
def off_by(traced: Trace) -> Float[Tensor, " batch"]:
    """How far the numbers of a traced pass are from the model's own: the worst relative difference in each prompt.

    Compared are the output of every attention module (after W_O) at every real token, and the logits that are read,
    each relative to the largest magnitude of the model's own numbers in that prompt. In half precision the model's own
    pass sends its tokens to the experts of the traced one.
    """
    lens_model, tokens, positions = traced.lens_model, traced.tokens, traced.readouts.positions
    with (
        against_own_pass(lens_model, traced.attended, tokens.real, capped=traced.capped) as off,
        unembedding_only(lens_model, positions),
        routed_as(traced.routes),
    ):
        # Positions of the same shape as in the traced pass: on it depends the last digit of what is turned in float32.
        logits = run(lens_model, tokens.ids, position_ids=tokens.places)
    off["logits"] = relative(traced.logits, logits)
    return torch.stack([one.to(tokens.ids.device) for one in off.values()]).amax(0)
