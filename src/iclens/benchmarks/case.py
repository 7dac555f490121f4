"""What a benchmark is: a file of `cases` whose function yields comparisons, curves, tables and absent peers.

```python
@CASES.register("my-case")
def my_case(context: Context) -> Iterator[Entry]:
    '''One line for `iclens bench --list`.'''
    ours, theirs = ...
    yield Comparison(
        "what is computed",
        Side("ours", ours),
        Side("theirs", theirs),
        check=lambda: [Agreement.of("outputs", ours(), theirs())],
    )
```

A function yields one entry at a time and may free what it built before the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from iclens.benchmarks.ceilings import Ceilings, Floor
from iclens.registry import Registry

Cell = str | float | int | bool | None


@dataclass(frozen=True)
class Context:
    """What a case is measured with: pairs, threads, device, sizes.

    Attributes:
        ceilings: what this machine reaches.
        pairs: interleaved pairs of each comparison.
        threads: torch threads.
        device: `"cpu"` or `"cuda"`.
        quick: small sizes: a look at whether everything runs, no claim.
        long: also what takes long and says little new: more sizes, the slowest peers.
        peaks: peak memory of the probes that were measured already, so that none runs twice.
    """

    ceilings: Ceilings
    pairs: int = 9
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    quick: bool = False
    long: bool = False
    peaks: dict[str, int | None] = field(default_factory=dict, compare=False)

    def pick(self, quick: Any, full: Any, long: Any = None) -> Any:
        """Return the first when quick, else the second; the third, if there is one, when long."""
        return quick if self.quick else long if self.long and long is not None else full

    def finished(self, call: Callable[[], object]) -> Callable[[], object]:
        """Return the call until the GPU is done with it."""

        def until_done() -> None:
            call()
            torch.cuda.synchronize()

        return until_done if self.device == "cuda" else call


@dataclass(frozen=True)
class Agreement:
    """How far our output is from a peer's, and how far it may be.

    Attributes:
        what: what was compared with what.
        error: how far apart, ≥ 0; NaN never agrees.
        tolerance: how far apart they may be.
    """

    what: str
    error: float | int
    tolerance: float | int

    @classmethod
    def of(cls, what: str, ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> Agreement:
        """max|ours − theirs| / max|theirs| (max|ours| where theirs is zero) of tensors of one shape."""
        if ours.shape != theirs.shape:
            return cls(f"{what}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}", float("inf"), tolerance)
        wide = torch.float64
        difference = float((ours.detach().to(wide) - theirs.detach().to(wide)).abs().max())
        size = float(theirs.detach().to(wide).abs().max()) or float(ours.detach().to(wide).abs().max())
        return cls(what, difference / size if difference else 0.0, tolerance)

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Probe:
    """A call whose peak memory is measured in a fresh process.

    Attributes:
        target: `"module:function"`; the function builds everything and returns the call.
        arguments: of that function; they must be JSON.
        warm_up: arguments that make it small; run first, so that what is loaded late does not count.
        with_building: count what the function builds too, as for a training step with its model and optimiser.
    """

    target: str
    arguments: Mapping[str, Cell]
    warm_up: Mapping[str, Cell] = field(default_factory=dict)
    with_building: bool = False


@dataclass(frozen=True)
class Side:
    """One of the two ways that are compared.

    Attributes:
        name: what it is, in a few words.
        call: does it once.
        probe: how to measure its peak memory; None when that says nothing.
    """

    name: str
    call: Callable[[], object]
    probe: Probe | None = None


@dataclass(frozen=True)
class Target:
    """What a comparison must reach.

    Attributes:
        quantity: `"speed-up"` (their time over ours), `"memory share"` (our peak over theirs) or `"seconds"` (ours).
        bound: the number.
        reason: where it comes from, in a few words.
    """

    quantity: Literal["speed-up", "memory share", "seconds"]
    bound: float | int
    reason: str = ""

    def reached(self, value: float) -> bool:
        """At least the bound for a speed-up, at most the bound for the others."""
        return value >= self.bound if self.quantity == "speed-up" else value <= self.bound


@dataclass(frozen=True)
class Comparison:
    """Ours against another way to the same numbers.

    Attributes:
        what: what both compute, with the sizes.
        ours: this package.
        other: what a user would otherwise pick, or a reference.
        check: compares their outputs; nothing is timed unless every agreement holds.
        floor: what no way spares.
        targets: what must be reached.
        most_pairs: the largest number of pairs, for what takes long.
        repeat: time the faster side as often as it takes to last as long as the slower one.
        warm_up: run both once before; needless where the check ran them and a call takes a minute.
    """

    what: str
    ours: Side
    other: Side
    check: Callable[[], Sequence[Agreement]]
    floor: Floor | None = None
    targets: tuple[Target, ...] = ()
    most_pairs: int | None = None
    repeat: bool = True
    warm_up: bool = True


@dataclass(frozen=True)
class Curve:
    """How cost grows with one size.

    Attributes:
        what: what is computed.
        axis: the size that grows.
        sizes: its values, increasing.
        lines: a line's name → a function from a size to the call.
        remark: what to expect, and why.
    """

    what: str
    axis: str
    sizes: tuple[int, ...]
    lines: Mapping[str, Callable[[int], Callable[[], object]]]
    remark: str = ""


@dataclass(frozen=True)
class Verdict:
    """A claim about a table, with its numbers."""

    claim: str
    holds: bool
    numbers: str


@dataclass(frozen=True)
class Listing:
    """A table measured elsewhere, e.g. quality beside cost.

    Attributes:
        what: what the rows are.
        rows: one mapping a row, all with the same keys.
        verdicts: claims about it.
    """

    what: str
    rows: Sequence[Mapping[str, Cell]]
    verdicts: tuple[Verdict, ...] = ()

    @property
    def good(self) -> bool:
        """Whether every verdict holds."""
        return all(verdict.holds for verdict in self.verdicts)


@dataclass(frozen=True)
class Absent:
    """A comparison that was left out.

    Attributes:
        peer: who was to be compared with.
        reason: why it is not there and how to get it.
    """

    peer: str
    reason: str
    good: ClassVar[bool] = True


Entry = Comparison | Curve | Listing | Absent
Case = Callable[[Context], Iterator[Entry]]

ON_GPU = "iclens_on_gpu"


def on_gpu(case: Case) -> Case:
    """Mark a case as one that also runs with `context.device == "cuda"`; others are skipped there."""
    setattr(case, ON_GPU, True)
    return case


TAKES = "iclens_minutes"


def takes(minutes: float | int, long: float | int | None = None) -> Callable[[Case], Case]:
    """Say how long a case takes at full size, so that nobody starts it unawares.

    Args:
        minutes: with one thread of a present processor and all peers.
        long: the same with `context.long`; as long when left out.
    """

    def mark(case: Case) -> Case:
        setattr(case, TAKES, (minutes, minutes if long is None else long))
        return case

    return mark


def minutes(case: Case, *, long: bool = False) -> float | int | None:
    """Return what `takes` said; None for a case that does not say."""
    said: tuple[float | int, float | int] | None = getattr(case, TAKES, None)
    return None if said is None else said[long]


CASES: Registry[Case] = Registry("benchmark", "iclens.benchmarks", package="iclens.benchmarks.cases")
