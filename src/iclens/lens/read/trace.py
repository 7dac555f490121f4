"""One forward pass that serves the gradient step and the knock-out.

It costs what a plain pass costs: attention runs on PyTorch's fast kernel, keys and values are kept by reference,
attention weights are formed only for the positions that are read out, and no n × n tensor is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import fast, softmax_rows
from iclens.lens.read.capture import run
from iclens.lens.read.readout import Readout


@dataclass(frozen=True)
class LayerTrace:
    """What one attention layer leaves behind.

    Attributes:
        name: the attention module's name in the model.
        weights: attention weights of the read-out positions.
        k: keys, by reference.
        v: values, by reference.
        query_mask: which tokens the query's tokens may see (causality, windows); shared between layers.
        scale: factor of the scores.
        softcap: c of c·tanh(scores/c), or None.
    """

    name: str
    weights: Float[Tensor, "heads n_positions n"]
    k: Float[Tensor, "key_heads n d"]
    v: Float[Tensor, "key_heads n d_v"]
    query_mask: Bool[Tensor, "n_query n"]
    scale: float
    softcap: float | None


@dataclass(frozen=True)
class Trace:
    """A forward pass of one prompt, as far as it is needed to explain its read-out.

    Attributes:
        lens_model: the model.
        input_ids: the prompt's token ids.
        readout: what is read from the logits.
        query_start: first token of the query: it and all after it are the query's tokens.
        layers: one entry per layer.
        inputs: a module -> its input at the read-out positions (norms, the first layer).
        outputs: a module -> its output at the read-out positions (norms, attention, MLPs, unembedding).
        logits: at the read-out positions.
    """

    lens_model: LensModel
    input_ids: Int[Tensor, " n"]
    readout: Readout
    query_start: int
    layers: tuple[LayerTrace, ...]
    inputs: dict[nn.Module, Tensor]
    outputs: dict[nn.Module, Tensor]
    logits: Float[Tensor, "n_positions vocabulary"]

    @property
    def margin(self) -> float:
        """The margin that everything else explains."""
        return float(self.readout.margin(self.logits))

    @property
    def log_probability(self) -> float:
        """log p(answer), zero when the read-out names no answer."""
        return float(self.readout.log_probability(self.logits))


def one_prompt(lens_model: LensModel, input_ids: Tensor, readout: Readout) -> Tensor:
    """The prompt as (1, n) on the model's device, after checking it.

    Raises:
        UserError: an encoder; several prompts; an empty or too long one; ids or a read-out outside the model.
    """
    lens_model.require_causal()
    ids = input_ids.reshape(1, -1) if input_ids.ndim == 1 else input_ids
    if ids.ndim != 2 or ids.shape[0] != 1:
        raise UserError(f"token ids of one prompt are needed, (n,) or (1, n); their shape is {tuple(input_ids.shape)}.")
    n = ids.shape[1]
    if n == 0:
        raise UserError("the prompt has no tokens.")
    limit = lens_model.context_length
    if limit is not None and n > limit:
        raise UserError(f"the prompt has {n} tokens; the context of {lens_model.name} holds {limit}.")
    if int(ids.min()) < 0 or int(ids.max()) >= lens_model.n_vocabulary:
        raise UserError(f"token ids must lie in [0, {lens_model.n_vocabulary}); they reach {int(ids.max())}.")
    readout.check(n, lens_model.n_vocabulary)
    return ids.to(lens_model.device)


@torch.no_grad()
def trace(
    lens_model: LensModel,
    input_ids: Int[Tensor, "*one n"],
    readout: Readout,
    query_start: int | None = None,
) -> Trace:
    """Run the model once on one prompt and keep what the gradient step and the knock-out need.

    Args:
        lens_model: a causal language model.
        input_ids: the prompt.
        readout: what is read from the logits.
        query_start: first token of the query; by default the first read-out position.

    Raises:
        UserError: the prompt, the read-out or the query does not fit.
    """
    ids = one_prompt(lens_model, input_ids, readout)
    n = ids.shape[1]
    positions = torch.tensor(readout.positions, device=lens_model.index_device)
    start = readout.positions[0] if query_start is None else query_start
    if not 0 <= start <= readout.positions[0]:
        raise UserError(
            f"the query starts at token {start}, but the margin is read at token {readout.positions[0]}: the query's "
            "tokens must include every position that is read."
        )
    layers: dict[str, LayerTrace] = {}
    masks: dict[Hashable, Tensor] = {}

    def record(call: AttentionCall) -> Tensor:
        key = call.key
        if key not in masks:
            masks[key] = call.rows(start)[0, 0]
        rows = masks[key]
        weights = softmax_rows(call, call.q[:, :, positions], rows[positions - start])
        layers[call.name] = LayerTrace(call.name, weights[0], call.k[0], call.v[0], rows, call.scale, call.softcap)
        return fast(call)

    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}
    with ExitStack() as stack:
        for module in watched(lens_model):
            stack.callback(module.register_forward_hook(_keep_rows(n, positions, inputs, outputs)).remove)
        for module in (lens_model.anatomy.layers[0].module,):
            stack.callback(_keep_input(module, n, positions, inputs))
        head = lens_model.anatomy.head
        assert head is not None
        stack.callback(head.register_forward_hook(_keep_all(outputs)).remove)
        stack.enter_context(attending(lens_model, record))
        logits = run(
            lens_model,
            ids,
            position_ids=torch.arange(n, device=ids.device)[None],
            logits_to_keep=positions,
        )
    return Trace(
        lens_model=lens_model,
        input_ids=ids[0],
        readout=readout,
        query_start=start,
        layers=tuple(layers[layer.attention_name] for layer in lens_model.anatomy.layers),
        inputs=inputs,
        outputs=outputs,
        logits=logits[0],
    )


def watched(lens_model: LensModel) -> list[nn.Module]:
    """Modules whose inputs and outputs at the read-out positions the direct path runs through."""
    anatomy = lens_model.anatomy
    found: list[nn.Module | None] = [anatomy.final_norm]
    for layer in anatomy.layers:
        found += [layer.output, layer.mlp, layer.norm_after_attention, layer.norm_after_mlp]
        found += [layer.norm_on_stream_after_attention, layer.norm_on_stream_after_mlp]
    return [module for module in found if module is not None]


def _keep_rows(
    n: int, positions: Tensor, inputs: dict[nn.Module, Tensor], outputs: dict[nn.Module, Tensor]
) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        # OPT runs its MLP on (batch · n, width), so rows are addressed after flattening.
        inputs[module] = args[0].reshape(n, -1)[positions]
        outputs[module] = output.reshape(n, -1)[positions]

    return hook


def _keep_input(module: nn.Module, n: int, positions: Tensor, inputs: dict[nn.Module, Tensor]) -> Callable[[], None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        inputs[module] = hidden.reshape(n, -1)[positions]

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


def _keep_all(outputs: dict[nn.Module, Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        outputs[module] = output[0]

    return hook
