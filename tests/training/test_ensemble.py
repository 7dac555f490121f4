"""Every run of an ensemble is the run alone, whatever the runs differ in."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.tiny_runs import tiny

from iclens.attention import ATTENTIONS
from iclens.errors import UserError
from iclens.training.config import RunConfig
from iclens.training.ensemble import Ensemble, run_model, usable_device
from iclens.training.prompts import PromptStream, evaluation_prompts
from iclens.training.shapes import shape_key

STEPS = 4


def trained(configs, steps=STEPS):
    ensemble = Ensemble(configs)
    losses = [ensemble.step() for _ in range(steps)]
    return ensemble, torch.stack(losses) if losses else torch.zeros(0, len(configs))


def compared(tensors, config):
    """Parameters without what is nothing but rounding.

    Softmax attention does not depend on a bias of all keys: its gradient is zero but for rounding, and Adam divides it
    by its own size.
    """
    if not config.training.optimizer.startswith("adam") or config.model.options.get("attention") == "linear":
        return tensors
    return {
        name: value.unflatten(-1, (3, -1))[..., [0, 2], :] if name.endswith("qkv.bias") else value
        for name, value in tensors.items()
    }


def assert_same(found, expected, config, tolerance):
    found, expected = compared(found, config), compared(expected, config)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_each_as_alone(configs, steps=STEPS, tolerance=1e-9):
    together, losses = trained(configs, steps)
    for run, config in enumerate(configs):
        alone, loss = trained([config], steps)
        torch.testing.assert_close(losses[:, run], loss[:, 0], rtol=tolerance, atol=tolerance, equal_nan=True)
        assert_same(together.tensors(run), alone.tensors(0), config, tolerance)
    return together


# Per variant the options of three runs: fixed and learned strengths, one number or one for each head.
VARIANTS = {
    "softmax": [{}, {}, {}],
    "linear": [{}, {}, {}],
    "linear elu": [{"features": "elu"}] * 3,
    "regularized": [{}, {"alpha": 0.3}, {"alpha": [-0.5, 0.2]}],
    "regularized learned": [{"alpha": alpha, "learned": True} for alpha in (0.0, 0.3, -0.5)],
    "regularized learned heads": [{"alpha": [0.1, alpha], "learned": True} for alpha in (0.0, 0.3, -0.5)],
    "weight-decay": [{"alpha": 0.0}, {"alpha": 0.3}, {"alpha": -0.5}],
    "weight-decay learned": [{"alpha": alpha, "learned": True} for alpha in (0.0, 0.3, -0.5)],
    "negative": [{"beta": beta} for beta in (0.0, 0.1, 0.5)],
    "negative learned": [{"beta": beta, "learned": True} for beta in (0.0, 0.1, 0.5)],
    **{
        f"negative {construction} {selection}": [
            {"beta": beta, "n_negatives": 2, "construction": construction, "selection": selection}
            for beta in (0.0, 0.1, 0.5)
        ]
        for construction in ("lowest", "hardest", "dissimilar", "random", "noise", "learned")
        for selection in ("query", "key")
    },
    "scale-matched": [{"strength": strength} for strength in (0.0, 0.1, 0.5)],
    **{
        f"augmented {name}": [{"g1": {"name": name}, "g2": {"name": name}}] * 3 for name in ("adapter", "conv1d", "mlp")
    },
    "augmented per head": [{"g2": {"name": "adapter", "per_head": True, "activation": "tanh"}}] * 3,
    "parameter-matched": [{"g1": "adapter", "g2": "mlp"}] * 3,
    "kernel-ridge": [{}, {"strength": 0.2}, {"strength": [0.0, 0.9]}],
    "kernel-ridge learned": [{"strength": strength, "learned": True} for strength in (0.0, 0.3, 0.9)],
    "preconditioned": [{}, {"rate": 0.2}, {"rate": [0.0, 0.9]}],
    "preconditioned learned": [{"rate": rate, "learned": True} for rate in (0.0, 0.3, 0.9)],
    "delta-rule": [{}, {"rate": 0.2}, {"rate": [0.0, 0.9]}],
    "delta-rule learned": [{"rate": rate, "learned": True} for rate in (0.0, 0.3, 0.9)],
    "hebbian": [{}, {"rate": 0.2}, {"rate": [0.0, 0.9]}],
    "momentum": [{}, {"momentum": 0.2}, {"momentum": [0.0, 0.9]}],
    "momentum mirrored": [{"momentum": momentum, "mirrored": True} for momentum in (0.0, 0.3, 0.9)],
    "mass-matched": [{"of": "preconditioned", "of_options": {"rate": 0.5, "learned": True}}] * 3,
    "composed": [
        {"parts": [{"name": "negative", "beta": beta}, {"name": "regularized", "alpha": alpha, "learned": True}]}
        for beta, alpha in ((0.0, 0.1), (0.1, 0.2), (0.5, -0.3))
    ],
    "composed augmented": [
        {"parts": [{"name": "augmented", "g1": "adapter"}, {"name": "negative", "beta": beta}]}
        for beta in (0.0, 0.1, 0.5)
    ],
}


def test_every_registered_variant_is_tried():
    assert {name.split()[0] for name in VARIANTS} >= set(ATTENTIONS)


@pytest.mark.parametrize("name", VARIANTS)
def test_any_attention(name):
    configs = [
        tiny(seed=run, model={"attention": name.split()[0], "attention_options": options})
        for run, options in enumerate(VARIANTS[name])
    ]
    assert_each_as_alone(configs)


OF_RUN = st.fixed_dictionaries(
    {
        "learning_rate": st.floats(1e-4, 0.05),
        "weight_decay": st.sampled_from([0.0, 0.01, 0.2]),
        "clip": st.sampled_from([0.0, 0.1, 10.0]),
        "warmup": st.integers(0, 6),
        "schedule": st.sampled_from(["constant", "cosine", "linear"]),
        "rates": st.dictionaries(st.sampled_from(["read_out", "blocks", "bias"]), st.floats(0, 3), max_size=2),
    }
)


@st.composite
def ensembles(draw):
    """Two or three runs that differ in all that runs of one ensemble may differ in."""
    optimizer = draw(st.sampled_from(["adam", "adamw", "sgd", "gd"]))
    every_prefix = draw(st.booleans())
    masks_heads = draw(st.booleans())
    model = {
        "norm": draw(st.sampled_from(["pre", "post", "none"])),
        "tokens": "interleaved" if every_prefix else "joint",
        "positions": draw(st.sampled_from(["learned", "none"])),
        "max_points": 9,
        "n_layers": draw(st.integers(1, 2)),
        "ffn_width": draw(st.sampled_from([0, 8])),
        "bias": draw(st.booleans()),
        "query_in_keys": draw(st.booleans()),
        "head_width": 3 if masks_heads else 0,
        "attention": draw(st.sampled_from(["softmax", "regularized", "linear"])),
    }
    training = {"optimizer": optimizer, "loss": "every-prefix" if every_prefix else draw(st.just("query"))}
    curriculum = {}
    if optimizer != "gd" and draw(st.booleans()):
        curriculum = {"every": 2, "d_start": 1, "n_start": 2, "n_step": 1}
    configs = []
    for _ in range(draw(st.integers(2, 3))):
        own, own_model = draw(OF_RUN), {}
        if optimizer in ("sgd", "gd"):
            own["momentum"] = draw(st.sampled_from([0.0, 0.9]))
        else:
            own["betas"] = draw(st.sampled_from([(0.9, 0.999), (0.5, 0.9)]))
        if not model["bias"]:
            own["rates"].pop("bias", None)
        # Without demonstrations attention has nothing to learn, and Adam magnifies the rounding of its zero gradients.
        own["n_context"] = draw(st.integers(int("adam" in optimizer), 8)) if every_prefix else 5
        if masks_heads and draw(st.booleans()):
            own_model["n_heads"] = draw(st.integers(1, 4))
        if model["attention"] == "regularized" and draw(st.booleans()):
            own_model["attention_options"] = {"alpha": draw(st.floats(-0.5, 0.5))}
        task = {"noise_std": draw(st.sampled_from([0.0, 0.5])), "inputs": draw(st.sampled_from(["normal", "uniform"]))}
        configs.append(
            {
                "seed": draw(st.integers(0, 5)),
                "task": task,
                "model": {**model, "n_heads": 2 if not masks_heads else 1, **own_model},
                "training": {**training, **own},
                "curriculum": curriculum,
            }
        )
    return configs


@given(tables=ensembles())
@settings(max_examples=15, deadline=None)
def test_anything_that_may_differ(tables):
    assert_each_as_alone([tiny(**one) for one in tables])


def test_a_default_is_a_default_beside_runs_that_say_otherwise():
    """What one run names, another one need not."""
    several = tiny(model={"head_width": 4, "n_heads": 3})
    plain = json.loads(json.dumps(several.to_dict()))
    del plain["model"]["n_heads"]
    one = type(several).from_dict(plain)
    assert one.to_dict()["model"]["n_heads"] == 1
    together = assert_each_as_alone([several, one, tiny(model={"head_width": 4, "n_heads": 2})])
    assert together.tensors(1)["blocks.0.qkv.weight"].shape == (8, 12)

    strong = tiny(model={"attention": "regularized", "attention_options": {"alpha": 0.5}})
    default = tiny(model={"attention": "regularized"})
    for configs in ([strong, default], [default, strong]):
        assert_each_as_alone(configs)


@pytest.mark.parametrize("optimizer", ["sgd", "gd", "adam", "adamw"])
def test_single_precision(optimizer):
    """Losses only where Adam divides by gradients that are zero but for rounding: those of the keys' biases."""
    training = {"dtype": "float32", "optimizer": optimizer, "momentum": 0.5 if optimizer in ("sgd", "gd") else 0.0}
    configs = [tiny(seed=seed, training={**training, "learning_rate": 0.02 * (seed + 1)}) for seed in range(3)]
    together, losses = trained(configs)
    assert losses.dtype == torch.float32
    for run, config in enumerate(configs):
        alone, loss = trained([config])
        torch.testing.assert_close(losses[:, run], loss[:, 0], rtol=1e-4, atol=1e-5)
        if optimizer in ("sgd", "gd"):
            for name, value in alone.tensors(0).items():
                torch.testing.assert_close(together.tensors(run)[name], value, rtol=1e-5, atol=1e-6)


