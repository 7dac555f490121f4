"""The patches of a prompt as plain data of its explanation, with the check that they are the context."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from iclens.lens.explanation import Explanation
from iclens.lens.facts import RESIDUALS, PatchEffects, Residual, SourceUpdate
from iclens.lens.patching.patches import Patches
from iclens.lens.patching.told import sizes
from iclens.lens.patching.update import TERMS
from iclens.lens.read.tolerance import tolerance_of

if TYPE_CHECKING:
    from iclens.lens.lens import Lens


def with_patch(lens: Lens, found: Explanation) -> Explanation:
    """The explanation with the weight updates of its prompt, and how far the patched model is from the one it explains.

    Raises:
        UserError: as `Lens.patches`.
    """
    patches = lens.patches()
    with lens.passes.stage("patch"):
        lens.passes.forward_passes += patches.share
        run = patches.run()
        effects = effects_of(patches, run.worst_block)
    limit = max(tolerance_of(lens.model.dtype), tolerance_of(torch.float32))
    check = Residual(RESIDUALS["patch"], run.off, limit, "patch")
    return replace(found, patch=effects, residuals=(*found.residuals, check), cost=lens.passes.cost)


def effects_of(patches: Patches, off_of_blocks: float) -> PatchEffects:
    """What the updates are made of at the token where the answer begins, as means over layers."""
    told = [sizes(patch, patches.read) for patch in patches]
    size, share = (torch.stack([getattr(one, name) for one in told]) for name in ("size", "share"))
    n = patches.n_sources
    cosines = torch.stack([one.cosines for one in told]).mean(0)
    alike = cosines.clone().fill_diagonal_(-torch.inf)
    means, where = share.mean(0), size[:, :n].argmax(0).tolist()
    sources = tuple(
        SourceUpdate(
            float(size[:, i].mean()),
            float(means[i]),
            float(means[n + i]),
            where[i],
            int(alike[i].argmax()) if n > 1 else None,
            float(alike[i].max()) if n > 1 else None,
            tuple(size[:, i].tolist()),
        )
        for i in range(n)
    )
    shares = dict(zip(TERMS[2:], means[2 * n :].tolist(), strict=True))
    by_layer = tuple(float(one.total) for one in told)
    table = tuple(map(tuple, cosines.tolist()))
    return PatchEffects(off_of_blocks, len(patches.text.kept), by_layer, sources, shares, table)
