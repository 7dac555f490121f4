import pytest
import torch
from torch import nn

from iclens.errors import UserError
from iclens.papers.yang_2024.deep_model import DeepDictionaryModel
from iclens.papers.yang_2024.task import Dictionary


def drawn(n_runs=2):
    return Dictionary.stack([Dictionary.draw(5, 3, 9, 4, 0.1, seed, normalised=False) for seed in range(n_runs)])


def made(dictionary, seeds=(0, 1), n_heads=2):
    model = DeepDictionaryModel(dictionary, seeds, n_layers=3, n_heads=n_heads, width=8, inner_width=12)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:
                for run, seed in enumerate(seeds):
                    parameter[run].normal_(generator=torch.Generator().manual_seed(seed))
    return model


def encoder(model, run, n_heads):
    """PyTorch's own encoder with the weights of one run."""
    ours = model.layers[0]
    width, inner = ours.q.weight.shape[-1], ours.up.weight.shape[-1]
    layer = nn.TransformerEncoderLayer(width, n_heads, inner, dropout=0.0, batch_first=True)
    theirs = nn.TransformerEncoder(layer, len(model.layers), enable_nested_tensor=False)
    for mine, other in zip(model.layers, theirs.layers, strict=True):
        parts = (mine.q, mine.k, mine.v)
        other.self_attn.in_proj_weight.copy_(torch.cat([part.weight[run].T for part in parts]))
        other.self_attn.in_proj_bias.copy_(torch.cat([part.bias[run] for part in parts]))
        pairs = ((mine.o, other.self_attn.out_proj), (mine.up, other.linear1), (mine.down, other.linear2))
        for source, target in pairs:
            target.weight.copy_(source.weight[run].T)
            target.bias.copy_(source.bias[run])
        for source, target in ((mine.after_attention, other.norm1), (mine.after_network, other.norm2)):
            target.weight.copy_(source.weight[run])
            target.bias.copy_(source.bias[run])
    return theirs


@torch.no_grad()
@pytest.mark.parametrize("n_heads", [1, 4])
def test_the_layers_are_pytorchs_encoder(n_heads):
    dictionary = drawn()
    model = made(dictionary, n_heads=n_heads)
    labels = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    found = model.answers(labels)
    hidden = torch.arange(9)[None].expand(9, -1) >= 4
    for run in range(2):
        points = torch.zeros(6, 9, 7)
        points[..., :5] = dictionary.tokens[run]
        points[:, :4, 5], points[:, :4, 6] = labels[run], 1
        x = points @ model.embed.weight[run] + model.embed.bias[run]
        x = encoder(model, run, n_heads)(x, mask=hidden)
        expected = x @ model.read_out.weight[run] + model.read_out.bias[run]
        torch.testing.assert_close(found[run], expected[..., 0])


def test_a_run_equals_the_same_run_alone():
    dictionary = drawn(3)
    together = made(dictionary, (4, 5, 6))
    alone = made(dictionary[1], (5,))
    labels = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(together.answers(labels)[1], alone.answers(labels[1:2])[0])


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="n_heads=3 must divide the width 8"):
        made(drawn(), n_heads=3)
    with pytest.raises(UserError, match="2 dictionaries do not fit 1 seeds"):
        made(drawn(), (0,))
    with pytest.raises(UserError, match="n_layers=0"):
        DeepDictionaryModel(drawn(), (0, 1), n_layers=0)
