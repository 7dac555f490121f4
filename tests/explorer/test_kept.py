"""The lens of a question is shared by its views: passes are counted, numbers depend on the question alone."""

from contextlib import contextmanager

import pytest
import torch
from tests.explorer.test_recreate import floats

import iclens
from iclens.benchmarks.few_shot import ANSWERS as FEW_SHOT_ANSWERS
from iclens.benchmarks.few_shot import few_shot
from iclens.benchmarks.llama_shaped import SMALL, llama_model
from iclens.cli.main import main
from iclens.explorer.app import VIEWS
from iclens.explorer.ask import Ask
from iclens.explorer.viewed import Kept
from iclens.training.default_dtype import default_dtype

TEXT = "cat is vux .\n\napple is nef .\n\ndog is vux .\n\nhorse is"
ASKED = {"text": TEXT, "answers": ["vux", "nef"]}


@contextmanager
def counted(model):
    """Shapes of the tokens of every call of the model, and whether the lens's own attention ran in it."""
    calls = []

    def count(module, arguments, options):
        ids = arguments[0] if arguments else options["input_ids"]
        calls.append((ids.shape, module.config._attn_implementation not in ("eager", "sdpa")))

    handle = model.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def edit(kept, asked):
    """All views of an edit, as the page asks for them one after another."""
    for name, view in VIEWS.items():
        ask = Ask.read({**asked, "layer": 0, "head": 1} if name == "head" else asked)
        view(kept.of(ask), ask)


@pytest.fixture(scope="module")
def llama():
    """A model that is not certain of any answer."""
    with default_dtype(torch.float32):
        return llama_model(SMALL)


@pytest.mark.parametrize(("off", "whole"), [([], 3), ([1], 4), ([0, 2], 4)])
def test_an_edit_is_one_traced_pass_and_few_others(llama, off, whole):
    asked = {"text": few_shot(3, 5, 4), "answers": list(FEW_SHOT_ANSWERS)}
    n = Kept(llama).of(Ask.read(asked)).lens.tokenized.n_tokens
    with counted(llama) as calls:
        edit(Kept(llama), {**asked, "off": off})
    # The influence is read in a pass of its own, at other weights.
    assert [shape for shape, own in calls if own].count((1, n)) == 2
    # The query alone runs once for each set that is knocked out; without what is off the prompt is shorter.
    assert len([shape for shape, _ in calls if shape[1] > n // 3]) == whole
    assert sum(shape.numel() for shape, _ in calls) <= (5 if off else 4) * n


def test_a_glance_is_one_pass(llama):
    asked = Ask.read({"text": few_shot(3, 5, 4), "answers": list(FEW_SHOT_ANSWERS)})
    with counted(llama) as calls:
        VIEWS["glance"](Kept(llama).of(asked), asked)
    assert len(calls) == 1


def test_a_demonstration_that_is_switched_needs_no_new_trace(model):
    kept = Kept(model)
    edit(kept, ASKED)
    n = kept.of(Ask.read(ASKED)).lens.tokenized.n_tokens
    with counted(model) as calls:
        edit(kept, {**ASKED, "off": [2]})
    assert max(shape[1] for shape, _ in calls) < n


def test_a_page_beside_an_explanation_runs_the_model_no_more(model, tmp_path):
    explanation = iclens.explain(model, TEXT, answers=ASKED["answers"])
    with counted(model) as calls:
        explanation.save(tmp_path / "page.html")
    assert calls == []


def test_the_command_writes_its_page_without_further_passes(monkeypatch, tmp_path, capsys):
    (tmp_path / "prompt.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    arguments = ["explain", "--prompt", "prompt.txt", "--answers", "vux", "nef"]
    costs = []
    for further in ([], ["--html", "page.html"]):
        calls = []
        handle = torch.nn.modules.module.register_module_forward_pre_hook(
            lambda module, inputs, calls=calls: calls.append(module) if hasattr(module, "lm_head") else None
        )
        try:
            assert main([*arguments, *further]) == 0
        finally:
            handle.remove()
        costs.append(len(calls))
    assert costs[0] == costs[1] > 0


PAIRS = [{"input": "cat", "output": "vux"}, {"input": "apple", "output": "nef"}]


def questions():
    """Questions that differ in one thing that the numbers depend on."""
    yield ASKED
    yield {**ASKED, "answers": ["vux", "nef", "zup"]}
    yield {**ASKED, "answers": ["nef", "vux"]}
    yield {**ASKED, "answer": "nef"}
    yield {"text": TEXT}
    yield {"text": TEXT.replace("\n\n", "\n\n\n", 1), "answers": ["vux", "nef"]}
    yield {"text": TEXT, "instruction_blocks": 1, "answers": ["vux", "nef"]}
    yield {"demonstrations": PAIRS, "query": "horse", "template": "{input} is {output} .", "answers": ["vux", "nef"]}
    yield {"text": "cat is vux .\n\napple is nef .\n\nhorse is", "answers": ["vux", "nef"]}


def test_what_a_question_gets_does_not_depend_on_who_asked_before(model):
    shared = Kept(model, most_tokens=10_000)
    for asked in [*questions(), *questions()]:
        ask = Ask.read(asked)
        found, own = (VIEWS["explain"](kept.of(ask), ask) for kept in (shared, Kept(model)))
        for name in ("margin", "tokens", "candidates", "sources", "others"):
            assert floats(found[name]) == floats(own[name]), name
        assert found["command"] == own["command"]
        assert shared.of(ask) is shared.of(ask)
    assert len({id(shared.of(Ask.read(asked))) for asked in questions()}) == len(list(questions()))


def test_one_lens_serves_all_that_is_off_or_looked_at(model):
    kept = Kept(model)
    first = kept.of(Ask.read(ASKED))
    assert kept.of(Ask.read({**ASKED, "off": [1]})) is first
    assert kept.of(Ask.read({**ASKED, "layer": 2, "head": 1})) is first
    assert kept.of(Ask.read({**ASKED, "answer": "nef"})) is not first


def asked_about(query):
    return Ask.read({**ASKED, "text": TEXT.replace("horse", query)})


def test_the_lenses_that_were_used_last_are_kept_up_to_their_tokens(model):
    n = Kept(model).of(asked_about("horse")).lens.tokenized.n_tokens
    kept = Kept(model, most_tokens=2 * n + 1)
    horse, dog = (kept.of(asked_about(query)) for query in ("horse", "dog"))
    assert kept.of(asked_about("horse")) is horse
    kept.of(asked_about("cat"))
    assert kept.of(asked_about("horse")) is horse
    assert kept.of(asked_about("dog")) is not dog


def test_of_long_prompts_the_newest_lens_alone_is_kept(model):
    kept = Kept(model, most_tokens=1)
    horse = kept.of(asked_about("horse"))
    assert kept.of(asked_about("horse")) is horse
    kept.of(asked_about("dog"))
    assert kept.of(asked_about("horse")) is not horse
