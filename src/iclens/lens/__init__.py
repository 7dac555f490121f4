"""Language models seen as sequences of dual models."""

from __future__ import annotations

from iclens.lens.differences import Comparison, compare
from iclens.lens.explaining import explain, explain_many
from iclens.lens.explanation import SCHEMA_VERSION, Explanation
from iclens.lens.facts import SourceEffect
from iclens.lens.head_statistics import HEAD_COLUMNS, HeadStatistics
from iclens.lens.lens import Lens
from iclens.lens.model.families import FAMILIES, Family
from iclens.lens.model.loading import LensModel, load, outline
from iclens.lens.prompt import (
    Prompt,
    PromptOptions,
    SourceName,
    Span,
    TokenizedPrompt,
    read_document,
    read_prompt,
    tokenize,
)
from iclens.lens.read.capture import Capture, capture
from iclens.lens.read.heads import HeadRecord
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.question import Answer
from iclens.lens.read.tracing import Trace, trace
from iclens.lens.rows import COLUMNS
from iclens.lens.scores.faithfulness import auc, lds
from iclens.lens.scores.gradient_step import GradientStep, gradient_step
from iclens.lens.scores.knock_out import KnockOuts, hidden_keys, knock_out
from iclens.lens.scores.method import ATTRIBUTIONS, Scores
from iclens.lens.scores.path import PathScores, path
from iclens.lens.table import print_table
from iclens.lens.views import VIEWS, WRITERS

__all__ = [
    "ATTRIBUTIONS", "COLUMNS", "FAMILIES", "HEAD_COLUMNS", "SCHEMA_VERSION", "VIEWS", "WRITERS", "Answer",
    "Capture", "Comparison", "Explanation", "Family", "GradientStep", "HeadRecord", "HeadStatistics", "KnockOuts",
    "Lens", "LensModel", "PaddedTokens", "PathScores", "Prompt", "PromptOptions", "Readout", "Readouts", "Scores",
    "SourceEffect", "SourceName", "Span", "TokenizedPrompt", "Trace", "auc", "capture", "compare", "explain",
    "explain_many", "gradient_step", "hidden_keys", "knock_out", "lds", "load", "outline", "path", "print_table",
    "read_document", "read_prompt", "tokenize", "trace",
]  # fmt: skip
