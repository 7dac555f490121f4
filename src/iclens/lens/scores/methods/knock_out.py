"""The exact knock-out of each demonstration alone, at the query's tokens."""

from __future__ import annotations

import torch

from iclens.lens.read.trace import trace
from iclens.lens.scores.knock_out import knock_out
from iclens.lens.scores.methods.method import ATTRIBUTIONS, Problem, Scores


@ATTRIBUTIONS.register("knock_out")
def score(problem: Problem, generator: torch.Generator) -> Scores:
    """The margin minus what it is when the query's dual models are trained without one of them.

    Costs one pass, and for each demonstration (and once for none, as a check) one over the query's tokens.
    """
    traced = trace(problem.lens_model, problem.input_ids, problem.readout, problem.query_start)
    n, n_demonstrations = len(problem.input_ids), problem.n_demonstrations
    result = knock_out(traced, problem.groups, [(index,) for index in range(n_demonstrations)])
    passes = 1.0 + (n_demonstrations + 1) * (n - problem.query_start) / n
    return Scores(result.margin_changes.double().cpu(), passes)
