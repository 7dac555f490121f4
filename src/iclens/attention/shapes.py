"""The shapes of an attention call, said once for all variants."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

Queries = Float[Tensor, "*batch n_heads n_query d"]
"""Queries, (..., n_heads, n_query, d)."""

Keys = Float[Tensor, "*batch_k n_kv_heads n_key d"]
"""Keys, (..., n_kv_heads, n_key, d), not repeated for grouped queries."""

Values = Float[Tensor, "*batch_v n_kv_heads n_key d_v"]
"""Values, (..., n_kv_heads, n_key, d_v)."""

Mask = Bool[Tensor, "*batch_m #n_query n_key"] | None
"""True where a query may attend, (..., n_query or 1, n_key); None for everywhere."""

Outputs = Float[Tensor, "*out n_heads n_query d_v"]
"""What the heads give, (..., n_heads, n_query, d_v)."""
