"""One run trained by several processes: each takes its share of every batch, and all make the same step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What `torchrun` says to every process."""

_TOGETHER = timedelta(hours=2)
"""How long processes wait for each other: the first one evaluates and writes checkpoints while the others wait."""

_STEPS_BETWEEN_LOOKS = 10
"""On a GPU, steps between two looks at whether a process was asked to stop: each makes the processor wait for it."""


@dataclass(frozen=True)
class Launched:
    """What `torchrun` says of this process.

    Attributes:
        rank: its number among all.
        size: how many there are.
        local_rank: its number on this machine.
    """

    rank: int
    size: int
    local_rank: int


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """Return what `torchrun` says of this process, or None where it was started alone.

    Raises:
        UserError: only some of the variables are set, or numbers that cannot be.
    """
    if not any(name in environment for name in _VARIABLES[:3]):
        return None
    missing = [name for name in _VARIABLES if not environment.get(name)]
    if missing:
        given = ", ".join(name for name in _VARIABLES if name not in missing) or "none"
        raise UserError(
            f"the environment is only half that of a training in several processes: {', '.join(missing)} is missing "
            f"(given: {given}). Start it with torchrun, or unset them for one process."
        )
    numbers = []
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        if not environment[name].isdecimal():
            raise UserError(f"{name}={environment[name]!r} must be a whole number, as torchrun sets it.")
        numbers.append(int(environment[name]))
    rank, size, local_rank, _ = numbers
    if not rank < size or not local_rank < size:
        raise UserError(f"RANK={rank} and LOCAL_RANK={local_rank} must be less than WORLD_SIZE={size}.")
    return Launched(rank, size, local_rank)


@contextmanager
def joined(one: Launched, device: str = "cpu") -> Iterator[Processes]:
    """Join the other processes, over gloo on processors and NCCL on GPUs, and leave them at the end.

    Args:
        one: this process.
        device: cpu, or cuda: then `LOCAL_RANK` picks the GPU.

    Raises:
        UserError: a device that this machine lacks, a numbered one, or processes that do not find each other.
    """
    own = _own_device(device, one)
    try:
        dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=_TOGETHER)
    except (RuntimeError, ValueError) as error:
        said = str(error).splitlines()[0].rstrip(".")
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(f"process {one.rank} of {one.size} does not find the others at {address}: {said}.") from error
    try:
        yield Processes(one.rank, one.size, own)
    finally:
        dist.destroy_process_group()


def _own_device(name: str, one: Launched) -> torch.device:
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise UserError(f"--device {name}: with several processes use cpu or cuda; LOCAL_RANK picks the GPU.")
    found = torch.cuda.device_count()
    if one.local_rank >= found:
        raise UserError(
            f"process {one.rank} needs GPU {one.local_rank} of its machine, which has {found}: start one process a GPU."
        )
    torch.cuda.set_device(one.local_rank)
    return torch.device("cuda", one.local_rank)


@dataclass
class Processes:
    """The processes that train one run together, seen from one of them.

    Every process draws the whole batch, as one process would, and takes its share of the prompts. With B prompts, n_p
    of them in process p, and ℓ_p their mean loss, the loss is Σ_p (n_p/B) ℓ_p, and so is its gradient: shares need not
    be equal. One sum over processes in every step carries gradients, losses, and whether a process was asked to stop;
    what follows from it, such as a divergence, is the same everywhere.

    Not `DistributedDataParallel`: it takes the mean over processes, which is wrong for unequal shares, and does not
    know that all gradients lie in one matrix already, the sum of which is all that is to be sent.

    Attributes:
        rank: number of this process; number 0 evaluates and writes.
        size: how many there are.
        device: where this one trains.
        asked: set where this process was asked to stop; sent to the others with the next step.
    """

    rank: int
    size: int
    device: torch.device
    asked: bool = False
    _stops: Tensor | None = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        """Whether this process evaluates and writes."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """Return the prompts of this process; shares differ by at most one.

        Raises:
            UserError: fewer prompts than processes.
        """
        if batch < self.size:
            raise UserError(
                f"training.batch={batch} prompts cannot be shared by {self.size} processes: start at most {batch}."
            )
        return slice(batch * self.rank // self.size, batch * (self.rank + 1) // self.size)

    def weight(self, batch: int) -> float:
        """n_p/B: what the mean over this process's prompts counts in that over all."""
        own = self.share(batch)
        return (own.stop - own.start) / batch

    @torch.no_grad()
    def sum(
        self, gradients: Float[Tensor, "runs parameters"], losses: Float[Tensor, " runs"]
    ) -> Float[Tensor, " runs"]:
        """Sum gradients over processes, in place, and losses; tell the others whether this one was asked to stop."""
        size = gradients.numel()
        everything = torch.cat([gradients.view(-1), losses, losses.new_full((1,), float(self.asked))])
        self._together(everything)
        gradients.view(-1).copy_(everything[:size])
        self._stops = everything[-1]
        return everything[size:-1]

    def stop(self, step: int) -> bool:
        """Return whether any process was asked to stop before this step: the same answer in all.

        Args:
            step: number of steps done; on a GPU the answer comes with every tenth.
        """
        if self._stops is None or (self.device.type == "cuda" and step % _STEPS_BETWEEN_LOOKS):
            return False
        return bool(self._stops > 0)

    def told(self, number: int) -> int:
        """Return the number that the first process gives; all must ask."""
        given = torch.tensor([number], device=self.device)
        self._from_first(given)
        return int(given)

    @contextmanager
    def leading(self) -> Iterator[None]:
        """What the first process alone can fail at: inside, it works and the others do nothing.

        Raises:
            UserError: in the others, if the first one raised something.
        """
        done = 0
        try:
            yield
            done = 1
        finally:
            done = self.told(done)
        if not done:
            raise UserError("the first process cannot train: see what it says.")

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._together(torch.zeros(1, device=self.device))

    def same(self, keys: Sequence[str]) -> None:
        """Make sure that all processes train the same runs.

        Raises:
            UserError: they do not; in every process.
        """
        digest = int.from_bytes(hashlib.sha256(" ".join(keys).encode()).digest()[:7])
        bounds = torch.tensor([digest, -digest], device=self.device)
        self._together(bounds, largest=True)
        if int(bounds[0]) != -int(bounds[1]):
            raise UserError("the processes were given different configurations: start all with the same command.")

    def from_first(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the first process's tensors in all of them; names, types and shapes must be the same."""
        given = {}
        for name in sorted(state):
            moved = state[name].detach().to(self.device).contiguous().clone()
            self._from_first(moved)
            given[name] = moved.to(state[name].device)
        return given

    def _together(self, tensor: Tensor, *, largest: bool = False) -> None:
        with self._lost():
            dist.all_reduce(tensor, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)

    def _from_first(self, tensor: Tensor) -> None:
        with self._lost():
            dist.broadcast(tensor, 0)

    @contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise UserError(
                f"process {self.rank} of {self.size} has lost another one, which has ended or cannot be reached. What "
                "the first process has written is kept; the same command goes on from there."
            ) from error
