"""A few-shot prompt: one text, and where its demonstrations and its query lie in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt.blocks import blocks, check_unicode, space_after_cue, split_space
from iclens.lens.prompt.chat import check_messages, locate, render
from iclens.lens.prompt.template import DEFAULT_TEMPLATE, parse_template

BLANK_LINE = "\n\n"


@dataclass(frozen=True, order=True)
class Span:
    """The characters `start` to `end` (not included) of a text."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """The characters of `text` in this span."""
        return text[self.start : self.end]

    def shifted(self, by: int) -> Span:
        """The span moved by `by` characters."""
        return Span(self.start + by, self.end + by)


@dataclass(frozen=True)
class Prompt:
    """Demonstrations and a query in one text that a causal language model continues.

    The text ends where the query ends; its last token is read out. Everything in no span is a separator.

    Attributes:
        text: what the model reads.
        demonstrations: spans in the order of the text, disjoint.
        query: the last span; it ends with the text.
        instruction: what stands before the demonstrations, or None.
        labels: the known output of every demonstration, or None where it is not known.
        lead: the spaces between the query and its answer. They were cut from the text, because most tokenizers
            join a space to the word after it; an answer is appended with them, unless it brings its own.
        follow: what stands in the text after the output of the last demonstration, or None when that is not known.
        add_special_tokens: False when the text holds its own special tokens (a rendered chat).
        document: the pairs or the messages that the text was written from, as `read_document` reads them; None for
            plain text, and for a prompt that was changed since.

    Raises:
        UserError: spans that overlap, lie outside the text or hold no visible character; a text that is not Unicode.
    """

    text: str
    demonstrations: tuple[Span, ...]
    query: Span
    instruction: Span | None
    labels: tuple[str | None, ...]
    lead: str = " "
    follow: str | None = None
    add_special_tokens: bool = True
    # Not an argument, so that `dataclasses.replace` drops it: it would tell of another prompt.
    document: dict[str, Any] | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_unicode(self.text)
        if len(self.labels) != len(self.demonstrations):
            raise UserError(
                f"{len(self.labels)} labels for {len(self.demonstrations)} demonstrations: give one label, "
                "or None, for each."
            )
        named = {} if self.instruction is None else {"the instruction": self.instruction}
        named |= {f"demonstration {i}": span for i, span in enumerate(self.demonstrations)} | {"the query": self.query}
        end = 0
        for name, span in named.items():
            if not end <= span.start <= span.end <= len(self.text):
                raise UserError(
                    f"{name} lies at characters {span.start} to {span.end}, but the part before it ends at {end} "
                    f"and the text at {len(self.text)}: parts must follow one another inside the text."
                )
            if not span.of(self.text).strip():
                raise UserError(f"{name} is empty: it needs at least one visible character.")
            end = span.end
        if self.query.end != len(self.text):
            raise UserError(
                f"the query ends at character {self.query.end} but the text at {len(self.text)}: the query comes last."
            )

    def without(self, indices: Iterable[int]) -> Prompt:
        """The prompt with the text of some demonstrations, which must exist, deleted with the separators after them."""
        dropped, n = set(indices), len(self.demonstrations)
        outside = sorted(i for i in dropped if not 0 <= i < n)
        if outside:
            raise UserError(f"there is no demonstration {outside[0]}: this prompt has {n}, numbered from 0.")
        parts = (*self.demonstrations, self.query)
        pieces, spans, cut = [self.text[: parts[0].start]], [], 0
        for i, (span, following) in enumerate(pairwise(parts)):
            if i in dropped:
                cut += following.start - span.start
            else:
                pieces.append(self.text[span.start : following.start])
                spans.append(span.shifted(-cut))
        return replace(
            self,
            text="".join(pieces) + self.query.of(self.text),
            demonstrations=tuple(spans),
            query=self.query.shifted(-cut),
            labels=tuple(label for i, label in enumerate(self.labels) if i not in dropped),
        )

    def to_document(self) -> dict[str, Any] | None:
        """Write the prompt as JSON that `read_document` reads back to the same prompt; None when no JSON does."""
        if self.document is not None:
            return self.document
        n_blocks = 0 if self.instruction is None else len(blocks(self.instruction.of(self.text)))
        # A query that no space follows is read with one.
        text = self.text + ("" if self.lead == " " else self.lead)
        with suppress(UserError):
            if "\r\n" not in text and Prompt.from_text(text, n_blocks) == self:
                return {"prompt": text} | ({"instruction_blocks": n_blocks} if n_blocks else {})
        return None

    def _written_from(self, document: dict[str, Any]) -> Prompt:
        object.__setattr__(self, "document", document)
        return self

    @classmethod
    def from_text(cls, text: str, instruction_blocks: int = 0) -> Prompt:
        r"""Reads blocks between blank lines: demonstrations, and the query last.

        A blank line may hold spaces. Blocks keep their exact characters. The spaces between the query and its
        answer are those that follow the query's last words in every demonstration; when these words do not occur
        there, the spaces at the end of the text, or one space when it ends in none.

        Args:
            text: the prompt, e.g. `"2+2=4\n\n3+5=8\n\n1+6="`.
            instruction_blocks: how many of the first blocks are an instruction.

        Raises:
            UserError: fewer than one demonstration and a query.
        """
        check_unicode(text)
        found = [Span(*block) for block in blocks(text)]
        if instruction_blocks < 0:
            raise UserError(f"instruction_blocks is {instruction_blocks}: give 0 or more.")
        if not found:
            raise UserError("the prompt is empty: give demonstrations and a query, with blank lines between them.")
        if len(found) < instruction_blocks + 2:
            told = f", the first {instruction_blocks} of them an instruction" if instruction_blocks else ""
            raise UserError(
                f"the prompt has {len(found)} block(s) between blank lines{told}: it needs at least one "
                "demonstration, then a blank line, then the query."
            )
        spans = [span.shifted(-found[0].start) for span in found]
        body, begin = text[found[0].start :], spans[-1].start
        demonstrations = tuple(spans[instruction_blocks:-1])
        asked = spans[-1].of(body).rstrip()
        tail = space_after_cue([span.of(body) for span in demonstrations], asked)
        if tail is None:
            tail = body[begin + len(asked) :].split("\n")[0].rstrip("\r") or " "
        kept, lead = split_space(tail)
        body = body[:begin] + asked + kept
        return cls(
            text=body,
            demonstrations=demonstrations,
            query=Span(begin, len(body)),
            instruction=Span(0, spans[instruction_blocks - 1].end) if instruction_blocks else None,
            labels=(None,) * len(demonstrations),
            lead=lead,
        )

    @classmethod
    def from_examples(
        cls,
        examples: Sequence[tuple[str, str]],
        query: str,
        template: str | None = None,
        instruction: str | None = None,
    ) -> Prompt:
        r"""Writes pairs of input and output through a template, a blank line between them.

        The query is the template cut right before `{output}`; spaces at its end belong to the answer.

        Args:
            examples: the demonstrations' inputs and outputs; braces in them mean themselves.
            query: the input whose output the model is to say.
            template: a format string with the slots `{input}` and `{output}`, in this order; `{{` and `}}` write
                braces. By default `"Input: {input}\nOutput: {output}"`.
            instruction: a text before the demonstrations.

        Raises:
            UserError: no examples; a template without its slots; an input, output or query that is no string.
        """
        if not examples:
            raise UserError("there are no demonstrations: give at least one pair of input and output.")
        before, after = parse_template(DEFAULT_TEMPLATE if template is None else template)
        for i, pair in enumerate(examples):
            if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                raise UserError(f"demonstration {i} is {pair!r}: give a pair of two strings, input and output.")
        if not isinstance(query, str):
            raise UserError(f"the query is {query!r}: give its input as a string.")
        asked = before(query)
        visible = asked.rstrip()
        kept, lead = split_space(asked[len(visible) :])
        first = [instruction] if instruction is not None and instruction.strip() else []
        pieces = [*first, *(before(given) + output + after(given) for given, output in examples), visible + kept]
        spans, cursor = [], 0
        for piece in pieces:
            spans.append(Span(cursor, cursor + len(piece)))
            cursor += len(piece) + len(BLANK_LINE)
        pairs = [{"input": given, "output": output} for given, output in examples]
        document = {"demonstrations": pairs, "query": query} | ({} if template is None else {"template": template})
        return cls(
            text=BLANK_LINE.join(pieces),
            demonstrations=tuple(spans[len(first) : -1]),
            query=spans[-1],
            instruction=spans[0] if first else None,
            labels=tuple(output for _, output in examples),
            lead=lead,
            follow=after(query) + BLANK_LINE + pieces[-1],
        )._written_from(document | ({"instruction": instruction} if first else {}))

    @classmethod
    def from_chat(cls, messages: Sequence[Mapping[str, str]], tokenizer: Any) -> Prompt:
        """Renders chat messages with the chat template of a Hugging Face tokenizer.

        A user's message with the assistant's reply is a demonstration, from the first character of the one to the
        last of the other; a system message is the instruction; the last user's message with the header of the
        reply is the query. The rest of the template is separators. Messages that repeat, or whose words the template
        itself contains, are told apart.

        Args:
            messages: `{"role": "system" | "user" | "assistant", "content": str}`, the last one the user's.
            tokenizer: the tokenizer.

        Raises:
            UserError: messages out of order, no chat template, or a template that drops or repeats a message.
        """
        chat = check_messages(messages)
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "the tokenizer has no chat template: give the prompt as text or as pairs of input and output."
            )
        text = render(chat, tokenizer)
        places = [Span(*place) for place in locate(chat, text, tokenizer)]
        first = 1 if chat[0]["role"] == "system" else 0
        asked, header = places[-1], text[places[-1].end :]
        between = text[places[first].end : places[first + 1].start]
        extra = between.removeprefix(header) if between.startswith(header) else ""
        visible = text[: max(len(text.rstrip(" \t")), asked.end)]
        kept, lead = split_space(text[len(visible) :] + (extra if not extra.strip() else ""))
        text = visible + kept
        return cls(
            text=text,
            demonstrations=tuple(Span(places[i].start, places[i + 1].end) for i in range(first, len(chat) - 1, 2)),
            query=Span(asked.start, len(text)),
            instruction=places[0] if first else None,
            labels=tuple(message["content"] for message in chat[first + 1 :: 2]),
            lead=lead,
            follow=visible[places[-2].end :],
            add_special_tokens=False,
        )._written_from({"messages": chat})
