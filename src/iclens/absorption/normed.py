"""Branches that end in a norm: what the map before it is to give, and which of its errors reach the stream.

A norm gives y = s w ⊙ u of the map's output u, with s = 1/rms of u itself (in all families that iclens reads, norms
behind branches are RMSNorms). So no map puts any given vector into the stream: the size of y/w is fixed. With the scale
held at the prompt's own, s*, the branch is linear in u, and an error δ of u is s* w ⊙ δ in the stream. There the
regression takes place,

    min Σ_t w_t s*_t² |w ⊙ (Δ a_t − (u*_t − u_t)) − (target_t − y*_t)/s*_t|²,

and B of the solution is divided by w. Where the target is the prompt's own branch, u = u* gives it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.absorption.low_rank import LowRank
from iclens.absorption.sites import ATTENTION, MLP_OUT, Site
from iclens.lens.model.anatomy import Layer
from iclens.lens.model.norms import gate, is_centred
from iclens.lens.model.placed import at_hand, doubled, wide


@dataclass(frozen=True, eq=False)
class HeldNorm:
    """A norm behind a map, its scale held where the prompt has it.

    Attributes:
        given: u*, the map's output after the prompt.
        made: y*, the norm's.
        scale: s* of every token, up to one factor that w takes.
        gain: w.
    """

    given: Float[Tensor, "n width"]
    made: Float[Tensor, "n width"]
    scale: Float[Tensor, "n 1"]
    gain: Float[Tensor, " width"]

    @classmethod
    def of(cls, norm: nn.Module, given: Float[Tensor, "n width"], made: Float[Tensor, "n width"]) -> HeldNorm:
        """Read scale and gain off the norm's input and output."""
        assert not is_centred(norm)
        with at_hand(norm):
            gates = doubled(gate(norm, given, made))
        scale = gates.norm(dim=-1, keepdim=True)
        scale = scale / scale.mean()
        return cls(doubled(given), doubled(made), scale, (gates / scale).mean(0))

    def lacking(self, now: Float[Tensor, "n width"], target: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        """What the map's change is to give, in units of w; `now` is its output, `target` the branch's."""
        return self.gain * (self.given - doubled(now)) + (doubled(target) - self.made) / self.scale

    def weights(self, own: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """How often each token counts."""
        return own.to(self.scale) * self.scale.squeeze(-1).square()

    def before(self, found: LowRank) -> LowRank:
        """The change of the map itself; what the norm's gain drops stays as it is."""
        gain = self.gain[:, None]
        return LowRank(found.a, torch.where(gain == 0, 0.0, found.b / torch.where(gain == 0, 1.0, gain)))


def norm_behind(layer: Layer, target: str) -> nn.Module | None:
    """The norm that ends the branch of a target's map; None without one, and for maps within the MLP."""
    return {ATTENTION: layer.norm_after_attention, MLP_OUT: layer.norm_after_mlp}.get(target)


@torch.no_grad()
def branch_of(layer: Layer, site: Site, output: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
    """What the branch adds where its last map gives `output`, without the family's factor."""
    norm = norm_behind(layer, site.target)
    if norm is None:
        return output
    with at_hand(norm):
        weight = next(norm.parameters(), output)
        # The class's forward, because calling the module would run hooks.
        return wide(type(norm).forward(norm, output.to(weight.dtype)))
