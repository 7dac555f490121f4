"""What every model for prompts obeys: no answer sees its own label or what comes after it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.attention import ATTENTIONS
from iclens.dual import ACTIVATIONS, FeedForward
from iclens.errors import UserError
from iclens.models.model import MODELS, build_model
from iclens.models.tokens import interleaved, joint, pairs
from iclens.tasks.task import build_task

SMALL = {
    "transformer": {"width": 8, "n_heads": 2, "n_layers": 2, "ffn_width": 8},
    "gpt2": {"width": 8, "n_heads": 2, "n_layers": 2, "max_points": 7},
    "dictionary": {"n_heads": 3, "n_tokens": 12},
}
DEPTHS = (1, 2)
OPTIONS = {
    "augmented": {"g1": "adapter", "g2": {"name": "conv1d"}},
    "composed": {"parts": [{"name": "negative", "beta": 0.3}, {"name": "regularized", "alpha": 0.3}]},
    "negative": {"beta": 0.3},
    "regularized": {"alpha": 0.3},
    "weight-decay": {"alpha": 0.3},
}


def prompts(name, seeds, n_points=6, d=3):
    """Prompts that the model can read, (runs, batch, points, width)."""
    task = (
        build_task("dictionary", d=d, n_tokens=12, n_features=3) if name == "dictionary" else build_task("linear", d=d)
    )
    prompt = task.sample(torch.Generator().manual_seed(1), (len(seeds), 4), n_points - 1)
    return prompt.inputs, prompt.labels


def moved(model):
    """Weights away from where they start, so that nothing is zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def small(name, seeds=(0, 1), **options):
    return moved(build_model(name, d=3, d_y=1, seeds=list(seeds), **{**SMALL.get(name, {}), **options}))