def test_mixed_precision():
    """Updates agree to the precision of bfloat16; parameters stay in single precision."""
    training = {"dtype": "bfloat16", "optimizer": "sgd", "batch": 16}
    configs = [tiny(seed=seed, training=training) for seed in range(3)]
    together, _ = trained(configs)
    for run, config in enumerate(configs):
        before = Ensemble([config]).tensors(0)
        alone = trained([config])[0].tensors(0)
        assert {value.dtype for value in alone.values()} == {torch.float32}
        update, other = (
            torch.cat([(tensors[name] - value).flatten() for name, value in before.items()])
            for tensors in (alone, together.tensors(run))
        )
        assert (update - other).norm() <= 0.05 * update.norm()
    exact = trained([tiny(seed=0, training={**training, "dtype": "float32"})])[0].tensors(0)
    assert any(not torch.equal(exact[name], value) for name, value in together.tensors(0).items())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_diverged_run_leaves_the_others_alone(optimizer):
    configs = [
        tiny(seed=seed, training={"optimizer": optimizer, "learning_rate": rate, "steps": 12}, model={"norm": "none"})
        for seed, rate in enumerate([1e-2, 1e8, 1e-3])
    ]
    together = assert_each_as_alone(configs, steps=8, tolerance=1e-6)
    at = together.diverged_at.tolist()
    assert at[0] == at[2] == -1
    assert 0 <= at[1] < 8
    assert together.alive.tolist() == [True, False, True]
    assert all(value.isfinite().all() for value in together.tensors(1).values())
    assert math.isnan(together.step()[1])
    # It keeps what it had: nothing changes any more.
    assert_same(together.tensors(1), trained([configs[1]], at[1])[0].tensors(0), configs[1], 1e-6)


