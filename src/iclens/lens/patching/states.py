"""What every block computes with the context, and what its attention would give without it.

One pass over the whole text. At the tokens that stay, attention's output is split: what the tokens of each source give
it, and what it would be if the softmax ran over the tokens that stay alone. A second, short pass runs these tokens
alone, at their own positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iclens.errors import UserError
from iclens.lens.model.anatomy import matrix
from iclens.lens.model.loading import LensModel
from iclens.lens.model.norms import bias_of
from iclens.lens.model.placed import at_hand, wide
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.patching.block import Block, blocks_of
from iclens.lens.read.attend import fast, repeat, softmax_rows
from iclens.lens.read.capture import run
from iclens.lens.read.fused import fused_activations
from iclens.lens.read.padded import unembedding_only


@dataclass(frozen=True)
class Text:
    """A text, and which of its tokens stay when the context is taken away.

    Attributes:
        ids: all tokens.
        slots: of each token: −1 where it stays, else which part of the context it belongs to: the sources in order,
            then, as the last, everything else that is taken away.
        n_slots: how many parts there are, with the last.
        positions: where something is read of the logits.
    """

    ids: Int[Tensor, " n"]
    slots: Int[Tensor, " n"]
    n_slots: int
    positions: Int[Tensor, " n_positions"]

    @property
    def kept(self) -> Int[Tensor, " n_kept"]:
        """The positions of the tokens that stay."""
        return (self.slots < 0).nonzero().flatten()

    @property
    def read(self) -> Int[Tensor, " n_positions"]:
        """Where the read-out positions are among the tokens that stay."""
        return torch.searchsorted(self.kept, self.positions)


@dataclass(frozen=True)
class Attended:
    """Attention's output at the tokens that stay, after W_O, in its parts.

    Attributes:
        by_slot: what the tokens of each part of the context give it: Σ_h W_O Σ_{j in part} α_j v_j.
        displaced: what each part takes from the tokens that stay: −Σ_h W_O α(part) o, with o their output alone.
        alone: the whole output if the softmax ran over the tokens that stay alone: Σ_h W_O o, and the bias.
    """

    by_slot: Float[Tensor, "n_slots n_kept width"]
    displaced: Float[Tensor, "n_slots n_kept width"]
    alone: Float[Tensor, "n_kept width"]


@dataclass
class State:
    """What one block computed at the tokens that stay.

    Attributes:
        stream: the block's input x.
        attention: attention's output A after W_O.
        read: the MLP's input a.
        hidden: the input h of the MLP's last linear map.
        before_end: the input of the norm that ends the MLP's branch; empty without one.
        output: the block's output.
        first: names of the linear maps that read a.
        last: the name of the last one.
        norm: the norm whose output a is; None without one.
        before_norm: the input of that norm.
        attended: the parts of A; None where nothing was taken away.
    """

    stream: Tensor = field(default_factory=lambda: torch.empty(0))
    attention: Tensor = field(default_factory=lambda: torch.empty(0))
    read: Tensor = field(default_factory=lambda: torch.empty(0))
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    before_end: Tensor = field(default_factory=lambda: torch.empty(0))
    output: Tensor = field(default_factory=lambda: torch.empty(0))
    first: tuple[str, ...] = ()
    last: str = ""
    norm: nn.Module | None = None
    before_norm: Tensor | None = None
    attended: Attended | None = None


@dataclass(frozen=True)
class Pass:
    """A pass over a text or over what stays of it.

    Attributes:
        blocks: the model's blocks.
        states: what each computed.
        logits: at the positions that are read.
        masks: by the attention module's name, which of the tokens that stay each of them may see.
    """

    blocks: tuple[Block, ...]
    states: tuple[State, ...]
    logits: Float[Tensor, "n_positions vocabulary"]
    masks: dict[str, Bool[Tensor, "n_kept n_kept"]]


@torch.no_grad()
def with_context(lens_model: LensModel, text: Text) -> Pass:
    """Run the whole text.

    Raises:
        UserError: a mixture of experts, or a block whose MLP does not read the stream.
    """
    blocks = blocks_of(lens_model)
    split: dict[str, Attended] = {}
    masks: dict[str, Tensor] = {}
    outputs = {block.layer.attention_name: block.layer.output for block in blocks}
    kept = text.kept

    def attend(call: AttentionCall) -> Tensor:
        output = outputs[call.name]
        assert output is not None
        mask = call.rows_at(kept[None])
        masks[call.name] = mask[0, :, kept.to(mask.device)]
        split[call.name] = _split(call, text, mask[:, None], output)
        return fast(call)

    with attending(lens_model, attend), _recording(blocks, kept) as states:
        logits = _logits(lens_model, text.ids, None, text.positions)
    for block, state in zip(blocks, states, strict=True):
        state.attended = split[block.layer.attention_name]
    return Pass(blocks, tuple(states), logits, masks)


def alone(
    lens_model: LensModel,
    text: Text,
    whole: Pass,
    during: Callable[[list[State]], AbstractContextManager[Any]] = lambda states: nullcontext(),
) -> Pass:
    """Run the tokens that stay alone, at their own positions; gradients flow where they are enabled.

    What is open `during` the pass is given the states, which fill up as it goes.
    """
    with _recording(whole.blocks, None) as states, seeing(lens_model, text, whole.masks), during(states):
        logits = _logits(lens_model, text.ids[text.kept], text.kept, text.read)
    return Pass(whole.blocks, tuple(states), logits, whole.masks)


@contextmanager
def seeing(lens_model: LensModel, text: Text, masks: dict[str, Tensor]) -> Iterator[None]:
    """Let the tokens that stay see each other as they do in the whole text: windows reach as far as they do there."""

    def attend(call: AttentionCall) -> Tensor:
        mask = masks[call.name].to(call.q.device)
        return softmax_rows(call, call.q, mask[None, None]) @ repeat(call.v, call.groups)

    with attending(lens_model, attend, places=text.kept[None].to(lens_model.device)):
        yield


def _logits(lens_model: LensModel, ids: Tensor, places: Tensor | None, positions: Tensor) -> Tensor:
    places = torch.arange(len(ids)) if places is None else places
    home = lens_model.device
    with unembedding_only(lens_model, positions[None]), fused_activations(lens_model):
        return run(lens_model, ids[None].to(home), position_ids=places[None].to(home))[0]


def _split(call: AttentionCall, text: Text, mask: Tensor, output: nn.Module) -> Attended:
    """The parts of attention's output at the tokens that stay."""
    kept, slots = text.kept.to(call.q.device), text.slots.to(call.q.device)
    here = replace(call, q=wide(call.q), k=wide(call.k), v=wide(call.v))
    q = here.q[:, :, kept]
    weights = softmax_rows(here, q, mask)[0]
    v = repeat(here.v, here.groups)[0]
    own = softmax_rows(replace(here, k=here.k[:, :, kept]), q, mask[..., kept])[0] @ v[:, kept]
    parts, displaced = [], []
    for slot in range(text.n_slots):
        chosen = (slots == slot).nonzero().flatten()
        parts.append(weights[..., chosen] @ v[:, chosen])
        displaced.append(-weights[..., chosen].sum(-1, keepdim=True) * own)
    with at_hand(output):
        W_O, bias = wide(matrix(output)), bias_of(output)
        of_alone = _project(own, W_O)
        return Attended(
            _project(torch.stack(parts), W_O),
            _project(torch.stack(displaced), W_O),
            of_alone if bias is None else of_alone + wide(bias),
        )


