"""The command and the Python that give the numbers on the page."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch

from iclens.explorer.ask import Ask
from iclens.lens import Explanation, LensModel, Prompt, explain
from iclens.lens.prompt.sources import DOCUMENT

_NO_COMMAND = "# No prompt file gives this prompt, whose parts were set in Python: copy the Python instead."


def options_of(found: Explanation) -> dict[str, Any]:
    """Give the further arguments of `iclens.explain` that gave an explanation, where they are not the defaults."""
    given: dict[str, Any] = {
        "scores": found.scores,
        "knock_out": tuple(group.demonstrations for group in found.group_knock_outs),
        "nodes": found.lens.passes.nodes,
        "edges": found.edges,
        "pairs": found.pairs is not None,
        "patch": found.patch is not None,
        "grounding": _grounding(found),
        "faithfulness": bool(found.faithfulness),
        "precise": found.lens.passes.precise,
        "n_next": len(found.next_tokens),
        "seed": found.seed,
    }
    defaults = signature(explain).parameters
    return {name: value for name, value in given.items() if value != defaults[name].default}


def _grounding(found: Explanation) -> bool | None:
    """Whether it was asked for, where it is not as it is for such sources anyway."""
    told = found.grounding is not None
    return None if told == (found.noun == DOCUMENT) else told


def command(ask: Ask, lens_model: LensModel, **options: Any) -> str:
    """Write the shell lines that write the prompt to a file and explain it, with the weights' precision and place.

    Args:
        ask: what is asked; what is off is knocked out together.
        lens_model: the model that answers.
        options: further arguments of `iclens.explain`.
    """
    document = ask.prompt.to_document()
    if document is None:
        return _NO_COMMAND
    reading = []
    if "prompt" in document:
        name, content = "prompt.txt", document["prompt"]
        if "instruction_blocks" in document:
            reading = ["--instruction-blocks", str(document["instruction_blocks"])]
        if set(document) > {"prompt", "instruction_blocks"}:
            name, content, reading = "prompt.json", json.dumps(document, indent=1, ensure_ascii=False), []
    else:
        name, content = "prompt.json", json.dumps(document, indent=1, ensure_ascii=False)
    words = ["iclens", "explain", "--model", lens_model.name]
    for option, value in _loading(lens_model).items():
        words += ["--" + option.replace("_", "-"), value]
    words += ["--prompt", name, *reading]
    words += ["--answers", *(_answer(ask, answer) for answer in ask.answers)] if ask.answers else []
    words += ["--answer", _answer(ask, ask.answer)] if ask.answer is not None else []
    for option, value in (_beyond(ask) | options).items():
        if option == "grounding":
            # The command line has no option for it; every other number is the same.
            continue
        words.append("--" + ("next-tokens" if option == "n_next" else option.replace("_", "-")))
        if option == "knock_out":
            words += [",".join(map(str, group)) for group in value]
        elif isinstance(value, tuple):
            words += map(str, value)
        elif not isinstance(value, bool):
            # A text that begins with a dash would be taken for an option.
            words[-1:] = [f"{words[-1]}={value}"] if str(value).startswith("-") else [words[-1], str(value)]
    end = "END"
    while end in content.split("\n"):
        end += "_"
    return f"cat > {name} <<'{end}'\n{content}\n{end}\n{shlex.join(words)}"


def _answer(ask: Ask, answer: str) -> str:
    """Write an answer so that the command line does not take it for an option, with the white space before it."""
    return ask.prompt.lead + answer if answer.startswith("-") and len(answer) > 1 else answer


def python(ask: Ask, lens_model: LensModel, **options: Any) -> str:
    """Write Python that explains the same prompt, with the weights' precision and place.

    Args:
        ask: what is asked; what is off is knocked out together.
        lens_model: the model that answers.
        options: further arguments of `iclens.explain`, written as they are.
    """
    document = ask.prompt.to_document()
    imports, loaded, model = "import iclens\n", "", repr(lens_model.name)
    if (loading := _loading(lens_model)) or "messages" in (document or {}):
        imports = ("import torch\n\n" if "dtype" in loading else "") + imports
        told = [f"dtype=torch.{value}" if name == "dtype" else f"{name}={value!r}" for name, value in loading.items()]
        loaded, model = f"model = iclens.load({', '.join([model, *told])})\n", "model"
    if document is None:
        imports += f"from iclens.lens import Prompt, {'SourceName, ' if ask.prompt.names else ''}Span\n"
    given = {"answers": list(ask.answers) or None, "answer": ask.answer} | _beyond(ask) | options
    arguments = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    return (
        f"{imports}\n"
        f"{loaded}"
        f"prompt = {_by_parts(ask.prompt) if document is None else _made(document)}\n"
        f"explanation = iclens.explain({', '.join([model, 'prompt', *arguments])})\n"
        "print(explanation)\n"
    )


def _beyond(ask: Ask) -> dict[str, Any]:
    """Further arguments of `explain` that a question stands for."""
    # A page computes other scores than `explain` where none are asked for.
    return ask.said | ask.inside | {"scores": ask.scores} | ({"knock_out": (ask.off,)} if ask.off else {})


def _loading(lens_model: LensModel) -> dict[str, str]:
    """Tell the arguments of `load`, besides the name, that differ from their defaults."""
    told = {}
    if lens_model.dtype != torch.float32:
        told["dtype"] = str(lens_model.dtype).removeprefix("torch.")
    if lens_model.is_split:
        told["device_map"] = "auto"
    elif lens_model.device.type != "cpu":
        told["device"] = str(lens_model.device)
    return told


def _made(document: dict[str, Any]) -> str:
    """Write an expression for the prompt that a document holds."""
    if {"documents", "spans", "split", "score_instruction"} & set(document):
        # A document is a prompt as it stands.
        return "{" + "".join(f"\n    {name!r}: {value!r}," for name, value in document.items()) + "\n}"
    if "messages" in document:
        return f"iclens.Prompt.from_chat({_list(document['messages'])}, model.tokenizer{_named(document, 'messages')})"
    if "demonstrations" in document:
        pairs = _list([(pair["input"], pair["output"]) for pair in document["demonstrations"]])
        told = _named(document, "demonstrations", "query")
        return f"iclens.Prompt.from_examples({pairs}, {document['query']!r}{told})"
    return f"iclens.Prompt.from_text({_literal(document['prompt'])}{_named(document, 'prompt')})"


def _named(document: dict[str, Any], *known: str) -> str:
    """Write the options of a document as further keywords of a call."""
    return "".join(f", {name}={value!r}" for name, value in document.items() if name not in known)


def _by_parts(prompt: Prompt) -> str:
    """Write an expression for a prompt that no document holds: its parts are told by their places."""
    parts = [field.name for field in dataclasses.fields(prompt) if field.init and field.name not in ("text", "notes")]
    # Those of demonstrations are empty.
    parts = [name for name in parts if name not in ("names", "between") or getattr(prompt, name)]
    told = "".join(f"\n    {name}={getattr(prompt, name)!r}," for name in parts)
    return f"Prompt(\n    text={_literal(prompt.text)},{told}\n)"


def _list(items: Sequence[Any]) -> str:
    """Write a list, one item a line."""
    return "[" + "".join(f"\n    {item!r}," for item in items) + "\n]"


def _literal(text: str) -> str:
    """Write a text, one string literal a line."""
    lines = text.splitlines(keepends=True)
    return "\n    " + "\n    ".join(repr(line) for line in lines) + "\n" if len(lines) > 1 else repr(text)
