"""A variant in some layers of a model: what changes, from which layer on, and what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.attention.applied import VARIANTS, strengthen
from tests.lens.zoo import build as zoo_model
from tests.lens.zoo import tokens

from iclens import UserError
from iclens.attention import apply, from_pretrained, name_of, remove

FAMILIES = ["llama", "gpt2", "qwen2-window", "bert"]


@torch.no_grad()
def states(model: Any) -> tuple[torch.Tensor, ...]:
    """The states before the first layer, and after each."""
    return model(tokens(12, 2), output_hidden_states=True).hidden_states


@pytest.mark.parametrize("layers", [[0], [1], [2], [1, 2], (2, 0), range(1, 3)])
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_states_change_from_the_first_chosen_layer_on(family: str, name: str, layers: Any) -> None:
    model = zoo_model(family, torch.float64)
    plain = states(model)
    handle = apply(model, name, layers=layers, **VARIANTS[name])
    strengthen(handle)
    found = states(model)
    first = min(layers)
    for before, after in zip(plain[: first + 1], found, strict=False):
        assert torch.equal(before, after)
    assert (found[first + 1] - plain[first + 1]).abs().max() > 1e-6
    kinds = [name_of(variant) for variant in handle.variants.values()]
    assert kinds == [name if number in layers else "softmax" for number in range(len(kinds))]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_layer_that_is_not_chosen_attends_as_before(name: str) -> None:
    """Its attention module is given the same states, whatever stands in the layers before it."""
    model = zoo_model("llama", torch.float64)
    given: dict[int, tuple[Any, Any]] = {}
    layers = [layer.self_attn for layer in model.model.layers]

    def hook(number: int) -> Any:
        return lambda module, args, kwargs, out: given.__setitem__(number, (kwargs, out[0]))

    strengthen(apply(model, name, layers=[0, 2], **VARIANTS[name]))
    hooks = [one.register_forward_hook(hook(number), with_kwargs=True) for number, one in enumerate(layers)]
    states(model)
    for one in hooks:
        one.remove()
    modified = dict(given)
    remove(model)
    with torch.no_grad():
        for number, (kwargs, out) in modified.items():
            own = layers[number](**{**kwargs, "attention_mask": None})[0]
            assert torch.allclose(own, out, rtol=1e-9, atol=1e-9) == (number == 1)


def test_all_numbers_are_all_layers() -> None:
    model = zoo_model("llama", torch.float64)
    with apply(model, "regularized", alpha=0.3):
        whole = states(model)
    with apply(model, "regularized", layers=range(3), alpha=0.3):
        assert all(torch.equal(one, other) for one, other in zip(states(model), whole, strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_reloaded_model_has_the_variant_in_the_same_layers(name: str, tmp_path: Path) -> None:
    model = zoo_model("llama", torch.float64)
    strengthen(apply(model, name, layers=(2, 0), **VARIANTS[name]))
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert again.config.iclens_attention["layers"] == [0, 2]
    assert all(torch.equal(one, other) for one, other in zip(states(again), states(model), strict=True))


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([], "layers is empty"),
        ([3], "layers holds 3: LlamaForCausalLM has the attention layers 0 to 2"),
        ([-1], "layers holds -1"),
        ([True], "layers holds True"),
        pytest.param(["all"], "layers holds 'all'", marks=pytest.mark.wrong_types),
        pytest.param([1.0], "layers holds 1.0", marks=pytest.mark.wrong_types),
        ([1, 1], "names a layer twice"),
    ],
)
def test_layers_that_are_not_there(layers: Any, said: str) -> None:
    model = zoo_model("llama", torch.float64)
    plain = states(model)
    with pytest.raises(UserError, match=said):
        apply(model, "softmax", layers=layers)
    assert all(torch.equal(one, other) for one, other in zip(states(model), plain, strict=True))
