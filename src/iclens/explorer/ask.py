"""What the page asks: a prompt and its answers, checked where they enter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iclens.errors import UserError
from iclens.explorer.reading import known, text, texts, whole
from iclens.lens.building import SCORES
from iclens.lens.calls import check_scores
from iclens.lens.prompt import Prompt, read_document
from iclens.lens.prompt.documents import read_answers
from iclens.lens.read.margin import MEASURES

_PROMPT = (
    "text", "prompt", "messages", "demonstrations", "query", "instruction", "instruction_blocks", "template",
    "separator", "template_args", "system_in_user", "documents", "question", "as_chat", "split", "score_instruction",
    "spans", "names",
)  # fmt: skip
_SAID = ("response", "statement", "foil", "measure")
_KEYS = (
    *_PROMPT,
    "document",
    "sources",
    "answers",
    "answer",
    *_SAID,
    "within",
    "budget",
    "off",
    "layer",
    "head",
    "scores",
)


@dataclass(frozen=True)
class Ask:
    """What the page asks: a prompt, what is explained of it, and by which scores.

    Attributes:
        prompt: the prompt, with every demonstration.
        answers: candidate answers; empty for the likeliest next token.
        answer: the answer to explain, or None.
        response: the text that is explained instead of an answer, or None.
        statement: the part of the response that is read, or None for all of it.
        foil: another response, whose log-probability is subtracted, or None.
        measure: what is read of the response, see `iclens.explain`.
        within: the pieces of the sources that are shown, see `iclens.explain`, or None.
        budget: how many texts are really deleted.
        off: indices of the sources that are switched off.
        layer: the layer that is looked at, or None.
        head: the head that is looked at, or None.
        scores: the scores of the whole explanation.
    """

    prompt: Prompt
    answers: tuple[str, ...] = ()
    answer: str | None = None
    response: str | None = None
    statement: str | None = None
    foil: str | None = None
    measure: str = MEASURES[0]
    within: str | None = None
    budget: int = 0
    off: tuple[int, ...] = ()
    layer: int | None = None
    head: int | None = None
    scores: tuple[str, ...] = SCORES

    @classmethod
    def read(cls, document: Any, tokenizer: Any = None) -> Ask:
        """Read what the page sends, and check every key of it.

        The prompt is an object that `read_document` reads, or `"document"`, which holds any that it reads. Beside the
        latter, the blocks that the page shows for it may stand (`"demonstrations"`, `"query"`, `"instruction"`):
        where they were edited, they are the prompt.

        `"sources"`, what `to_document` calls them, is not read: their prompt names them.

        Args:
            document: the question.
            tokenizer: needed for chat messages alone, for its chat template.

        Raises:
            UserError: a key that is not known, a value of the wrong kind, a prompt that cannot be read, an unknown
                score, or an edited block of a chat, whose text alone does not tell its messages.
        """
        document = known(document, _KEYS, '{"text": …} or {"demonstrations": […], "query": …}')
        answers, answer = read_answers(document)
        parts = {key: document[key] for key in _PROMPT if document.get(key) is not None}
        prompt = _prompt(document.get("document"), parts, tokenizer)
        off = _off(document.get("off") or [], len(prompt.demonstrations))
        scores = tuple(texts(document, "scores")) or SCORES
        check_scores(scores)
        return cls(
            prompt,
            answers,
            answer or None,
            text(document, "response") or None,
            text(document, "statement") or None,
            text(document, "foil") or None,
            text(document, "measure") or MEASURES[0],
            text(document, "within") or None,
            whole(document, "budget") or 0,
            off,
            whole(document, "layer"),
            whole(document, "head"),
            scores,
        )

    @property
    def said(self) -> dict[str, str]:
        """The arguments of `iclens.explain` that say which response is explained, where they are not the defaults."""
        return {name: value for name in _SAID if (value := getattr(self, name)) != getattr(Ask, name)}

    @property
    def inside(self) -> dict[str, Any]:
        """Those that say what is looked at within the sources, and deleted."""
        told = {"within": self.within, "budget": self.budget}
        return {name: value for name, value in told.items() if value}

    def to_document(self) -> dict[str, Any]:
        """Write the question as the page edits it: blocks of text, and the document from which these were read.

        The document is left out where the blocks alone, with blank lines between them, give the same prompt.
        """
        document = self.prompt.document
        if document is None and not _give(self.prompt, _blocks(self.prompt)):
            document = self.prompt.to_document()
        written: dict[str, Any] = {} if document is None else {"document": document}
        named = {"sources": [{"name": str(name), "kind": name.kind} for name in self.prompt.names]}
        written |= named if self.prompt.names else {}
        given = {
            "answers": list(self.answers),
            "answer": self.answer,
            **self.said,
            **self.inside,
            "off": list(self.off),
        }
        scores = {} if self.scores == SCORES else {"scores": list(self.scores)}
        return {**_blocks(self.prompt), **written, **given, "layer": self.layer, "head": self.head, **scores}


def _prompt(document: Any, parts: dict[str, Any], tokenizer: Any) -> Prompt:
    if document is None:
        return read_document(parts, tokenizer)
    prompt = read_document(document, tokenizer)
    if parts.items() <= _blocks(prompt).items():
        return prompt
    if "messages" in (prompt.document or {}):
        raise UserError(
            "this prompt is a chat, whose messages cannot be edited as blocks of text: edit them in the prompt file, "
            "and open it again."
        )
    if prompt.names:
        raise UserError(
            f"the sources of this prompt are {prompt.noun}s, which cannot be edited as blocks of text: edit the prompt "
            "file, and open it again."
        )
    if "separator" in (prompt.document or {}):
        # As it stands between the blocks, with the white space around it.
        first, following = [*prompt.demonstrations, prompt.query][:2]
        parts.setdefault("separator", prompt.text[first.end : following.start])
    elif set(prompt.document or {}) == {"prompt"}:
        # The text alone says where its demonstrations lie: what stands between them is a part of that.
        shown = [parts.get("instruction"), *parts.get("demonstrations", []), parts.get("query")]
        if all(isinstance(one, str | None) for one in shown):
            return read_document(_between_as_in(prompt, shown))
    return read_document(parts, tokenizer)


def _between_as_in(prompt: Prompt, shown: list[str | None]) -> str:
    """Join an instruction or none, demonstrations and a query by what stands between those of a prompt."""
    instruction, *shots, query = shown
    spans = [*prompt.demonstrations, prompt.query]
    first = prompt.text[prompt.instruction.end : spans[0].start] if prompt.instruction else "\n"
    between = prompt.text[spans[0].end : spans[1].start]
    last = prompt.text[spans[-2].end : spans[-1].start]
    head = f"{instruction}{first}" if instruction else ""
    return f"{head}{between.join(filter(None, shots))}{last}{query or ''}"


def _give(prompt: Prompt, blocks: dict[str, Any]) -> bool:
    """Whether blocks of text, as the page sends them, are read as this prompt."""
    try:
        return read_document(blocks) == prompt
    except UserError:
        return False


def _blocks(prompt: Prompt) -> dict[str, Any]:
    return {
        "instruction": "" if prompt.instruction is None else prompt.instruction.of(prompt.text),
        "demonstrations": [span.of(prompt.text) for span in prompt.demonstrations],
        "query": prompt.query.of(prompt.text),
    }


def _off(value: Any, n_demonstrations: int) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        raise UserError("'off' must be a list of the demonstrations' numbers.")
    for index in value:
        if not 0 <= index < n_demonstrations:
            raise UserError(f"cannot switch off demonstration {index}: the prompt has {n_demonstrations}, from 0 on.")
    return tuple(sorted(set(value)))
