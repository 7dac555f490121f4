"""A few-shot prompt: one text, and where its demonstrations and its query lie in it."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt.chat import check_messages, check_unicode, locate, render

DEFAULT_TEMPLATE = "Input: {input}\nOutput: {output}"
BLANK_LINE = "\n\n"
_LONGEST_CUE = 80  # characters; keeps the search linear when the query repeats a long demonstration


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

    def __post_init__(self) -> None:
        check_unicode(self.text)
        if len(self.labels) != len(self.demonstrations):
            raise UserError(
                f"{len(self.labels)} labels for {len(self.demonstrations)} demonstrations: give one label, "
                "or None, for each."
            )
        named = {f"demonstration {i}": span for i, span in enumerate(self.demonstrations)} | {"the query": self.query}
        if self.instruction is not None:
            named = {"the instruction": self.instruction} | named
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
        """The prompt with the text of some demonstrations deleted, each with the separator after it.

        Raises:
            UserError: an index that is no demonstration.
        """
        dropped = set(indices)
        n = len(self.demonstrations)
        outside = sorted(i for i in dropped if not 0 <= i < n)
        if outside:
            raise UserError(f"there is no demonstration {outside[0]}: this prompt has {n}, numbered from 0.")
        starts = [span.start for span in (*self.demonstrations, self.query)]
        pieces, spans, cut, cursor = [], [], 0, 0
        for i, span in enumerate(self.demonstrations):
            if i in dropped:
                pieces.append(self.text[cursor : span.start])
                cursor = starts[i + 1]
                cut += starts[i + 1] - span.start
            else:
                spans.append(span.shifted(-cut))
        pieces.append(self.text[cursor:])
        return replace(
            self,
            text="".join(pieces),
            demonstrations=tuple(spans),
            query=self.query.shifted(-cut),
            labels=tuple(label for i, label in enumerate(self.labels) if i not in dropped),
        )

    @staticmethod
    def count_blocks(text: str) -> int:
        """How many blocks the blank lines of a text leave."""
        return len(_blocks(text))

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
        blocks = _blocks(text)
        n_demonstrations = len(blocks) - 1 - instruction_blocks
        if instruction_blocks < 0:
            raise UserError(f"instruction_blocks is {instruction_blocks}: give 0 or more.")
        if not blocks:
            raise UserError("the prompt is empty: give demonstrations and a query, with blank lines between them.")
        if n_demonstrations < 1:
            told = f", the first {instruction_blocks} of them an instruction" if instruction_blocks else ""
            raise UserError(
                f"the prompt has {len(blocks)} block(s) between blank lines{told}: it needs at least one "
                "demonstration, then a blank line, then the query."
            )
        spans = [span.shifted(-blocks[0].start) for span in blocks]
        body = text[blocks[0].start :]
        demonstrations = tuple(spans[instruction_blocks:-1])
        visible_end = spans[-1].start + len(spans[-1].of(body).rstrip())
        query_text = body[spans[-1].start : visible_end]
        tail = _space_after_cue([span.of(body) for span in demonstrations], query_text)
        if tail is None:
            spaces = body[visible_end:].split("\n")[0].rstrip("\r")
            tail = spaces or " "
        kept, lead = _split_space(tail)
        body = body[:visible_end] + kept
        return cls(
            text=body,
            demonstrations=demonstrations,
            query=Span(spans[-1].start, len(body)),
            instruction=Span(spans[0].start, spans[instruction_blocks - 1].end) if instruction_blocks else None,
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
        before, after = _parse_template(DEFAULT_TEMPLATE if template is None else template)
        for i, pair in enumerate(examples):
            if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                raise UserError(f"demonstration {i} is {pair!r}: give a pair of two strings, input and output.")
        if not isinstance(query, str):
            raise UserError(f"the query is {query!r}: give its input as a string.")
        head = ""
        if instruction is not None and instruction.strip():
            head = instruction + BLANK_LINE
        pieces, demonstrations, cursor = [head], [], len(head)
        for given, output in examples:
            written = before(given) + output + after(given)
            demonstrations.append(Span(cursor, cursor + len(written)))
            pieces += [written, BLANK_LINE]
            cursor += len(written) + len(BLANK_LINE)
        asked = before(query)
        visible = asked.rstrip()
        kept, lead = _split_space(asked[len(visible) :])
        text = "".join(pieces) + visible + kept
        return cls(
            text=text,
            demonstrations=tuple(demonstrations),
            query=Span(cursor, len(text)),
            instruction=Span(0, len(head) - len(BLANK_LINE)) if head else None,
            labels=tuple(output for _, output in examples),
            lead=lead,
            follow=after(query) + BLANK_LINE + text[cursor:],
        )

    @classmethod
    def from_chat(cls, messages: Sequence[Mapping[str, str]], tokenizer: Any) -> Prompt:
        """Renders chat messages with the tokenizer's own chat template.

        A user's message with the assistant's reply is a demonstration, from the first character of the one to the
        last of the other; a system message is the instruction; the last user's message with the header of the
        reply is the query. The rest of the template is separators. Where a message lies is found by
        rendering the chat once more with that message replaced by a marker, so that repeated messages, or ones
        whose words the template itself contains, are told apart.

        Args:
            messages: `{"role": "system" | "user" | "assistant", "content": str}`, the last one the user's.
            tokenizer: a Hugging Face tokenizer with a chat template.

        Raises:
            UserError: messages out of order, no chat template, or a template that drops or repeats a message.
        """
        chat = check_messages(messages)
        template = getattr(tokenizer, "chat_template", None)
        if not template:
            raise UserError(
                "the tokenizer has no chat template: give the prompt as text or as pairs of input and output."
            )
        text = render(chat, tokenizer)
        places = [Span(*locate(i, chat, text, tokenizer)) for i in range(len(chat))]
        first = 1 if chat[0]["role"] == "system" else 0
        demonstrations = tuple(Span(places[i].start, places[i + 1].end) for i in range(first, len(chat) - 1, 2))
        asked = places[-1]
        visible = text.rstrip(" \t")
        stripped = text[max(len(visible), asked.end) :]
        text = text[: len(text) - len(stripped)]
        header = text[asked.end :] + stripped
        between = text[places[first].end : places[first + 1].start]
        extra = between[len(header) :] if between.startswith(header) else ""
        follow = text[places[-2].end :]
        kept, lead = _split_space(stripped + (extra if not extra.strip() else ""))
        text += kept
        return cls(
            text=text,
            demonstrations=demonstrations,
            query=Span(asked.start, len(text)),
            instruction=places[0] if first else None,
            labels=tuple(chat[i + 1]["content"] for i in range(first, len(chat) - 1, 2)),
            lead=lead,
            follow=follow,
            add_special_tokens=False,
        )


def _blocks(text: str) -> list[Span]:
    """Runs of lines that are not blank, without the last line's end."""
    blocks: list[Span] = []
    start, end, cursor = -1, 0, 0
    for line in itertools.chain(text.split("\n"), [""]):
        visible = line.strip("\ufeff").strip() if cursor == 0 else line.strip()
        if visible:
            if start < 0:
                start = cursor + (1 if cursor == 0 and line.startswith("\ufeff") else 0)
            end = cursor + len(line) - (1 if line.endswith("\r") else 0)
        elif start >= 0:
            blocks.append(Span(start, end))
            start = -1
        cursor += len(line) + 1
    return blocks


