"""Prompts of words and labels with their ground truth: plain, redundant and conflicting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from iclens.errors import UserError
from iclens.language.words import LABELS, sample_words
from iclens.lens import Readout
from iclens.lens.prompt.prompt import Prompt
from iclens.papers.attribution.measures import Case

TEMPLATE = "{input} is {output} ."


def word_cases(
    tokenizer: Any,
    generator: torch.Generator,
    n_prompts: int,
    n_demonstrations: int = 12,
    n_relevant: tuple[int, int] = (2, 4),
    n_categories: int = 5,
) -> list[Case]:
    """Held-out prompts whose answer only the demonstrations of the query's category tell.

    Args:
        tokenizer: of the learner; every word and label is one token of it.
        generator: the source of randomness.
        n_prompts: how many.
        n_demonstrations: demonstrations a prompt.
        n_relevant: smallest and largest number of them of the query's category, drawn uniformly.
        n_categories: categories in all.

    Raises:
        UserError: counts that do not fit, or a tokenizer that does not know the words.
    """
    low, high = n_relevant
    if not 1 <= low <= high < n_demonstrations:
        raise UserError(
            f"{low} to {high} of {n_demonstrations} demonstrations cannot be of the query's category: at least 1 must "
            "be, and at least 1 must not."
        )
    cases = []
    for _ in range(n_prompts):
        count = low + int(torch.randint(high - low + 1, (1,), generator=generator))
        drawn = sample_words(generator, n_demonstrations, count, n_categories=n_categories)
        cases.append(
            Case(
                Prompt.from_examples(drawn.demonstrations, drawn.query, TEMPLATE),
                margin(tokenizer, drawn.answer, LABELS),
                drawn.relevant,
            )
        )
    return cases


def conflicting_cases(
    tokenizer: Any, generator: torch.Generator, n_prompts: int, n_for: int = 4, n_against: int = 2
) -> list[Case]:
    """Twelve demonstrations of which some of the query's category carry another label.

    The label of the majority is explained; the demonstrations that carry it are the truth, those that contradict it
    are not.

    Args:
        tokenizer: of the learner.
        generator: the source of randomness.
        n_prompts: how many.
        n_for: demonstrations of the query's category with the explained label.
        n_against: demonstrations of the query's category with one other label.

    Raises:
        UserError: a tokenizer that does not know the words.
    """
    cases = []
    for _ in range(n_prompts):
        drawn = sample_words(generator, 12, n_for + n_against)
        used = {label for _, label in drawn.demonstrations}
        free = [label for label in LABELS if label not in used]
        other = free[int(torch.randint(len(free), (1,), generator=generator))]
        order = torch.randperm(len(drawn.relevant), generator=generator).tolist()
        against = {drawn.relevant[i] for i in order[:n_against]}
        pairs = [(word, other if i in against else label) for i, (word, label) in enumerate(drawn.demonstrations)]
        prompt = Prompt.from_examples(pairs, drawn.query, TEMPLATE)
        supporting = tuple(i for i in drawn.relevant if i not in against)
        opposed = {"contradicting": tuple(sorted(against))}
        cases.append(Case(prompt, margin(tokenizer, drawn.answer, LABELS), supporting, opposed))
    return cases


def margin(tokenizer: Any, answer: str, candidates: Sequence[str]) -> Readout:
    """Return the answer's logit minus the mean of the other candidates', all of one token.

    Raises:
        UserError: a candidate that is not one token of the tokenizer.
    """
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in candidates}
    strange = [word for word, index in ids.items() if index is None or index == tokenizer.unk_token_id]
    if strange:
        raise UserError(
            f"the tokenizer does not know {strange[0]!r} as one token: this study needs a learner of the words of "
            "iclens.language.words, such as the bundled one."
        )
    others = [word for word in candidates if word != answer]
    terms = [(0, ids[answer], 1.0), *((0, ids[word], -1.0 / len(others)) for word in others)]
    return Readout(
        answer=answer,
        answer_ids=(ids[answer],),
        terms=tuple(terms),
        definition=f"The logit of {answer!r} minus the mean logit of the {len(others)} other candidates.",
    )
