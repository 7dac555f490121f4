"""Every head of every model is its dual model: mask, scale, soft cap and grouped heads included."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, reader
from tests.lens.zoo import CAUSAL, ENCODERS, QUERY_START, TWO_POSITIONS, lens, tokens
from tests.lens.zoo import GROUPS as PROMPT_GROUPS

from iclens.errors import UserError
from iclens.huggingface import implementation
from iclens.kernels import SoftcappedKernel
from iclens.lens.lens import Lens
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.capture import capture, run
from iclens.lens.read.margin import Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.weighted import Edges
from iclens.lens.scores.influence import influence

GROUPS = torch.tensor([-1, -1, 0, 0, 0, -1, 1, 1, 1, 1, 2, 2, 2, 2, 2, -1, 3, 3, -1, -1])


@pytest.mark.parametrize("name", [*CAUSAL, *ENCODERS])
def test_the_dual_of_a_head_predicts_its_output(name: str) -> None:
    for record in capture(lens(name, torch.float64), tokens(20)).records:
        for head in range(record.q.shape[1]):
            dual = record.dual(head, groups=GROUPS)
            torch.testing.assert_close(dual.predict(), record.output[0, head], rtol=1e-10, atol=1e-11)
            parts = dual.initial() + dual.contributions().sum(-2)
            torch.testing.assert_close(parts, record.output[0, head], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2-window", "gemma2", "bert"])
def test_some_queries_of_a_prompt_in_a_padded_batch(name: str) -> None:
    ids, mask = tokens(20, batch=2), torch.ones(2, 20, dtype=torch.long)
    mask[0, :5] = 0
    for record in capture(lens(name), ids, mask).records:
        for prompt in (0, 1):
            dual = record.dual(3, [19, 7, -2], GROUPS, prompt, dtype=torch.float64)
            assert dual.q.dtype == torch.float64
            assert dual.k.shape == (20, record.k.shape[-1])
            expected = record.output[prompt, 3, [19, 7, 18]].double()
            torch.testing.assert_close(dual.predict(), expected, rtol=1e-4, atol=1e-5)
        assert float(record.dual(3, 19, prompt=0).coefficients[0, :5].abs().max()) == 0.0


@pytest.mark.parametrize("start", [0, QUERY_START], ids=["all later edges", "the query's edges"])
@pytest.mark.parametrize("name", CAUSAL)
def test_influence_is_the_heads_closed_forms_along_the_gradient_of_the_margin(name: str, start: int) -> None:
    model, ids = lens(name, torch.float64), tokens(24)
    prompt = PaddedTokens.of([ids[0]], [QUERY_START], model.device)
    readouts = Readouts.of([TWO_POSITIONS], [0], model.index_device)
    edges = Edges(PROMPT_GROUPS[None], torch.tensor([start]))
    found = influence(model, prompt, readouts, edges, torch.ones(1, 24, dtype=torch.float64)).by_head[0]
    outputs = {}

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        outputs[module] = args[0]

    with torch.enable_grad(), ExitStack() as stack:
        # Fast attention has no soft cap; written-out attention has it, and takes its softmax in float32.
        stack.enter_context(implementation(model.model, "eager" if name == "gemma2" else None))
        for layer in model.anatomy.layers:
            stack.callback(layer.output.register_forward_pre_hook(keep).remove)
        margin = readouts.margin(run(model, ids)[:, readouts.positions[0]]).sum()
        gradients = torch.autograd.grad(margin, list(outputs.values()))
    outside = (PROMPT_GROUPS[:, None] != torch.arange(4)) & (torch.arange(24) >= start)[:, None]
    expected = torch.zeros(*found.shape[:2], 4, dtype=torch.float64)
    for i, (record, gradient) in enumerate(zip(capture(model, ids).records, gradients, strict=True)):
        by_head = gradient.reshape(24, record.q.shape[1], -1)
        for head in range(record.q.shape[1]):
            dual = record.dual(head, groups=PROMPT_GROUPS)
            along = torch.einsum("tgv,tv->tg", dual.influence(), by_head[:, head])
            expected[i, head] = (along * outside).sum(0)
    # A family that computes a part in float32 whatever the model's type keeps seven digits.
    tolerance = 1e-6 if name in {"hunyuan_v1_dense", "gemma2"} else 1e-12
    summed = by_source(found, PROMPT_GROUPS, 4)[..., :-1]
    assert float((summed - expected).abs().max() / expected.abs().max()) <= tolerance


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_oss"])
def test_a_head_with_training_weights_is_the_one_that_is_read_with_log_weights(name: str) -> None:
    found = Lens(reader(name), PROMPTS[0], answers=("w1", "w2"))
    plain, weights = found.head(1, 2), torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    dual = found.head(1, 2, training_weights=weights)
    logs = plain.coefficients.log() + torch.where(plain.groups.ids < 0, 0.0, weights[plain.groups.ids].log())
    torch.testing.assert_close(dual.predict(), logs.softmax(-1) @ plain.v, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dual.predict(), found.head(1, 2, training_weights=[0.5, 1, 2]).without(1))
    with pytest.raises(UserError, match="it needs one weight for each of the 3 demonstrations"):
        found.head(1, 2, training_weights=[1.0])


def test_without_groups_every_token_is_a_demonstration() -> None:
    record = capture(lens("gpt2"), tokens(20)).records[0]
    dual = record.dual(0, queries=-1)
    assert dual.n_demonstrations == 20
    assert float(dual.initial().abs().max()) == 0.0


def test_a_soft_cap_is_the_kernels_and_matters() -> None:
    record = capture(lens("gemma2", torch.float64), tokens(20)).records[1]
    dual = record.dual(0)
    assert isinstance(dual.kernel, SoftcappedKernel)
    assert (dual.kernel.scale, dual.kernel.cap) == (record.scale, record.softcap)
    scores = record.scale * (dual.q @ dual.k.mT)
    uncapped = torch.softmax(scores.masked_fill(~record.mask[0, 0], -torch.inf), -1) @ dual.v
    assert float((uncapped - dual.predict()).norm() / dual.predict().norm()) > 0.01


def test_grouped_heads_share_keys_and_values() -> None:
    record = capture(lens("llama"), tokens(20)).records[0]
    assert record.groups == 2
    assert torch.equal(record.head(0).k, record.head(1).k)
    assert not torch.equal(record.head(1).v, record.head(2).v)


def test_what_is_not_there_is_refused() -> None:
    record = capture(lens("gpt2"), tokens(8)).records[0]
    with pytest.raises(UserError, match=r"no head 4 in transformer\.h\.0\.attn: it has 4 heads"):
        record.dual(4)
    with pytest.raises(UserError, match="no prompt 1"):
        record.dual(0, prompt=1)
    with pytest.raises(UserError, match="position 8 is outside the 8 tokens"):
        record.dual(0, queries=[8])
