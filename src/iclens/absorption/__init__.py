"""A prompt's demonstrations as a small change of weights, fitted in closed form and written as a PEFT adapter."""

from __future__ import annotations

from iclens.absorption.absorbed import Absorbed
from iclens.absorption.absorbing import absorb
from iclens.absorption.adapter import Adapter
from iclens.absorption.low_rank import BestMaps, LowRank, best_maps
from iclens.absorption.reached import Reached
from iclens.absorption.sites import TARGETS

__all__ = ["TARGETS", "Absorbed", "Adapter", "BestMaps", "LowRank", "Reached", "absorb", "best_maps"]
