"""What the positions that are read can attend to: demonstrations out of their windows or chunks, and learned sinks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from iclens.lens.prompt.sources import DEMONSTRATION
from iclens.lens.read.tracing import Trace


def sight_notes(
    traced: Trace, prompt: int, groups: Int[Tensor, " n"], n_demonstrations: int, noun: str = DEMONSTRATION
) -> tuple[str, ...]:
    """Say which sources the read-out of one prompt sees, by layer, unless it sees all in every layer.

    `groups` holds every token's source, −1 for none; `noun` is what these are called.
    """
    layers: dict[tuple[float, ...], list[int]] = defaultdict(list)
    known: dict[int, tuple[float, ...]] = {}
    sizes = torch.bincount(groups[groups >= 0].cpu(), minlength=n_demonstrations).clamp_min(1)
    for index, layer in enumerate(traced.layers):
        # Layers share their masks.
        if id(layer.mask) not in known:
            seen = layer.mask[prompt].any(0).cpu()[: len(groups)] & (groups >= 0).cpu()
            counts = torch.bincount(groups.cpu()[seen], minlength=n_demonstrations)
            known[id(layer.mask)] = tuple((counts / sizes).tolist())
        layers[known[id(layer.mask)]].append(index)
    notes = []
    for shares, where in layers.items():
        if min(shares, default=1.0) < 1.0:
            whole = _named(noun, [i for i, share in enumerate(shares) if share == 1.0])
            parts = _named(noun, [i for i, share in enumerate(shares) if 0.0 < share < 1.0])
            sees = " and ".join([whole] * bool(whole) + [f"a part of {parts}"] * bool(parts))
            only = f"only {sees}: all others have" if sees else f"no {noun}: they have"
            notes.append(
                f"In {_named('layer', where)} (of {len(traced.layers)}, counted from 0) the read-out's window of "
                f"attention holds {only} no direct effect there, and can reach the answer only through other tokens."
            )
    return tuple(notes)


def sink_weights(traced: Trace) -> list[list[float]] | None:
    """The attention that learned sinks take at each prompt's first read-out position, by layer, in the mean of heads.

    None for a model without learned sinks.
    """
    found = [layer.sink_weights for layer in traced.layers]
    taken = [None if one is None else one[..., 0].cpu().double().mean(1) for one in found]
    if all(one is None for one in taken):
        return None
    nothing = torch.zeros(len(traced.tokens.ids), dtype=torch.float64)
    return torch.stack([nothing if one is None else one for one in taken], 1).tolist()


def sink_note(taken: Sequence[float]) -> str:
    """Say how much of one prompt's attention the learned sinks take, layer by layer."""
    most = max(range(len(taken)), key=lambda index: taken[index])
    return (
        f"Learned sinks take {sum(taken) / len(taken):.0%} of the attention of the prompt's last token, in the mean of "
        f"the heads, and most in layer {most} ({taken[most]:.0%}): each is a training pair with target 0, and its part "
        "of every score is 0."
    )


def _named(noun: str, numbers: Sequence[int]) -> str:
    """Return a noun with its numbers in order, neighbours drawn together: "layers 0–2, 5"; nothing without numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    drawn = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    return "" if not numbers else f"{noun}{'s' * (len(numbers) > 1)} {drawn}"
