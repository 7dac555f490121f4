"""Points of every shape that makes a regression hard: repeated points, idle columns, subspaces, few and many."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

STRUCTURES = ("generic", "repeated points", "zero column", "constant column", "subspace", "repeated column", "zeros")


def points(seed, n, d, d_y=1, batch=(), structure="generic", dtype=torch.float64):
    """Inputs (*batch, n, d) and labels (*batch, n, d_y), by default in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, y = normal(*batch, n, d), normal(*batch, n, d_y)
    if structure == "repeated points":
        x = x[..., torch.randint(n, (n,), generator=generator), :]
    elif structure == "zero column":
        x[..., 0] = 0
    elif structure == "constant column":
        x[..., 0] = 1
    elif structure == "subspace":
        r = max(1, d // 2)
        x = normal(*batch, n, r) @ normal(*batch, r, d)
    elif structure == "repeated column":
        x[..., -1] = x[..., 0]
    elif structure == "zeros":
        x[..., : n // 2, :] = 0
    return x.to(dtype), y.to(dtype)


@st.composite
def any_points(draw, structures=STRUCTURES, largest=8):
    """Inputs and labels with up to two leading axes."""
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    n, d, d_y = draw(st.integers(1, 2 * largest)), draw(st.integers(1, largest)), draw(st.integers(1, 2))
    return points(draw(st.integers(0, 10**6)), n, d, d_y, tuple(batch), draw(st.sampled_from(structures)))


def worst_condition(x):
    """Largest ratio of nonzero singular values over all prefixes of all prompts."""
    worst = 1.0
    for i in range(1, x.shape[-2]):
        singular = torch.linalg.svdvals(x[..., :i, :])
        top = singular[..., :1]
        nonzero = singular > 1e-12 * top
        lowest = torch.where(nonzero, singular, torch.inf).amin(-1)
        worst = max(worst, float((top[..., 0] / lowest).max()))
    return worst
