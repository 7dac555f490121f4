"""What a dual model can guarantee about tokens it was not trained on (Ren & Liu 2024, Theorem 3.2)."""

from iclens.bounds.gap import MeasuredGap, measured_gap
from iclens.bounds.rademacher import (
    Bound,
    Bounds,
    RademacherComplexity,
    generalization_bounds,
    rademacher_complexity,
)

__all__ = [
    "Bound",
    "Bounds",
    "MeasuredGap",
    "RademacherComplexity",
    "generalization_bounds",
    "measured_gap",
    "rademacher_complexity",
]
