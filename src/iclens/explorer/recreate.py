"""The command and the Python that give the numbers on the page."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

import torch

from iclens.errors import UserError
from iclens.explorer.ask import Ask
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.prompt import Prompt


def command(ask: Ask, lens_model: LensModel) -> str:
    """Shell lines that write the prompt to a file and explain it, with the weights' precision and place."""
    if ask.pairs is None:
        # One space is what a query without any is read with.
        lead = "" if ask.prompt.lead == " " else ask.prompt.lead
        name, content = "prompt.txt", ask.prompt.text + lead
        options = ["--instruction-blocks", str(ask.instruction_blocks)] if ask.instruction_blocks else []
    else:
        name, content = "prompt.json", _pairs_file(ask)
        options = [] if ask.template is None else ["--template", ask.template]
    words = ["iclens", "explain", "--model", lens_model.name]
    for option, value in _loading(lens_model).items():
        words += ["--" + option.replace("_", "-"), value]
    words += ["--prompt", name, *options]
    words += ["--answers", *(_answer(ask, answer) for answer in ask.answers)] if ask.answers else []
    words += ["--answer", _answer(ask, ask.answer)] if ask.answer is not None else []
    words += ["--knock-out", ",".join(map(str, ask.off))] if ask.off else []
    end = "END"
    while end in content.split("\n"):
        end += "_"
    return f"cat > {name} <<'{end}'\n{content}\n{end}\n{shlex.join(words)}"


def _answer(ask: Ask, answer: str) -> str:
    """An answer as the command line takes it: -x would be an option; white space that precedes it anyway is not."""
    return ask.prompt.lead + answer if answer.startswith("-") and len(answer) > 1 else answer


def python(ask: Ask, lens_model: LensModel, **options: Any) -> str:
    """Python that explains the same prompt, with the weights' precision and place.

    Args:
        ask: what is asked.
        lens_model: the model that answers.
        options: further arguments of `iclens.explain`, written as they are.
    """
    imports, loaded, model = "import iclens", "", repr(lens_model.name)
    if loading := _loading(lens_model):
        imports = f"import torch\n\n{imports}\nfrom iclens.lens.model.loading import load"
        told = [f"dtype=torch.{value}" if name == "dtype" else f"{name}={value!r}" for name, value in loading.items()]
        loaded, model = f"model = load({', '.join([model, *told])})\n", "model"
    arguments = [model, "prompt=prompt"]
    arguments += [f"answers={list(ask.answers)!r}"] if ask.answers else []
    arguments += [f"answer={ask.answer!r}"] if ask.answer is not None else []
    arguments += [f"knock_out=[{ask.off!r}]"] if ask.off else []
    arguments += [f"{name}={value!r}" for name, value in options.items()]
    made, names = _made(ask)
    return (
        f"{imports}\nfrom iclens.lens.prompt.prompt import {names}\n\n"
        f"prompt = {made}\n"
        f"{loaded}"
        f"explanation = iclens.explain({', '.join(arguments)})\n"
        "for effect in explanation.ranked():\n"
        "    print(effect.index, effect.text, effect.gradient_step, effect.knock_out.margin_change)\n"
    )


def _loading(lens_model: LensModel) -> dict[str, str]:
    """What `load` is told beside the name, as far as it differs from what `load` does by itself."""
    told = {}
    if lens_model.dtype != torch.float32:
        told["dtype"] = str(lens_model.dtype).removeprefix("torch.")
    if lens_model.is_split:
        told["device_map"] = "auto"
    elif lens_model.device.type != "cpu":
        told["device"] = str(lens_model.device)
    return told


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
