"""The patches of all blocks of a prompt: made from one pass, run, scaled, and told in rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.data_frame import data_frame
from iclens.errors import UserError, did_you_mean
from iclens.lens.model.loading import LensModel
from iclens.lens.patching.applied import FORMS, Form, PatchedRun, apply, build, compared
from iclens.lens.patching.block import blocks_of
from iclens.lens.patching.states import Pass, Text, alone, with_context
from iclens.lens.patching.told import rows_of, sizes
from iclens.lens.patching.update import Patch, patch_of

CONTEXTS = ("sources", "everything")
"""What is taken away: the sources alone, or all tokens before the query."""

BELOW = ("patched", "plain")
"""What the blocks below a patched one are: patched too, or as they are."""


@dataclass(eq=False, repr=False)
class Patches(Sequence[Patch]):
    """The patches of a model's blocks for one prompt, in order.

    Attributes:
        lens_model: the model.
        text: the prompt's tokens, and which stay without the context.
        n_sources: how many sources have a part.
        below: `"patched"`: all patches are meant to run together, so that each block has the input that it has with
            the context; `"plain"`: each is meant to run by itself, on the input that it has without.
    """

    lens_model: LensModel
    text: Text
    n_sources: int
    below: str
    _kept: dict[Form, Sequence[Patch]] = field(default_factory=dict, init=False)

    @cached_property
    def whole(self) -> Pass:
        """The pass with the context."""
        return with_context(self.lens_model, self.text)

    @property
    def read(self) -> int:
        """Among the tokens that stay, the first whose logits are read: where the answer begins."""
        return int(self.text.read[0])

    @property
    def share(self) -> float:
        """What a pass over the tokens that stay costs, in passes over the whole text."""
        return len(self.text.kept) / len(self.text.ids)

    @cached_property
    def plain(self) -> Pass:
        """The pass of the tokens that stay alone, nothing patched."""
        with torch.no_grad():
            return alone(self.lens_model, self.text, self.whole)

    @property
    def _each(self) -> Sequence[Patch]:
        return self._made("offset")

    def _made(self, form: Form) -> Sequence[Patch]:
        """The patches, made for one form: rounding alone tells them apart."""
        form = form if self.below == "patched" else "offset"
        if form not in self._kept:
            with torch.no_grad():
                self._kept[form] = (
                    build(self.lens_model, self.text, self.whole, self.n_sources, form)
                    if self.below == "patched"
                    else [
                        patch_of(self.lens_model, block, state, other, self.text.kept, self.n_sources)
                        for block, state, other in zip(
                            self.whole.blocks, self.whole.states, self.plain.states, strict=True
                        )
                    ]
                )
        return self._kept[form]

    def __len__(self) -> int:
        return self.lens_model.n_layers

    @overload
    def __getitem__(self, layer: int) -> Patch: ...
    @overload
    def __getitem__(self, layer: slice) -> Sequence[Patch]: ...
    def __getitem__(self, layer: int | slice) -> Patch | Sequence[Patch]:
        if isinstance(layer, int) and not -len(self) <= layer < len(self):
            raise UserError(f"there is no layer {layer}: {self.lens_model.name} has {len(self)}, counted from 0.")
        return self._each[layer]

    def __iter__(self) -> Iterator[Patch]:
        return iter(self._each)

    def __repr__(self) -> str:
        n_kept = len(self.text.kept)
        return f"Patches({self.lens_model.name!r}, {len(self)} layers, {n_kept} of {len(self.text.ids)} tokens stay)"

    @torch.no_grad()
    def run(self, layer: int | None = None, *, form: Form = "offset") -> PatchedRun:
        """Run the tokens that stay alone, at their own positions, with patched weights.

        Without a layer every block is patched and the logits are those with the context. With `below="plain"` one
        block at a time is: its output is that with the context, and for the last block so are the logits.

        Args:
            layer: the block that alone is patched, with `below="plain"`.
            form: `"offset"` adds the offset to the MLP's branch, `"weights"` puts it into the last matrix, or the gain
                of a norm that ends the branch.

        Raises:
            UserError: a layer with patches that are meant to run together, none with those that are not, no such layer,
                or an unknown form.
        """
        check_choice("form", form, FORMS)
        if (layer is None) == (self.below == "plain"):
            raise UserError(
                "these patches run together: leave layer out, or make patches with below='plain' for one at a time."
                if layer is not None
                else "these patches run one at a time: name a layer, or make patches with below='patched' for all."
            )
        every = self._made(form)
        chosen = list(every) if layer is None else [every[self[layer].layer]]
        return compared(self.whole, apply(self.lens_model, self.text, self.whole, chosen, form), chosen)

    def logits(self, weights: Float[Tensor, " n_sources"]) -> Float[Tensor, "n_positions vocabulary"]:
        """Return the logits with patched weights in which every source counts several times: see `Patch.scaled`.

        Gradients flow back to the weights.

        Raises:
            UserError: another number of weights than sources, or patches that do not run together.
        """
        if self.below != "patched":
            raise UserError("only patches that run together are scaled together: make them with below='patched'.")
        return apply(self.lens_model, self.text, self.whole, [one.scaled(weights) for one in self]).logits

    def cosines(self, token: int = -1) -> Float[Tensor, "n_layers n_sources n_sources"]:
        """How alike the sources' parts of ΔW are, block by block, at one token that stays.

        Raises:
            UserError: there is no such token.
        """
        return torch.stack([sizes(patch, token).cosines for patch in self])

    def to_rows(self, token: int | None = -1) -> list[dict[str, Any]]:
        """One dictionary for every block, token and term of its update.

        `layer`, `position` (in the whole text), `matrices` (whose update is told), `term` (one of `TERMS`), `source`
        (its number, or None), `size` (|ΔW_term| / |W|), `share` (⟨ΔW_term, ΔW⟩ / |ΔW|², which sum to 1 over the terms)
        and `offset` (|offset's term| / |offset|).

        Args:
            token: one token that stays, −1 for the last; None for all of them.

        Raises:
            UserError: there is no such token.
        """
        return rows_of(self, range(len(self.text.kept)) if token is None else [token])

    def to_pandas(self, token: int | None = -1) -> Any:
        """The rows as a data frame.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(self.to_rows(token))


def patches_of(
    lens_model: LensModel,
    ids: Int[Tensor, " n"],
    groups: Int[Tensor, " n"],
    query_start: int,
    positions: Int[Tensor, " n_positions"],
    n_sources: int,
    *,
    context: str = CONTEXTS[0],
    below: str = BELOW[0],
) -> Patches:
    """The patches of a prompt; nothing runs before it is asked for.

    Args:
        lens_model: the model.
        ids: the tokens, with an answer's that are forced after them.
        groups: the source of each token, −1 for none.
        query_start: the first token of the query.
        positions: where the logits are read.
        n_sources: how many sources there are.
        context: what is taken away, one of `CONTEXTS`.
        below: what the blocks below a patched one are, one of `BELOW`.

    Raises:
        UserError: an unknown choice, a mixture of experts, or nothing that is taken away or stays.
    """
    check_choice("context", context, CONTEXTS)
    check_choice("below", below, BELOW)
    _ = blocks_of(lens_model)
    slots = groups.clone()
    if context == "everything":
        before = (torch.arange(len(ids)) < query_start) & (groups < 0)
        slots[before] = n_sources
    if not bool((slots >= 0).any()):
        raise UserError("there is no context to take away: no token of the prompt is of a source, or before the query.")
    return Patches(lens_model, Text(ids, slots, n_sources + 1, positions), n_sources, below)


def check_choice(what: str, given: str, known: Sequence[str]) -> None:
    """Refuse a word that is none of those known.

    Raises:
        UserError: it names the known ones.
    """
    if given not in known:
        raise UserError(f"{what} is {given!r}: give {' or '.join(map(repr, known))}.{did_you_mean(given, known)}")
