"""Fits on random models: with enough numbers the queries alone say exactly what they say behind the prompt."""

from __future__ import annotations

import pytest
import torch
from tests.lens.zoo import lens

from iclens.absorption.adapter import Adapter
from iclens.absorption.fitting import fit
from iclens.absorption.pairing import Pairing, paired
from iclens.absorption.sites import TARGETS, sites_of
from iclens.absorption.states import states_of
from iclens.errors import UserError
from iclens.lens import LensModel

FAMILIES = ("gpt2", "llama-biased-tied", "gpt_neox", "phi", "phi3", "opt", "starcoder2", "granite", "gemma")
NORMED = ("gemma2", "gemma3_text", "olmo2", "olmo3", "exaone4", "glm4")

GENERATOR = torch.Generator().manual_seed(0)
CONTEXT = torch.randint(3, 57, (7,), generator=GENERATOR).tolist()
QUERIES = [torch.randint(3, 57, (n,), generator=GENERATOR).tolist() for n in (4, 5, 3)]


def double(name: str) -> LensModel:
    return lens(name, torch.float64)


def pairing_of(model: LensModel) -> Pairing:
    return paired(model, [CONTEXT + query for query in QUERIES], QUERIES, [1] * len(QUERIES))


def fitted(
    model: LensModel,
    rank: int = 32,
    ridge: float = 1e-13,
    targets: tuple[str, ...] = ("attention", "mlp-out"),
    layers: tuple[int, ...] | None = None,
) -> Adapter:
    sites, pairing = sites_of(model, layers, targets), pairing_of(model)
    return fit(model, sites, states_of(model, pairing.behind, pairing.there, sites), pairing, rank, ridge)


@torch.no_grad()
def logits(model: LensModel, ids: list[int]) -> torch.Tensor:
    return model.model(input_ids=torch.tensor([ids])).logits[0]


def off(model: LensModel, adapter: Adapter | None) -> float:
    """The largest difference from the logits behind the prompt, over all tokens of the queries but the first."""
    found = 0.0
    for query in QUERIES:
        behind = logits(model, CONTEXT + query)[-len(query) + 1 :]
        if adapter is None:
            own = logits(model, query)[1:]
        else:
            with adapter.applied(model):
                own = logits(model, query)[1:]
        found = max(found, float((own - behind).abs().max()))
    return found


@pytest.mark.parametrize("name", FAMILIES + NORMED)
@pytest.mark.parametrize("targets", [("attention", "mlp-out"), TARGETS, ("attention",)], ids="+".join)
def test_with_enough_numbers_and_no_ridge_the_fitted_queries_say_what_they_say_behind_the_prompt(
    name: str, targets: tuple[str, ...]
) -> None:
    model = double(name)
    assert off(model, None) > 0.3
    # Norms of branches compute in float32 whatever the model's type is.
    assert off(model, fitted(model, targets=targets)) < (1e-5 if name in NORMED else 1e-7)


def test_the_patch_without_the_output_offset_does_not() -> None:
    model = double("llama")
    assert off(model, fitted(model, targets=("mlp-in",))) > 0.3


def test_a_ridge_without_end_changes_nothing() -> None:
    model = double("gpt2")
    assert off(model, fitted(model, ridge=1e15)) == pytest.approx(off(model, None), rel=1e-6)


def test_a_token_that_begins_several_queries_is_one_node_and_counts_for_each() -> None:
    queries = [[9, 5, 6, 11], [9, 5, 7, 12]]
    found = paired(double("llama"), [CONTEXT + one for one in queries], queries, [1, 2], emphasis=10.0)
    assert found.tokens == (len(CONTEXT) + 6, 6)
    # 9 is the first token; 5 is shared; 6 counts once, 11 and 7, 12 are read behind.
    assert sorted(found.weights.tolist()) == [1.0, 2.0, 10.0, 10.0, 10.0]
    ids = [found.alone.ids[node] for node in found.here.tolist()]
    assert ids == [found.behind.ids[node] for node in found.there.tolist()]
    assert 9 not in ids


def test_only_chosen_layers_and_targets_are_changed_and_the_model_is_put_back() -> None:
    model = double("llama")
    before = logits(model, QUERIES[0])
    adapter = fitted(model, rank=2, layers=(1,))
    assert sorted(adapter.maps) == ["model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj"]
    assert adapter.n_parameters == 2 * (32 + 32) + 2 * (48 + 32)
    with adapter.applied(model):
        assert not torch.allclose(logits(model, QUERIES[0]), before)
    assert torch.equal(logits(model, QUERIES[0]), before)


def test_later_layers_are_fitted_on_the_changed_model() -> None:
    """Each layer's best map from the unchanged states, put together, is far worse: they count the change twice."""
    model = double("llama")
    alone = {}
    for number in range(3):
        alone.update(fitted(model, layers=(number,)).maps)
    together = Adapter.of(model, 32, sites_of(model), alone)
    assert off(model, together) > 100 * off(model, fitted(model))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("opt-350m", {}, "norms on its stream"),
        ("bert", {}, "encoder"),
        ("mixtral", {}, "layers of experts"),
        ("llama", {"targets": ("gate",)}, "'gate' is not known"),
        ("llama", {"targets": ()}, "there is no target"),
        ("llama", {"layers": (3,)}, "has the layers 0 to 2"),
        ("llama", {"layers": ()}, "has the layers 0 to 2"),
    ],
)
def test_what_cannot_be_changed_is_refused_by_name(name: str, options: dict[str, tuple[str, ...]], says: str) -> None:
    with pytest.raises(UserError, match=says):
        sites_of(double(name), **options)  # type: ignore[arg-type]


def test_experts_take_the_change_in_their_attention() -> None:
    model = lens("mixtral")
    assert off(model, None) > 0.3
    assert off(model, fitted(model, targets=("attention",))) < 1e-3


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_all_queries_together_may_be_longer_than_the_context(name: str) -> None:
    """They share a pass, but each keeps its own positions; half a ridge, so that the fit is no interpolation."""
    model = double(name)
    drawn = torch.Generator().manual_seed(3)
    queries = [torch.randint(3, 57, (4,), generator=drawn).tolist() for _ in range(60)]
    sites = sites_of(model)
    pairing = paired(model, [CONTEXT + one for one in queries], queries, [1] * 60)
    assert min(pairing.tokens) > 128 == model.context_length
    states = states_of(model, pairing.behind, pairing.there, sites)
    adapter = fit(model, sites, states, pairing, 32, 1e-3)
    nodes = dict(zip(pairing.alone.numbers, pairing.alone.paths, strict=True))
    behind = logits_of(model, [CONTEXT + one for one in queries])
    alone, own = logits_of(model, queries), None
    with adapter.applied(model):
        own = logits_of(model, queries)
    assert len(nodes) == 60
    assert float((own - behind).square().mean()) < 0.2 * float((alone - behind).square().mean())


@torch.no_grad()
def logits_of(model: LensModel, texts: list[list[int]]) -> torch.Tensor:
    return model.model(input_ids=torch.tensor(texts)).logits[:, -1]


def test_queries_of_one_token_are_refused() -> None:
    with pytest.raises(UserError, match="single token"):
        paired(double("llama"), [[*CONTEXT, 5]], [[5]], [1])


def test_positions_that_depend_on_the_length_are_refused_beyond_it() -> None:
    with pytest.raises(UserError, match="beyond 16 tokens"):
        paired(double("llama-dynamic-rope"), [CONTEXT * 3 + QUERIES[0]], [QUERIES[0]], [1])