def test_the_order_of_the_runs_does_not_matter():
    configs = [tiny(seed=seed, training={"learning_rate": 0.01 * (seed + 1)}) for seed in range(3)]
    forwards, backwards = trained(configs)[0], trained(configs[::-1])[0]
    for run in range(3):
        assert_same(forwards.tensors(run), backwards.tensors(2 - run), configs[run], 1e-9)


def test_runs_of_equal_seeds_are_equal_and_of_others_not():
    together, _ = trained([tiny(seed=1), tiny(seed=1), tiny(seed=2)])
    first, same, other = (together.tensors(run) for run in range(3))
    assert_same(first, same, tiny(), 1e-9)
    assert not torch.allclose(first["read_in.weight"], other["read_in.weight"])


def test_missing_heads_never_learn():
    configs = [tiny(seed=seed, model={"head_width": 3, "n_heads": heads}) for seed, heads in enumerate((1, 4))]
    together, _ = trained(configs)
    parameters = dict(together.model.named_parameters())
    split = parameters["blocks.0.qkv.weight"][0].unflatten(-1, (3, 4, 3))
    assert split[:, :, 0].any()
    assert not split[:, :, 1:].any()
    assert not parameters["blocks.0.out.weight"][0, 3:].any()
    assert parameters["blocks.0.out.weight"][1, 3:].any()


