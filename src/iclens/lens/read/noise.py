"""How far a model's own numbers move by the rounding of its type, measured on the given prompt.

Half precision keeps two or three digits, and every layer rounds again, so that two passes over one prompt that are both
right differ: by how much depends on the model, its depth and the prompt. Checks that compare two passes cannot be
tighter than that.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.lens.read.capture import attention_outputs, relative, run
from iclens.lens.read.padded import unembedding_only
from iclens.lens.read.routing import recording_routes, routed_as
from iclens.lens.read.tracing import Trace


@torch.no_grad()
def rounding_noise(traced: Trace) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return how far two of the model's own passes are apart when layers round otherwise, relative as in `off_by`.

    The first number is the worst of what `off_by` compares, the outputs of the attention modules and the logits that
    are read; the second one is of the logits alone.

    In the second one what every layer hands on is moved by up to half a unit of its last digit, at random with a fixed
    seed, and tokens go to the experts of the first. The lens's own attention and masks have no part in it, so that an
    error of theirs cannot excuse itself.
    """
    lens_model, tokens = traced.lens_model, traced.tokens
    generator = torch.Generator(tokens.ids.device).manual_seed(0)
    own: dict[str, Tensor] = {}
    off: dict[str, Tensor] = {}

    def moved(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output if isinstance(output, Tensor) else output[0]
        unit = torch.finfo(hidden.dtype).eps / 2
        share = torch.rand(hidden.shape, generator=generator, device=generator.device).to(hidden.device) * 2 - 1
        hidden = (hidden.float() * (1 + unit * share)).to(hidden.dtype)
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    def compare(name: str, theirs: Tensor) -> None:
        off[name] = relative(theirs, own[name], tokens.real).to(tokens.ids.device)

    with unembedding_only(lens_model, traced.readouts.positions):
        with attention_outputs(lens_model, own.__setitem__), recording_routes(lens_model) as routes:
            logits = run(lens_model, tokens.ids)
        with ExitStack() as stack:
            for layer in lens_model.anatomy.layers:
                stack.callback(layer.module.register_forward_hook(moved).remove)
            stack.enter_context(attention_outputs(lens_model, compare))
            stack.enter_context(routed_as(routes))
            off["logits"] = relative(run(lens_model, tokens.ids), logits).to(tokens.ids.device)
    return torch.stack(list(off.values())).amax(0), off["logits"]
