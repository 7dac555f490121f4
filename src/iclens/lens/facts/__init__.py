"""The parts of an explanation, plain data: the model, tokens, sources, checks and costs."""

from iclens.lens.facts.checks import RESIDUALS, Agreement, Completeness, Cost, Faithfulness, Residual
from iclens.lens.facts.reading import Candidate, ModelFacts, NextToken, Token
from iclens.lens.facts.responses import Grounding, ResponseEffects, StatementEffects, lost
from iclens.lens.facts.sources import ADDITIVE, EDGES, METHODS, KnockOut, OtherPart, Piece, SourceEffect, Taken, total
from iclens.lens.facts.together import PairEffects, PatchEffects, SourceUpdate

__all__ = [
    "ADDITIVE", "EDGES", "METHODS", "RESIDUALS", "Agreement", "Candidate", "Completeness", "Cost", "Faithfulness",
    "Grounding", "KnockOut", "ModelFacts", "NextToken", "OtherPart", "PairEffects", "PatchEffects", "Piece",
    "Residual", "ResponseEffects", "SourceEffect", "SourceUpdate", "StatementEffects", "Taken", "Token", "lost",
    "total",
]  # fmt: skip
