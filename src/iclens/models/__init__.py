"""Transformers for prompts; every parameter has a leading axis of runs."""

from iclens.models.constructions import debiased_gradient_step, gradient_step
from iclens.models.model import MODELS, PromptModel, build_model
from iclens.models.per_run import PerRun, for_runs
from iclens.models.runs import Draws, RunsLayerNorm, RunsLinear
from iclens.models.runs_attention import RunsAttention
from iclens.models.tokens import interleaved, joint, pairs
from iclens.models.transformer import PromptTransformer

__all__ = [
    "MODELS",
    "Draws",
    "PerRun",
    "PromptModel",
    "PromptTransformer",
    "RunsAttention",
    "RunsLayerNorm",
    "RunsLinear",
    "build_model",
    "debiased_gradient_step",
    "for_runs",
    "gradient_step",
    "interleaved",
    "joint",
    "pairs",
]
