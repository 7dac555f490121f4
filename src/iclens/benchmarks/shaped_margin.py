"""The margin that is shared out among demonstrations: of a random model of GPT-2's shape, on a prompt of n of them."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.benchmarks.case import Agreement
from iclens.benchmarks.ceilings import Floor
from iclens.benchmarks.gpt2_shaped import Shape, ShapedPrompt
from iclens.lens import LensModel
from iclens.lens.read.margin import Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.tracing import Trace, trace
from iclens.lens.scores.gradient_step import GradientStep, gradient_step
from iclens.lens.scores.knock_out import KnockOuts, hidden_keys, knock_out


class Shaped:
    """The random model's margin on a prompt of n demonstrations, and ways to run it on changed prompts.

    Attributes:
        lens_model: the model.
        prompt: the prompt.
        sets: each demonstration alone.
        neutral: the prompt's tokens with "nothing" for every token of a demonstration.
    """

    def __init__(self, wrapped: LensModel, prompt: ShapedPrompt) -> None:
        self.lens_model, self.prompt = wrapped, prompt
        self.sets = [(i,) for i in range(prompt.n_demonstrations)]
        # Token 0 stands for "nothing", as an unknown token would.
        self.neutral = torch.where(prompt.groups >= 0, 0, prompt.ids)

    @torch.no_grad()
    def margins(self, ids: Tensor) -> Tensor:
        """Of prompts (batch, n): the logits of the last token only."""
        logits = self.lens_model.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        return self.prompt.margin(logits)

    def trace(self) -> Trace:
        """Return the one full pass."""
        prompt, device = self.prompt, self.lens_model.device
        tokens = PaddedTokens.of([prompt.ids], [prompt.query_start], device)
        return trace(self.lens_model, tokens, Readouts.of([prompt.readout], [len(prompt.ids) - 1], device))

    def gradient_step(self) -> GradientStep:
        """Return the contributions of every token, with the pass."""
        return gradient_step(self.trace())[0]

    def knock_out(self, traced: Trace) -> KnockOuts:
        """Return the exact knock-out of every demonstration, after the pass."""
        return knock_out(traced, hidden_keys(self.prompt.groups[None], [self.sets]))[0]

    def both(self) -> tuple[GradientStep, KnockOuts]:
        """Return the contributions and the knock-outs, with the pass that they share."""
        traced = self.trace()
        return gradient_step(traced)[0], self.knock_out(traced)

    def ours(self) -> tuple[Tensor, Tensor]:
        """Gradient step (tokens summed) and exact knock-out of every demonstration."""
        step, knocked = self.both()
        return self.prompt.by_demonstration(step.contributions.sum((0, 1))), knocked.margin_changes

    def deleted(self, keep: Tensor) -> Tensor:
        """Return the margin of the prompt with only some demonstrations (rows of a mask), each really shortened."""
        margins = []
        for row in keep:
            left = (self.prompt.groups < 0) | row[self.prompt.groups.clamp(min=0)]
            margins.append(self.margins(self.prompt.ids[left][None])[0])
        return torch.stack(margins)

    def agreements(self) -> list[Agreement]:
        """Return the gradient step and the knock-out against their own checks and the plain model."""
        plain = self.margins(self.prompt.ids[None])
        step, knocked = self.both()
        return [
            Agreement.of("margin of the traced pass", step.margin[None], plain, 1e-4),
            Agreement("contributions and the rest against the margin", float(step.residual), 1e-5),
            Agreement("knock-out of nothing against the plain pass", float(knocked.residual), 1e-5),
            Agreement.of("knock-out against masked attention", knocked.margins[:1], self.masked_out(0), 1e-4),
        ]

    @torch.no_grad()
    def masked_out(self, demonstration: int) -> Tensor:
        """Return the margin from the plain model when the query's rows of the mask hide a demonstration."""
        n = len(self.prompt.ids)
        seen = torch.ones(n, n, dtype=torch.bool).tril()
        seen[self.prompt.query_start :, self.prompt.groups == demonstration] = False
        # A mask with four axes is used as it is; very negative where nothing is seen.
        mask = torch.zeros(n, n).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
        ids = self.prompt.ids[None]
        logits = self.lens_model.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1).logits
        return self.prompt.margin(logits)

    def floor(self, shape: Shape) -> Floor:
        """One pass over the prompt, and n + 1 over the query's tokens."""
        n, query = len(self.prompt.ids), len(self.prompt.ids) - self.prompt.query_start
        return Floor(
            shape.forward_operations(n, 1) + (self.prompt.n_demonstrations + 1) * shape.rerun_operations(n, query),
            shape.weight_bytes(),
            "one forward pass of the prompt + n + 1 passes over the query's tokens",
        )
