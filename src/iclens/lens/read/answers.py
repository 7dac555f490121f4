"""Which tokens an answer has after a prompt, and the number that is explained: its margin over the alternatives."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.facts import Candidate, NextToken
from iclens.lens.prompt.blocks import half_pair
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.tokens import TokenizedPrompt, encode
from iclens.lens.read.margin import Readout

N_ALTERNATIVES = 9
# Texts that may stand before a continuation when it is tokenised alone: with none, some tokenizers add a space.
_ANCHORS = ("\n", ":", ".", ",", "a", "1", "")


@dataclass(frozen=True)
class Answer:
    """A candidate answer as tokens after the prompt.

    Attributes:
        text: the answer as it was given.
        token_ids: its vocabulary ids after the prompt's.
        tokens: the text of each of its tokens.
        following: ids of what stands after the answer in a demonstration, for an answer with which another begins;
            empty for others, and where that is not known.
        n_following: how many of these tell it from all that begin with it; they count to its log-probability, since
            that of its own tokens alone would be that of the longer ones too.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    following: tuple[int, ...] = ()
    n_following: int = 0

    @property
    def read_ids(self) -> tuple[int, ...]:
        """The ids whose log-probability is the answer's."""
        return self.token_ids + self.following[: self.n_following]


@dataclass(frozen=True)
class Answers:
    """The candidate answers of a prompt.

    Attributes:
        candidates: all of them, in the order given; empty when the model's most likely token is to be explained.
        explained: index of the one that the user chose, or None.
        notes: remarks, such as an answer that the tokenizer would join to the prompt's last word.
    """

    candidates: tuple[Answer, ...]
    explained: int | None
    notes: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        tokenized: TokenizedPrompt,
        tokenizer: Any,
        candidates: Iterable[str] | None = None,
        answer: str | None = None,
        context_length: int | None = None,
    ) -> Answers:
        """Tokenises answers together with the prompt.

        An answer is put after the prompt with the prompt's `lead` (usually one space) between them, unless it
        starts with white space itself. Its tokens are those after the prompt's own. Where the tokenizer would
        join the two, the answer's tokens are found apart, and a note says so.

        The candidates are compared; `answer` is the one to explain and joins them if it is not among them. Prompt and
        answer must fit into `context_length` tokens, if that is given.

        Raises:
            UserError: an answer without tokens, of unknown tokens only, given twice, or too long for the context.
        """
        texts = list(candidates or ())
        for text in texts if answer is None else [*texts, answer]:
            if not isinstance(text, str):
                raise UserError(f"the answer {text!r} is no string: give answers as text.")
        chosen = None
        if answer is not None:
            if answer.strip() not in [text.strip() for text in texts]:
                texts.insert(0, answer)
            chosen = [text.strip() for text in texts].index(answer.strip())
        built: dict[tuple[int, ...], Answer] = {}
        notes: list[str] = []
        for text in texts:
            entry, remarks = _build_one(text, tokenized, tokenizer)
            notes += remarks
            other = built.setdefault(entry.token_ids, entry)
            if other is not entry:
                same = "is given twice" if other.text == text else f"has the same tokens as {other.text!r}"
                raise UserError(f"the answer {text!r} {same}: give every answer once.")
            n_needed = tokenized.n_tokens + len(entry.token_ids) - 1
            if context_length is not None and n_needed > context_length:
                raise UserError(
                    f"the prompt has {tokenized.n_tokens} tokens and the answer {text!r} {len(entry.token_ids)}, but "
                    f"the model's context holds {context_length}: shorten the prompt."
                )
        ended = [_ended(entry, list(built.values()), tokenized, tokenizer) for entry in built.values()]
        notes += [_note_on_end(entry, tokenizer) for entry in ended if entry.n_following]
        return cls(tuple(ended), chosen, tuple(notes))

    def choose(self, log_probabilities: Sequence[float]) -> int:
        """Index of the candidate to explain: the user's, or else the likeliest; a `UserError` when there is none."""
        if self.explained is not None:
            return self.explained
        if not self.candidates:
            raise UserError("there are no candidate answers to choose from.")
        return max(range(len(self.candidates)), key=lambda i: log_probabilities[i])

    def scored(self, log_probabilities: Sequence[float], chosen: int) -> tuple[Candidate, ...]:
        """Return the candidates with their log-probabilities, for an `Explanation`."""
        return tuple(
            Candidate(entry.text, entry.tokens, value, math.exp(value), i == chosen)
            for i, (entry, value) in enumerate(zip(self.candidates, map(float, log_probabilities), strict=True))
        )

    @property
    def settled(self) -> Readout | None:
        """The read-out, where it does not depend on what the model says: the answer and others to it were given."""
        return None if self.explained is None or len(self.candidates) < 2 else self._over_candidates(self.explained)

    def readout(
        self,
        tokenizer: Any,
        next_logits: Float[Tensor, " n_vocabulary"],
        chosen: int | None = None,
        n_alternatives: int = N_ALTERNATIVES,
    ) -> Readout:
        """Build the read-out of the explained answer: its margin, and the tokens whose log-probability is its own.

        For an answer A against other candidates B_j, t_j is the first token where the two differ, and
        margin = mean_j (logit_{t_j}[a_{t_j}] − logit_{t_j}[b_{j, t_j}]).
        Without another candidate, it is the logit of A's first token (without any candidate: of the likeliest
        next token) minus the mean logit of the `n_alternatives` next most likely tokens there.

        `next_logits` are those at the prompt's last token; `chosen` is from `choose`, None without candidates.

        Raises:
            UserError: one candidate starts with another and what follows an answer is not known; no alternatives.
        """
        if chosen is not None and len(self.candidates) > 1:
            return self._over_candidates(chosen)
        if n_alternatives < 1:
            raise UserError(f"n_alternatives is {n_alternatives}: a margin needs at least 1 alternative.")
        if chosen is None:
            ids: tuple[int, ...] = (int(next_logits.argmax()),)
            text = token_text(tokenizer, ids[0])
        else:
            text, ids = self.candidates[chosen].text, self.candidates[chosen].token_ids
        first, n_others = ids[0], min(n_alternatives, next_logits.numel() - 1)
        others = next_logits.clone()
        others[first] = -torch.inf
        alternatives = others.topk(n_others).indices.tolist()
        terms = ((0, first, 1.0), *((0, index, -1.0 / n_others) for index in alternatives))
        named = ", ".join(repr(token_text(tokenizer, index)) for index in alternatives)
        part = f"the first token {token_text(tokenizer, first)!r} of " if len(ids) > 1 else ""
        whole = f"The logit of {part}the answer {text!r}"
        definition = f"{whole} minus the mean logit of the {n_others} most likely other tokens ({named})."
        return Readout(terms, ids, answer=text, definition=definition)

    def _over_candidates(self, chosen: int) -> Readout:
        answer = self.candidates[chosen]
        others = [entry for i, entry in enumerate(self.candidates) if i != chosen]
        weights: dict[tuple[int, int], float] = defaultdict(float)
        forced: tuple[int, ...] = ()
        for other in others:
            mine, at, theirs = _told_apart(answer, other)
            forced = max(forced, mine[:at], key=len)
            weights[at, mine[at]] += 1.0 / len(others)
            weights[at, theirs] -= 1.0 / len(others)
        named = ", ".join(repr(entry.text) for entry in others)
        where = "at its first token" if not forced else "each at the first token where the two differ"
        alternatives = f"that of {named}" if len(others) == 1 else f"the mean logit of {named}"
        return Readout(
            tuple((at, index, weight) for (at, index), weight in sorted(weights.items())),
            answer.read_ids,
            append=forced,
            answer=answer.text,
            definition=f"The logit of the answer {answer.text!r} minus {alternatives}, {where}.",
        )


