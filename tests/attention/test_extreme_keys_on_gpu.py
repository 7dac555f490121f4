"""The Triton kernel against the sorted score matrix and the torch path.

On a GPU the laws run there. Elsewhere they run in Triton's interpreter, which must be chosen before Triton is first
imported: one test starts this file again in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from tests.attention.references import negative_attention_naive

from iclens.attention import extreme_keys, negative_attention
from iclens.attention.attending import Attending
from iclens.attention.constructions import tokens_of_queries

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
HAS_TRITON = find_spec("triton") is not None
SHAPES = [(1, 1), (7, 7), (63, 63), (130, 130), (1, 7), (5, 70), (66, 130)]

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
]


def whole_numbers(n_query, n_key, dtype, *, n_batch=1, d=5):
    """Queries and keys whose products are exact in every dtype and tie often; 4 heads on 2 key heads."""
    draw = torch.Generator().manual_seed(n_query + n_key)
    q = torch.randint(-2, 3, (n_batch, 4, n_query, d), generator=draw)
    k = torch.randint(-2, 3, (n_batch, 2, n_key, d), generator=draw)
    return q.to(DEVICE, dtype), k.to(DEVICE, dtype)


def sorted_keys(q, k, attending, highest):
    """The keys of every query in order of their scores, those of equal score in order; and the number of candidates."""
    scores = q.double() @ k.double().repeat_interleave(q.shape[-3] // k.shape[-3], -3).mT
    allowed = attending.allowed(q.device)
    allowed = torch.ones_like(scores, dtype=torch.bool) if allowed is None else allowed.expand(scores.shape)
    scores = (-scores if highest else scores).masked_fill(~allowed, torch.inf)
    return scores.argsort(dim=-1, stable=True), allowed.sum(-1, keepdim=True)


def keys_mask(n_key):
    mask = torch.rand(2, 1, 1, n_key, generator=torch.Generator().manual_seed(n_key)) > 0.4
    return mask.to(DEVICE)


def check_chosen(q, k, attending, n_negatives, hardest):
    from iclens.attention.gpu.extreme_keys import lowest_of_products

    count, skip = min(n_negatives, attending.n_key - 1), int(hardest)
    chosen = lowest_of_products(q, k, attending, count=count, skip=skip, spare=1 - skip, highest=hardest)
    order, n_candidates = sorted_keys(q, k, attending, hardest)
    size = (n_candidates - 1).clamp(0, count)
    counts = torch.arange(count, device=q.device) < size
    expected = order[..., skip : skip + count]
    assert chosen.key.shape == expected.shape
    assert ((chosen.key == expected) | ~counts).all()
    assert ((chosen.key >= 0) & (chosen.key < attending.n_key)).all()
    share = torch.full_like(expected, 1 / count, dtype=torch.float64) if chosen.share is None else chosen.share
    torch.testing.assert_close(share.expand(expected.shape), counts / size.clamp_min(1))


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU is there: the laws run on it")
def test_the_laws_hold_in_tritons_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout
    assert "skipped" not in run.stdout


test_the_laws_hold_in_tritons_interpreter.__test__ = not INTERPRETED


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("n_query", [1, 8192])
def test_compiles_for_a_gpu_to_tensor_core_products(architecture, n_query, tmp_path, monkeypatch):
    # The interpreter widens bfloat16; this is the path that a GPU takes, and it needs none to be compiled.
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from iclens.attention.gpu.extreme_keys import lowest_kernel

    constants = dict(WANTED=1, SIGN=1.0, CAUSAL=True, HAS_MASK=False, WIDEN=False, WIDTH=64, BLOCK_Q=128, BLOCK_K=64)
    constants |= dict(q_feature=1, k_feature=1) | (dict(n_query=1) if n_query == 1 else {})
    types = dict(q_ptr="*bf16", k_ptr="*bf16", mask_ptr="*bf16", index_ptr="*i64")
    names = lowest_kernel.arg_names
    source = ASTSource(
        fn=lowest_kernel,
        signature={name: "constexpr" if name in constants else types.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in [*types, "q_row", "k_row", "d"]},
    )
    compiled = triton.compile(
        source, target=GPUTarget("cuda", architecture, 32), options=dict(num_warps=8, num_stages=3)
    )
    assert ("wgmma.mma_async" if architecture == 90 else "mma.sync") in compiled.asm["ptx"]
    assert compiled.metadata.shared <= 96 * 1024


test_compiles_for_a_gpu_to_tensor_core_products.__test__ = not INTERPRETED


@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="says what happens on a plain CPU")
def test_a_cpu_never_takes_the_kernel():
    assert not extreme_keys.has_kernel(torch.zeros(1))


test_a_cpu_never_takes_the_kernel.__test__ = not INTERPRETED


class TestKernel:
    __test__ = INTERPRETED or DEVICE == "cuda"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize(("n_query", "n_key"), SHAPES)
    def test_chosen_are_first_of_a_stable_sort(self, n_query, n_key, dtype):
        q, k = whole_numbers(n_query, n_key, dtype)
        for is_causal in (False, True):
            attending = Attending.of(q, k, k, is_causal=is_causal)
            for hardest in (False, True):
                if n_key > 1:
                    check_chosen(q, k, attending, 1, hardest)
            if n_key > 4:
                check_chosen(q, k, attending, 3, False)

    @pytest.mark.parametrize("is_causal", [False, True])
    @pytest.mark.parametrize("hardest", [False, True])
    def test_a_mask_over_keys(self, hardest, is_causal):
        q, k = whole_numbers(40, 70, torch.bfloat16, n_batch=2)
        check_chosen(q, k, Attending.of(q, k, k, keys_mask(70), is_causal=is_causal), 3, hardest)

    def test_nothing_but_ties_gives_the_first_keys(self):
        from iclens.attention.gpu.extreme_keys import lowest_of_products

        q, k = (torch.zeros_like(x) for x in whole_numbers(130, 130, torch.float32))
        chosen = lowest_of_products(q, k, Attending.of(q, k, k), count=4, skip=0, spare=0)
        assert (chosen.key == torch.arange(4, device=q.device)).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_as_good_as_the_torch_path_on_real_numbers(self, dtype, monkeypatch):
        q, k = (torch.randn(2, heads, n, 20).to(DEVICE, dtype) for heads, n in ((4, 66), (2, 130)))
        attending = Attending.of(q, k, k, is_causal=True)
        found = {}
        for kernel in (True, False):
            monkeypatch.setattr("iclens.attention.constructions.has_kernel", lambda x, kernel=kernel: kernel)
            found[kernel] = tokens_of_queries(q, k, attending, n_negatives=2, construction="lowest", seed=0)
        scores = q.double() @ k.double().repeat_interleave(2, 1).mT
        # Two keys whose scores differ by less than the rounding of a sum may change places.
        torch.testing.assert_close(
            scores.gather(-1, found[True].key), scores.gather(-1, found[False].key), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(found[True].share.expand(found[False].share.shape), found[False].share)

    @pytest.mark.parametrize("construction", ["lowest", "hardest"])
    def test_negative_attention_takes_it_with_its_gradients(self, construction, monkeypatch):
        from iclens.attention.gpu import extreme_keys

        calls = []
        kernel = extreme_keys.lowest_of_products
        monkeypatch.setattr(extreme_keys, "lowest_of_products", lambda *a, **b: calls.append(1) or kernel(*a, **b))
        tensors = [torch.randn(2, heads, 63, 8, dtype=torch.float32).to(DEVICE) for heads in (4, 2, 2)]
        settings = dict(n_negatives=2, beta=0.3, construction=construction, is_causal=True)
        results = []
        for function in (negative_attention, negative_attention_naive):
            leaves = [x.clone().requires_grad_() for x in tensors]
            out = function(*leaves, **settings)
            out.square().sum().backward()
            results.append([out.detach(), *(x.grad for x in leaves)])
        assert calls == [1]
        for fast, naive in zip(*results, strict=True):
            torch.testing.assert_close(fast, naive, rtol=1e-4, atol=1e-5)

    def test_strides_and_leading_axes(self):
        q, k = whole_numbers(20, 20, torch.float16, n_batch=2)
        q, k = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k))
        check_chosen(q, k, Attending.of(q, k, k, is_causal=True), 1, False)
        check_chosen(q[:, None].expand(2, 3, *q.shape[1:]), k[:, None], Attending.of(q, k, k), 2, False)

    @pytest.mark.parametrize(
        "change",
        [
            dict(dtype=torch.float64),
            dict(width=160),
            dict(n_negatives=5),
            dict(mask=torch.ones(9, 9, dtype=torch.bool)),
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_other_cases_take_the_torch_path(self, change, monkeypatch):
        from iclens.attention.gpu import extreme_keys

        monkeypatch.delattr(extreme_keys, "lowest_of_products")
        width = change.get("width", 4)
        q, k, v = (torch.randn(1, 2, 9, width, dtype=change.get("dtype", torch.float32)).to(DEVICE) for _ in range(3))
        mask = change["mask"].to(DEVICE) if "mask" in change else None
        settings = dict(n_negatives=change.get("n_negatives", 1), beta=0.3)
        torch.testing.assert_close(
            negative_attention(q, k, v, mask, **settings), negative_attention_naive(q, k, v, mask, **settings)
        )
