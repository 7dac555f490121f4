"""Numbers that are none: where in a model they begin."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import at_hand
from iclens.lens.read.capture import run
from iclens.lens.read.padded import PaddedTokens


@torch.no_grad()
def check_finite(lens_model: LensModel, tokens: PaddedTokens, logits: Tensor) -> None:
    """Refuse a pass whose logits hold NaN or +∞, and name the first module whose output does.

    Only then does the model run again, watched.

    Raises:
        UserError: with the module's name, and what it comes from: a weight, or the range of half precision.
    """
    if not _is_broken(logits):
        return
    first: list[tuple[str, nn.Module]] = []

    with ExitStack() as stack:
        for name, module in lens_model.model.named_modules():
            if any(module.children()):
                continue

            def watch(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                parts = output if isinstance(output, tuple) else (output,)
                if not first and any(isinstance(part, Tensor) and _is_broken(part) for part in parts):
                    first.append((name, module))

            stack.callback(module.register_forward_hook(watch).remove)
        run(lens_model, tokens.ids)
    where, module = first[0] if first else ("the attention", None)
    raise UserError(
        f"the numbers of {lens_model.name} are not finite from {where} on: {_why(lens_model, where, module)}."
    )


def _why(lens_model: LensModel, where: str, module: nn.Module | None) -> str:
    with at_hand(module):
        for name, weight in module.named_parameters() if module is not None else ():
            if not bool(weight.isfinite().all()):
                return f"its {name} holds values that are none; the checkpoint is damaged"
    if lens_model.dtype == torch.float16:
        return "float16 ends at 65504; load the model in float32 or bfloat16"
    return "the model leaves the range of its type on this prompt; load it in a wider type"


def _is_broken(x: Tensor) -> bool:
    # −∞ is a logit of probability zero.
    return x.is_floating_point() and bool((x.isnan() | x.isposinf()).any())
