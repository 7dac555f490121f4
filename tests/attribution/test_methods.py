"""Every method against an independent route: games with a known answer, Captum, or the definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lens.word_learner import MARGIN, PAIRS, PROMPT, learner, margins_one_by_one, shared_lens, text_of

from iclens.attribution import ATTRIBUTIONS
from iclens.attribution.gradient_x_input import embeddings, margins_at
from iclens.attribution.integrated_gradients import integrate
from iclens.attribution.lasso import fit
from iclens.attribution.shared.replacement import Replacement, neutral_id
from iclens.errors import UserError
from iclens.lens import Lens
from iclens.lens.read.margin import logit_of
from iclens.lens.scores.deletions import Outcome

N = len(PAIRS)
N_WEIGHTS = 10
"""Weights that the shares of the prompt are integrated over."""
COSTS = {
    "gradient_step": (1, 0),
    "path": (1, 1),
    "knock_out": (1 + (N + 1) * 2 / 23, 0),
    "influence": (2, 1),
    "influence_knock_out": (2 + (N + 1) * 2 / 23, 1),
    "sensitivity": (2, 1),
    "influence_mirrored": (2, 2),
    "influence_mirrored_4": (8, 8),
    "shares_2": (2, 2),
    "influence_halves": (1 + 3 / 23, 1 + 3 / 23),
    "influence_halves_2": (2 + 6 / 23, 2 + 6 / 23),
    "masked": (N + 2, 0),
    "shares": (N_WEIGHTS + 2, N_WEIGHTS),
    "attention_weights": (1, 0),
    "attention_rollout": (1, 0),
    "gradient_x_input": (1, 1),
    "gradient_norm": (1, 1),
    "detail": (1, 0),
    "detail_self": (1, 0),
    "label_surprise": (1, 0),
    "label_surprise_orders": (8, 0),
    "label_doubt": (8, 0),
    "patch": (1 + 5 * 3 / 23, 4 * 3 / 23),
    "patch_size": (1 + 3 / 23, 0),
    "integrated_gradients": (50, 50),
    "captum_feature_ablation": (N + 1, 0),
    "captum_shapley": (5 * N + 1, 0),
    "random": (0, 0),
}
DELETING = {
    "hybrid_8": (2, 2, 8),
    "hybrid_16": (2, 2, 16),
    "rerun": (0, 0, N + 1),
    "shapley_sampling": (0, 0, 5 * (N - 1) + 2),
    "factorial": (0, 0, 4.5),
    "influence_deletions": (2, 1, 4.5),
    "factorial_6": (0, 0, 6),
    "factorial_12": (0, 0, 12),
    "sparse": (0, 0, 6),
    "lasso": (0, 0, 64),
    "lasso_32": (0, 0, 32),
    "lasso_margin": (0, 0, 64),
    "lasso_margin_8": (0, 0, 8),
    "lasso_margin_16": (0, 0, 16),
    "lasso_margin_32": (0, 0, 32),
    "lasso_margin_128": (0, 0, 128),
}
"""Methods that shorten prompts: passes besides these, and the most that these may cost."""


def margins(one: Lens, logits: torch.Tensor) -> torch.Tensor:
    """The margin of each of several variants of the prompt."""
    return one.readouts.margin(logits[None])[0]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Game(Lens):
    """A lens whose model is a function of the kept demonstrations."""

    def __init__(self, value):
        super().__init__(learner(), PROMPT, readout=MARGIN)
        self.value = value

    def deletions(self, keep):
        margins = torch.tensor([float(self.value(row)) for row in keep])
        return Outcome(margins, -torch.nn.functional.softplus(-margins), margins > 0)


@pytest.mark.parametrize("name", [*COSTS, *DELETING])
def test_scores_are_finite_repeatable_and_cost_what_they_say(name):
    calls = []
    base = learner().model.get_input_embeddings()
    handle = base.register_forward_hook(lambda module, args, output: calls.append(output.shape[:-1]))
    try:
        first = ATTRIBUTIONS[name](Lens(learner(), PROMPT, readout=MARGIN), seeded())
    finally:
        handle.remove()
    again = shared_lens().score(name)
    assert first.values.shape == (N,)
    assert bool(first.values.isfinite().all())
    assert len(set(first.values.tolist())) > 1
    torch.testing.assert_close(first.values, again.values, rtol=0, atol=0)
    if name in DELETING:
        forward, backward, most = DELETING[name]
        assert forward < first.forward_passes <= forward + most
        assert first.backward_passes == backward
    else:
        assert (first.forward_passes, first.backward_passes) == pytest.approx(COSTS[name], abs=1e-3)
    if name not in ("gradient_x_input", "gradient_norm", "integrated_gradients", "random"):
        # Embeddings handed in by the gradients pass the module once only; all others embed every prompt that they run.
        n = shared_lens().tokenized.n_tokens
        tokens = sum(math.prod(shape) for shape in calls)
        if name in DELETING:
            # One text more, the first time that a model reads a tree; and texts side by side are filled up.
            assert tokens <= (first.forward_passes + 2) * n
        else:
            assert tokens == pytest.approx(first.forward_passes * n, rel=1e-3)


def test_every_method_is_in_the_table():
    assert set(ATTRIBUTIONS) == {*COSTS, *DELETING}


def test_by_demonstration_sums_the_tokens_of_each_and_leaves_the_rest_out():
    found = shared_lens().by_demonstration(torch.arange(23.0))
    assert found.tolist() == [sum(range(1 + 4 * i, 5 + 4 * i)) for i in range(N)]


def test_rerun_is_leave_one_out_of_the_text():
    every = list(range(N))
    texts = [text_of(every)] + [text_of([j for j in every if j != i]) for i in every]
    margins = margins_one_by_one(texts)
    found = shared_lens().score("rerun").values
    torch.testing.assert_close(found, margins[0] - margins[1:])


def test_knock_out_hides_the_demonstration_from_the_query_only():
    one, model = shared_lens(), learner().model
    n = len(one.input_ids)
    causal = torch.ones(n, n).tril().bool()
    expected = []
    model.set_attn_implementation("eager")
    for i in [-2, *range(N)]:
        allowed = causal.clone()
        allowed[one.query_start :, one.groups == i] = False
        bias = torch.zeros(1, 1, n, n).masked_fill(~allowed, -torch.inf)
        logits = model(input_ids=one.input_ids[None], attention_mask=bias).logits[0, -1].detach()
        expected.append(margins(one, logits[None, None])[0])
    model.set_attn_implementation("sdpa")
    found = one.score("knock_out").values
    torch.testing.assert_close(found, expected[0] - torch.stack(expected[1:]))


def own_attention() -> torch.Tensor:
    """(layers, heads, n, n) from the model's own eager attention."""
    model = learner().model
    model.set_attn_implementation("eager")
    attentions = model(input_ids=shared_lens().input_ids[None], output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    return torch.stack(attentions)[:, 0].detach()


def test_attention_weights_are_the_models_own():
    expected = shared_lens().by_demonstration(own_attention()[:, :, -1].sum((0, 1)))
    torch.testing.assert_close(shared_lens().score("attention_weights").values, expected)


def test_attention_rollout_is_the_product_of_the_layers():
    first, second = own_attention().mean(1)
    eye = torch.eye(len(first))
    expected = shared_lens().by_demonstration(((second + eye) / 2 @ (first + eye) / 2)[-1])
    torch.testing.assert_close(shared_lens().score("attention_rollout").values, expected)


def captum_forward(ids: torch.Tensor) -> torch.Tensor:
    return margins(shared_lens(), learner().model(input_ids=ids, use_cache=False).logits[:, -1:])


def test_gradient_times_input_agrees_with_captum():
    layer = learner().model.get_input_embeddings()
    theirs = LayerGradientXActivation(captum_forward, layer).attribute(shared_lens().input_ids[None]).detach()
    found = shared_lens().score("gradient_x_input").values
    torch.testing.assert_close(found, shared_lens().by_demonstration(theirs.sum(-1)[0]))


def test_integrated_gradients_agree_with_captum():
    one = shared_lens()
    layer = learner().model.get_input_embeddings()
    neutral = torch.full_like(one.input_ids, neutral_id(one))
    theirs = LayerIntegratedGradients(captum_forward, layer).attribute(
        one.input_ids[None], baselines=neutral[None], n_steps=20
    )
    ours = integrate(one, 20, layer(neutral).detach())
    torch.testing.assert_close(ours, theirs.detach().sum(-1)[0])


@pytest.mark.parametrize("baseline", ["zeros", "neutral"])
def test_integrated_gradients_are_complete(baseline):
    one = shared_lens()
    inputs = embeddings(one)
    start = torch.zeros_like(inputs)
    if baseline == "neutral":
        start = learner().model.get_input_embeddings()(torch.full_like(one.input_ids, neutral_id(one))).detach()
    ends = margins_at(one, torch.stack([inputs, start])).detach()
    # The norms are steep near small embeddings, so that the quadrature needs steps to be complete.
    shares = integrate(one, 300, None if baseline == "zeros" else start)
    assert float(shares.sum()) == pytest.approx(float(ends[0] - ends[1]), rel=1e-3)


def test_feature_ablation_replaces_each_demonstration_by_neutral_tokens():
    one = shared_lens()
    rows = one.input_ids.repeat(N + 1, 1)
    for i in range(N):
        rows[i + 1, one.groups == i] = neutral_id(one)
    margins = captum_forward(rows).detach()
    found = one.score("captum_feature_ablation").values
    torch.testing.assert_close(found, margins[0] - margins[1:])


def test_captums_shapley_values_sum_to_what_the_demonstrations_do_together():
    one = shared_lens()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = one.score("captum_shapley").values
    assert torch.equal(state, torch.get_rng_state())
    forward = Replacement(one)
    tokens = one.input_ids[forward.inside]
    full, none = forward(torch.stack([tokens, torch.full_like(tokens, neutral_id(one))]))
    assert float(found.sum()) == pytest.approx(float(full - none))
    assert not torch.equal(found, ATTRIBUTIONS["captum_shapley"](one, seeded(1)).values)


@given(st.lists(st.floats(-5, 5), min_size=N, max_size=N), st.floats(-5, 5))
@settings(max_examples=20, deadline=None)
def test_shapley_values_of_an_additive_game_are_its_effects(effects, offset):
    found = ATTRIBUTIONS["shapley_sampling"](Game(lambda row: row.double() @ torch.tensor(effects) + offset), seeded())
    assert found.values.tolist() == pytest.approx(effects, abs=1e-9)


@given(st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_shapley_values_of_any_game_sum_to_all_minus_none(seed):
    table = torch.randn(2**N, generator=seeded(seed))
    bits = 2 ** torch.arange(N)
    found = ATTRIBUTIONS["shapley_sampling"](Game(lambda row: table[(row * bits).sum()]), seeded(seed)).values
    assert float(found.sum()) == pytest.approx(float(table[-1] - table[0]), abs=1e-9)


def test_shapley_sampling_is_unbiased():
    table = torch.randn(2**N, generator=seeded(1))

    def value(kept) -> float:
        return float(table[sum(2**i for i in kept)])

    exact = torch.zeros(N)
    for order in itertools.permutations(range(N)):
        for place, i in enumerate(order):
            exact[i] += value(order[: place + 1]) - value(order[:place])
    exact /= math.factorial(N)
    one = Game(lambda row: table[(row * 2 ** torch.arange(N)).sum()])
    draws = torch.stack([ATTRIBUTIONS["shapley_sampling"](one, seeded(s)).values for s in range(200)])
    assert bool(((draws.mean(0) - exact).abs() < 4 * draws.std(0) / 200**0.5).all())


@pytest.mark.parametrize("name", ["lasso", "lasso_32", "lasso_margin", "sparse"])
def test_lasso_recovers_planted_linear_effects(name):
    effects = torch.tensor([3.0, 0.0, -2.0, 0.5, 0.0])
    found = ATTRIBUTIONS[name](Game(lambda row: row.double() @ effects - 1.0), seeded()).values
    # The penalty shrinks each effect by about α over the masks' deviation, 0.01 / 0.5.
    torch.testing.assert_close(found, effects, rtol=0, atol=0.06)
    assert bool((found.abs() <= effects.abs() + 0.02).all())


def test_lasso_of_outputs_that_do_not_move_is_zero():
    assert ATTRIBUTIONS["lasso_margin"](Game(lambda row: 2.0), seeded()).values.tolist() == [0.0] * N


def test_lasso_divides_by_the_answers_tokens_for_the_penalty_only():
    keep = torch.rand(64, N, generator=seeded()) < 0.5
    outputs = keep.double() @ torch.tensor([3.0, 0.0, -2.0, 0.5, 0.0])
    torch.testing.assert_close(fit(keep, outputs, 3), 3 * fit(keep, outputs / 3))


def test_logit_scaled_probability_has_no_loss_at_either_end():
    logits = torch.tensor([-700.0, -30.0, -1.0, 0.0, 2.0, 20.0])
    log_probabilities = -torch.log1p(torch.exp(-logits))
    log_probabilities[0] = -700.0
    torch.testing.assert_close(logit_of(log_probabilities), logits, rtol=1e-6, atol=1e-8)
    assert math.isfinite(float(logit_of(torch.zeros(1))[0]))


def test_random_scores_follow_the_generator():
    generator = seeded()
    first, second = (ATTRIBUTIONS["random"](shared_lens(), generator).values for _ in range(2))
    assert not torch.equal(first, second)


def test_an_unknown_method_is_refused_with_the_closest_name():
    with pytest.raises(UserError, match="Did you mean 'gradient_step'"):
        ATTRIBUTIONS["gradient_steps"]


def test_captum_methods_say_how_to_install_it(monkeypatch):
    import builtins

    real = builtins.__import__

    def without_captum(name, *args, **kwargs):
        if name.startswith("captum"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_captum)
    with pytest.raises(UserError, match=r"iclens\[peers\]"):
        Lens(learner(), PROMPT, readout=MARGIN).score("captum_feature_ablation")