def test_evaluation_prompts_are_always_the_same_and_of_full_length():
    changes = {"n_context": 7, "evaluation_prompts": 150}
    config = tiny(training=changes, curriculum={"every": 1, "d_start": 1, "n_start": 1})
    ensemble = Ensemble([config])
    first = ensemble.evaluate()[0]
    assert first.shape == (8,)
    assert torch.equal(first, ensemble.evaluate()[0])
    prompt = evaluation_prompts(config, config.make_task())
    answers = ensemble.alone(0)(prompt.inputs.unsqueeze(0), prompt.labels.unsqueeze(0))[0]
    torch.testing.assert_close(first, (answers - prompt.labels).square().sum(-1).mean(0))


def test_a_finished_run_becomes_a_model_again():
    config = tiny(seed=3)
    ensemble, _ = trained([config])
    model = run_model(config, ensemble.tensors(0))
    prompt = evaluation_prompts(config, config.make_task())
    torch.testing.assert_close(
        model(prompt.inputs.unsqueeze(0), prompt.labels.unsqueeze(0)),
        ensemble.model(prompt.inputs.unsqueeze(0), prompt.labels.unsqueeze(0)),
    )
    with pytest.raises(UserError, match=r"stored parameters do not fit .*size mismatch"):
        run_model(tiny(model={"width": 4}), ensemble.tensors(0))


def test_cross_entropy_is_that_of_torch():
    config = RunConfig.from_dict(
        {
            "task": {"name": "clusters", "d": 3, "n_classes": 3},
            "model": {"width": 8},
            "training": {"loss_kind": "cross-entropy", "n_context": 4, "batch": 5, "dtype": "float64"},
        }
    )
    ensemble = Ensemble([config])
    inputs, labels = PromptStream([config], ensemble.tasks, ensemble.device).at(0)
    answers = ensemble.model(inputs, labels)[0]
    expected = torch.nn.functional.cross_entropy(answers.flatten(0, 1), labels[0].flatten(0, 1).argmax(-1))
    torch.testing.assert_close(ensemble.step()[0], expected.detach())


