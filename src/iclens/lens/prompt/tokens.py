"""Which tokens belong to which demonstration, from the offsets of one tokenisation of the whole prompt."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.prompt.outputs import outputs_of
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.sources import DEMONSTRATION, Span

NOT_A_DEMONSTRATION = -1
SOURCE = "source"
"""Role of a token in a source that is not a demonstration."""

FIRST = "first"
"""Role of the first token of the text, to which models attend whatever it says (an attention sink)."""

_MOST_NAMED = 8
"""Unknown words that a note names."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """The tokens of a prompt and the part that each belongs to.

    A token belongs to the part with which it shares most visible characters, or, when it shows none, most
    characters; of two equal parts to the later, because a causal model has read the token whole only there.
    Roles: `"demonstration"`, `"source"` (of another kind), `"instruction"`, `"query"`; `"special"` for a token that the
    tokenizer added or that is special to it, outside the parts; `"separator"` for everything else outside them; and
    `"first"` for the first token of the text, whatever it says: models attend to that position as to a sink, so that
    cutting it away would measure the sink and not the source whose text it begins (Xiao et al. 2023, "Efficient
    streaming language models with attention sinks"). Where the query comes first, its first token stays the query's.

    Attributes:
        prompt: the prompt.
        input_ids: vocabulary ids.
        offsets: the characters of `prompt.text` that each token covers, as the tokenizer reports them.
        groups: the source of each token, −1 for none; it never falls along the prompt, −1 left aside.
        roles: the role of each token.
        in_output: whether a token shows part of its demonstration's output (its label) or stands after it there; False
            where that is not known.
        query_start: index of the first token of the query; all tokens from there on are the query's.
        texts: what to show for each token. Apart from added special tokens, whose own name stands, the texts joined
            give the prompt: white space that no token covers goes to the token after it, and of several tokens that
            share one character the first has it and the others are empty.
        notes: what is doubtful: those of the prompt, tokens that lie across two parts, words that the tokenizer does
            not know, and special tokens that are doubled or were left out.
    """

    prompt: Prompt
    input_ids: Int[Tensor, " n_tokens"]
    offsets: tuple[tuple[int, int], ...]
    groups: Int[Tensor, " n_tokens"]
    roles: tuple[str, ...]
    in_output: Bool[Tensor, " n_tokens"]
    query_start: int
    texts: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return len(self.roles)

    @property
    def n_demonstrations(self) -> int:
        """Number of demonstrations."""
        return len(self.prompt.demonstrations)


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot say which characters a token covers: one that is not fast."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"the tokenizer {type(tokenizer).__name__} gives no offsets, so that tokens cannot be assigned "
            "to demonstrations: a fast tokenizer (tokenizer.json) is needed."
        )


def encode(
    text: str, tokenizer: Any, add_special_tokens: bool
) -> tuple[list[int], list[tuple[int, int]], tuple[int, ...]]:
    """Tokenise a text once, never cut off: vocabulary ids, offsets, and the ids of the end tokens.

    End tokens that the tokenizer adds after the text are apart from the others, since the model continues the text.
    """
    check_tokenizer(tokenizer)
    options = {"return_offsets_mapping": True, "truncation": False, "padding": False, "verbose": False}
    encoded = tokenizer(text, add_special_tokens=add_special_tokens, **options)
    ids, offsets = list(encoded["input_ids"]), [(int(a), int(b)) for a, b in encoded["offset_mapping"]]
    special, n = _special(tokenizer), len(ids)
    for token_id, (start, stop) in zip(ids, offsets, strict=True):
        if start == stop and token_id not in special and tokenizer.decode([token_id]).strip():
            raise UserError(
                f"the tokenizer {type(tokenizer).__name__} gives no offsets for the token "
                f"{tokenizer.convert_ids_to_tokens(token_id)!r}, so that tokens cannot be assigned to demonstrations: "
                "a newer version of the package tokenizers may give them."
            )
    while n and ids[n - 1] in special and offsets[n - 1][0] == offsets[n - 1][1]:
        n -= 1
    return ids[:n], offsets[:n], tuple(ids[n:])


def tokenize(prompt: Prompt, tokenizer: Any, context_length: int | None = None) -> TokenizedPrompt:
    """Tokenises a prompt once, with a fast Hugging Face tokenizer, and assigns every token to a part by its offsets.

    Raises:
        UserError: no offsets; too long for the context; a demonstration or a query without tokens.
    """
    ids, offsets, ends = encode(prompt.text, tokenizer, prompt.add_special_tokens)
    notes = [*prompt.notes]
    notes += [
        f"The tokenizer ends a text with {name!r}; it was left out, since the model continues the text."
        for name in map(tokenizer.convert_ids_to_tokens, ends)
    ]
    if context_length is not None and len(ids) > context_length:
        raise UserError(_too_long(prompt, offsets, context_length))
    special, parts = _special(tokenizer), _Parts(prompt)
    extents, texts = _laid_out(prompt.text, ids, offsets, special, tokenizer)
    groups, roles = [], []
    for index, (token_id, extent) in enumerate(zip(ids, extents, strict=True)):
        role, group, others = ("special", NOT_A_DEMONSTRATION, []) if extent is None else parts.assign(*extent)
        if extent is not None and others:
            mine, shown = parts.name(role, group), prompt.text[extent[0] : extent[1]]
            notes.append(
                f"Token {index} ({shown!r}) lies across {mine} and {' and '.join(others)}; it counts as {mine}."
            )
        groups.append(group)
        roles.append("special" if role == "separator" and token_id in special else role)
    absent = set(range(len(prompt.demonstrations))) - set(groups)
    if absent:
        raise UserError(
            f"{prompt.source_names[min(absent)]} ({_shortened(prompt, prompt.demonstrations[min(absent)])!r}) has no "
            "token of its own in this tokenizer: leave it out or write it in characters that the tokenizer knows."
        )
    if "query" not in roles:
        raise UserError(f"the query ({_shortened(prompt, prompt.query)!r}) has no token of its own in this tokenizer.")
    if roles[0] != "query":
        roles[0], groups[0] = FIRST, NOT_A_DEMONSTRATION
        notes += _emptied(prompt, groups)
    notes += _unknown(ids, texts, tokenizer) + _doubled(ids, tokenizer)
    notes += [written_out(prompt.text, tokenizer)] if prompt.add_special_tokens else []
    return TokenizedPrompt(
        prompt=prompt,
        input_ids=torch.tensor(ids, dtype=torch.long),
        offsets=tuple(offsets),
        groups=torch.tensor(groups, dtype=torch.long),
        roles=tuple(roles),
        in_output=_in_outputs(prompt, extents, groups),
        query_start=roles.index("query"),
        texts=tuple(texts),
        notes=tuple(filter(None, notes)),
    )


def _in_outputs(
    prompt: Prompt, extents: Sequence[tuple[int, int] | None], groups: Sequence[int]
) -> Bool[Tensor, " n_tokens"]:
    outputs = outputs_of(prompt)
    shown = [
        extent is not None and group >= 0 and output is not None and extent[1] > output.start and extent[0] < output.end
        for extent, group in zip(extents, groups, strict=True)
        for output in [outputs[group] if group >= 0 else None]
    ]
    return torch.tensor(shown, dtype=torch.bool)


def written_out(text: str, tokenizer: Any) -> str:
    """Say that a text looks like a chat that its template has written already; empty where it does not."""
    if not getattr(tokenizer, "chat_template", None):
        return ""
    marks = [name for name in tokenizer.all_special_tokens if text.count(name) > 1]
    if not marks:
        return ""
    return (
        f"The text holds the special token {marks[0]!r} several times, as a chat does that a template has written: "
        "give its messages instead, so that its turns are told apart."
    )


def _emptied(prompt: Prompt, groups: Sequence[int]) -> list[str]:
    """Say that a source has nothing to cut, since its one token is the first of the text.

    Raises:
        UserError: it is the only source.
    """
    if not prompt.demonstrations or 0 in groups:
        return []
    text = _shortened(prompt, prompt.demonstrations[0])
    said = f"{prompt.source_names[0]} ({text!r}) is one token, the first of the text, which is a part of its own"
    if len(prompt.demonstrations) == 1:
        raise UserError(f"{said}, and there is no other: write an instruction before it, or a longer {prompt.noun}.")
    return [f"{_sentence(said)}: nothing of it is cut, and only its text can be removed. Put an instruction before it."]


def _unknown(ids: Sequence[int], texts: Sequence[str], tokenizer: Any) -> list[str]:
    """Name the words that the tokenizer does not know, and which the model therefore cannot tell apart."""
    name = tokenizer.unk_token
    places = [
        i for i, index in enumerate(ids) if index == tokenizer.unk_token_id and texts[i].strip() not in ("", name)
    ]
    if not places:
        return []
    found = list(dict.fromkeys(texts[i].strip() for i in places))
    shown = ", ".join(map(repr, found[:_MOST_NAMED])) + (", …" if len(found) > _MOST_NAMED else "")
    return [
        f"The tokenizer does not know {shown}: the model reads {len(places)} of the {len(ids)} tokens as {name!r} and "
        "cannot tell these words apart."
    ]


def _doubled(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Say that the text begins with a beginning-of-text token to which the tokenizer adds another."""
    begin = tokenizer.bos_token_id
    if begin is None or list(ids[:2]) != [begin, begin]:
        return []
    return [
        f"The text begins with {tokenizer.bos_token!r}, and the tokenizer adds another: the model was trained with "
        "one. Delete it from the text, or give the chat as messages."
    ]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _special(tokenizer: Any) -> set[int]:
    return set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def _laid_out(
    text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], special: set[int], tokenizer: Any
) -> tuple[list[tuple[int, int] | None], list[str]]:
    """Offsets with the white space that trimming tokenizers hide, None for added special tokens; and what to show."""
    extents: list[tuple[int, int] | None] = []
    texts: list[str] = []
    end, last = 0, -1
    for index, (token_id, (start, stop)) in enumerate(zip(ids, offsets, strict=True)):
        if start == stop and token_id in special:
            extents.append(None)
            texts.append(tokenizer.convert_ids_to_tokens(token_id))
        else:
            extents.append((start if start < stop else min(end, start), stop))
            texts.append(text[end:stop])
            end, last = max(end, stop), index
    if last >= 0:
        texts[last] += text[end:]
    return extents, texts


