"""Prompts of any sources: spans, pieces of a text, documents with a question, the messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from iclens.errors import UserError
from iclens.lens.prompt.blocks import blocks, check_unicode, split_space
from iclens.lens.prompt.chat import check_messages, within, write
from iclens.lens.prompt.pieces import MESSAGES, PIECES, pieces, query_of
from iclens.lens.prompt.retrieval import DEFAULT_CHAT_DOCUMENTS, DEFAULT_DOCUMENTS, check_documents, write_documents
from iclens.lens.prompt.sources import BLANK_LINE, DOCUMENT, SourceName, Span, after_gap, numbered
from iclens.lens.prompt.turns import write_turns

P = TypeVar("P", bound="OfSources")
# Not Self, which a checker of types at run time refuses outside of a class that it has decorated.


class OfSources:
    """Constructors of `Prompt` that mark any sources."""

    @classmethod
    def from_spans(
        cls: type[P],
        text: str,
        spans: Sequence[Sequence[int]],
        names: Sequence[str] | None = None,
        *,
        between: str = "",
        tokenizer: Any = None,
    ) -> P:
        """Marks the sources in a text by their places: `text[start:end]` each, in the order of the text.

        What stands after the last source is the query, what stands before the first an instruction. Spaces at the end
        of the text belong to the answer; without any, it follows a space.

        Args:
            text: what the model reads.
            spans: the first character of each source, and the one after its last.
            names: what each source is called; they are numbered from 0 when left out.
            between: what stands between sources beside white space, and goes with the one that is deleted.
            tokenizer: given, the text is the user's message of a chat, which the tokenizer's chat template writes.

        Raises:
            UserError: there are no spans; one is no pair of whole numbers, is empty, overlaps the one before it or
                reaches outside of the text; or nothing stands after the last.
        """
        check_unicode(text)
        for i, span in enumerate(spans):
            whole = isinstance(span, Sequence | Span) and not isinstance(span, str)
            pair = (span.start, span.end) if isinstance(span, Span) else tuple(span) if whole else ()
            if len(pair) != 2 or not all(isinstance(one, int) and not isinstance(one, bool) for one in pair):
                raise UserError(f"span {i} is {span!r}: give the places of two characters, e.g. (0, 12).")
        places = [one if isinstance(one, Span) else Span(*one) for one in spans]
        if names is not None and len(names) != len(places):
            raise UserError(f"{len(names)} names for {len(places)} spans: give one for each.")
        called = numbered("span", len(places)) if names is None else [SourceName("span", str(name)) for name in names]
        document: dict[str, Any] = {"text": text, "spans": [[one.start, one.end] for one in places]}
        document |= {} if names is None else {"names": [str(name) for name in names]}
        before = text[: max(0, places[0].start)] if places else ""
        begin = len(before) - len(before.lstrip())
        head = Span(begin, len(before.rstrip())) if before.strip() else None
        told: dict[str, Any] = {"instruction": head, "between": between}
        if tokenizer is not None:
            document["as_chat"] = True
            marked = [*([] if head is None else [head]), *places]
            text, found, written = _written([{"role": "user", "content": text}], marked, tokenizer)
            told |= written | {"instruction": None if head is None else found.pop(0)}
            places = found
        return cls._of_sources(text, places, called, **told).told_by(
            document | ({"separator": between} if between else {})
        )

    @classmethod
    def from_pieces(
        cls: type[P],
        text: str,
        split: str,
        query: str | None = None,
        separator: str | None = None,
        instruction_blocks: int = 0,
    ) -> P:
        """Splits a text into its paragraphs, lines or sentences, which are the sources, and the query.

        Args:
            text: what the model reads.
            split: `"paragraphs"`, `"lines"` or `"sentences"`.
            query: the query, which follows in its own paragraph; when left out it is the text's last paragraph or
                last line; of sentences, the last paragraph, or the last line of one paragraph, or the last sentence.
            separator: what stands between paragraphs; blank lines when left out.
            instruction_blocks: how many of the first paragraphs are an instruction, which is not a source.

        Raises:
            UserError: a split that is not known, too few pieces, or sentences without the package that finds them.
        """
        check_unicode(text)
        text = text.replace("\r\n", "\n").removeprefix("\ufeff")
        document: dict[str, Any] = {"prompt": text, "split": split}
        if query is not None:
            text = f"{text.rstrip()}{separator or BLANK_LINE}"
        begin = len(text) if query is not None else query_of(text, split, separator)
        first = [end for _, end in blocks(text[:begin], separator)[:instruction_blocks]]
        found = [Span(*one) for one in pieces(text[:begin], split, separator) if not first or one[0] >= first[-1]]
        if not found:
            raise UserError(
                f"the text has {'no piece' if query else 'one piece alone, which is the query'}, split into {split}: a "
                "source must stand before the query."
            )
        told: dict[str, Any] = {
            "query": query,
            "separator": separator,
            "instruction_blocks": instruction_blocks or None,
        }
        document |= {name: value for name, value in told.items() if value is not None}
        between = "" if separator is None else separator.strip()
        names = numbered(PIECES[split], len(found))
        text += query or ""
        head = Span(blocks(text)[0][0], first[-1]) if first else None
        return cls._of_sources(text, found, names, instruction=head, between=between).told_by(document)

    @classmethod
    def from_documents(
        cls: type[P],
        documents: Any,
        question: str,
        template: str | None = None,
        instruction: str | None = None,
        *,
        tokenizer: Any = None,
        template_args: Mapping[str, Any] | None = None,
        system_in_user: bool = False,
    ) -> P:
        r"""Writes documents and a question about them: each document is a source, in the order given.

        Args:
            documents: `{"id", "text"}` each, or texts alone, which are named by their numbers from 0. Ids are names for
                the reader; the model does not read them unless the template has `{id}`.
            question: what the model is to answer from them.
            template: a format string; its block with `{text}`, between blank lines, is written for each document, and
                may hold `{id}`. `{question}` stands apart from it. By default
                `"Documents:\n\n{text}\n\nQuestion: {question}\nAnswer:"`, and in a chat `"{text}\n\n{question}"`.
            instruction: a text before the documents; the system message of a chat.
            tokenizer: given, all this is the user's message of a chat, which the tokenizer's chat template writes.
            template_args: for a chat, as in `from_chat`.
            system_in_user: for a chat, as in `from_chat`.

        Raises:
            UserError: no documents, two with one id, an empty one, no question, or a template without its slots.
        """
        checked = check_documents(documents)
        given = instruction if instruction is not None and instruction.strip() else None
        own = DEFAULT_DOCUMENTS if tokenizer is None else DEFAULT_CHAT_DOCUMENTS
        text, found = write_documents(checked, question, own if template is None else template)
        if tokenizer is None:
            text = text if given is None else f"{given}{BLANK_LINE}{text}"
            shift = 0 if given is None else len(given) + len(BLANK_LINE)
            spans = [Span(*one).shifted(shift) for one in found]
            told: dict[str, Any] = {
                "instruction": Span(0, len(text[: spans[0].start].rstrip())) if spans[0].start else None
            }
        else:
            chat = [] if given is None else [{"role": "system", "content": given}]
            chat.append({"role": "user", "content": text})
            marked = [Span(*one) for one in found]
            text, spans, told = _written(chat, marked, tokenizer, template_args, system_in_user)
        names = [SourceName(DOCUMENT, one.id) for one in checked]
        document = {"documents": [{"id": one.id, "text": one.text} for one in checked], "question": question}
        options: dict[str, Any] = {
            "template": template,
            "instruction": given,
            "template_args": dict(template_args or {}),
        }
        options |= {"system_in_user": system_in_user, "as_chat": tokenizer is not None}
        return cls._of_sources(text, spans, names, **told).told_by(
            document | {name: value for name, value in options.items() if value}
        )

    @classmethod
    def from_messages(
        cls: type[P],
        messages: Sequence[Mapping[str, Any]],
        tokenizer: Any,
        *,
        template_args: Mapping[str, Any] | None = None,
    ) -> P:
        """Renders a chat of any turns, of which each message is a source, with its thoughts and its calls of tools.

        The descriptions of tools (`template_args={"tools": [...]}`) are a source too. Where the user's message is the
        last, it is the query; where another is, such as the result of a tool, the header of the reply to come is.

        Args:
            messages: with the keys that the chat template reads: `role`, `content`, perhaps `reasoning_content`,
                `tool_calls`.
            tokenizer: the tokenizer, whose chat template writes them.
            template_args: further arguments of its `apply_chat_template`.

        Raises:
            UserError: a message without a role or a content, or that the template drops, repeats or rewrites; or no
                message before the query.
        """
        text, found, before, follow, notes = write_turns(messages, tokenizer, template_args)
        last = SourceName("message", str(len(messages) - 1), messages[-1]["role"])
        if messages[-1]["role"] == "user" and found and found[-1][0] == last:
            found = found[:-1]
        if not found:
            raise UserError("the chat has one message, which is the query: a source must stand before it.")
        told: dict[str, Any] = {"lead": "", "add_special_tokens": False, "follow": follow, "notes": tuple(notes)}
        spans, names = [Span(*place) for _, place in found], [name for name, _ in found]
        document: dict[str, Any] = {"messages": [dict(one) for one in messages], "split": MESSAGES}
        document |= {"template_args": dict(template_args)} if template_args else {}
        return cls._of_sources(text + before, spans, names, **told).told_by(document)

    @classmethod
    def _of_sources(
        cls: type[P],
        text: str,
        spans: Sequence[Span],
        names: Sequence[SourceName],
        *,
        instruction: Span | None = None,
        lead: str = " ",
        **told: Any,
    ) -> Any:
        """Return a prompt whose query is what stands after its sources; `lead` is for a text that ends in no space."""
        if not spans:
            raise UserError("there are no sources: mark at least one.")
        end, visible = spans[-1].end, len(text.rstrip())
        begin = after_gap(text, end, told.get("between", ""))
        if end <= len(text) <= max(begin, end):
            raise UserError(
                f"{names[-1]} ends the text: the query must stand behind the last source, with one visible character "
                "or more."
            )
        kept, space = split_space(text[visible:])
        make: Any = cls
        return make(
            text=text[:visible] + kept,
            demonstrations=tuple(spans),
            query=Span(begin, visible + len(kept)),
            instruction=instruction,
            labels=(None,) * len(spans),
            lead=space or ("" if kept else lead),
            names=tuple(names),
            **told,
        )


def _written(
    chat: Sequence[Mapping[str, Any]],
    spans: Sequence[Span],
    tokenizer: Any,
    template_args: Mapping[str, Any] | None = None,
    system_in_user: bool = False,
) -> tuple[str, list[Span], dict[str, Any]]:
    """The user's message of a chat as its template writes it, where spans of it lie, and what else a prompt needs."""
    written = write(check_messages(chat), tokenizer, template_args, system_in_user)
    cut = [(one.start, one.end) for one in spans]
    found = within(chat[-1]["content"], written.text, written.places[-1], cut, len(chat) - 1)
    told: dict[str, Any] = {"lead": "", "add_special_tokens": False, "follow": written.follow, "notes": written.notes}
    told["instruction"] = Span(*written.places[0]) if len(chat) > 1 else None
    return written.text + written.before, [Span(*one) for one in found], told
