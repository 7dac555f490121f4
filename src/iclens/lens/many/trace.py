"""One forward pass over many prompts, kept as far as their gradient steps and knock-outs need it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iclens.huggingface import implementation
from iclens.lens.many.reading import Reading, take, unembedding_only
from iclens.lens.model.anatomy import matrix
from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import at_hand
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import fast, softmax_rows
from iclens.lens.read.capture import run
from iclens.lens.read.trace import watched
from iclens.lens.scores.gradient_step import Terms, direct_terms


@dataclass(frozen=True)
class Tokens:
    """Prompts side by side.

    Attributes:
        ids: vocabulary ids, filled up on the right.
        lengths: how many of them are real.
        starts: first token of each query.
    """

    ids: Int[Tensor, "batch n"]
    lengths: Int[Tensor, " batch"]
    starts: Int[Tensor, " batch"]

    @classmethod
    def of(cls, rows: Sequence[Tensor], starts: Sequence[int], device: torch.device) -> Tokens:
        """Token ids of several prompts, filled up on the right with each one's last."""
        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        # A padding token of the vocabulary would have transformers warn of a mask that is not needed here.
        ids = torch.stack([torch.cat([row, row[-1:].expand(longest - len(row))]) for row in rows])
        return cls(ids.to(device), lengths.to(device), torch.tensor(starts, device=device))

    @property
    def real(self) -> Bool[Tensor, "batch n"]:
        """False for what was filled up."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]

    @property
    def places(self) -> Int[Tensor, "batch n"]:
        """The position of every token."""
        return torch.arange(self.ids.shape[1], device=self.ids.device).expand(len(self.ids), -1)

    @property
    def query_places(self) -> Int[Tensor, "batch n_query"]:
        """The positions of every query's tokens, the longest query's number of them."""
        longest = int((self.lengths - self.starts).max())
        places = self.starts[:, None] + torch.arange(longest, device=self.ids.device)
        return places.clamp_max(self.ids.shape[1] - 1)

    def some(self, chosen: Tensor | slice) -> Tokens:
        """These prompts alone."""
        return Tokens(self.ids[chosen], self.lengths[chosen], self.starts[chosen])


@dataclass(frozen=True)
class BatchLayer:
    """What one attention layer leaves behind; `LayerTrace` with an axis of prompts."""

    name: str
    weights: Float[Tensor, "batch heads n_positions n"]
    k: Float[Tensor, "batch key_heads n d"]
    v: Float[Tensor, "batch key_heads n d_v"]
    query_mask: Bool[Tensor, "batch n_query n"]


@dataclass(frozen=True)
class BatchTrace:
    """A forward pass of many prompts; `Trace` with an axis of prompts.

    Attributes:
        lens_model: the model.
        tokens: the prompts.
        reading: what is read from their logits.
        layers: one entry per layer.
        inputs: a module -> its input (batch, n_positions, width) at the read-out positions.
        outputs: a module -> its output there.
        attended: every attention module's own output (batch, n, width), for the check.
        capped: whether a layer caps its scores.
        logits: at the read-out positions.
    """

    lens_model: LensModel
    tokens: Tokens
    reading: Reading
    layers: tuple[BatchLayer, ...]
    inputs: dict[nn.Module, Tensor]
    outputs: dict[nn.Module, Tensor]
    attended: dict[str, Tensor]
    capped: bool
    logits: Float[Tensor, "batch n_positions vocabulary"]

    @property
    def margins(self) -> Float[Tensor, " batch"]:
        """Every prompt's margin."""
        return self.reading.margin(self.logits[:, None])[:, 0]

    @property
    def log_probabilities(self) -> Float[Tensor, " batch"]:
        """log p(answer) of every prompt."""
        return self.reading.log_probability(self.logits[:, None])[:, 0]


