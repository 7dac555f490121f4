"""Negative attention: what is chosen, the literal loss, memory, and its mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attention.references import negative_attention_naive

from iclens.attention import build, negative_attention, softmax_attention
from iclens.attention.extreme_keys import lowest
from iclens.errors import UserError

SIZES = {"n_heads": 2, "d": 4, "d_v": 3}


def tensors(n_query=6, n_key=6, *leading):
    return (
        torch.randn(*leading, 2, n_query, 4),
        torch.randn(*leading, 2, n_key, 4),
        torch.randn(*leading, 2, n_key, 3),
    )


@pytest.mark.parametrize("selection", ["query", "key"])
def test_one_step_by_autograd_on_the_loss_as_the_paper_writes_it(selection):
    q, k, v = tensors()
    beta, n, s = 0.4, 6, 0.5
    # A finite feature map of the kernel on these keys and queries.
    for head in range(2):
        z = torch.cat([k[head], q[head]])
        factor = torch.linalg.cholesky((s * z @ z.mT).exp())
        phi_k, phi_q = factor[:n], factor[n:]
        scores = (q if selection == "query" else k)[head] @ k[head].mT
        if selection == "key":
            scores = scores.masked_fill(torch.eye(n, dtype=torch.bool), torch.inf)
        for t in range(n):
            D = (phi_k @ phi_q[t]).sum()
            negative = [int(scores[t if selection == "query" else i].argmin()) for i in range(n)]
            own = v[head][t] - beta * v[head][negative[t]]
            W_0 = torch.outer(own, phi_k[t]) / D
            W = W_0.clone().requires_grad_()
            loss = 0.0
            for i in range(n):
                if i != t:
                    positive = v[head][i] @ W @ phi_k[i]
                    loss = loss - (positive - beta * v[head][negative[i]] @ W @ phi_k[i]) / D
            (gradient,) = torch.autograd.grad(loss, W)
            expected = (W_0 - gradient) @ phi_q[t]
            found = negative_attention(q, k, v, beta=beta, selection=selection, scale=s)[head, t]
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(
    n_row=st.integers(1, 300),
    n_key=st.integers(2, 400),
    count=st.integers(1, 5),
    skip=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_the_search_by_groups_finds_the_lowest(n_row, n_key, count, skip, seed):
    count = min(count, n_key - 1)
    table = torch.rand(n_row, n_key, generator=torch.Generator().manual_seed(seed))
    chosen = lowest(
        lambda start, stop, n: table[start:stop, :n].clone(),
        None,
        n_row=n_row,
        n_key=n_key,
        n_batch=1,
        count=count,
        skip=skip,
        spare=0,
    )
    expected = table.argsort(-1)[:, skip : skip + count]
    assert torch.equal(chosen.key, expected)


def test_early_rows_of_a_causal_context_have_fewer_negatives():
    q, k, v = tensors()
    plain = softmax_attention(q, k, v, is_causal=True)
    found = negative_attention(q, k, v, n_negatives=3, beta=1.0, is_causal=True)
    torch.testing.assert_close(found[:, 0], plain[:, 0])
    # Token 1 sees two tokens: the one with the lower score is its only negative.
    worst = (q[:, 1:2] @ k[:, :2].mT).argmin(-1).squeeze(-1)
    torch.testing.assert_close(plain[:, 1] - found[:, 1], v[torch.arange(2), worst])


def test_learned_negatives_of_queries_are_a_bias():
    q, k, v = tensors()
    variant = build("negative", construction="learned", n_negatives=2, beta=0.5, **SIZES)
    shift = softmax_attention(q, k, v) - variant(q, k, v)
    torch.testing.assert_close(shift, 0.5 * variant.vectors.mean(-2, keepdim=True).expand_as(shift))


def test_random_negatives_follow_the_seed_and_look_uniform():
    n = 40
    q, k, v = torch.zeros(1, n, 2), torch.zeros(1, n, 2), torch.eye(n).unsqueeze(0)

    def drawn(seed):
        out = negative_attention(q, k, v, beta=1.0, construction="random", seed=seed)
        return (1 / n - out).round().argmax(-1).squeeze(0)

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))
    counts = torch.cat([drawn(seed) for seed in range(50)]).bincount(minlength=n).double()
    chi_squared = ((counts - 50) ** 2 / 50).sum()
    assert 15 < chi_squared < 75  # 39 degrees of freedom: outside with probability below 1e-3


def test_a_choice_has_no_gradient_but_beta_has():
    q, k, v = tensors()
    beta = torch.tensor([0.1, 0.2], requires_grad=True)
    negative_attention(q, k, v, beta=beta).sum().backward()
    worst = (q @ k.mT).argmin(-1)
    chosen = v.gather(-2, worst.unsqueeze(-1).expand(-1, -1, 3))
    torch.testing.assert_close(beta.grad, -chosen.sum((-2, -1)))


def test_strengths_stack_runs():
    q, k, v = tensors()
    betas = torch.tensor([0.0, 0.3, -0.5]).view(3, 1)
    stacked = negative_attention(q, k, v, beta=betas)
    for run, beta in enumerate((0.0, 0.3, -0.5)):
        torch.testing.assert_close(stacked[run], negative_attention(q, k, v, beta=beta))


def test_what_is_kept_for_the_backward_pass_grows_with_the_tokens():
    sizes = []
    for n in (200, 400):
        q, k, v = (torch.randn(2, n, 4, requires_grad=True) for _ in range(3))
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            negative_attention(q, k, v, n_negatives=3, is_causal=True).sum().backward()
        sizes.append(sum(kept))
    assert sizes[1] < 2.1 * sizes[0]


@pytest.mark.slow
def test_no_tensor_of_all_scores_is_made():
    n = 1200
    q, k, v = (torch.randn(8, n, 16, dtype=torch.float32, requires_grad=True) for _ in range(3))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() // 4)
            return out

    with Watch():
        negative_attention(q, k, v, is_causal=True).sum().backward()
    assert largest < 8 * n * n / 5
    with Watch():
        negative_attention_naive(q, k, v, is_causal=True)
    assert largest >= 8 * n * n


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_negatives": 6}, "n_negatives=6, but a query may attend to at most 6 keys"),
        ({"n_negatives": 0}, "at least 1"),
        ({"beta": float("nan")}, "beta=nan must be finite"),
        ({"construction": "worst"}, "unknown construction 'worst'"),
        ({"selection": "token"}, "unknown selection 'token'"),
        ({"construction": "learned"}, "vectors must be given"),
        ({"scale": -1.0}, "scale=-1.0 must be a positive"),
    ],
)
def test_mistakes_are_answered(options, message):
    with pytest.raises(UserError, match=message):
        negative_attention(*tensors(), **options)


def padding(*lengths, n_key=6):
    """(batch, 1, 1, n_key), True for the first tokens of every prompt."""
    return (torch.arange(n_key) < torch.tensor(lengths).unsqueeze(-1))[:, None, None]


@pytest.mark.parametrize("selection", ["query", "key"])
@pytest.mark.parametrize("construction", ["lowest", "hardest", "dissimilar", "random"])
def test_a_prompt_that_padding_leaves_too_short_is_refused(construction, selection):
    q, k, v = tensors(6, 6, 3)
    settings = dict(n_negatives=3, construction=construction, selection=selection)
    message = "n_negatives=3, but the mask leaves prompt 1 of the batch with at most 3 keys"
    for mask in (padding(6, 3, 5), padding(6, 3, 5).expand(3, 2, 6, 6)):
        for function in (negative_attention, negative_attention_naive):
            with pytest.raises(UserError, match=message):
                function(q, k, v, mask, **settings)
    # What a prompt may do in a batch, it may do alone.
    with pytest.raises(UserError, match="the mask leaves the prompt with at most 3 keys"):
        negative_attention(q[1], k[1], v[1], padding(3)[0], **settings)
    with pytest.raises(UserError, match="at most 3 keys"):
        negative_attention(q[1], k[1, :, :3], v[1, :, :3], **{**settings, "construction": "lowest"})
    negative_attention(q, k, v, padding(6, 4, 5), **settings)


def test_short_rows_beside_long_ones_and_hidden_prompts_are_no_mistake():
    q, k, v = tensors(6, 6, 3)
    negative_attention(q, k, v, padding(6, 0, 5), n_negatives=3)
    negative_attention(q, k, v, padding(6, 1, 5), n_negatives=3, is_causal=True)
    growing = torch.ones(6, 6, dtype=torch.bool).tril()
    out = negative_attention(q, k, v, growing, n_negatives=5)
    torch.testing.assert_close(out, negative_attention(q, k, v, n_negatives=5, is_causal=True))
    with pytest.raises(UserError, match="at most 2 keys"):
        negative_attention(q, k, v, growing.triu(-1), n_negatives=2)


def test_a_mask_that_is_changed_is_looked_at_again():
    q, k, v = tensors(6, 6, 3)
    mask = padding(6, 4, 5).clone()
    negative_attention(q, k, v, mask, n_negatives=3)
    mask[2, ..., 2:] = False
    with pytest.raises(UserError, match=r"prompt 2 .* at most 2 keys"):
        negative_attention(q, k, v, mask, n_negatives=3)
    with torch.inference_mode(), pytest.raises(UserError, match="prompt 2"):
        negative_attention(q, k, v, mask.clone(), n_negatives=3)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_of_masked_prompts_is_their_batch():
    q, k, v = tensors(6, 6, 3)
    mask = padding(6, 4, 5)
    mapped = torch.vmap(lambda *given: negative_attention(*given, n_negatives=3))(q, k, v, mask)
    torch.testing.assert_close(mapped, negative_attention(q, k, v, mask, n_negatives=3))


PEAK = """
from pathlib import Path
import torch
from iclens.attention import build
torch.set_num_threads(2)
options = [{}, {"construction": "hardest", "n_negatives": 3}, {"selection": "key"}]
parts = [{"name": "weight-decay", "alpha": 0.3}, {"name": "negative"}]
n = 4096
variants = [build("negative", n_heads=8, d=32, d_v=32, **own) for own in options]
variants += [build(name, n_heads=8, d=32, d_v=32, **own) for name, own in
             (("weight-decay", {"alpha": 0.3}), ("composed", {"parts": parts}))]
padded = torch.arange(n).view(1, 1, 1, n) > 2
def high():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM:"))) / 1024
for variant in variants:
    for how in ({}, {"is_causal": True}, {"mask": padded})[: 3 if variant is variants[0] else 1]:
        leaves = [torch.randn(1, 8, n, 32, requires_grad=True) for _ in range(3)]
        Path("/proc/self/clear_refs").write_text("5")
        before = high()
        variant(*leaves, **how).sum().backward()
        print(high() - before)
        del leaves
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux' /proc")
def test_peak_memory_is_far_below_a_matrix_of_scores():
    """That would be 512 MiB. What is kept between two blocks of scores must not keep their memory from being reused."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    peaks = [float(line) for line in done.stdout.split()]
    assert len(peaks) == 7
    assert all(0 < peak < 128 for peak in peaks), peaks
