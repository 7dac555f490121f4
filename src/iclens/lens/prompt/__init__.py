"""A few-shot prompt: its text, its parts, its tokens, and the documents it comes from."""

from iclens.lens.prompt.documents import read_document, read_prompt
from iclens.lens.prompt.options import PromptOptions
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.sources import BLANK_LINE, SourceName, Span
from iclens.lens.prompt.template import DEFAULT_TEMPLATE
from iclens.lens.prompt.tokens import NOT_A_DEMONSTRATION, TokenizedPrompt, tokenize

__all__ = [
    "BLANK_LINE", "DEFAULT_TEMPLATE", "NOT_A_DEMONSTRATION", "Prompt", "PromptOptions", "SourceName", "Span",
    "TokenizedPrompt", "read_document", "read_prompt", "tokenize",
]  # fmt: skip