def _project(heads: Tensor, W_O: Tensor) -> Tensor:
    """(…, heads, n, d_v) through W_O: (…, n, width)."""
    return heads.transpose(-3, -2).flatten(-2) @ W_O.T


@contextmanager
def _recording(blocks: tuple[Block, ...], kept: Tensor | None) -> Iterator[list[State]]:
    """Keep what the blocks compute inside, at some positions or at all."""
    states = [State() for _ in blocks]
    with ExitStack() as stack:
        for block, state in zip(blocks, states, strict=True):
            for handle in _hooks(block, state, kept):
                stack.callback(handle.remove)
        yield states


def _hooks(block: Block, state: State, kept: Tensor | None) -> Iterator[Any]:
    layer = block.layer
    # Outputs are kept while the block runs, so that no other tensor gets their place in memory.
    normed: dict[int, tuple[nn.Module, Tensor, Tensor]] = {}

    def rows(x: Any) -> Tensor:
        x = x if isinstance(x, Tensor) else x[0]
        x = x.reshape(-1, x.shape[-1])
        return wide(x if kept is None else x[kept.to(x.device)])

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        stream = args[0] if args else kwargs["hidden_states"]
        normed.clear()
        state.stream, state.first, state.last = rows(stream), (), ""

    def after_norm(module: nn.Module, args: Any, output: Tensor) -> None:
        normed[output.data_ptr()] = module, args[0], output

    def linear(name: str) -> Any:
        def before(module: nn.Module, args: Any) -> None:
            # Every linear map but the last reads the MLP's input; which one is the last shows when it is called.
            state.hidden = rows(args[0])
            state.first, state.last = (*state.first, *([state.last] if state.last else [])), name
            if not state.first:
                state.read = state.hidden
                state.norm, given, _ = normed.get(args[0].data_ptr(), (None, None, None))
                state.before_norm = None if given is None else rows(given)

        return before

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        state.output = rows(output)
        normed.clear()

    yield layer.module.register_forward_pre_hook(enter, with_kwargs=True)
    yield layer.module.register_forward_hook(leave)
    for norm in layer.norms:
        yield norm.register_forward_hook(after_norm)
    assert layer.output is not None
    yield layer.output.register_forward_hook(lambda module, args, output: setattr(state, "attention", rows(output)))
    for name, module in block.linears.items():
        yield module.register_forward_pre_hook(linear(name))
    if layer.norm_after_mlp is not None:
        yield layer.norm_after_mlp.register_forward_pre_hook(
            lambda module, args: setattr(state, "before_end", rows(args[0]))
        )


def check(lens_model: LensModel, block: Block, state: State) -> None:
    """Refuse a block whose first linear maps do not read one input, of the stream's width.

    Raises:
        UserError: it is not built so.
    """
    width = state.stream.shape[-1]
    wrong = [name for name in state.first if matrix(block.linears[name]).shape[-1] != width]
    if not state.first or wrong:
        raise UserError(
            f"the MLP of layer {block.index} of {lens_model.name} is not built of linear maps that read its input and "
            f"one that ends it{f' ({wrong[0]} reads something else)' if wrong else ''}: it cannot be patched."
        )
