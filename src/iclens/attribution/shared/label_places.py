"""Where the labels of a prompt's demonstrations stand, and what the model expects there; in any order of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.lens import Lens
from iclens.lens.prompt.outputs import outputs_of
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.sources import Span
from iclens.lens.prompt.tokens import TokenizedPrompt, tokenize
from iclens.lens.read.capture import run
from iclens.lens.read.padded import PaddedTokens, unembedding_only


def reordered(prompt: Prompt, order: Sequence[int]) -> Prompt:
    """Return the same demonstrations in another order; each takes the separator after it along."""
    parts = (*prompt.demonstrations, prompt.query)
    pieces = [prompt.text[one.start : following.start] for one, following in pairwise(parts)]
    cursor, spans = parts[0].start, []
    for i in order:
        spans.append(Span(cursor, cursor + parts[i].end - parts[i].start))
        cursor += len(pieces[i])
    text = prompt.text[: parts[0].start] + "".join(pieces[i] for i in order) + prompt.query.of(prompt.text)
    labels = tuple(prompt.labels[i] for i in order)
    return replace(prompt, text=text, demonstrations=tuple(spans), labels=labels, notes=())


def label_places(tokenized: TokenizedPrompt) -> list[range]:
    """Return the tokens of every demonstration's label.

    Raises:
        UserError: a label is not known, does not stand in its demonstration, or begins the text.
    """
    prompt, places = tokenized.prompt, []
    for i, (output, label) in enumerate(zip(outputs_of(prompt), prompt.labels, strict=True)):
        if label is None or output is None:
            raise UserError(
                f"the label of demonstration {i} is not known: write the prompt from pairs of input and output."
            )
        start, end = output.start, output.start + len(label.strip())
        inside = [t for t, (a, b) in enumerate(tokenized.offsets) if a < end and b > start]
        if not inside or inside[0] == 0:
            raise UserError(
                f"the label of demonstration {i} begins the text: nothing stands before it to expect it from."
            )
        places.append(range(inside[0], inside[-1] + 1))
    return places


def expected(
    lens: Lens, prompts: Sequence[Prompt]
) -> Iterator[tuple[TokenizedPrompt, list[Float[Tensor, "_ vocabulary"]]]]:
    """For each prompt, log p of every token at each of its labels' tokens, given all text before; a pass each."""
    model = lens.model
    tokenized = [tokenize(one, model.tokenizer, model.context_length) for one in prompts]
    for one in tokenized:
        places = label_places(one)
        before = torch.tensor([[t - 1 for place in places for t in place]], device=model.device)
        tokens = PaddedTokens.of([one.input_ids], [one.query_start], model.device)
        lens.passes.forward_passes += 1
        with torch.no_grad(), unembedding_only(model, before):
            logits = run(model, tokens.ids)[0]
        yield one, list(torch.log_softmax(logits.double(), -1).cpu().split([len(place) for place in places]))


def orders(generator: torch.Generator, n_demonstrations: int, n_orders: int) -> list[list[int]]:
    """Random orders, each followed by its reverse: in such a pair every demonstration follows each other one once."""
    found: list[list[int]] = []
    for _ in range(n_orders // 2):
        one = torch.randperm(n_demonstrations, generator=generator).tolist()
        found += [one, one[::-1]]
    return found
