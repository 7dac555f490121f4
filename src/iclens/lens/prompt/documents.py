"""One reader of prompts as documents: prompt files, lines of a file of many, and questions of the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Unpack

from iclens.errors import UserError
from iclens.lens.prompt.blocks import blocks
from iclens.lens.prompt.options import PromptOptions, Written, check_string, kind
from iclens.lens.prompt.pieces import MESSAGES
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.sources import BLANK_LINE
from iclens.lens.prompt.splitting import split_text
from iclens.lens.prompt.tokens import written_out

_PAIR = '{"input": "...", "output": "..."}'
_MESSAGE = '{"role": "user", "content": "..."}'
_OBJECT = '{"demonstrations": [{"input": "...", "output": "..."}], "query": "..."}'
_QUESTION = '{"documents": [{"id": "d1", "text": "..."}], "question": "..."}'
_FORMS = ("demonstrations", "prompt", "text", "messages", "documents")


def read_prompt(path: str | Path, tokenizer: Any = None, **written: Unpack[Written]) -> Prompt:
    """Read a prompt file; its ending says how.

    - `.jsonl`: one `{"input", "output"}` a line; the last without `output` is the query, unless `query` is given.
    - `.json`: any document that `read_document` reads.
    - anything else: plain text, blank lines between demonstrations and the query last.

    A file is UTF-8, with or without a byte order mark; its line ends may be Windows'.

    A tokenizer is needed for chats alone, for its chat template; the rest is as in `PromptOptions`.

    Raises:
        UserError: the file cannot be read or does not hold a prompt; the message names the file and the line.
    """
    path = Path(path)
    options = PromptOptions(**written)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a prompt file (.txt, .json or .jsonl).")
    raw = contents(path)
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line, byte = raw.count(b"\n", 0, error.start) + 1, raw[error.start]
        raise UserError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8.") from None
    if not text.strip():
        raise UserError(f"{path} is empty: it needs at least one demonstration and a query.")
    ending = path.suffix.lower()
    try:
        if ending == ".jsonl":
            lines = [(f"line {i}", line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
            rows = [(where, parse(line, where, _PAIR)) for where, line in lines]
            return _from_rows(rows, options.settled({}, binding=True, form="pairs"))
        return read_document(parse(text, "", _OBJECT) if ending == ".json" else text, tokenizer, options)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def contents(path: Path) -> bytes:
    """Read the bytes of a file; a `UserError` says that it does not exist or why it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def parse(text: str, where: str, right: str) -> Any:
    """Parse the JSON of a file (`where` empty) or of one line; a `UserError` shows what is `right`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if where == "" else f"{where}, column {error.colno}"
        raise UserError(f"{place}: not JSON ({error.msg}). Write e.g. {right}.") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where or 'the file'}: JSON that cannot be read ({error}). Write e.g. {right}.") from None


def read_document(
    document: Any, tokenizer: Any = None, options: PromptOptions | None = None, *, binding: bool = True
) -> Prompt:
    r"""Read a prompt from parsed JSON.

    A document is

    - a string: plain text, blank lines (\n\n) between demonstrations and the query last;
    - a list of pairs `{"input", "output"}`, of which the last may lack `output` and is the query then;
    - a list of chat messages `{"role", "content"}`;
    - an object with `"prompt"` or `"text"` (plain text), `"messages"`, `"demonstrations"` (all pairs, or all blocks
      of plain text) with `"query"`, or `"documents"` (see `Prompt.from_documents`) with `"question"`. It may also hold
      the other options by their names;
    - an object with `"text"` and `"spans"`, and perhaps `"names"` and `"as_chat"`: see `Prompt.from_spans`.

    A key whose value is null counts as left out.

    Args:
        document: lists, dictionaries and strings.
        tokenizer: needed for chat messages alone, for its chat template.
        options: what holds where the document does not say otherwise.
        binding: True when the options are meant for this document, so that one that it contradicts, or a template
            that it has no use for, is an error. False when they are defaults of many documents: what a document says
            takes their place, `"instruction": null` included, and a template is for those that hold pairs.

    Raises:
        UserError: it is no prompt, or the options do not go with it.
    """
    if isinstance(document, dict) and document.get("spans") is not None:
        return _from_spans(document, tokenizer)
    form, content, own = _taken_apart(document, binding) if isinstance(document, dict) else ("", document, {})
    if form == "documents":
        settled = (options or PromptOptions()).settled(own, binding=binding, form="documents")
        return _scored(_from_documents(content, tokenizer, settled), settled)
    if not isinstance(content, str | list):
        raise UserError(f"a JSON {kind(document)}. Write e.g. {_OBJECT}.")
    complete, first = form == "demonstrations", content[0] if content else None
    is_text, is_chat = isinstance(content, str), not complete and isinstance(first, dict) and "role" in first
    are_blocks = complete and isinstance(first, str) and all(isinstance(one, str) for one in content)
    prompt_form = "text" if is_text or are_blocks else "pairs"
    if is_chat:
        roles = [message.get("role") for message in content if isinstance(message, dict)]
        prompt_form = "turns" if "assistant" in roles else "message"
    options = (options or PromptOptions()).settled(own, binding=binding, form=prompt_form)
    if complete and options.query is None:
        raise UserError(f'there is no "query". Write e.g. {_OBJECT}.')
    if isinstance(content, str):
        try:
            prompt = _from_text(content, options)
        except UserError as error:
            raise UserError(" ".join(filter(None, (str(error), written_out(content, tokenizer))))) from None
    elif is_chat:
        prompt = _from_messages(content, tokenizer, options)
    elif are_blocks:
        prompt = _from_blocks(content, options)
    else:
        name = "demonstration" if complete else "item"
        prompt = _from_rows([(f"{name} {i}", row) for i, row in enumerate(content)], options, complete)
    return _scored(prompt, options)


def _scored(prompt: Prompt, options: PromptOptions) -> Prompt:
    """Return the prompt with the sources that are asked for."""
    split = options.split
    done = split is None or (prompt.document or {}).get("split") == split
    if not done and split == MESSAGES:
        raise UserError(f"split is {MESSAGES!r}, which is for chats, and this prompt is none.")
    if done and not options.score_instruction:
        return prompt
    document = prompt.to_document()
    prompt = prompt if done or split is None else prompt.within(split)
    prompt = prompt.with_instruction() if options.score_instruction else prompt
    told = {name: value for name in ("split", "score_instruction") if (value := getattr(options, name))}
    return prompt if document is None else prompt.told_by(document | told)


def _taken_apart(document: Mapping[str, Any], binding: bool) -> tuple[str, Any, dict[str, Any]]:
    """Find which form an object has, with its content under that name, and the options that it brings."""
    own = {key: value for key, value in document.items() if value is not None or (key == "instruction" and not binding)}
    if "documents" in own and "question" in own:
        if "query" in own:
            raise UserError('"question" and "query" are both given, and both are the question: drop one of them.')
        own["query"] = own.pop("question")
    if "input" in own and set(own) <= {"input", "output"}:
        raise UserError(f"this is one pair of input and output, not a whole prompt. Write e.g. {_OBJECT}.")
    if "question" in own:
        raise UserError(f'there is a "question" without "documents". Write e.g. {_QUESTION}.')
    forms = [form for form in _FORMS if form in own]
    if len(forms) != 1:
        said = " and ".join(f'"{form}"' for form in forms) or "none of them"
        named = ", ".join(f'"{form}"' for form in _FORMS)
        raise UserError(f"a prompt has exactly one of {named}; this has {said}. Write e.g. {_OBJECT}.")
    (form,) = forms
    content = own.pop(form)
    unknown = sorted(set(own) - {option.name for option in fields(PromptOptions)})
    if unknown:
        raise UserError(f'the key "{unknown[0]}" is not known. Write e.g. {_OBJECT}.')
    if form in ("prompt", "text") and not isinstance(content, str):
        raise UserError(f'"{form}" is a JSON {kind(content)}, not a string.')
    if form in ("demonstrations", "messages") and not isinstance(content, list):
        raise UserError(f'"{form}" is a JSON {kind(content)}, not a list. Write e.g. {_OBJECT}.')
    # A text that is split has its query in a part of its own, as demonstrations have.
    if "query" in own and form != "documents" and form != "demonstrations" and "split" not in own:
        raise UserError(f'"{form}" and "query" are both given: give the prompt as text or in parts.')
    return form, content, own


def _from_documents(documents: Any, tokenizer: Any, options: PromptOptions) -> Prompt:
    if options.query is None:
        raise UserError(f"the documents come without a question: give what the model is to answer. E.g. {_QUESTION}.")
    if options.separator is not None or options.instruction_blocks:
        name = "instruction_blocks" if options.separator is None else "separator"
        raise UserError(f"{name} is not for documents, which a template writes: see template.")
    if options.as_chat and tokenizer is None:
        raise UserError("documents as a chat need a tokenizer, whose chat template writes them.")
    return Prompt.from_documents(
        documents,
        options.query,
        options.template,
        options.instruction,
        tokenizer=tokenizer if options.as_chat else None,
        template_args=options.template_args,
        system_in_user=options.system_in_user,
    )


def _from_spans(document: Mapping[str, Any], tokenizer: Any) -> Prompt:
    unknown = sorted(set(document) - {"text", "spans", "names", "separator", "as_chat"})
    if unknown or not isinstance(document.get("text"), str) or not isinstance(document["spans"], list):
        said = f'the key "{unknown[0]}" does not go with "spans"' if unknown else '"spans" need a "text" and are a list'
        raise UserError(f'{said}. Write e.g. {{"text": "...", "spans": [[0, 12], [13, 40]]}}.')
    if document.get("as_chat") and tokenizer is None:
        raise UserError("as_chat needs a tokenizer, whose chat template writes the text.")
    return Prompt.from_spans(
        document["text"],
        document["spans"],
        document.get("names"),
        between=document.get("separator") or "",
        tokenizer=tokenizer if document.get("as_chat") else None,
    )


def _from_text(text: str, options: PromptOptions) -> Prompt:
    text, n_blocks, separator = text.replace("\r\n", "\n"), options.instruction_blocks, options.separator
    between = BLANK_LINE if separator is None else separator
    if options.query is not None and options.split is None:
        text = f"{text}{between}{options.query}"
    if options.instruction is not None and options.instruction.strip():
        own = len(blocks(options.instruction, separator))
        if n_blocks is None and separator is None and options.split is None:
            # The text may be laid out otherwise, or have an instruction itself.
            split = split_text(text, None, None)
            n_blocks = None if split.laid_out else own + split.n_instruction
        else:
            n_blocks = (n_blocks or 0) + own
        text = f"{options.instruction}{between}{text}"
    if options.split is not None:
        return Prompt.from_pieces(text, options.split, options.query, separator, n_blocks or 0)
    return Prompt.from_text(text, n_blocks, separator)


def _from_blocks(demonstrations: list[str], options: PromptOptions) -> Prompt:
    """Join blocks as a text file holds them, so that its reading gives back exactly these."""
    named = {f"demonstration {i}": block for i, block in enumerate(demonstrations)} | {"the query": options.query or ""}
    if not named["the query"].strip():
        raise UserError("the query is empty: write what the model is to continue.")
    for name, block in named.items():
        if not block.strip():
            raise UserError(f"{name} is empty: write something in it, or delete it.")
        if len(blocks(block, options.separator)) > 1:
            mark = "a blank line" if options.separator is None else f"the separator {options.separator!r}"
            raise UserError(f"{name} has {mark} in it, which would make two of it: write it without.")
    # Line ends around a block would widen the blank line between it and the next.
    text = (options.separator or BLANK_LINE).join(block.strip("\r\n") for block in named.values())
    instruction = (options.instruction or "").strip("\r\n")
    return _from_text(text, PromptOptions(None, None, instruction, 0, options.separator))


def _from_rows(rows: list[tuple[str, Any]], options: PromptOptions, complete: bool = False) -> Prompt:
    """Read named pairs, of which the last may be the query unless they are `complete`."""
    examples: list[tuple[str, str]] = []
    query = options.query
    for i, (where, row) in enumerate(rows):
        if complete and isinstance(row, str):
            raise UserError(f"{where} is no pair: write all of them as {_PAIR}, or all of them as text.")
        _check_row(where, row)
        if "output" in row:
            examples.append((row["input"], row["output"]))
        elif complete:
            raise UserError(f'{where}: no "output". Write e.g. {_PAIR}.')
        elif i < len(rows) - 1:
            raise UserError(f'{where}: no "output", which only the last may lack. Write e.g. {_PAIR}.')
        elif query is not None:
            raise UserError(f'{where}: no "output", so it is a query, but another query was given. Drop one of them.')
        else:
            query = row["input"]
    if query is None:
        raise UserError('there is no query: give one, or end with {"input": "..."} without "output".')
    return Prompt.from_examples(examples, query, options.template, options.instruction, options.separator)


def _check_row(where: str, row: Any) -> None:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON {kind(row)}. Write e.g. {_PAIR}.")
    if "input" not in row:
        raise UserError(f'{where}: no "input". Write e.g. {_PAIR}.')
    unknown = sorted(set(row) - {"input", "output"})
    if unknown:
        raise UserError(f'{where}: the key "{unknown[0]}" is not known. Write e.g. {_PAIR}.')
    for key, value in row.items():
        check_string(value, f'{where}: "{key}"')


def _from_messages(messages: list[Any], tokenizer: Any, options: PromptOptions) -> Prompt:
    if tokenizer is None:
        raise UserError("chat messages need a tokenizer, whose chat template writes them.")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise UserError(f"message {i}: a JSON {kind(message)}. Write e.g. {_MESSAGE}.")
    chat = list(messages)
    if options.instruction is not None and options.instruction.strip():
        if chat[0].get("role") == "system":
            raise UserError("the chat has a system message, but an instruction was given too. Drop one of them.")
        chat.insert(0, {"role": "system", "content": options.instruction})
    if options.query is not None:
        chat.append({"role": "user", "content": options.query})
    if options.split is not None:
        return _split_chat(chat, tokenizer, options)
    return Prompt.from_chat(
        chat,
        tokenizer,
        template_args=options.template_args,
        system_in_user=options.system_in_user,
        separator=options.separator,
        instruction_blocks=options.instruction_blocks,
    )


def _split_chat(chat: list[Any], tokenizer: Any, options: PromptOptions) -> Prompt:
    idle: dict[str, Any] = {"system_in_user": options.system_in_user, "separator": options.separator}
    idle |= {"instruction_blocks": options.instruction_blocks, "score_instruction": options.score_instruction}
    for name, value in idle.items():
        if value:
            raise UserError(f"{name} does not go with split in a chat, where every message is a source of its own.")
    return Prompt.from_messages(chat, tokenizer, template_args=options.template_args)


def read_answers(document: Mapping[str, Any]) -> tuple[tuple[str, ...], str | None]:
    """Read the candidate answers (`"answers"`) and the answer to explain (`"answer"`) that stand beside a prompt."""
    answers, answer = document.get("answers") or [], document.get("answer")
    if answer is not None:
        check_string(answer, '"answer"')
    if not isinstance(answers, list):
        raise UserError(f'"answers" is a JSON {kind(answers)}, not a list. Write e.g. "answers": ["red", "blue"].')
    for i, one in enumerate(answers):
        check_string(one, f'item {i} of "answers"')
    return tuple(answers), answer