def _split_space(space: str) -> tuple[str, str]:
    """White space up to its last line end stays in the text; what is left belongs to the answer."""
    cut = space.rfind("\n") + 1
    return space[:cut], space[cut:]


def _space_after_cue(demonstrations: Sequence[str], query: str) -> str | None:
    r"""The white space that follows the query's last words in every demonstration, or None.

    The cue is the longest end of the query that every demonstration contains and that starts and ends with whole
    words, such as `"\nOutput:"` or `" is"`. Its last occurrence in a demonstration counts.
    """
    best: str | None = None
    for length in range(1, min(len(query), _LONGEST_CUE) + 1):
        cue = query[-length:]
        if not all(cue in demonstration for demonstration in demonstrations):
            break
        before = query[-length - 1 : -length] if length < len(query) else ""
        if not cue.strip() or (cue[0].isalnum() and before.isalnum()):
            continue
        spaces = set()
        for demonstration in demonstrations:
            rest = demonstration[demonstration.rfind(cue) + length :]
            answer = rest.lstrip()
            joined = cue[-1].isalnum() and rest[:1].isalnum()
            spaces.add(None if not answer or joined else rest[: len(rest) - len(answer)])
        if len(spaces) == 1 and None not in spaces:
            best = spaces.pop()
    return best


class _Half:
    """The template before or after `{output}`: fixed text around `{input}` slots."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def __call__(self, given: str) -> str:
        return given.join(self.pieces)


def _parse_template(template: str) -> tuple[_Half, _Half]:
    right = 'e.g. "Input: {input}\\nOutput: {output}" (write a brace itself as {{ or }})'
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"the template {template!r} is no format string ({error}): write it like {right}.") from None
    halves, seen_input = [[""]], False
    for literal, slot, specification, conversion in parsed:
        halves[-1][-1] += literal
        if slot is None:
            continue
        if slot not in ("input", "output") or specification or conversion:
            raise UserError(
                f"the template {template!r} has the slot {{{slot}}}, which is not known: write it like {right}."
            )
        if slot == "input":
            halves[-1].append("")
            seen_input = True
        elif len(halves) == 2:
            raise UserError(f"the template {template!r} has the slot {{output}} twice: write it like {right}.")
        elif not seen_input:
            raise UserError(f"the template {template!r} has no {{input}} before its {{output}}: write it like {right}.")
        else:
            halves.append([""])
    if len(halves) == 1:
        lacking = "{output}" if seen_input else "{input} and {output}"
        raise UserError(f"the template {template!r} lacks {lacking}: write it like {right}.")
    return _Half(halves[0]), _Half(halves[1])
