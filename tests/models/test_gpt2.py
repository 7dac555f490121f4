"""`GPT2Prompts` is transformers' GPT-2 between two linear maps."""

from __future__ import annotations

import pytest
import torch

from iclens.models.gpt2 import GPT2Prompts
from iclens.models.tokens import interleaved


def theirs(ours, run):
    """`transformers.GPT2Model` with the weights of one run."""
    from transformers import GPT2Config, GPT2Model

    first = ours.blocks[0]
    config = GPT2Config(
        vocab_size=1,
        n_positions=ours.positions.shape[1],
        n_embd=ours.positions.shape[2],
        n_layer=len(ours.blocks),
        n_head=first.n_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="eager",
        use_cache=False,
    )
    model = GPT2Model(config).to(torch.float64)
    places = {
        "attn.c_attn": "qkv",
        "attn.c_proj": "out",
        "mlp.c_fc": "ffn.0",
        "mlp.c_proj": "ffn.2",
        "ln_1": "norm_attention",
        "ln_2": "norm_ffn",
    }
    own = dict(ours.named_parameters())
    state = {"wte.weight": torch.zeros(1, config.n_embd), "wpe.weight": own["positions"][run]}
    for kind in ("weight", "bias"):
        state[f"ln_f.{kind}"] = own[f"final_norm.{kind}"][run]
        for layer in range(config.n_layer):
            for their, our in places.items():
                state[f"h.{layer}.{their}.{kind}"] = own[f"blocks.{layer}.{our}.{kind}"][run]
    model.load_state_dict({name: value.detach().clone() for name, value in state.items()})
    return model.eval()


@pytest.mark.parametrize("n_heads", [1, 4])
def test_the_same_numbers_as_transformers(n_heads):
    ours = GPT2Prompts(5, 2, [0, 1], n_layers=3, n_heads=n_heads, width=16, max_points=9)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    inputs, labels = torch.randn(2, 3, 7, 5), torch.randn(2, 3, 7, 2)
    answers = ours(inputs, labels)
    for run in range(2):
        model, tokens = theirs(ours, run), interleaved(inputs[run], labels[run])
        read = tokens @ ours.read_in.weight[run] + ours.read_in.bias[run]
        hidden = model(inputs_embeds=read).last_hidden_state[:, ::2]
        expected = hidden @ ours.read_out.weight[run] + ours.read_out.bias[run]
        torch.testing.assert_close(answers[run], expected, rtol=1e-10, atol=1e-10)
        # The same gradients too.
        ours.zero_grad()
        answers[run].square().sum().backward(retain_graph=True)
        expected.square().sum().backward()
        for layer in range(3):
            torch.testing.assert_close(
                ours.blocks[layer].qkv.weight.grad[run], model.h[layer].attn.c_attn.weight.grad, rtol=1e-9, atol=1e-9
            )


def test_it_starts_as_gpt_2_does():
    """Weights of standard deviation 0.02, those that write to the residual stream 0.02/√(2 n_layers)."""
    model = GPT2Prompts(20, 1, [0, 1], n_layers=2, n_heads=2, width=64, max_points=41)
    own = dict(model.named_parameters())
    assert own["positions"].shape == (2, 81, 64)
    for name in ("positions", "read_in.weight", "blocks.0.qkv.weight", "blocks.1.ffn.0.weight"):
        assert own[name].std().item() == pytest.approx(0.02, rel=0.1), name
    for name in ("blocks.0.out.weight", "blocks.1.ffn.2.weight"):
        assert own[name].std().item() == pytest.approx(0.01, rel=0.1), name
    for name, value in own.items():
        if name.endswith("bias"):
            assert not value.any()


def test_the_defaults_are_the_standard_model_of_garg():
    """9.5 million parameters (Garg et al. 2022), and prompts of up to 101 points."""
    model = GPT2Prompts(20, 1, [0])
    assert sum(parameter.numel() for parameter in model.blocks.parameters()) == 12 * (12 * 256**2 + 13 * 256)
    assert 9.4e6 < sum(parameter.numel() for parameter in model.parameters()) < 9.6e6
    assert model.max_points == 101
