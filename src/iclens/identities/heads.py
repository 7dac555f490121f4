"""Random heads that several files of identities check on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from iclens.dual import DualModel
from iclens.identities.checks import Setting


def random_heads(setting: Setting, largest_score: float = 3.0, **options: Any) -> Iterator[DualModel]:
    """Masked heads over sizes, with the largest |score| given; `options` go to `DualModel.from_attention`."""
    generator = setting.generator()
    for n_key, d in ((1, 1), (2, 128), (15, 11), (60, 64), (120, 3)):
        q, k, v = (setting.randn(generator, 2, n, width) for n, width in ((3, d), (n_key, d), (n_key, 4)))
        factor = (largest_score / (q @ k.mT * d**-0.5).abs().max()).sqrt()
        mask = torch.rand(2, 3, n_key, generator=generator).to(setting.device) < 0.7
        mask[..., 0] = True
        yield DualModel.from_attention(
            q * factor, k * factor, v, max(1, n_key * 2 // 3), mask=mask, scale=d**-0.5, **options
        )