class _Parts:
    """The parts of a prompt in order, with everything between them as separators."""

    def __init__(self, prompt: Prompt) -> None:
        self.text = prompt.text
        self.names = prompt.source_names
        named = enumerate(zip(prompt.demonstrations, self.names, strict=True))
        parts = [(span, DEMONSTRATION if name.kind == DEMONSTRATION else SOURCE, i) for i, (span, name) in named]
        parts.append((prompt.query, "query", NOT_A_DEMONSTRATION))
        if prompt.instruction is not None:
            parts.insert(0, (prompt.instruction, "instruction", NOT_A_DEMONSTRATION))
        self.pieces: list[tuple[Span, str, int]] = []
        cursor = 0
        for part in parts:
            if cursor < part[0].start:
                self.pieces.append((Span(cursor, part[0].start), "separator", NOT_A_DEMONSTRATION))
            self.pieces.append(part)
            cursor = part[0].end
        self.starts = [span.start for span, _, _ in self.pieces]

    def assign(self, start: int, end: int) -> tuple[str, int, list[str]]:
        """Role and demonstration of the token at these characters, and the names of other parts it shows."""
        first = max(bisect_right(self.starts, min(start, len(self.text) - 1)) - 1, 0)
        touched = range(first, max(bisect_left(self.starts, max(end, start + 1)), first + 1))
        if len(touched) == 1:
            # Nearly every token lies in one part.
            return (*self.pieces[first][1:], [])
        sizes = {}  # visible characters, and all
        for i in touched:
            span = self.pieces[i][0]
            shared = self.text[max(start, span.start) : min(end, span.end)]
            sizes[i] = len("".join(shared.split())), len(shared)
        best = max(touched, key=lambda i: (*sizes[i], i))
        others = [self.name(*self.pieces[i][1:]) for i in touched if sizes[i][0] and i != best]
        return (*self.pieces[best][1:], others)

    def name(self, role: str, group: int) -> str:
        """Return what a part is called."""
        return f"the {role}" if group == NOT_A_DEMONSTRATION else str(self.names[group])


