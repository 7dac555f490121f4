"""Passes are counted whoever runs them, and the largest tensor is found whoever forms it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from iclens.benchmarks.few_shot import few_shot, groups_of
from iclens.benchmarks.largest import largest_tensor
from iclens.benchmarks.llama_shaped import SMALL, llama_model
from iclens.benchmarks.pass_counts import counted, counts, posted
from iclens.errors import UserError
from iclens.lens import capture
from iclens.training.default_dtype import default_dtype

PROMPT = few_shot(3, 5, 4)


@pytest.fixture(scope="module")
def llama():
    with default_dtype(torch.float32):
        return llama_model(SMALL)


def test_a_pass_counts_for_each_prompt_and_by_its_share_of_the_tokens(llama):
    ids = groups_of(PROMPT, llama.tokenizer)[0][None]
    n = ids.shape[1]
    with counted(n) as passes:
        llama.model(input_ids=ids)
        llama.model(input_ids=ids.expand(3, -1))
        llama.model(input_ids=ids[:, : n // 2])
    assert passes.shares == [1, 3, (n // 2) / n]
    assert passes.all == 4 + (n // 2) / n
    assert passes.traced == 0
    llama.model(input_ids=ids)
    assert len(passes.shares) == 3


def test_a_pass_that_the_lens_reads_is_traced_if_it_is_of_the_whole_prompt(llama):
    ids = groups_of(PROMPT, llama.tokenizer)[0][None]
    with counted(ids.shape[1]) as passes:
        capture(llama, ids)
        capture(llama, ids[:, :4])
    assert passes.traced == 1
    assert passes.all == 1 + 4 / ids.shape[1]


def test_passes_of_a_copy_in_another_type_count_too(llama):
    ids = groups_of(PROMPT, llama.tokenizer)[0][None]
    with counted(ids.shape[1]) as passes:
        copy.deepcopy(llama.model).double()(input_ids=ids)
    assert passes.all == 1


def test_a_view_is_asked_for_as_the_page_does_and_a_refusal_is_no_answer():
    async def echo(request):
        question = await request.json()
        assert not await request.is_disconnected()
        return JSONResponse(
            {"asked": question, "type": request.headers["content-type"]}, 422 if "bad" in question else 200
        )

    app = Starlette(routes=[Route("/api/echo", echo, methods=["POST"])])
    assert posted(app, "echo", {"text": "ü"}) == {"asked": {"text": "ü"}, "type": "application/json"}
    with pytest.raises(RuntimeError, match="bad"):
        posted(app, "echo", {"bad": 1})
    with pytest.raises(RuntimeError, match="nothing"):
        posted(app, "nothing", {})


@pytest.mark.slow
def test_the_command_and_the_page_run_the_model(llama):
    found = counts(llama, PROMPT)
    assert json.dumps(found)
    for traced, every in found.values():
        assert 1 <= traced <= every
    assert found["page"][1] >= found["explain"][1]


@pytest.mark.slow
def test_a_command_that_fails_is_reported(llama):
    with pytest.raises(UserError, match="could not be counted"):
        counts(llama, "no demonstrations")


def test_the_largest_tensor_is_found_and_a_view_takes_no_memory():
    x = torch.ones(100)
    assert largest_tensor(lambda: (x[:, None] * x).sum()) == 10_000
    assert largest_tensor(lambda: x.expand(1000, -1).sum()) == 100
    assert largest_tensor(lambda: x.requires_grad_().square().sum().backward()) == 100


def test_a_call_is_stopped_at_a_tensor_that_is_too_large():
    reached = []

    def call():
        x = torch.ones(10)
        reached.append("small")
        x = torch.ones(1000)
        reached.append("large")
        return x

    assert largest_tensor(call, most=100) == 1000
    assert reached == ["small"]
    assert largest_tensor(call, most=1000) == 1000
    assert reached == ["small", "small", "large"]


def test_what_a_call_raises_is_not_hidden():
    def failing():
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        largest_tensor(failing)
