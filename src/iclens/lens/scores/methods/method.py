"""What a method that scores demonstrations is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.tokens import NOT_A_DEMONSTRATION, tokenize
from iclens.lens.read.answers import Margin
from iclens.lens.read.readout import Readout
from iclens.lens.scores.rerun import Outcome, reading, rerun
from iclens.registry import Registry

Deletions = Callable[[Tensor], Outcome]
"""The model on really shortened prompts: from keep-masks, bool (n_prompts, n_demonstrations), to what it says."""


@dataclass(frozen=True)
class Problem:
    """One prompt, one margin: which demonstrations moved it?

    Attributes:
        lens_model: the model.
        input_ids: the prompt's tokens, with the answer's forced tokens behind them when it has several.
        groups: the demonstration of each token, −1 for none.
        query_start: first token of the query.
        readout: the margin as weights on logits.
        deletions: runs the model on the prompt with only some demonstrations, their text really deleted.
        neutral_id: the vocabulary id that stands for "nothing" where a method replaces tokens.
    """

    lens_model: LensModel
    input_ids: Int[Tensor, " n"]
    groups: Int[Tensor, " n"]
    query_start: int
    readout: Readout
    deletions: Deletions
    neutral_id: int

    @property
    def n_demonstrations(self) -> int:
        """How many demonstrations are to be scored."""
        return int(self.groups.max()) + 1

    @classmethod
    def from_prompt(cls, lens_model: LensModel, prompt: Prompt, margin: Margin, batch_size: int = 64) -> Problem:
        """The problem of a prompt and a margin.

        The neutral id is the tokenizer's unknown token, else its padding, else its end token, else 0.

        Args:
            lens_model: a causal language model with its tokenizer.
            prompt: the prompt.
            margin: the explained margin.
            batch_size: shortened prompts in one forward pass.

        Raises:
            UserError: the prompt does not fit the model.
        """
        tokenizer = lens_model.tokenizer
        tokenized = tokenize(prompt, tokenizer, lens_model.context_length)
        forced, readout = reading(margin, tokenized.n_tokens - 1)
        behind = torch.full((len(forced),), NOT_A_DEMONSTRATION)
        candidates = (tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, 0)

        def deletions(keep: Tensor) -> Outcome:
            sets = [(~row).nonzero().flatten().tolist() for row in keep]
            return rerun(lens_model, prompt, margin, sets, batch_size=batch_size)

        return cls(
            lens_model=lens_model,
            input_ids=torch.cat([tokenized.input_ids, torch.tensor(forced, dtype=torch.long)]),
            groups=torch.cat([tokenized.groups, behind]),
            query_start=tokenized.query_start,
            readout=readout,
            deletions=deletions,
            neutral_id=next(index for index in candidates if index is not None),
        )


@dataclass(frozen=True)
class Scores:
    """A method's scores of the demonstrations, the more the better for the answer, and what they cost.

    Attributes:
        values: one score a demonstration.
        forward_passes: full passes over a prompt; a batch of m prompts counts m, a pass over a part of the tokens
            counts their share.
        backward_passes: the same for backward passes.
    """

    values: Float[Tensor, " n_demonstrations"]
    forward_passes: float
    backward_passes: float = 0.0


Attribution = Callable[[Problem, torch.Generator], Scores]
"""A method: scores the demonstrations of a problem; the generator is its only source of randomness."""

ATTRIBUTIONS: Registry[Attribution] = Registry("attribution method", "iclens.attributions")


def by_demonstration(values: Float[Tensor, " n"], problem: Problem) -> Float[Tensor, " n_demonstrations"]:
    """Sum values of tokens within each demonstration, in float64."""
    summed = torch.zeros(problem.n_demonstrations + 1, dtype=torch.float64)
    slots = torch.where(problem.groups < 0, problem.n_demonstrations, problem.groups)
    return summed.index_add(0, slots.cpu(), values.detach().double().cpu())[:-1]
