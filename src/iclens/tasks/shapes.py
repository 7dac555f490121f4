"""The shapes of what a prompt is made of, said once for tasks, estimators and models."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

Inputs = Float[Tensor, "*batch n_points d"]
"""Inputs of points, (*batch, n_points, d)."""

Labels = Float[Tensor, "*batch n_points d_y"]
"""Labels or values at points, (*batch, n_points, d_y)."""

Phi = Float[Tensor, "*batch n_points n_features"]
"""φ(x) at points, (*batch, n_points, n_features)."""

RunsInputs = Float[Tensor, "runs batch n_points d"]
"""Inputs of an ensemble's runs, (runs, batch, n_points, d)."""

RunsLabels = Float[Tensor, "runs batch n_points d_y"]
"""Labels of an ensemble's runs, (runs, batch, n_points, d_y)."""
