"""Performance claims as cases: agreement first, then times in interleaved pairs, memory, and the gap to the floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iclens.lazy import lazy_names

if TYPE_CHECKING:
    from iclens.benchmarks.case import (
        CASES,
        Agreement,
        Case,
        Comparison,
        Context,
        Curve,
        Entry,
        Listing,
        Probe,
        Side,
        Target,
        takes,
    )
    from iclens.benchmarks.ceilings import Ceilings, Floor, measure_ceilings
    from iclens.benchmarks.measuring import CaseResult, measure, run_case

__all__ = [
    "CASES",
    "Agreement",
    "Case",
    "CaseResult",
    "Ceilings",
    "Comparison",
    "Context",
    "Curve",
    "Entry",
    "Floor",
    "Listing",
    "Probe",
    "Side",
    "Target",
    "measure",
    "measure_ceilings",
    "run_case",
    "takes",
]

# On first use: `python -m iclens.benchmarks.memory` must find its own module unimported.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "case": "CASES Agreement Case Comparison Context Curve Entry Listing Probe Side Target takes",
        "ceilings": "Ceilings Floor measure_ceilings",
        "measuring": "CaseResult measure run_case",
    },
)
