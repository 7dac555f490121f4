"""A response: a text of any length after a prompt, whose probability is explained as a whole or in part."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from iclens.display_text import one_line
from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.blocks import half_pair
from iclens.lens.prompt.tokens import TokenizedPrompt
from iclens.lens.read.answers import behind
from iclens.lens.read.margin import MEASURES, Readout

_SHOWN = 60


@dataclass(frozen=True)
class Response:
    """A response as tokens after a prompt, each read with those before it forced.

    Attributes:
        text: the response.
        token_ids: its vocabulary ids.
        tokens: the text of each; joined they give the response, with the spaces before it.
        statement: the part that is read; the whole response when None.
        first, last: its tokens, `last` not included.
        measure: what is read of its probability, one of `MEASURES`.
        notes: what is doubtful about its tokens.
        before: characters of its tokens before what is read.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    statement: str | None
    first: int
    last: int
    measure: str = MEASURES[0]
    notes: tuple[str, ...] = ()
    before: int = 0

    @property
    def readout(self) -> Readout:
        """What is explained. Terms of weight zero have every token's prediction read, also outside the statement."""
        what = f"the response {one_line(self.text.strip(), _SHOWN)!r}"
        if self.statement is not None:
            what = f"{one_line(self.statement, _SHOWN)!r} in {what}"
        log_p, count = f"log-probability of {what}", self.last - self.first
        log_p += f", the sum over its {count} tokens" if count > 1 else ""
        return Readout(
            tuple((t, index, 0.0) for t, index in enumerate(self.token_ids)),
            self.token_ids[self.first : self.last],
            append=self.token_ids[:-1],
            answer=self.text if self.statement is None else self.statement,
            definition=f"The {log_p}."
            if self.measure == MEASURES[0]
            else f"log p − log(1 − p), with log p the {log_p}.",
            answer_offset=self.first,
            measure=self.measure,
        )

    def stated(self, statement: str | None) -> Response:
        """Return the same response of which only a statement is read: every token that shows a character of it.

        Raises:
            UserError: it is empty, or does not stand in the response exactly once.
        """
        if statement is None:
            return self
        wanted = statement.strip()
        if not wanted:
            raise UserError("the statement is empty: give a part of the response, word for word.")
        whole = "".join(self.tokens)
        count = whole.count(wanted)
        if count != 1:
            often = "does not occur" if not count else f"occurs {count} times"
            how = "word for word, with its case and punctuation" if not count else "long enough to occur once"
            raise UserError(f"the statement {wanted!r} {often} in the response: give a part of it, {how}.")
        start = whole.index(wanted)
        return self.part(start, start + len(wanted))

    def part(self, start: int, end: int) -> Response:
        """The same response of which some characters of its tokens are read: every token that shows one of them."""
        at, touched, shared = 0, [], []
        for t, text in enumerate(self.tokens):
            begin, stop = at + len(text) - len(text.lstrip()), at + len(text)
            if min(stop, end) > max(begin, start):
                touched.append(t)
                if begin < start or at + len(text.rstrip()) > end:
                    shared.append(f"{text!r} reaches over the edge of the statement and counts to it.")
            at = stop
        last = touched[-1] + 1
        # Of tokens that share a character the first shows it.
        while last < len(self.tokens) and not self.tokens[last]:
            last += 1
        return replace(
            self,
            statement="".join(self.tokens)[start:end],
            first=touched[0],
            last=last,
            notes=(*self.notes, *map(_token, shared)),
            before=start,
        )