def _too_long(prompt: Prompt, offsets: Sequence[tuple[int, int]], context_length: int) -> str:
    """Say that a prompt does not fit, or, where one source alone does not, which."""
    starts = [start for start, _ in offsets]
    for name, span in zip(prompt.source_names, prompt.demonstrations, strict=True):
        n = bisect_left(starts, span.end) - bisect_left(starts, span.start)
        if n > context_length:
            return f"{name} alone has {n} tokens, but the model's context holds {context_length}: shorten or split it."
    return (
        f"the prompt has {len(offsets)} tokens, but the model's context holds {context_length}: shorten the "
        f"prompt or give fewer {prompt.noun}s."
    )


def _shortened(prompt: Prompt, span: Span, most: int = 40) -> str:
    text = span.of(prompt.text)
    return text if len(text) <= most else text[: most - 1] + "…"


def by_source(
    values: Float[Tensor, "*any n"], groups: Int[Tensor, "*batch n"], n_sources: int
) -> Float[Tensor, "*any n_sources_and_rest"]:
    """Sum the last axis (tokens) within each source; the last entry is the sum over the tokens of none.

    `groups` is the source of each token, −1 for none. Where it has axes of prompts, they come first in `values`, too.
    """
    slots = torch.where(groups < 0, n_sources, groups).to(values.device)
    between = values.ndim - groups.ndim
    slots = slots.reshape(*groups.shape[:-1], *(1,) * between, groups.shape[-1]).expand_as(values)
    return values.new_zeros(*values.shape[:-1], n_sources + 1).scatter_add(-1, slots, values)
