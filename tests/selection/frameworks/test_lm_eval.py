"""A choice as a task of lm-evaluation-harness, which the real package reads."""

from __future__ import annotations

import copy
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.selection.words import TEMPLATE, draw, learner

from iclens.errors import UserError
from iclens.lens import load
from iclens.selection import Selection, lm_eval_task, select

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    api = pytest.importorskip("lm_eval.api.task")

pytestmark = pytest.mark.filterwarnings("ignore")
KNOWN = draw(3)


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No cache outside of the test's folder, and single precision."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [json.dumps({"input": word, "output": label}) + "\n" for word, label in KNOWN.dev]
    (tmp_path / "test.jsonl").write_text("".join(rows))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def chosen(**options: Any) -> Selection:
    asked: dict[str, Any] = {"k": 4, "template": TEMPLATE, "candidates": KNOWN.labels, "against": None, "budget": 20.0}
    return select(learner(), KNOWN.pool, KNOWN.dev, **asked | options)


def harness(text: str) -> Any:
    return api.ConfigurableTask(config=yaml.safe_load(text))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"template": "Word: {input}\nLabel: {output}", "instruction": "Say {{the}} label."},
        {"template": "{{% {input} => {output} %}}", "separator": "\n"},
    ],
)
def test_the_context_is_the_chosen_prompt(options: dict[str, Any], tmp_path: Path) -> None:
    found = chosen(**options)
    task = harness(lm_eval_task(found, tmp_path / "test.jsonl"))
    assert task.config.num_fewshot == 4
    for doc in list(task.test_docs())[:3]:
        context = task.fewshot_context(doc, 4)
        assert context == found.prompt.format(input=doc["input"])
        requests = task.construct_requests(doc, context, doc_id=0, metadata=("t", 0, 1))
        asked = [one.args for one in requests]
        assert asked == [(context, f" {one}") for one in found.candidates]
        right = task.process_results(doc, [(-float(one != doc["output"]), False) for one in found.candidates])
        assert right["acc"] == 1.0


def test_the_harness_reaches_what_was_measured(tmp_path: Path) -> None:
    """Its own run of the task, with the same model, on the examples that took no part."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = chosen(template="{input} is {output}")
    rows = [json.dumps(dict(zip(("input", "output"), KNOWN.dev[i], strict=True))) + "\n" for i in found.set_aside]
    (tmp_path / "aside.jsonl").write_text("".join(rows))
    (tmp_path / "chosen.yaml").write_text(lm_eval_task(found, tmp_path / "aside.jsonl"))
    done = lm_eval.simple_evaluate(
        model=HFLM(pretrained=learner().model, tokenizer=learner().tokenizer, batch_size=1),
        tasks=["chosen_demonstrations"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    assert done["results"]["chosen_demonstrations"]["acc,none"] == found.held_out.after.metric.mean
    losses = []
    for sample in done["samples"]["chosen_demonstrations"]:
        said = torch.tensor([float(one[0]) for one in sample["filtered_resps"]], dtype=torch.float64)
        losses.append(float(said.logsumexp(0) - said[int(sample["target"])]))
    assert sum(losses) / len(losses) == pytest.approx(found.held_out.after.log_loss.mean, abs=1e-5)


def test_free_answers_are_generated_up_to_what_ends_an_output(tmp_path: Path) -> None:
    pool = [(word, f"{word} {label}") for word, label in KNOWN.pool]
    dev = [(word, f"{word} {label}") for word, label in KNOWN.dev]
    found = select(learner(), pool, dev, k=3, template=TEMPLATE, against=None, budget=20.0)
    assert found.candidates == ()
    task = harness(lm_eval_task(found, tmp_path / "test.jsonl"))
    doc = task.test_docs()[0]
    assert task.fewshot_context(doc, 3) == found.prompt.format(input=doc["input"])
    assert task.config.generation_kwargs["until"] == ["."]
    assert task.process_results(doc, [doc["output"]]) == {"exact_match": 1.0}


def test_another_task_takes_the_examples_under_its_own_names(tmp_path: Path) -> None:
    """A task of one's own, as the harness has them: the label is a number."""
    among = list(KNOWN.labels)
    rows = [json.dumps({"text": word, "label": among.index(label)}) + "\n" for word, label in KNOWN.dev]
    (tmp_path / "own.jsonl").write_text("".join(rows))
    base = {
        "task": "own", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "own.jsonl")}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{text}} is", "doc_to_target": "label",
        "doc_to_choice": among,
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(base))
    found = chosen()
    text = lm_eval_task(
        found, base="own.yaml", input_field="text", output_field="label",
        outputs={label: i for i, label in enumerate(among)},
    )  # fmt: skip
    assert yaml.safe_load(text)["include"] == "own.yaml"
    (tmp_path / "chosen.yaml").write_text(text)
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    (task,) = manager.load_task_or_group("chosen_demonstrations").values()
    context = task.fewshot_context(task.test_docs()[0], 4)
    shots = [KNOWN.pool[i] for i in found.indices]
    assert context == "\n\n".join([*(f"{word} is {label}" for word, label in shots), f"{KNOWN.dev[0][0]} is"])


def test_a_chat_is_written_by_the_template_that_the_harness_is_given(tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(learner().tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    asked: dict[str, Any] = {"k": 4, "candidates": KNOWN.labels, "against": None, "budget": 20.0}
    model = load(learner().model, tokenizer=tokenizer)
    found = select(model, KNOWN.pool, KNOWN.dev, as_chat=True, instruction="plum is nef .", **asked)
    task = harness(lm_eval_task(found, tmp_path / "test.jsonl"))
    doc = task.test_docs()[0]
    write = partial(tokenizer.apply_chat_template, tokenize=False)
    context = task.fewshot_context(doc, 4, apply_chat_template=True, fewshot_as_multiturn=True, chat_template=write)
    assert context == found.prompt.format(input=doc["input"])


def test_a_test_file_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"test\.csv: .* are a \.jsonl file"):
        lm_eval_task(chosen(), "test.csv")