def _told_apart(answer: Answer, other: Answer) -> tuple[tuple[int, ...], int, int]:
    """An answer's ids, with what follows it where needed; where another first differs from it; and its id there."""
    mine, theirs = answer.token_ids + answer.following, other.token_ids + other.following
    for at, (own, others) in enumerate(zip(mine, theirs, strict=False)):
        if own != others:
            return mine, at, others
    first, second = sorted((answer, other), key=lambda entry: len(entry.token_ids))
    raise UserError(
        f"the answer {second.text!r} starts with the tokens of {first.text!r}, so that they differ only in what "
        "follows, which is not known for this prompt: end both with what ends an answer (such as a full stop or a "
        "line end), or give the demonstrations as pairs of input and output."
    )


def _build_one(text: str, tokenized: TokenizedPrompt, tokenizer: Any) -> tuple[Answer, list[str]]:
    prompt = tokenized.prompt
    if not text.strip():
        raise UserError(f"the answer {text!r} has no visible character: it would tokenise to nothing.")
    if half_pair(text):
        raise UserError(f"the answer {text!a} holds half of a surrogate pair: give whole characters.")
    piece = _piece(text, prompt)
    ids, split = _continuation(piece, tokenized, tokenizer)
    if not ids:
        raise UserError(f"the answer {text!r} tokenises to nothing: the tokenizer knows none of its characters.")
    notes = []
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        if set(ids) == {unknown}:
            raise UserError(
                f"the answer {text!r} is unknown to the tokenizer (only {tokenizer.unk_token!r}): choose an "
                "answer from the model's vocabulary."
            )
        notes.append(f"The answer {text!r} holds tokens that the tokenizer does not know.")
    if split:
        notes.append(
            f"The tokenizer would join the answer {text!r} to the end of the prompt; its tokens were found apart, "
            "as they follow the prompt's own."
        )
    names = tuple(token_text(tokenizer, index) for index in ids)
    return Answer(text, tuple(ids), names), notes


