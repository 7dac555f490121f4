"""Captum's view of a prompt: the demonstrations' tokens are the input, and a neutral token stands for absence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.lens import Lens
from iclens.lens.model.placed import doubled
from iclens.lens.read.capture import run
from iclens.lens.scores.method import Scores

BATCH = 64


class Replacement:
    """The margin as a function of the demonstrations' tokens alone; counts the prompts that it runs.

    Everything outside the demonstrations stays in place, so that Captum spends nothing on it.
    """

    def __init__(self, lens: Lens) -> None:
        self.lens = lens
        self.inside = lens.groups >= 0
        self.n_prompts = 0

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Margins of prompts whose demonstrations' tokens are `tokens` (batch, n_inside)."""
        lens, device = self.lens, self.lens.model.device
        ids = lens.input_ids.repeat(len(tokens), 1)
        ids[:, self.inside] = tokens.cpu()
        logits = run(lens.model, ids.to(device), logits_to_keep=lens.readouts.positions[0].to(device))
        self.n_prompts += len(tokens)
        lens.passes.forward_passes += len(tokens)
        return doubled(lens.readouts.margin(logits[None])[0])


def neutral_id(lens: Lens) -> int:
    """The vocabulary id that stands for "nothing": the unknown token, else padding, else the end token, else 0."""
    tokenizer = lens.model.tokenizer
    candidates = (tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(index for index in candidates if index is not None)


def attribute(lens: Lens, name: str, method: Callable[[Any], Any], **options: Any) -> Scores:
    """Run one of Captum's perturbation methods over whole demonstrations.

    Raises:
        UserError: Captum is not installed.
    """
    try:
        import captum.attr
    except ImportError as error:
        raise UserError(
            f"the attribution method {name!r} needs Captum: install it with pip install 'iclens[peers]'."
        ) from error
    forward = Replacement(lens)
    tokens = lens.input_ids[forward.inside][None]
    groups = lens.groups[forward.inside][None]
    values = method(captum.attr)(forward).attribute(
        tokens, baselines=neutral_id(lens), feature_mask=groups, perturbations_per_eval=BATCH, **options
    )
    # Captum writes a group's score on each of its tokens.
    scores = torch.zeros(lens.n_demonstrations, dtype=torch.float64)
    scores[groups[0]] = values[0].cpu().double()
    return Scores(scores, float(forward.n_prompts))
