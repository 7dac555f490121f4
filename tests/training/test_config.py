"""Equal configurations are one run, and a mistake is answered with its place and with what would be right."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.training.tiny_runs import tiny

from iclens.attention import ATTENTIONS
from iclens.errors import UserError
from iclens.models.model import MODELS
from iclens.tasks.shifts import SHIFTS
from iclens.tasks.task import TASKS
from iclens.training.config import Chosen, Curriculum, RunConfig, Training
from iclens.training.typed_values import converted


def refused(data, message):
    with pytest.raises(UserError, match=message) as found:
        RunConfig.from_dict(data).check()
    text = str(found.value)
    assert text.endswith(".")
    assert "\n" not in text


def test_nothing_said_is_a_run():
    config = RunConfig.from_dict({})
    assert config == RunConfig()
    config.check()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_is_read_back_and_is_the_same_run(name):
    config = RunConfig.from_dict({"task": {"name": name}})
    config.make_task()
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.key() == config.key()
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_is_read_back_and_is_the_same_run(name):
    config = RunConfig.from_dict({"model": {"name": name}})
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.key() == config.key()


@pytest.mark.parametrize("name", sorted(SHIFTS))
def test_every_shift_is_read_back_and_is_the_same_run(name):
    config = RunConfig.from_dict({"shift": {"name": name}})
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.key() == config.key() != RunConfig().key()


def test_defaults_written_out_are_the_same_run():
    plain = tiny(seed=3)
    full = RunConfig.from_dict(plain.to_dict())
    assert full.key() == plain.key()
    assert len(full.model.options) > len(plain.model.options)


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({"training": {"learning_rate": 1}}, {"training": {"learning_rate": 1.0}}),
        ({"task": {"noise_std": 1}}, {"task": {"noise_std": 1.0}}),
        ({"training": {"rates": {"read_out": 2}}}, {"training": {"rates": {"read_out": 2.0}}}),
        ({"training": {"betas": [0, 0.9]}}, {"training": {"betas": (0.0, 0.9)}}),
        ({"shift": {"name": "scale-inputs", "factor": 2}}, {"shift": {"name": "scale-inputs", "factor": 2.0}}),
        ({"model": {"attention_options": {}}}, {}),
        (
            {"model": {"attention": "regularized", "attention_options": {"alpha": 1}}},
            {"model": {"attention": "regularized", "attention_options": {"alpha": 1.0}}},
        ),
    ],
)
def test_two_ways_to_say_one_thing_are_one_run(one, same):
    assert RunConfig.from_dict(one).key() == RunConfig.from_dict(same).key()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"task": {"d": 4}},
        {"model": {"bias": False}},
        {"model": {"attention": "negative"}},
        {"training": {"clip": 1.0}},
        {"curriculum": {"every": 3}},
        {"shift": {"name": "orthants"}},
    ],
)
def test_another_value_is_another_run(change):
    assert RunConfig.from_dict(change).key() != RunConfig().key()


def test_a_value_that_is_false_or_zero_is_said():
    """It must not be taken for one that is missing."""
    config = RunConfig.from_dict(
        {"model": {"bias": False, "n_layers": 2, "positions": "none"}, "task": {"noise_std": 0}}
    )
    assert config.to_dict()["model"]["bias"] is False
    assert config.to_dict()["task"]["noise_std"] == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"modle": {}}, r"the configuration has no key 'modle'\. Did you mean 'model'\?"),
        ({"training": {"learningrate": 1.0}}, r"training has no key 'learningrate'\. Did you mean 'learning_rate'\?"),
        ({"curriculum": {"evry": 1}}, r"curriculum has no key 'evry'\. Did you mean 'every'\?"),
        ({"task": {"name": "liner"}}, r"unknown task 'liner'\. Did you mean 'linear'\?"),
        ({"model": {"name": "gpt"}}, r"unknown model 'gpt'\. Did you mean 'gpt2'\?"),
        ({"shift": {"name": "orthant"}}, r"unknown shift 'orthant'\. Did you mean 'orthants'\?"),
        ({"task": {"nois_std": 1.0}}, r"task 'linear' has no option 'nois_std'\. Did you mean 'noise_std'\?"),
        ({"model": {"heads": 2}}, r"model 'transformer' has no option 'heads'\. Did you mean 'n_heads'\?"),
        ({"shift": {"name": "scale-inputs", "fact": 2.0}}, r"has no option 'fact'\. Did you mean 'factor'\?"),
        ({"training": {"optimizer": "adamm"}}, r"training\.optimizer='adamm' is not known\. Did you mean 'adam'\?"),
        ({"training": {"loss": "all"}}, r"training\.loss='all' is not known\. Known: every-prefix, query\."),
        ({"model": {"norm": "after"}}, r"model\.norm='after' is not known\. Known: pre, post, none"),
        ({"model": {"attention": "negativ"}}, r"unknown attention variant 'negativ'\. Did you mean 'negative'\?"),
        (
            {"model": {"attention": "negative", "attention_options": {"bta": 1.0}}},
            r"attention variant 'negative' has no option 'bta'\. Did you mean 'beta'\?",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(data, message):
    refused(data, message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"seed": 1.5}, r"seed=1\.5 must be a whole number from 0"),
        ({"seed": True}, r"seed=True must be a whole number"),
        ({"seed": -1}, r"seed=-1 must be a whole number from 0"),
        ({"task": "linear"}, r"task must be a table with a name, not 'linear'"),
        ({"task": {"name": 3}}, r"task\.name=3 must be a name"),
        ({"shift": {}}, r"shift\.name=None must be a name"),
        ({"training": [1]}, r"training must be a table of keys and values, not \[1\]"),
        ({"training": {"steps": 2.5}}, r"training\.steps=2\.5 must be of type int"),
        ({"training": {"steps": "many"}}, r"training\.steps='many' must be of type int"),
        ({"training": {"steps": True}}, r"training\.steps=True must be of type int"),
        ({"training": {"compile": 1}}, r"training\.compile=1 must be of type bool"),
        ({"training": {"learning_rate": "fast"}}, r"training\.learning_rate='fast' must be of type float"),
        ({"training": {"learning_rate": True}}, r"training\.learning_rate=True must be of type float"),
        ({"training": {"betas": [0.9]}}, r"training\.betas=\[0\.9\] must have 2 entries"),
        ({"training": {"betas": 0.9}}, r"training\.betas=0\.9 must be of type list"),
        ({"training": {"betas": [0.9, "x"]}}, r"training\.betas='x' must be of type float"),
        ({"training": {"rates": 2.0}}, r"training\.rates=2\.0 must be of type table"),
        ({"training": {"rates": {"read_out": "x"}}}, r"training\.rates\.read_out='x' must be of type float"),
        ({"task": {"d": 2.0}}, r"task\.d=2\.0 must be of type int"),
        ({"task": {"noise_std": "a"}}, r"task\.noise_std='a' must be of type float"),
        ({"task": {"name": "polynomial", "d": "x"}}, r"task\.d='x' must be of type int"),
        ({"model": {"n_heads": "two"}}, r"model\.n_heads='two' must be of type int"),
        ({"model": {"n_heads": [1, 2]}}, r"model\.n_heads=\[1, 2\] must be of type int"),
        ({"model": {"bias": "yes"}}, r"model\.bias='yes' must be of type bool"),
        ({"model": {"attention_options": 3}}, r"model\.attention_options=3 must be of type table"),
        ({"model": {"name": "dictionary", "tokens": [[1.0]]}}, r"model\.tokens=\[\[1\.0\]\] must be of type"),
        ({"shift": {"name": "scale-inputs", "factor": "x"}}, r"shift\.factor='x' must be of type float"),
        (
            {"model": {"attention": "negative", "attention_options": {"beta": "strong"}}},
            r"model\.attention_options\.beta='strong' must be of type float or list",
        ),
        (
            {"model": {"attention": "negative", "attention_options": {"beta": [[0.1]]}}},
            r"model\.attention_options\.beta=\[\[0\.1\]\] must be of type float or list",
        ),
        (
            {"model": {"attention": "composed", "attention_options": {"parts": [{"name": "negative", "beta": "x"}]}}},
            r"model 'transformer' cannot be made with these options: ",
        ),
    ],
)
def test_a_wrong_type_is_answered_with_its_place(data, message):
    refused(data, message)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("training", "learning_rate"),
        ("training", "clip"),
        ("training", "weight_decay"),
        ("training", "momentum"),
        ("task", "noise_std"),
        ("model", "init_std"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(table, key, value):
    refused({table: {key: value}}, rf"{table}\.{key}=.* must be finite")


def test_options_of_an_attention_have_the_types_that_it_wants():
    def configured(**options):
        model = {"name": "transformer", "attention": "negative", "attention_options": options}
        return RunConfig.from_dict({"model": model})

    assert configured(n_negatives=2, beta=1).model.options["attention_options"] == {"n_negatives": 2, "beta": 1.0}
    with pytest.raises(UserError, match=r"attention_options\.n_negatives"):
        configured(n_negatives="two")


def test_numbers_inside_options_must_be_finite():
    refused({"training": {"betas": [0.9, math.nan]}}, r"training\.betas=nan must be finite")
    refused({"training": {"rates": {"read_out": math.inf}}}, r"training\.rates\.read_out=inf must be finite")
    options = {"attention": "regularized", "attention_options": {"alpha": [0.1, math.nan]}, "n_heads": 2}
    refused({"model": options}, r"alpha=nan must be finite")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        *[({"training": {key: 0}}, rf"training\.{key}=0 must be at least 1") for key in ("steps", "batch")],
        *[
            ({"training": {key: -1}}, rf"training\.{key}=-1.* must not be negative")
            for key in ("n_context", "warmup", "evaluate_every", "clip", "weight_decay")
        ],
        ({"training": {"evaluation_prompts": 0}}, r"training\.evaluation_prompts=0 must be at least 1"),
        ({"training": {"learning_rate": 0}}, r"training\.learning_rate=0\.0 must be positive and finite"),
        ({"training": {"momentum": 1.0}}, r"training\.momentum and training\.betas must lie in \[0, 1\)"),
        ({"training": {"betas": [0.9, 1.0]}}, r"training\.momentum and training\.betas must lie in \[0, 1\)"),
        ({"training": {"rates": {"read_out": -1.0}}}, r"training\.rates\.read_out=-1\.0 must be a finite number, 0 or"),
        (
            {"training": {"rates": {"readout": 2.0}}},
            r"training\.rates\.readout: no parameter has 'readout' in its name",
        ),
        *[
            ({"curriculum": {key: -1}}, rf"curriculum\.{key}=-1 must not be negative")
            for key in ("every", "d_step", "n_start", "n_step")
        ],
        ({"curriculum": {"d_start": 0}}, r"curriculum\.d_start=0 must be at least 1"),
        (
            {"curriculum": {"every": 10}, "training": {"optimizer": "gd"}},
            r"training\.optimizer='gd' trains on one fixed sample, which no curriculum can change",
        ),
        ({"task": {"noise_std": -0.1}}, r"noise_std=-0\.1 must be finite and not negative"),
        ({"task": {"d": 0}}, r"d=0 must be a whole number, at least 1"),
        (
            {
                "task": {"name": "dictionary", "d": 5, "n_tokens": 8, "n_features": 3},
                "model": {"name": "dictionary", "n_tokens": 8},
                "training": {"loss": "query", "n_context": 9},
            },
            r"n_context=9",
        ),
        (
            {"shift": {"name": "orthogonal-query"}, "training": {"n_context": 20}},
            r"n_context=20 must be less than d=20: no query is orthogonal to d demonstrations",
        ),
        ({"model": {"width": 10, "n_heads": 3}}, r"model\.n_heads=3 does not divide model\.width=10; .*head_width"),
        ({"model": {"n_heads": 0}}, r"model\.n_heads=0 must be at least 1"),
        ({"model": {"n_layers": 0}}, r"model\.n_layers=0 must be at least 1"),
        ({"model": {"ffn_width": -1}}, r"model\.ffn_width=-1 must not be negative"),
        ({"model": {"init_std": -1.0}}, r"model\.init_std=-1\.0 must be a finite number, 0 or more"),
        ({"model": {"positions": "learned"}}, r"model\.positions='learned' needs model\.max_points"),
        (
            {"model": {"positions": "learned", "max_points": 20}, "training": {"n_context": 20}},
            r"positions for 20 points and the prompt has 21, the query counted: raise model\.max_points",
        ),
        ({"model": {"embed": False}}, r"model\.embed=false needs tokens='joint' and model\.width=21"),
        ({"model": {"tokens": "joint"}}, r"answers the query only: set training\.loss='query'"),
        ({"model": {"name": "linear-attention"}}, r"answers the query only: set training\.loss='query'"),
        ({"model": {"name": "dictionary"}}, r"answers the query only: set training\.loss='query'"),
    ],
)
def test_an_impossible_configuration_is_refused(data, message):
    refused(data, message)


def test_numbers_that_are_not_finite_are_caught_without_a_file():
    with pytest.raises(UserError, match=r"training\.weight_decay=nan must be finite"):
        Training(weight_decay=math.nan)
    with pytest.raises(UserError, match=r"training\.optimizer='gd' trains on one fixed sample"):
        RunConfig(training=Training(optimizer="gd"), curriculum=Curriculum(every=1))


def test_every_prefix_is_no_matter_for_a_model_that_answers_them():
    RunConfig.from_dict({"model": {"tokens": "joint"}, "training": {"loss": "query"}}).check()
    RunConfig.from_dict({"model": {"name": "linear-attention"}, "training": {"loss": "query"}}).check()
    RunConfig(model=Chosen("transformer", {"n_heads": 2, "width": 8})).check()


@pytest.mark.parametrize("name", sorted(ATTENTIONS))
def test_every_attention_can_be_configured(name):
    options = {"parts": [{"name": "negative"}]} if name == "composed" else {}
    RunConfig.from_dict({"model": {"attention": name, "attention_options": options, "width": 8}}).check()


@given(value=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6))
def test_whole_numbers_serve_as_floats_and_nothing_else_is_converted(value):
    found = converted("x", float, value)
    assert type(found) is float
    assert found == value
    assert converted("x", float | None, value) == value
    assert converted("x", tuple[float, ...], [value, value]) == (found, found)
    assert converted("x", str | float, value) == value
    for annotation in (str, bool, dict[str, int], list[int]):
        with pytest.raises(UserError, match=r"x=.* must be of type"):
            converted("x", annotation, value)
