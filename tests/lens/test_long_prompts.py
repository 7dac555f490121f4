"""No pass of the lens forms a tensor of n × n for a prompt of n tokens: masks are made in rows, scores in blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tests.lens.zoo import CAUSAL, ENCODERS, lens, tokens
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from iclens.huggingface import DeferredMask
from iclens.lens.model.loading import LensModel
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import eager, fast
from iclens.lens.read.capture import capture, run
from iclens.lens.read.frozen import holding

LONG = 4000


class Largest(TorchDispatchMode):
    """The largest tensor that any operation inside the `with` block makes, in numbers that it really holds."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and not isinstance(tensor, DeferredMask):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return made


def long_model(name: str) -> LensModel:
    """A model of the zoo that reads prompts of any length: windows stay, only the limit goes."""
    from tests.lens import zoo

    fields = zoo.CAUSAL[name][1]
    longer = {key: 2 * LONG for key in ("max_position_embeddings", "n_positions") if key in fields}
    zoo.CAUSAL["long"] = (zoo.CAUSAL[name][0], fields | longer | {"num_hidden_layers": 2})
    try:
        return LensModel.wrap(zoo.build("long"), name="long")
    finally:
        del zoo.CAUSAL["long"]


@pytest.fixture(params=["llama", "mistral-window", "phi3", "gemma2", "gpt2", "gpt_oss", "deepseek_v3"])
def long(request: pytest.FixtureRequest) -> LensModel:
    return long_model(request.param)


def keep_rows(call: AttentionCall) -> torch.Tensor:
    """What a trace keeps: the mask of a few queries, and fused attention."""
    call.rows_at(torch.tensor([[LONG - 1, 5]]))
    call.rows(LONG - 8)
    return fast(call, most_scores=1 << 20)


def test_a_capture_forms_no_mask_and_a_record_forms_it_when_asked() -> None:
    model = long_model("mistral-window")
    with Largest() as largest:
        records = capture(model, tokens(LONG), last_logits=1).records
    assert largest.numbers < LONG * LONG
    few = records[0].rows(LONG - 2)
    assert few.shape[-2:] == (2, LONG)
    assert int(few.sum()) == 2 * 7


def test_a_mask_that_is_formed_would_be_seen() -> None:
    model = long_model("mistral-window")

    def attend(call: AttentionCall) -> torch.Tensor:
        call.rows()
        return fast(call)

    with torch.no_grad(), attending(model, attend), Largest() as largest:
        run(model, tokens(LONG), logits_to_keep=1)
    assert largest.numbers >= LONG * LONG


def test_a_pass_that_reads_a_few_rows_forms_nothing_square(long: LensModel) -> None:
    with torch.no_grad(), attending(long, keep_rows), Largest() as largest:
        run(long, tokens(LONG), logits_to_keep=1)
    assert largest.numbers < LONG * LONG


def test_a_padded_batch_forms_nothing_square() -> None:
    ids, mask = tokens(LONG, batch=2), torch.ones(2, LONG, dtype=torch.long)
    mask[0, :1000] = 0
    model = long_model("llama")
    with torch.no_grad(), attending(model, keep_rows), Largest() as largest:
        run(model, ids, mask, logits_to_keep=1)
    assert largest.numbers < LONG * LONG


@pytest.mark.parametrize("name", ["mistral-window", "gpt_oss"])
def test_the_held_pass_and_its_gradient_form_nothing_square(name: str) -> None:
    model = long_model(name)
    with Largest() as largest, holding(model, LONG) as leaves:
        logits = run(model, tokens(LONG), logits_to_keep=1)
        torch.autograd.grad(logits[0, -1, 5], leaves.embeddings)
    assert largest.numbers < LONG * LONG


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = tokens(20, batch=2), torch.ones(2, 20, dtype=torch.long)
    mask[0, slice(0, 5) if side == "left" else slice(-5, None)] = 0
    return ids, mask


@pytest.mark.parametrize("attend", [fast, eager])
@pytest.mark.parametrize("name", [*CAUSAL, *ENCODERS])
def test_blocks_of_rows_give_what_one_block_gives(name: str, attend: Any) -> None:
    model = lens(name, torch.float64)
    for ids, mask in ((tokens(20), None), padded("left"), padded("right")):
        outputs = []
        for most in (1 << 20, 4 * 20 * 3 * len(ids)):
            with torch.no_grad(), attending(model, partial(attend, most_scores=most)):
                outputs.append(run(model, ids, mask))
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        torch.testing.assert_close(outputs[1][real], outputs[0][real], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", [*CAUSAL, *ENCODERS])
def test_rows_at_some_positions_are_those_of_the_whole_mask(name: str) -> None:
    kept: list[AttentionCall] = []

    def attend(call: AttentionCall) -> torch.Tensor:
        kept.append(call)
        return fast(call)

    places = torch.tensor([[3, 19, 6], [0, 12, 12]])
    for ids, mask in ((tokens(20, batch=2), None), padded("left"), padded("right")):
        kept.clear()
        with torch.no_grad(), attending(lens(name), attend):
            run(lens(name), ids, mask)
        for call in kept:
            whole = call.rows().expand(2, 1, -1, -1)[:, 0]
            assert whole.shape == (2, 20, 20)
            expected = torch.stack([whole[prompt, rows] for prompt, rows in enumerate(places)])
            assert torch.equal(call.rows_at(places).expand(2, -1, -1), expected)
            assert torch.equal(call.rows(4, 9).expand(2, 1, -1, -1)[:, 0], whole[:, 4:9])
        assert len({call.key for call in kept}) <= 2
        assert all(torch.equal(a.rows(), b.rows()) for a in kept for b in kept if a.key == b.key)


def test_gradients_reach_the_values_through_blocks() -> None:
    model, ids = lens("mistral-window", torch.float64), tokens(20)
    gradients = []
    for most in (1 << 20, 4 * 20 * 3):

        def attend(call: AttentionCall, most: int = most) -> torch.Tensor:
            return fast(call, most_scores=most)

        with attending(model, attend):
            embedded = model.model.get_input_embeddings()(ids).detach().requires_grad_(True)
            logits = model.model(inputs_embeds=embedded, use_cache=False).logits
            gradients += torch.autograd.grad(logits[0, -1, 5], embedded)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma3_text", "gpt2"])
def test_a_mask_that_the_caller_made_is_taken_as_it_is(name: str) -> None:
    model, ids = lens(name, torch.float64), tokens(20)
    allowed = torch.ones(20, 20, dtype=torch.bool).tril()[None, None]
    allowed[..., 12:, 3:8] = False
    own = model.model(ids, attention_mask=allowed, use_cache=False).logits
    added = torch.where(allowed, 0.0, torch.finfo(torch.float64).min).to(torch.float64)
    keys = set()

    def attend(call: AttentionCall) -> torch.Tensor:
        assert torch.equal(call.rows(), allowed)
        assert torch.equal(call.rows_at(torch.tensor([[4, 13]])), allowed[:, 0, [4, 13]])
        keys.add(call.key)
        return fast(call)

    for mask in (allowed, added):
        keys.clear()
        with torch.no_grad(), attending(model, attend):
            ours = model.model(ids, attention_mask=mask, use_cache=False).logits
        torch.testing.assert_close(ours, own, rtol=1e-10, atol=1e-10)
        assert len(keys) == 1