@torch.no_grad()
def trace_batch(lens_model: LensModel, tokens: Tokens, reading: Reading) -> BatchTrace:
    """Run the model once on many prompts and keep what explains them."""
    batch, n = tokens.ids.shape
    positions = reading.positions
    layers: dict[str, BatchLayer] = {}
    masks: dict[Hashable, tuple[Tensor, Tensor]] = {}
    capped = False

    def record(call: AttentionCall) -> Tensor:
        nonlocal capped
        capped = capped or call.softcap is not None
        key = call.key
        if key not in masks:
            masks[key] = call.rows_at(tokens.query_places), call.rows_at(positions)
        seen, read = masks[key]
        weights = softmax_rows(call, take(call.q.transpose(1, 2), positions).transpose(1, 2), read[:, None])
        layers[call.name] = BatchLayer(call.name, weights, call.k, call.v, seen)
        return fast(call)

    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}
    attended: dict[str, Tensor] = {}
    anatomy = lens_model.anatomy
    head = anatomy.head
    assert head is not None

    def keep_rows(module: nn.Module, args: Any, output: Any) -> None:
        # OPT runs its MLP on (batch · n, width), so rows are addressed after they are put apart again.
        inputs[module] = take(args[0].reshape(batch, n, -1), positions)
        outputs[module] = take(output.reshape(batch, n, -1), positions)

    def keep_input(module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs[module] = take(args[0] if args else kwargs["hidden_states"], positions)

    with ExitStack() as stack:
        for module in watched(lens_model):
            stack.callback(module.register_forward_hook(keep_rows).remove)
        first = anatomy.layers[0].module
        stack.callback(first.register_forward_pre_hook(keep_input, with_kwargs=True).remove)
        for layer in anatomy.layers:
            stack.callback(layer.attention.register_forward_hook(keep(attended, layer.attention_name)).remove)
        stack.enter_context(unembedding_only(lens_model, positions))
        stack.callback(head.register_forward_hook(keep(outputs, head)).remove)
        stack.enter_context(attending(lens_model, record))
        logits = run(lens_model, tokens.ids, position_ids=tokens.places)
    ordered = tuple(layers[layer.attention_name] for layer in anatomy.layers)
    return BatchTrace(lens_model, tokens, reading, ordered, inputs, outputs, attended, capped, logits)


@torch.no_grad()
def direct(traced: BatchTrace) -> Terms:
    """The direct contributions in every prompt: `gradient_step` with an axis of prompts."""
    head = traced.lens_model.anatomy.head
    assert head is not None
    before = traced.outputs[head]
    reading = traced.reading.to(before.device)
    gains = reading.gains(before, traced.logits.to(before.device))
    batch, n_positions = reading.positions.shape
    with at_hand(head):
        weight = matrix(head)[reading.term_indices]
        offset: Tensor | None = head.bias  # type: ignore[assignment]
        bias = gains.new_zeros(batch) if offset is None else (gains * offset[reading.term_indices]).sum(-1)
    # (batch, n_terms, n_positions): which position each term is read at.
    at = nn.functional.one_hot(reading.term_rows, n_positions).to(gains.dtype)
    direction = (at * gains[..., None]).transpose(1, 2) @ weight
    return direct_terms(traced, direction, bias)


@torch.no_grad()
def check_batch(traced: BatchTrace) -> Float[Tensor, " batch"]:
    """Each prompt's pass against the model's own attention, as it was loaded.

    The output of every attention module (after W_O) at every real token, and the logits that are read, each relative to
    the largest magnitude of the model's own numbers in that prompt; the worst of them. A model with a soft cap on its
    scores is compared with its own eager attention, as in `check_capture`.
    """
    lens_model, tokens = traced.lens_model, traced.tokens
    real = tokens.real
    worst: list[Tensor] = []

    def compare(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            where = real.to(output[0].device)[..., None]
            worst.append(_relative(traced.attended[name], output[0], where).to(tokens.ids.device))

        return hook

    with ExitStack() as stack:
        for layer in lens_model.anatomy.layers:
            stack.callback(layer.attention.register_forward_hook(compare(layer.attention_name)).remove)
        stack.enter_context(unembedding_only(lens_model, traced.reading.positions))
        stack.enter_context(implementation(lens_model.model, "eager" if traced.capped else None))
        logits = run(lens_model, tokens.ids)
    worst.append(_relative(traced.logits, logits, torch.ones_like(logits, dtype=torch.bool)).to(tokens.ids.device))
    return torch.stack(worst).amax(0)


def _relative(ours: Tensor, theirs: Tensor, where: Tensor) -> Tensor:
    """max|ours − theirs| / max|theirs| of each prompt, as `capture.relative`; NaN where a number is none."""
    difference = torch.where(where, (ours - theirs).abs(), 0.0).flatten(1).amax(1)
    largest = torch.where(where, theirs.abs(), 0.0).flatten(1).amax(1)
    return difference / largest.clamp_min(torch.finfo(theirs.dtype).tiny)


def keep(kept: dict[Any, Tensor], key: Any) -> Any:
    """A hook that keeps a module's output under a key; of several outputs the first."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        kept[key] = output if isinstance(output, Tensor) else output[0]

    return hook
