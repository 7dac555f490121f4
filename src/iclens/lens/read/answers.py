"""Which tokens an answer has after a prompt, and the number that is explained: its margin over the alternatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.explanation import Candidate, NextToken
from iclens.lens.prompt.tokens import TokenizedPrompt, encode
from iclens.lens.read.readout import Readout

N_ALTERNATIVES = 9
# Texts that may stand before a continuation when it is tokenised alone: with none, some tokenizers add a space.
_ANCHORS = ("\n", ":", ".", ",", "a", "1", "")


@dataclass(frozen=True)
class Answer:
    """A candidate answer as tokens after the prompt.

    Attributes:
        text: the answer as it was given.
        token_ids: its vocabulary ids behind the prompt's.
        tokens: the text of each of its tokens.
        following: ids of what stands after the answer in a demonstration, when known; needed only to tell an
            answer from a longer one that starts with it.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    following: tuple[int, ...] = ()


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
        candidates: Sequence[str] | None = None,
        answer: str | None = None,
        context_length: int | None = None,
    ) -> Answers:
        """Tokenises answers together with the prompt.

        An answer is put behind the prompt with the prompt's `lead` (usually one space) between them, unless it
        starts with white space itself. Its tokens are those behind the prompt's own. Where the tokenizer would
        join the two, the answer's tokens are found apart, and a note says so.

        Args:
            tokenized: the prompt.
            tokenizer: its tokenizer.
            candidates: answers to compare, or None.
            answer: the one to explain; it joins the candidates if it is not among them.
            context_length: most tokens that fit the model, or None.

        Raises:
            UserError: an answer without tokens, of unknown tokens only, given twice, or too long for the context.
        """
        texts = list(candidates or ())
        for text in [*texts, *([] if answer is None else [answer])]:
            if not isinstance(text, str):
                raise UserError(f"the answer {text!r} is no string: give answers as text.")
        chosen: int | None = None
        if answer is not None:
            matches = [i for i, text in enumerate(texts) if text.strip() == answer.strip()]
            if not matches:
                texts.insert(0, answer)
            chosen = matches[0] if matches else 0
        built: list[Answer] = []
        notes: list[str] = []
        for text in texts:
            entry, remarks = _build_one(text, tokenized, tokenizer)
            notes += remarks
            for other in built:
                if other.token_ids == entry.token_ids:
                    same = "is given twice" if other.text == text else f"has the same tokens as {other.text!r}"
                    raise UserError(f"the answer {text!r} {same}: give every answer once.")
            n_needed = tokenized.n_tokens + len(entry.token_ids) - 1
            if context_length is not None and n_needed > context_length:
                raise UserError(
                    f"the prompt has {tokenized.n_tokens} tokens and the answer {text!r} {len(entry.token_ids)}, but "
                    f"the model's context holds {context_length}: shorten the prompt."
                )
            built.append(entry)
        return cls(tuple(built), chosen, tuple(notes))

    def choose(self, log_probabilities: Sequence[float]) -> int:
        """Index of the candidate to explain: the user's, or else the likeliest.

        Raises:
            UserError: there are no candidates.
        """
        if self.explained is not None:
            return self.explained
        if not self.candidates:
            raise UserError("there are no candidate answers to choose from.")
        return max(range(len(self.candidates)), key=lambda i: log_probabilities[i])

    def scored(self, log_probabilities: Sequence[float], chosen: int) -> tuple[Candidate, ...]:
        """The candidates with their log-probabilities, for an `Explanation`."""
        return tuple(
            Candidate(
                text=entry.text,
                tokens=entry.tokens,
                log_probability=float(value),
                probability=float(torch.tensor(float(value), dtype=torch.float64).exp()),
                chosen=i == chosen,
            )
            for i, (entry, value) in enumerate(zip(self.candidates, log_probabilities, strict=True))
        )

    @property
    def settled(self) -> Readout | None:
        """The read-out, where it does not depend on what the model says: the answer and others to it were given."""
        known = self.explained is not None and len(self.candidates) > 1
        return self._over_candidates(self.explained) if known and self.explained is not None else None

    def readout(
        self,
        tokenizer: Any,
        next_logits: Float[Tensor, " n_vocabulary"],
        chosen: int | None = None,
        n_alternatives: int = N_ALTERNATIVES,
    ) -> Readout:
        """The read-out of the explained answer: its margin, and the tokens whose log-probability is its own.

        For an answer A against other candidates B_j, t_j is the first token where the two differ, and
        margin = mean_j (logit_{t_j}[a_{t_j}] − logit_{t_j}[b_{j, t_j}]).
        Without another candidate, it is the logit of A's first token (without any candidate: of the likeliest
        next token) minus the mean logit of the `n_alternatives` next most likely tokens there.

        Args:
            tokenizer: names the tokens.
            next_logits: the logits at the prompt's last token.
            chosen: the candidate to explain, from `choose`; None when there is none.
            n_alternatives: how many alternatives when the candidates give none.

        Raises:
            UserError: one candidate starts with another and what follows an answer is not known; no alternatives.
        """
        if chosen is not None and len(self.candidates) > 1:
            return self._over_candidates(chosen)
        if n_alternatives < 1:
            raise UserError(f"n_alternatives is {n_alternatives}: a margin needs at least 1 alternative.")
        ids: tuple[int, ...]
        if chosen is None:
            first = int(next_logits.argmax())
            text, ids = token_text(tokenizer, first), (first,)
        else:
            text, ids = self.candidates[chosen].text, self.candidates[chosen].token_ids
            first = ids[0]
        others = next_logits.clone()
        others[first] = -torch.inf
        n_others = min(n_alternatives, others.numel() - 1)
        alternatives = others.topk(n_others).indices.tolist()
        terms = ((0, first, 1.0), *((0, int(index), -1.0 / n_others) for index in alternatives))
        named = ", ".join(repr(token_text(tokenizer, index)) for index in alternatives)
        whose = (
            f"the first token {token_text(tokenizer, first)!r} of the answer {text!r}"
            if len(ids) > 1
            else (f"the answer {text!r}")
        )
        definition = f"The logit of {whose} minus the mean logit of the {n_others} most likely other tokens ({named})."
        return Readout(terms, ids, answer=text, definition=definition)

    def _over_candidates(self, chosen: int) -> Readout:
        answer = self.candidates[chosen]
        others = [entry for i, entry in enumerate(self.candidates) if i != chosen]
        weights: dict[tuple[int, int], float] = {}
        forced: tuple[int, ...] = ()
        for other in others:
            mine, theirs = _told_apart(answer, other)
            at = next(t for t, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b)
            if at > len(forced):
                forced = mine[:at]
            for index, sign in ((mine[at], 1.0), (theirs[at], -1.0)):
                weights[at, index] = weights.get((at, index), 0.0) + sign / len(others)
        named = ", ".join(repr(entry.text) for entry in others)
        where = "at its first token" if not forced else "each at the first token where the two differ"
        alternatives = f"that of {named}" if len(others) == 1 else f"the mean logit of {named}"
        return Readout(
            answer=answer.text,
            answer_ids=answer.token_ids,
            append=forced,
            terms=tuple((at, index, weight) for (at, index), weight in sorted(weights.items())),
            definition=f"The logit of the answer {answer.text!r} minus {alternatives}, {where}.",
        )


