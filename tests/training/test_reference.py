"""The reference of the configuration is made from the code; `python tests/training/test_reference.py` writes it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import textwrap
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from iclens.attention import ATTENTIONS
from iclens.attention.augmentations import AUGMENTATIONS
from iclens.models.model import MODELS
from iclens.sweeps.grid import expand
from iclens.tasks.shifts import SHIFTS
from iclens.tasks.task import TASKS
from iclens.training.config import Curriculum, RunConfig, Training
from iclens.training.shapes import shape_key

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "training-reference.md"

HEAD = """# Reference of the training configuration

Every table and key of a configuration for `iclens train` and `iclens sweep`, made from the code by
`python tests/training/test_reference.py` (a test compares). [Training](training.md) explains how they are used.

Keys that are not listed are errors. Numbers must be finite; a whole number serves where a number is wanted. A key that
is left out has its default.
"""


def reference():
    parts = [HEAD, "## The run\n\n" + table(_fields(RunConfig))]
    parts.append("## `[training]`\n\n" + table(_fields(Training)))
    parts.append("## `[curriculum]`\n\n" + summary(Curriculum) + "\n\n" + table(_fields(Curriculum)))
    for title, key, registry, given in (
        ("`[model]`", "model", MODELS, 3),
        ("`model.attention`, options in `[model.attention_options]`", "", ATTENTIONS, 1),
        ("Augmentations: `g1` and `g2` of augmented attention", "", AUGMENTATIONS, 2),
        ("`[task]`", "task", TASKS, 0),
        ("`[shift]`", "shift", SHIFTS, 1),
    ):
        parts.append(f"## {title}")
        for name in sorted(registry):
            heading = f'`name = "{name}"`' if key else f"`{name}`"
            rows = _options(registry[name], given)
            parts.append(f"### {heading}\n\n{summary(registry[name])}\n\n{table(rows) if rows else 'No options.'}")
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def table(rows):
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def summary(entry):
    """The paragraphs before the first section."""
    text = inspect.cleandoc(entry.__doc__)
    return re.split(r"\n(?:Args|Attributes|Raises):\n", text)[0].strip()


def _fields(cls):
    hints, meanings = typing.get_type_hints(cls), described(cls)
    for field in dataclasses.fields(cls):
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        yield f"`{field.name}`", spelled(hints[field.name]), written(default), meanings[field.name]


def _options(cls, given):
    parameters = list(inspect.signature(cls).parameters.values())[given:]
    hints, meanings = typing.get_type_hints(cls.__init__), described(cls)
    rows = []
    for parameter in parameters:
        kind = spelled(hints[parameter.name])
        if kind:
            rows.append((f"`{parameter.name}`", kind, written(parameter.default), meanings[parameter.name]))
    return rows


def described(entry):
    """The meanings of arguments or attributes in a Google-style docstring."""
    text = inspect.cleandoc(entry.__doc__)
    section = re.search(r"^(?:Args|Attributes):\n((?:(?:    .*)?\n?)*)", text, re.MULTILINE)
    entries = re.findall(r"^(\w+): (.*(?:\n +.*)*)", textwrap.dedent(section[1]), re.MULTILINE) if section else []
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def spelled(annotation):
    """A type in the words of a configuration file; empty for what a file cannot hold."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(spelled, arguments))))
    wanted = origin or annotation
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    if wanted in words:
        return words[wanted]
    if wanted is tuple and Ellipsis not in arguments:
        return f"list of {len(arguments)} {spelled(arguments[0])}s"
    if wanted in (tuple, list, Sequence):
        return f"list of {spelled(arguments[0])}s" if arguments else "list"
    if wanted in (dict, Mapping) or dataclasses.is_dataclass(wanted):
        return "table"
    return ""


def written(value: Any):
    if value is inspect.Parameter.empty:
        return "required"
    if dataclasses.is_dataclass(value):
        return f'`{{name = "{value.name}"}}`' if hasattr(value, "name") else "see below"
    if value is None or value == {} or value == ():
        return "none"
    return f"`{json.dumps(value)}`"


def test_the_reference_is_that_of_the_code():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run python tests/training/test_reference.py"


def test_a_new_key_would_be_noticed():
    """What the reference is made of holds every key."""
    text = reference()
    for key in RunConfig().to_dict()["training"]:
        assert f"| `{key}` |" in text
    for name in (*TASKS, *SHIFTS, *MODELS):
        assert f'### `name = "{name}"`' in text
    for name in (*ATTENTIONS, *AUGMENTATIONS):
        assert f"### `{name}`" in text


@pytest.mark.parametrize("block", re.findall(r"^```toml\n(.*?)^```", (DOCS / "training.md").read_text(), re.M | re.S))
def test_every_configuration_on_the_page_can_be_trained(block):
    configs = expand(tomllib.loads(block))
    for config in configs:
        config.check()
        shape_key(config)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
