"""lm-evaluation-harness: a task whose few-shot examples are the chosen ones, in their order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from iclens.errors import UserError
from iclens.lens.prompt.template import parse_template
from iclens.selection.selection import Selection

_SLOT = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for an input where a template is taken apart."""


def lm_eval_task(
    found: Selection,
    test: str | Path | None = None,
    *,
    base: str | None = None,
    task: str = "chosen_demonstrations",
    input_field: str = "input",
    output_field: str = "output",
    outputs: Mapping[str, Any] | None = None,
) -> str:
    """Write a choice as the YAML of a task of lm-evaluation-harness, whose context is then the chosen prompt.

    With `base` only the few-shot examples are written, for a task that has its own way of writing them: its documents'
    fields are `input_field` and `output_field`. Without it the task writes prompts as they were chosen, and needs
    `test`, or a dataset that is filled in. A choice from chats is run with `--apply_chat_template
    --fewshot_as_multiturn`.

    Args:
        found: the choice.
        test: a `.jsonl` file of `{"input", "output"}` lines that the task asks.
        base: the YAML file of a task that is included.
        task: the task's name.
        input_field: the name of an example's input.
        output_field: the name of its output.
        outputs: what stands for each output there, such as `{"negative": 0, "positive": 1}`.

    Raises:
        UserError: the test file is none that the harness reads, or a template that repeats the input after the output.
    """
    shots = [found.demonstrations[i] for i in found.indices]
    said = outputs or {}
    samples = [{input_field: one.input, output_field: said.get(one.output.strip(), one.output)} for one in shots]
    fewshot: dict[str, Any] = {"sampler": "first_n", "samples": samples}
    written: dict[str, Any] = {"task": task}
    if base is not None:
        written = {"include": base, **written}
    else:
        if test is not None:
            if Path(test).suffix.lower() != ".jsonl":
                raise UserError(f"{test}: the examples that the task asks are a .jsonl file.")
            written |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(Path(test).resolve())}}}
        written |= {"test_split": "test", **_prompts(found, input_field, output_field, fewshot)}
    written |= {"num_fewshot": len(shots), "fewshot_config": fewshot}
    return yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=1 << 16)


def _prompts(found: Selection, given: str, output: str, fewshot: dict[str, Any]) -> dict[str, Any]:
    """How prompts are written and answers are scored; what ends an output is that of the examples alone."""
    text, behind, space = f"{{{{{given}}}}}", "", " "
    if found.template is not None:
        before, after = (one(_SLOT) for one in parse_template(found.template))
        if _SLOT in after:
            raise UserError("the template repeats the input behind the output, which the harness cannot write.")
        asked = before.rstrip(" ")
        space, behind = before[len(asked) :], after
        text = f"{{{{{given}}}}}".join(_raw(part) for part in asked.split(_SLOT))
    between = "\n\n" if found.separator is None else found.separator
    written: dict[str, Any] = {"doc_to_text": text, "target_delimiter": space, "fewshot_delimiter": between}
    if found.instruction is not None:
        written["description"] = _raw(found.instruction) + ("" if found.template is None else between)
    if found.candidates:
        among = list(found.candidates)
        # An output that is a number would be taken for an index.
        target = f"{{{{ {json.dumps([one.strip() for one in among], ensure_ascii=False)}.index({output}.strip()) }}}}"
        written |= {"output_type": "multiple_choice", "doc_to_choice": among, "doc_to_target": target}
        if behind:
            fewshot["doc_to_choice"] = [one + behind for one in among]
    else:
        written |= {"output_type": "generate_until", "doc_to_target": f"{{{{{output}}}}}"}
        stop = behind.strip() or between.strip() or "\n"
        written["generation_kwargs"] = {"until": [stop], "do_sample": False}
        written["metric_list"] = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
        if behind:
            fewshot["doc_to_target"] = f"{{{{{output}}}}}" + _raw(behind)
    return written


def _raw(text: str) -> str:
    """Return a text that Jinja writes as it stands."""
    return f"{{% raw %}}{text}{{% endraw %}}" if "{" in text else text
