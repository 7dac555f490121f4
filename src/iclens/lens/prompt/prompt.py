"""A few-shot prompt: one text, and where its demonstrations and its query lie in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt.blocks import after_cue, blocks, check_unicode, ending, split_space, without_pattern
from iclens.lens.prompt.chat import check_messages, is_system, within, write
from iclens.lens.prompt.of_sources import OfSources
from iclens.lens.prompt.pieces import PIECES, pieces
from iclens.lens.prompt.sources import BLANK_LINE, DEMONSTRATION, SourceName, Span, cuts, noun, numbered
from iclens.lens.prompt.splitting import Split, split_text
from iclens.lens.prompt.template import DEFAULT_TEMPLATE, parse_template

_LATE = "The chat template writes the system message into the last user message: it counts as part of the query."


@dataclass(frozen=True)
class Prompt(OfSources):
    """Sources and a query in one text that a causal language model continues.

    A source is a span that is scored: a demonstration, which has an output, or a document, a sentence, a message, any
    span. The text ends where the query ends; its last token is read out. Everything in no span is a separator.

    Attributes:
        text: what the model reads.
        demonstrations: the sources, spans in the order of the text, disjoint; `sources` is the same.
        query: the last span; it ends with the text.
        instruction: what stands before the sources, or None.
        labels: the known output of every source, or None where it is not known or there is none.
        lead: the spaces between the query and its answer. They were cut from the text, because most tokenizers
            join a space to the word after it; an answer is appended with them, unless it brings its own.
        follow: what stands in the text after the output of the last demonstration, or None when that is not known.
        add_special_tokens: False when the text holds its own special tokens (a rendered chat).
        names: what each source is called; empty for demonstrations, which are called by their numbers.
        between: what stands between sources beside white space, and goes with the one that is deleted.
        notes: what is doubtful in how the text was read or written.
        document: the pairs, the messages or the text with its separator that the prompt was read from, as
            `read_document` reads them; None for text with blank lines, and for a prompt that was changed since.

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
    names: tuple[SourceName, ...] = ()
    between: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)
    # Not an argument, so that `dataclasses.replace` drops it: it would tell of another prompt.
    document: dict[str, Any] | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_unicode(self.text)
        if len(self.labels) != len(self.demonstrations):
            raise UserError(
                f"{len(self.labels)} labels for {len(self.demonstrations)} demonstrations: give one label, "
                "or None, for each."
            )
        if self.names and len(self.names) != len(self.demonstrations):
            raise UserError(f"{len(self.names)} names for {len(self.demonstrations)} sources: give one for each.")
        named = {} if self.instruction is None else {"the instruction": self.instruction}
        called = list(map(str, self.source_names))
        if len(set(called)) < len(called):
            twice = next(name for i, name in enumerate(called) if name in called[:i])
            raise UserError(f"two sources are called {twice!r}: give each a name of its own.")
        named |= dict(zip(called, self.demonstrations, strict=True)) | {"the query": self.query}
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

    @property
    def sources(self) -> tuple[Span, ...]:
        """The spans that are scored, in the order of the text."""
        return self.demonstrations

    @property
    def source_names(self) -> tuple[SourceName, ...]:
        """What each source is called: its own name, or `demonstration i`."""
        return self.names or numbered(DEMONSTRATION, len(self.demonstrations))

    @property
    def noun(self) -> str:
        """What the sources are called: `"demonstration"`, `"document"`; `"source"` where there are several kinds."""
        return noun([name.kind for name in self.source_names])

    def without(self, indices: Iterable[int]) -> Prompt:
        """Return the prompt with the text of some sources deleted.

        A demonstration goes with all that stands after it up to the next source or the query, any other source with
        a gap beside it, see `cuts`.

        Raises:
            UserError: a source that does not exist.
        """
        dropped, n = set(indices), len(self.demonstrations)
        outside = sorted(i for i in dropped if not 0 <= i < n)
        if outside:
            raise UserError(f"there is no {self.noun} {outside[0]}: this prompt has {n}, numbered from 0.")
        parts, called = (*self.demonstrations, self.query), self.source_names
        shots = {i for i in dropped if called[i].kind == DEMONSTRATION}
        gone = [(parts[i].start, parts[i + 1].start) for i in shots]
        gone += cuts(self.text, [(parts[i].start, parts[i].end) for i in dropped - shots], self.between)
        pieces, cursor, cut, shifts = [], 0, 0, [(0, 0)]
        for start, end in sorted(gone):
            pieces.append(self.text[cursor : max(start, cursor)])
            cut += max(0, end - max(start, cursor))
            cursor = max(end, cursor)
            shifts.append((cursor, cut))
        kept = [i for i in range(n) if i not in dropped]

        def moved(span: Span) -> Span:
            return span.shifted(-next(by for start, by in reversed(shifts) if start <= span.start))

        return replace(
            self,
            text="".join(pieces) + self.text[cursor:],
            demonstrations=tuple(moved(self.demonstrations[i]) for i in kept),
            query=moved(self.query),
            labels=tuple(self.labels[i] for i in kept),
            names=tuple(self.names[i] for i in kept) if self.names else (),
            notes=(),
        )

    def to_document(self) -> dict[str, Any] | None:
        """Write the prompt as JSON that `read_document` reads back to the same prompt; None when no JSON does."""
        if self.document is not None:
            return self.document
        n_blocks = 0 if self.instruction is None else len(blocks(self.instruction.of(self.text)))
        # A query that no space follows is read with one.
        text = self.text + ("" if self.lead == " " else self.lead)
        for told in (None, n_blocks):
            with suppress(UserError):
                if "\r\n" not in text and Prompt.from_text(text, told) == self:
                    return {"prompt": text} | ({} if told is None else {"instruction_blocks": told})
        return None

    def told_by(self, document: dict[str, Any]) -> Prompt:
        """Return the prompt itself, with the document from which it was read."""
        object.__setattr__(self, "document", document)
        return self

    @classmethod
    def from_text(cls, text: str, instruction_blocks: int | None = None, separator: str | None = None) -> Prompt:
        r"""Reads blocks between blank lines, or between separators: demonstrations, and the query last.

        A blank line may hold spaces. Blocks keep their exact characters. Where neither a separator nor a number of
        instruction blocks is told, first blocks that lack the words before the answer are the instruction, and other
        layouts are known: lines that are alike (`"2+2=4\n3+5=8\n1+6="`), blocks that begin with the same label or
        line, `<example>` elements, and blocks between lines of `---`. A note says what was read so.

        The spaces between the query and its answer are those that follow the query's last words in every demonstration;
        when these words do not occur there, the spaces at the end of the text, or one space when it ends in none.

        Args:
            text: the prompt, e.g. `"2+2=4\n\n3+5=8\n\n1+6="`.
            instruction_blocks: how many of the first blocks are an instruction; None leaves that to the text.
            separator: what stands between blocks instead of blank lines, e.g. `"\n"` or `"\n###\n"`.

        Raises:
            UserError: fewer than one demonstration and a query.
        """
        check_unicode(text)
        split = split_text(text, instruction_blocks, separator)
        first, n_blocks = split.blocks[0][0], split.n_instruction
        spans = [Span(*block).shifted(-first) for block in split.blocks]
        body, begin = text[first:], spans[-1].start
        demonstrations = tuple(spans[n_blocks:-1])
        asked = spans[-1].of(body).rstrip()
        shots = [span.of(body) for span in demonstrations]
        unlike = without_pattern(shots, asked)[1]
        known = after_cue([shot for i, shot in enumerate(shots) if i not in unlike], asked)
        tail = known[0] if known else body[begin + len(asked) :].split("\n")[0].rstrip("\r") or " "
        follow = ending(known[1]) + body[demonstrations[-1].end : begin] + asked if known else None
        kept, lead = split_space(tail)
        body = body[:begin] + asked + kept
        read = cls(
            text=body,
            demonstrations=demonstrations,
            query=Span(begin, len(body)),
            instruction=Span(0, spans[n_blocks - 1].end) if n_blocks else None,
            labels=(None,) * len(demonstrations),
            lead=lead,
            follow=follow,
            notes=split.notes,
        )
        # A document is read with plain line ends.
        if (split.separator is None and not split.laid_out) or "\r\n" in body:
            return read
        # A query that no space follows is read with one.
        return read.told_by({"prompt": body + ("" if lead == " " else lead)} | split.options)

    @classmethod
    def from_examples(
        cls,
        examples: Sequence[tuple[str, str]],
        query: str,
        template: str | None = None,
        instruction: str | None = None,
        separator: str | None = None,
    ) -> Prompt:
        r"""Writes pairs of input and output through a template, a blank line or a separator between them.

        The query is the template cut right before `{output}`; spaces at its end belong to the answer.

        Args:
            examples: the demonstrations' inputs and outputs; braces in them mean themselves.
            query: the new input to complete.
            template: a format string with the slots `{input}` and `{output}`, in this order; `{{` and `}}` write
                braces. By default `"Input: {input}\nOutput: {output}"`.
            instruction: a text before the demonstrations.
            separator: what to write between the parts; a blank line when left out.

        Raises:
            UserError: no examples; an empty separator; a template without its slots; an input, output or query that is
                not a string.
        """
        if not examples:
            raise UserError("there are no demonstrations: give at least one pair of input and output.")
        if separator == "":
            raise UserError("the separator is empty: give what is to stand between two demonstrations.")
        between = BLANK_LINE if separator is None else separator
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
            cursor += len(piece) + len(between)
        pairs = [{"input": given, "output": output} for given, output in examples]
        document = {"demonstrations": pairs, "query": query} | ({} if template is None else {"template": template})
        document |= {} if separator is None else {"separator": separator}
        return cls(
            text=between.join(pieces),
            demonstrations=tuple(spans[len(first) : -1]),
            query=spans[-1],
            instruction=spans[0] if first else None,
            labels=tuple(output for _, output in examples),
            lead=lead,
            follow=after(query) + between + pieces[-1],
        ).told_by(document | ({"instruction": instruction} if first else {}))

    @classmethod
    def from_chat(
        cls,
        messages: Sequence[Mapping[str, Any]],
        tokenizer: Any,
        *,
        template_args: Mapping[str, Any] | None = None,
        system_in_user: bool = False,
        separator: str | None = None,
        instruction_blocks: int | None = None,
    ) -> Prompt:
        """Renders chat messages with the chat template of a Hugging Face tokenizer.

        A user's message with the assistant's reply is a demonstration, from the first character of the one to the
        last of the other; a system message is the instruction; the last user's message with the header of the
        reply is the query. The rest of the template is separators. Messages that repeat, or whose words the template
        itself contains, are distinguished.

        Where no reply stands in the chat, or a separator is given, the last message is read as `from_text` reads a
        text: its blocks are demonstrations, and its last block is the query.

        Args:
            messages: `{"role": "system" | "user" | "assistant", "content": str}`, the last one the user's.
            tokenizer: the tokenizer.
            template_args: further arguments of its `apply_chat_template`, e.g. `{"enable_thinking": False}`.
            system_in_user: put the system message before the first user message, for templates without that role.
            separator: what stands between the demonstrations inside the last message; blank lines when left out.
            instruction_blocks: how many of the first blocks of the only message are an instruction; None leaves that
                to the message.

        Raises:
            UserError: messages out of order, no chat template, arguments that it does not know, or a template that
                drops or repeats a message.
        """
        chat = check_messages(messages)
        first = 1 if is_system(chat[0]) else 0
        turns = range(first, len(chat) - 1, 2)
        split = Split((), instruction_blocks or 0)
        if not turns or separator is not None:
            split = split_text(chat[-1]["content"], instruction_blocks, separator, chat=True, least=0 if turns else 1)
        if split.n_instruction and turns:
            raise UserError(
                "instruction_blocks are blocks of a chat's only message; in a chat with replies the instruction is the "
                "system message."
            )
        written = write(chat, tokenizer, template_args, system_in_user)
        text, last = written.text, len(chat) - 1
        places = [Span(*place) for place in written.places]
        found = [Span(*one) for one in within(chat[last]["content"], text, written.places[last], split.blocks, last)]
        # Some templates write the system message into the last user message.
        late = bool(first) and bool(turns) and places[0].start >= places[last - 1].end
        before = ([places[0]] if first and not late else []) + found[: split.n_instruction]
        shots = found[split.n_instruction : -1]
        asked = found[-1] if found else places[-1]
        if late:
            asked = Span(min(places[0].start, asked.start), max(places[0].end, asked.end))
        visible = text[: max(len(text.rstrip(" \t")), asked.end)]
        kept, lead = split_space(text[len(visible) :] + written.before)
        text = visible + kept
        options = {"template_args": dict(template_args or {}), "system_in_user": system_in_user} | split.options
        return cls(
            text=text,
            demonstrations=(*(Span(places[i].start, places[i + 1].end) for i in turns), *shots),
            query=Span(asked.start, len(text)),
            instruction=Span(before[0].start, before[-1].end) if before else None,
            labels=(*(chat[i + 1]["content"] for i in turns), *(None,) * len(shots)),
            lead=lead,
            follow=written.follow,
            add_special_tokens=False,
            notes=written.notes + split.notes + ((_LATE,) if late else ()),
        ).told_by({"messages": chat} | {name: value for name, value in options.items() if value})

    def within(self, split: str, of: Iterable[int] | None = None) -> Prompt:
        """Return the same text with the pieces of each source as the sources: `document d3, sentence 0`.

        Args:
            split: `"paragraphs"`, `"lines"` or `"sentences"`.
            of: the sources that are split, all when left out; the others are none any more.

        Raises:
            UserError: as in `from_pieces`.
        """
        spans: list[Span] = []
        names: list[SourceName] = []
        for i in range(len(self.demonstrations)) if of is None else sorted(set(of)):
            span, whole = self.demonstrations[i], str(self.source_names[i])
            found = pieces(span.of(self.text), split)
            spans += [Span(a, b).shifted(span.start) for a, b in found]
            names += numbered(PIECES[split], len(found), of=whole)
        return replace(
            self, demonstrations=tuple(spans), labels=(None,) * len(spans), names=tuple(names), notes=self.notes
        )

    def with_instruction(self) -> Prompt:
        """Return the same prompt with its instruction as the first source.

        Raises:
            UserError: it has none.
        """
        if self.instruction is None:
            raise UserError("the prompt has no instruction that could be scored.")
        return replace(
            self,
            instruction=None,
            demonstrations=(self.instruction, *self.demonstrations),
            labels=(None, *self.labels),
            names=(SourceName("instruction"), *self.source_names),
        )
