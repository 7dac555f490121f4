"""Language models seen as sequences of dual models."""

from __future__ import annotations

from iclens.lens.explaining import explain, explain_many
from iclens.lens.explanation import Explanation, SourceEffect
from iclens.lens.lens import Answer, Lens
from iclens.lens.model.families import FAMILIES, Family
from iclens.lens.model.loading import LensModel, load, outline
from iclens.lens.prompt.prompt import Prompt, Span
from iclens.lens.prompt.tokens import TokenizedPrompt, tokenize
from iclens.lens.read.capture import Capture, capture, check_capture
from iclens.lens.read.heads import HeadRecord
from iclens.lens.read.readout import Readout
from iclens.lens.rows import COLUMNS
from iclens.lens.scores.faithfulness import auc, lds
from iclens.lens.scores.method import ATTRIBUTIONS, Scores
from iclens.lens.table import print_table
from iclens.lens.views import VIEWS, WRITERS

__all__ = [
    "ATTRIBUTIONS",
    "COLUMNS",
    "FAMILIES",
    "VIEWS",
    "WRITERS",
    "Answer",
    "Capture",
    "Explanation",
    "Family",
    "HeadRecord",
    "Lens",
    "LensModel",
    "Prompt",
    "Readout",
    "Scores",
    "SourceEffect",
    "Span",
    "TokenizedPrompt",
    "auc",
    "capture",
    "check_capture",
    "explain",
    "explain_many",
    "lds",
    "load",
    "outline",
    "print_table",
    "tokenize",
]
