"""The command and the Python that give the numbers on the page."""

from __future__ import annotations

import json
import shlex

from iclens.explorer.ask import Ask


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


def python(ask: Ask, model: str) -> str:
    """Python that explains the same prompt."""
    arguments = [repr(model), "prompt=prompt"]
    arguments += [f"answers={list(ask.answers)!r}"] if ask.answers else []
    arguments += [f"answer={ask.answer!r}"] if ask.answer is not None else []
    arguments += [f"knock_out=[{ask.off!r}]"] if ask.off else []
    if ask.pairs is None:
        blocks = f", instruction_blocks={ask.instruction_blocks}" if ask.instruction_blocks else ""
        made = f"Prompt.from_text({_literal(ask.prompt.text)}{blocks})"
    else:
        pairs = "".join(f"\n        {pair!r}," for pair in ask.pairs)
        named = [
            f"{name}={value!r}" for name in ("template", "instruction") if (value := getattr(ask, name)) is not None
        ]
        made = "Prompt.from_examples(" + ", ".join([f"[{pairs}\n    ]", repr(ask.query), *named]) + ")"
    return (
        "import iclens\nfrom iclens.lens.prompt import Prompt\n\n"
        f"prompt = {made}\n"
        f"explanation = iclens.explain({', '.join(arguments)})\n"
        "for effect in explanation.ranked():\n"
        "    print(effect.index, effect.text, effect.gradient_step, effect.knock_out.margin_change)\n"
    )


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