def read_response(
    text: str,
    tokenized: TokenizedPrompt,
    tokenizer: Any,
    context_length: int | None = None,
    *,
    called: str = "response",
    as_is: bool = False,
) -> Response:
    """Tokenise a response after its prompt, as an answer: with the prompt's `lead` between them unless it has its own.

    `called` is its name in errors; a text that is taken `as_is` holds what leads to it.

    Raises:
        UserError: it is empty, no text, or longer than the model's context leaves.
    """
    if not isinstance(text, str):
        raise UserError(f"the {called} is a {type(text).__name__}: give it as text.")
    if not text.strip():
        raise UserError(f"the {called} is empty: give the text whose sources are looked for, or generate one.")
    if half_pair(text):
        raise UserError(f"the {called} holds half of a surrogate pair: give whole characters.")
    ids, tokens, split = behind(text, tokenized, tokenizer, as_is=as_is)
    unknown = tokenizer.unk_token_id
    if not ids or set(ids) == {unknown}:
        raise UserError(f"the {called} {one_line(text, _SHOWN)!r} has no token that the tokenizer knows.")
    notes = []
    if unknown is not None and unknown in ids:
        notes.append(f"The response holds {ids.count(unknown)} tokens that the tokenizer does not know.")
    if split:
        notes.append(
            "The tokenizer would join the response's beginning to the end of the prompt; the response's tokens were "
            "found apart, as they follow the prompt's own."
        )
    return _fitting(
        Response(text, tuple(ids), tokens, None, 0, len(ids), notes=tuple(notes)), tokenized, context_length
    )


def generate(lens_model: LensModel, tokenized: TokenizedPrompt, most: int, seed: int | None = None) -> Response:
    """Let the model write a response of up to `most` tokens by its own `generate`: the likeliest, or drawn with a seed.

    What ends a text is left out. There must be room for the tokens, see `check_room`.

    Raises:
        UserError: a model that ends its text at once, or writes spaces alone.
    """
    n = tokenized.n_tokens
    model, tokenizer = lens_model.model, lens_model.tokenizer
    how = copy.deepcopy(model.generation_config)
    how.do_sample, how.num_beams, how.max_length, how.max_new_tokens = seed is not None, 1, None, most
    if seed is None:
        how.temperature = how.top_p = how.top_k = how.min_p = how.typical_p = None
    if how.pad_token_id is None:
        how.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids = tokenized.input_ids[None].to(lens_model.device)
    with torch.random.fork_rng(), torch.no_grad():
        if seed is not None:
            torch.manual_seed(seed)
        written = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)[0, n:].tolist()
    ends = {tokenizer.eos_token_id} | set(_listed(how.eos_token_id))
    stop = next((t for t, index in enumerate(written) if index in ends), len(written))
    if not stop:
        raise UserError("the model ends its text at once: there is no response to explain. Give one, or another seed.")
    tokens = _texts(written[:stop], tokenizer)
    if not "".join(tokens).strip():
        raise UserError("the model writes nothing but spaces: let it write more tokens, or give a response.")
    return Response("".join(tokens).strip(), tuple(written[:stop]), tokens, None, 0, stop)


def check_room(tokenized: TokenizedPrompt, most: int, context_length: int | None) -> None:
    """Refuse to have a response of `most` tokens written after a prompt where the model's context does not hold it.

    Raises:
        UserError: fewer than one token, or no room for them.
    """
    if most < 1:
        raise UserError(f"generate is {most}: let the model write at least 1 token.")
    n = tokenized.n_tokens
    if context_length is not None and n + most > context_length + 1:
        raise UserError(
            f"the prompt has {n} tokens, so that the model's context of {context_length} holds "
            f"{context_length + 1 - n} more: generate no more than these, or shorten the prompt."
        )


def _fitting(response: Response, tokenized: TokenizedPrompt, limit: int | None) -> Response:
    needed = tokenized.n_tokens + len(response.token_ids) - 1
    if limit is not None and needed > limit:
        raise UserError(
            f"the prompt has {tokenized.n_tokens} tokens and the response {len(response.token_ids)}, but the model's "
            f"context holds {limit}: shorten one of them."
        )
    return response


def _texts(ids: Sequence[int], tokenizer: Any) -> tuple[str, ...]:
    """Return what each token adds to the text; of several that share one character the first has it."""
    texts, whole, begun = [""] * len(ids), "", 0
    for t in range(len(ids)):
        now = tokenizer.decode(ids[: t + 1], clean_up_tokenization_spaces=False)
        if now.endswith("\ufffd") and t + 1 < len(ids):
            continue
        texts[begun] = now[len(whole) :]
        whole, begun = now, t + 1
    return tuple(texts)


def _listed(one_or_more: int | Sequence[int] | None) -> Sequence[int]:
    return () if one_or_more is None else [one_or_more] if isinstance(one_or_more, int) else one_or_more


def _token(remark: str) -> str:
    return f"The token {remark}"
