"""Two explanations side by side: what differs in the answer, in the sources, and in what each source does."""

from __future__ import annotations

from iclens.lens.differences.comparing import compare
from iclens.lens.differences.comparison import AnswerPair, Comparison, ScorePair, SourcePair
from iclens.lens.differences.table import print_comparison
from iclens.lens.differences.views import VIEWS

__all__ = ["VIEWS", "AnswerPair", "Comparison", "ScorePair", "SourcePair", "compare", "print_comparison"]
