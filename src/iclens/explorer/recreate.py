"""The command and the Python that give the numbers on the page."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

from iclens.errors import UserError
from iclens.explorer.ask import Ask
from iclens.lens.prompt import Prompt


def command(ask: Ask, model: str) -> str:
    """Shell lines that write the prompt to a file and explain it."""
    if ask.pairs is None:
        name, content = "prompt.txt", ask.prompt.text
        options = ["--instruction-blocks", str(ask.instruction_blocks)] if ask.instruction_blocks else []
    else:
        name, content = "prompt.json", _pairs_file(ask)
        options = [] if ask.template is None else ["--template", ask.template]
    words = ["iclens", "explain", "--model", model, "--prompt", name, *options]
    words += ["--answers", *ask.answers] if ask.answers else []
    words += ["--answer", ask.answer] if ask.answer is not None else []
    words += ["--knock-out", ",".join(map(str, ask.off))] if ask.off else []
    end = "END"
    while end in content.split("\n"):
        end += "_"
    return f"cat > {name} <<'{end}'\n{content}\n{end}\n{shlex.join(words)}"


def python(ask: Ask, model: str, **options: Any) -> str:
    """Python that explains the same prompt.

    Args:
        ask: what is asked.
        model: its name.
        options: further arguments of `iclens.explain`, written as they are.
    """
    arguments = [repr(model), "prompt=prompt"]
    arguments += [f"answers={list(ask.answers)!r}"] if ask.answers else []
    arguments += [f"answer={ask.answer!r}"] if ask.answer is not None else []
    arguments += [f"knock_out=[{ask.off!r}]"] if ask.off else []
    arguments += [f"{name}={value!r}" for name, value in options.items()]
    made, names = _made(ask)
    return (
        f"import iclens\nfrom iclens.lens.prompt import {names}\n\n"
        f"prompt = {made}\n"
        f"explanation = iclens.explain({', '.join(arguments)})\n"
        "for effect in explanation.ranked():\n"
        "    print(effect.index, effect.text, effect.gradient_step, effect.knock_out.margin_change)\n"
    )


def _made(ask: Ask) -> tuple[str, str]:
    """An expression for the prompt, and the names that it needs."""
    if ask.pairs is not None:
        pairs = "".join(f"\n        {pair!r}," for pair in ask.pairs)
        named = [
            f"{name}={value!r}" for name in ("template", "instruction") if (value := getattr(ask, name)) is not None
        ]
        return "Prompt.from_examples(" + ", ".join([f"[{pairs}\n    ]", repr(ask.query), *named]) + ")", "Prompt"
    text, blocks = ask.prompt.text, ask.instruction_blocks or 0
    if _reads_the_same(ask.prompt, blocks):
        told = f", instruction_blocks={blocks}" if blocks else ""
        return f"Prompt.from_text({_literal(text)}{told})", "Prompt"
    # A chat, or pairs in a template of their own: the parts are told by their places.
    rest = {field.name: getattr(ask.prompt, field.name) for field in dataclasses.fields(ask.prompt)}
    del rest["text"]
    told = "".join(f"\n    {name}={value!r}," for name, value in rest.items())
    return f"Prompt(\n    text={_literal(text)},{told}\n)", "Prompt, Span"


def _reads_the_same(prompt: Prompt, blocks: int) -> bool:
    try:
        return Prompt.from_text(prompt.text, blocks) == prompt
    except UserError:
        return False


def _literal(text: str) -> str:
    """A text as one string literal a line."""
    lines = text.splitlines(keepends=True)
    return "\n    " + "\n    ".join(repr(line) for line in lines) + "\n" if len(lines) > 1 else repr(text)


def _pairs_file(ask: Ask) -> str:
    assert ask.pairs is not None
    document = {
        "demonstrations": [{"input": given, "output": said} for given, said in ask.pairs],
        "query": ask.query,
        **({} if ask.instruction is None else {"instruction": ask.instruction}),
    }
    return json.dumps(document, indent=1, ensure_ascii=False)
