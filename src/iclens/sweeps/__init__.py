"""Many runs: grouped by shape, trained together, kept in a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iclens.lazy import lazy_names

if TYPE_CHECKING:
    from iclens.sweeps.grid import expand
    from iclens.sweeps.result import Result
    from iclens.sweeps.run_folder import Run
    from iclens.sweeps.store import Store
    from iclens.sweeps.sweep import SweepPlan, SweepResult, prepare, run

__all__ = [
    "Result",
    "Run",
    "Store",
    "SweepPlan",
    "SweepResult",
    "expand",
    "prepare",
    "run",
]

# On first use: runs are listed without torch.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "grid": "expand",
        "result": "Result",
        "run_folder": "Run",
        "store": "Store",
        "sweep": "SweepPlan SweepResult prepare run",
    },
)