def assert_causal(model, inputs, labels):
    answers = model(inputs, labels)
    n_points = inputs.shape[-2]
    if not model.every_prefix:
        assert answers.shape == (*inputs.shape[:2], 1, 1)
        other = labels.clone()
        other[..., -1, :] += 7.0
        torch.testing.assert_close(model(inputs, other), answers, rtol=0, atol=0)
        other[..., 0, :] += 7.0
        assert not torch.allclose(model(inputs, other), answers)
        return
    assert answers.shape == (*inputs.shape[:2], n_points, 1)
    for place in range(n_points):
        x, y = inputs.clone(), labels.clone()
        y[..., place:, :] += 7.0
        x[..., place + 1 :, :] -= 3.0
        changed = model(x, y)
        torch.testing.assert_close(changed[..., : place + 1, :], answers[..., : place + 1, :], rtol=1e-11, atol=1e-11)
        assert place + 1 == n_points or not torch.allclose(changed[..., place + 1 :, :], answers[..., place + 1 :, :])
        shorter = model(inputs[..., : place + 1, :], labels[..., : place + 1, :])
        torch.testing.assert_close(shorter, answers[..., : place + 1, :], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_no_answer_sees_its_label_or_what_comes_after(name):
    assert_causal(small(name), *prompts(name, (0, 1)))


@pytest.mark.parametrize("n_layers", DEPTHS)
@pytest.mark.parametrize("tokens", ["interleaved", "joint", "pairs", "inputs"])
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_no_attention_looks_ahead(attention, tokens, n_layers):
    model = small(
        "transformer", n_layers=n_layers, tokens=tokens, attention=attention, attention_options=OPTIONS.get(attention)
    )
    assert_causal(model, *prompts("transformer", (0, 1)))


@pytest.mark.parametrize("construction", ["lowest", "hardest", "dissimilar", "random", "noise", "learned"])
@pytest.mark.parametrize("selection", ["query", "key"])
def test_no_negatives_come_from_later_tokens(construction, selection):
    options = {"construction": construction, "selection": selection, "beta": 0.5, "n_negatives": 2}
    model = small("transformer", attention="negative", attention_options=options)
    inputs, labels = prompts("transformer", (0, 1))
    answers = model(inputs, labels)
    later = inputs.clone()
    later[..., 3:, :] *= -2.0
    torch.testing.assert_close(model(later, labels)[..., :3, :], answers[..., :3, :], rtol=1e-11, atol=1e-11)


A_STEP_A_TOKEN = {"delta-rule", "momentum", "preconditioned"}
"""Attention whose dual model learns from one token after another: their order is a part of it."""


@pytest.mark.parametrize("query_in_keys", [True, False])
@pytest.mark.parametrize("n_layers", DEPTHS)
@pytest.mark.parametrize("attention", sorted(set(ATTENTIONS) - A_STEP_A_TOKEN))
def test_joint_tokens_have_no_order(attention, n_layers, query_in_keys):
    """Without positions the answer does not depend on the order of the demonstrations."""
    options = {**OPTIONS, "augmented": {"g1": "adapter", "g2": "mlp"}}.get(attention)
    model = small(
        "transformer",
        tokens="joint",
        n_layers=n_layers,
        query_in_keys=query_in_keys,
        attention=attention,
        attention_options=options,
    )
    inputs, labels = prompts("transformer", (0, 1))
    order = torch.tensor([3, 0, 4, 1, 2, 5])
    answers = model(inputs, labels)
    torch.testing.assert_close(model(inputs[..., order, :], labels[..., order, :]), answers, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["linear-attention", "softmax-heads", "dictionary"])
def test_one_layer_models_have_no_order(name):
    model = small(name)
    inputs, labels = prompts(name, (0, 1))
    order = torch.tensor([3, 0, 4, 1, 2, 5])
    torch.testing.assert_close(model(inputs[..., order, :], labels[..., order, :]), model(inputs, labels))


def test_positions_give_joint_tokens_an_order_and_the_query_the_last_place():
    model = small("transformer", tokens="joint", positions="learned", max_points=9)
    inputs, labels = prompts("transformer", (0, 1))
    order = torch.tensor([3, 0, 4, 1, 2, 5])
    assert not torch.allclose(model(inputs[..., order, :], labels[..., order, :]), model(inputs, labels))
    answers = model(inputs, labels)
    with torch.no_grad():
        model.positions[:, :3] += torch.randn(2, 3, 8)
    torch.testing.assert_close(model(inputs, labels), answers)
    with torch.no_grad():
        model.positions[:, -1] += torch.randn(2, 8)
    assert not torch.allclose(model(inputs, labels), answers)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("n_points", [2, 5])
def test_runs_and_prompts_do_not_see_each_other(name, n_points):
    model = small(name, (0, 1, 2))
    inputs, labels = prompts(name, (0, 1, 2), n_points)
    answers = model(inputs, labels)
    for run in range(3):
        for prompt in range(4):
            x, y = inputs.clone(), labels.clone()
            keep = torch.zeros(3, 4, dtype=torch.bool)
            keep[run, prompt] = True
            x[~keep], y[~keep] = x[~keep].flip(-2), -y[~keep]
            torch.testing.assert_close(model(x, y)[run, prompt], answers[run, prompt], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_run_starts_the_same_wherever_it_is(name):
    options = SMALL.get(name, {})
    together = dict(build_model(name, d=3, d_y=1, seeds=[4, 5, 6], **options).named_parameters())
    for place, seed in enumerate([4, 5, 6]):
        alone = dict(build_model(name, d=3, d_y=1, seeds=[seed], **options).named_parameters())
        for key, value in alone.items():
            assert torch.equal(together[key][place], value[0]), key
    assert any(not torch.equal(value[0], value[1]) for value in together.values())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_needs_a_seed(name):
    with pytest.raises(UserError, match="at least one seed"):
        build_model(name, d=3, d_y=1, seeds=[])


def test_making_a_model_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    build_model("transformer", d=3, d_y=1, seeds=[0], attention="augmented", attention_options={"g1": "adapter"})
    assert torch.equal(before, torch.get_rng_state())


@given(n=st.integers(1, 5), d=st.integers(1, 4), d_y=st.integers(1, 4))
@settings(deadline=None)
def test_tokens_hold_every_number_once_and_no_last_label(n, d, d_y):
    inputs, labels = torch.rand(2, n, d) + 1, torch.rand(2, n, d_y) + 1
    one_after_the_other, beside = interleaved(inputs, labels), joint(inputs, labels)
    assert one_after_the_other.shape == (2, 2 * n - 1, max(d, d_y))
    torch.testing.assert_close(one_after_the_other[:, ::2, :d], inputs)
    torch.testing.assert_close(one_after_the_other[:, 1::2, :d_y], labels[:, :-1])
    assert beside.shape == (2, n, d + d_y)
    shown = inputs.sum() + labels[:, :-1].sum()
    torch.testing.assert_close(one_after_the_other.sum(), shown)
    torch.testing.assert_close(beside.sum(), shown)
    assert not beside[:, -1, d:].any()
    twice = pairs(inputs, labels)
    assert twice.shape == (2, 2 * n - 1, d + d_y)
    torch.testing.assert_close(twice[:, 1::2], torch.cat([inputs, labels], -1)[:, :-1])
    torch.testing.assert_close(twice[:, ::2], torch.cat([inputs, torch.zeros_like(labels)], -1))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_registered_activation_is_that_of_the_dual(name):
    model = small("transformer", activation=name)
    first, _, second = model.blocks[0].ffn
    x = torch.randn(2, 4, 6, 8)
    for run in range(2):
        block = FeedForward(first.weight[run], second.weight[run], name, first.bias[run], second.bias[run])
        torch.testing.assert_close(model.blocks[0].ffn(x)[run], block(x[run]))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_shows_itself_in_one_line(name):
    model = small(name, seeds=(3, 4, 5))
    n_parameters = sum(parameter.numel() for parameter in model.parameters()) // 3
    expected = f"<{type(model).__name__} d=3, d_y=1, n_runs=3: {n_parameters:,} parameters a run>"
    assert repr(model) == expected


def test_of_a_chain_the_inputs_alone_are_the_tokens():
    inputs, labels = prompts("transformer", (0, 1))
    model = small("transformer", n_layers=2, tokens="inputs", positions="learned", max_points=6)
    answers = model(inputs, labels)
    assert torch.equal(model(inputs, torch.zeros_like(labels)), answers)
    assert model.positions.shape == (2, 6, model.width)
    assert model.states(inputs, labels, every_token=True)[-1].shape[-2] == 6


@pytest.mark.wrong_types
def test_tokens_of_another_name_are_refused():
    message = r"model\.tokens='input' is not known\. Known: interleaved, joint, pairs, inputs"
    with pytest.raises(UserError, match=message):
        small("transformer", tokens="input")


def test_pairs_have_no_order_without_positions_but_for_what_answers_saw():
    """One layer: the tokens that ask are keys too, and so is each demonstration; none of them has a place."""
    inputs, labels = prompts("transformer", (0, 1))
    model = small("transformer", tokens="pairs", n_layers=1)
    order = torch.tensor([3, 1, 0, 4, 2, 5])
    answers = model(inputs[..., order, :], labels[..., order, :])[..., -1, :]
    torch.testing.assert_close(answers, model(inputs, labels)[..., -1, :])