# Changes of one run with which it trains beside an unchanged one, and changes with which it does not.
TOGETHER = [
    {"seed": 5},
    {"task": {"noise_std": 1.0}},
    {"task": {"name": "sparse-linear", "n_nonzero": 2, "noise_std": 0.0}},
    {"training": {"learning_rate": 0.5}},
    {"training": {"weight_decay": 0.1, "clip": 1.0, "warmup": 3, "schedule": "cosine", "betas": (0.5, 0.9)}},
    {"training": {"rates": {"read_out": 2.0}}},
    {"training": {"n_context": 9}},
    {"shift": {"name": "scale-inputs", "factor": 2.0}},
    {"model": {"attention_options": {"alpha": 0.5}}},
    {"model": {"attention_options": {"alpha": [0.5, 0.1]}}},
]
APART = [
    {"task": {"d": 4}},
    {"task": {"d_y": 2}},
    {"model": {"width": 16}},
    {"model": {"n_heads": 1}},
    {"model": {"n_layers": 2}},
    {"model": {"norm": "post"}},
    {"model": {"attention": "softmax"}},
    {"model": {"attention_options": {"learned": True}}},
    {"model": {"tokens": "joint"}, "training": {"loss": "query"}},
    {"training": {"loss": "query"}},
    {"training": {"optimizer": "sgd"}},
    {"training": {"batch": 8}},
    {"training": {"steps": 9}},
    {"training": {"dtype": "float32"}},
    {"training": {"evaluate_every": 3}},
    {"curriculum": {"every": 4}},
]


def changed(change):
    base = {"model": {"attention": "regularized"}}
    both = {**base, **change}
    both["model"] = {**base["model"], **change.get("model", {})}
    return tiny(**both)


@pytest.mark.parametrize("change", TOGETHER, ids=str)
def test_runs_with_equal_keys_train_together(change):
    configs = [changed({}), changed(change)]
    assert shape_key(configs[0]) == shape_key(configs[1])
    together = assert_each_as_alone(configs, steps=2)
    errors = trained(configs[1:], 2)[0].evaluate()[0]
    torch.testing.assert_close(together.evaluate()[1], errors, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(together.evaluate([1])[0], errors, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("change", APART, ids=str)
def test_runs_with_other_keys_do_not(change):
    configs = [changed({}), changed(change)]
    assert shape_key(configs[0]) != shape_key(configs[1])
    with pytest.raises(UserError, match="must have one shape"):
        Ensemble(configs)


def test_learned_strengths_of_heads_and_of_a_layer_do_not_train_together():
    of = [
        tiny(model={"attention": "regularized", "attention_options": {"alpha": alpha, "learned": True}})
        for alpha in (0.1, [0.1, 0.2])
    ]
    assert shape_key(of[0]) != shape_key(of[1])


def test_what_cannot_be_an_ensemble_is_refused():
    with pytest.raises(UserError, match="at least one run"):
        Ensemble([])
    with pytest.raises(UserError, match=r"answers the query only: set training\.loss=.query."):
        Ensemble([tiny(model={"tokens": "joint"})])


@pytest.mark.parametrize("name", ["gpu", "meta", "cpu:x"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(UserError, match=r"unknown device .*use cpu, cuda"):
        Ensemble([tiny()], name)


def test_a_device_that_the_machine_lacks_is_refused(monkeypatch):
    for count, said in ((0, "no GPU that torch can use"), (1, "has 1 GPU"), (3, "has 3 GPUs")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with pytest.raises(UserError, match=said):
            usable_device("cuda:3" if count else "cuda")
    assert usable_device("cuda:2") == torch.device("cuda:2")
    assert usable_device("cpu") == torch.device("cpu")