def _told_apart(answer: Answer, other: Answer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids of two answers, with what follows them where one starts with the other."""
    mine, theirs = answer.token_ids, other.token_ids
    shorter = min(len(mine), len(theirs))
    if mine[:shorter] != theirs[:shorter]:
        return mine, theirs
    mine, theirs = mine + answer.following, theirs + other.following
    shorter = min(len(mine), len(theirs))
    if mine[:shorter] != theirs[:shorter]:
        return mine, theirs
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
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"the answer {text!a} holds half of a surrogate pair: give whole characters.") from None
    piece = text if text[0].isspace() else prompt.lead + text
    ids, split = _continuation(piece, tokenized, tokenizer)
    if not ids:
        raise UserError(f"the answer {text!r} tokenises to nothing: the tokenizer knows none of its characters.")
    notes = []
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        if all(index == unknown for index in ids):
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
    following: tuple[int, ...] = ()
    if prompt.follow:
        longer, _ = _continuation(piece + prompt.follow, tokenized, tokenizer)
        if longer[: len(ids)] == ids:
            following = tuple(longer[len(ids) :])
    names = tuple(token_text(tokenizer, index) for index in ids)
    return Answer(text, tuple(ids), names, following), notes


def _continuation(piece: str, tokenized: TokenizedPrompt, tokenizer: Any) -> tuple[list[int], bool]:
    """Ids of a text behind the prompt's own ids, and whether they had to be found apart from the prompt."""
    prompt = tokenized.prompt
    own = tokenized.input_ids.tolist()
    ids, offsets = encode(prompt.text + piece, tokenizer, prompt.add_special_tokens)
    ids = _without_end(ids, offsets, len(prompt.text) + len(piece), tokenizer)
    if ids[: len(own)] == own:
        return ids[len(own) :], False
    for anchor in _ANCHORS:
        ids, offsets = encode(anchor + piece, tokenizer, False)
        behind = [i for i, (start, end) in enumerate(offsets) if end > len(anchor)]
        clean = not behind or offsets[behind[0]][0] >= len(anchor)
        if clean and (behind or not piece.strip()):
            return ids[behind[0] :] if behind else [], True
    return [], True


def _without_end(ids: list[int], offsets: list[tuple[int, int]], length: int, tokenizer: Any) -> list[int]:
    """Ids without the end tokens that the tokenizer adds behind the text."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    n = len(ids)
    while n and ids[n - 1] in special and offsets[n - 1][0] == offsets[n - 1][1]:
        n -= 1
    return ids[:n]


def token_text(tokenizer: Any, token_id: int) -> str:
    """The text of one token, or its name in the vocabulary when it is no whole character."""
    text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    if not text or "\ufffd" in text:
        name = tokenizer.convert_ids_to_tokens(token_id)
        # A model may have more outputs than its tokenizer has tokens.
        return f"<{token_id}>" if name is None else str(name)
    return text


def likeliest(
    tokenizer: Any, next_logits: Float[Tensor, " n_vocabulary"], n: int = 1 + N_ALTERNATIVES
) -> tuple[NextToken, ...]:
    """The `n` likeliest next tokens with their probabilities, most likely first."""
    log_probabilities = torch.log_softmax(next_logits.double(), dim=-1)
    top = next_logits.topk(min(n, next_logits.numel())).indices.tolist()
    return tuple(
        NextToken(
            text=token_text(tokenizer, index),
            token_id=index,
            probability=float(log_probabilities[index].exp()),
            logit=float(next_logits[index]),
        )
        for index in top
    )