def _ended(entry: Answer, every: Sequence[Answer], tokenized: TokenizedPrompt, tokenizer: Any) -> Answer:
    """Return an answer with what follows it in the demonstrations, where another one begins with it."""
    prompt, n = tokenized.prompt, len(entry.token_ids)
    longer = [one for one in every if one is not entry and one.token_ids[:n] == entry.token_ids]
    if not longer or not prompt.follow:
        return entry
    ids, _ = _continuation(_piece(entry.text, prompt) + prompt.follow, tokenized, tokenizer)
    if tuple(ids[:n]) != entry.token_ids:
        return entry
    ended = replace(entry, following=tuple(ids[n:]))
    return replace(ended, n_following=max(_told_apart(ended, one)[1] for one in longer) - n + 1)


def _piece(text: str, prompt: Prompt) -> str:
    """Return an answer as it stands after the prompt."""
    return text if text[0].isspace() else prompt.lead + text


def _note_on_end(entry: Answer, tokenizer: Any) -> str:
    end = "".join(token_text(tokenizer, index) for index in entry.following[: entry.n_following])
    return (
        f"Another answer begins with {entry.text!r}: the two are told apart by {end!r}, which follows an answer in the "
        f"demonstrations and counts to the probability of {entry.text!r}."
    )


def behind(
    text: str, tokenized: TokenizedPrompt, tokenizer: Any, *, as_is: bool = False
) -> tuple[list[int], tuple[str, ...], bool]:
    """Ids of a text after the prompt's own ids, the characters of each, and whether they were found apart from it.

    The characters joined give the text with the spaces that lead to it, which a text taken `as_is` holds itself; of
    tokens that share one the first has it.
    """
    piece = text if as_is else _piece(text, tokenized.prompt)
    ids, spans, split = _spanned(piece, tokenized, tokenizer)
    texts, end = [], 0
    for _, stop in spans:
        texts.append(piece[end : max(end, stop)])
        end = max(end, stop)
    if texts:
        texts[-1] += piece[end:]
    return ids, tuple(texts), split


def _continuation(piece: str, tokenized: TokenizedPrompt, tokenizer: Any) -> tuple[list[int], bool]:
    """Ids of a text after the prompt's own ids, and whether they had to be found apart from the prompt."""
    ids, _, split = _spanned(piece, tokenized, tokenizer)
    return ids, split


def _spanned(piece: str, tokenized: TokenizedPrompt, tokenizer: Any) -> tuple[list[int], list[tuple[int, int]], bool]:
    """Return the same with the characters of the piece that each covers."""
    prompt, own = tokenized.prompt, tokenized.input_ids.tolist()

    def cut(ids: list[int], offsets: list[tuple[int, int]], first: int, n: int) -> tuple[list[int], list[Any]]:
        return ids[first:], [(max(0, start - n), max(0, end - n)) for start, end in offsets[first:]]

    ids, offsets, _ = encode(prompt.text + piece, tokenizer, prompt.add_special_tokens)
    if ids[: len(own)] == own:
        return *cut(ids, offsets, len(own), len(prompt.text)), False
    for anchor in _ANCHORS:
        ids, offsets, _ = encode(anchor + piece, tokenizer, False)
        first = next((i for i, (_, end) in enumerate(offsets) if end > len(anchor)), None)
        if first is not None and offsets[first][0] >= len(anchor):
            return *cut(ids, offsets, first, len(anchor)), True
    return [], [], True


def token_text(tokenizer: Any, token_id: int) -> str:
    """Return the text of one token, or its name in the vocabulary when it is no whole character."""
    text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    if not text or "\ufffd" in text:
        name = tokenizer.convert_ids_to_tokens(token_id)
        # A model may have more outputs than its tokenizer has tokens.
        return f"<{token_id}>" if name is None else str(name)
    return text


def likeliest(
    tokenizer: Any, next_logits: Float[Tensor, " n_vocabulary"], n: int = 1 + N_ALTERNATIVES
) -> tuple[NextToken, ...]:
    """Return the `n` likeliest next tokens with their probabilities, most likely first."""
    log_probabilities = torch.log_softmax(next_logits.double(), dim=-1)
    top = next_logits.topk(min(n, next_logits.numel())).indices.tolist()
    return tuple(
        NextToken(token_text(tokenizer, index), index, float(log_probabilities[index].exp()), float(next_logits[index]))
        for index in top
    )
