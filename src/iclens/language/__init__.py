"""The made-up language of the bundled learner: words of categories, each category under a random label."""

from iclens.language.tokenizer import word_tokenizer
from iclens.language.words import CATEGORY_OF, LABELS, VOCABULARY, WordPrompt, sample_words

__all__ = ["CATEGORY_OF", "LABELS", "VOCABULARY", "WordPrompt", "sample_words", "word_tokenizer"]
