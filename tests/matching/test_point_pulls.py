"""A lab model's answer as a sum of what its demonstrations add: exact, whatever the attention variant."""

import pytest
import torch

import iclens
from iclens.matching.pulls import point_pulls
from iclens.models.model import build_model
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.task import build_task

VARIANTS = [
    ("softmax", {}),
    ("regularized", {"alpha": 0.3}),
    ("weight-decay", {"alpha": 0.3}),
    ("augmented", {"g1": {"name": "adapter", "hidden": 4}}),
    ("negative", {"n_negatives": 2, "beta": 0.4}),
    ("negative", {"n_negatives": 2, "beta": 0.4, "selection": "key"}),
]


def prompt(n_context=7, batch=3, d=2):
    task = build_task("linear", d=d, noise_std=0.2)
    return task.sample(torch.Generator().manual_seed(0), batch, n_context)


def model(d=2, **options):
    settings = {"n_layers": 3, "n_heads": 2, "width": 16, "ffn_width": 8, **options}
    made = build_model("transformer", d=d, d_y=1, seeds=[0], **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # Fresh biases are zero and a fresh augmentation is the identity: neither would be seen.
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("norm", ["pre", "none"])
@pytest.mark.parametrize(
    "tokens",
    [{"tokens": "interleaved"}, {"tokens": "joint"}, {"tokens": "joint", "query_in_keys": False}],
    ids=["interleaved", "joint", "query not in keys"],
)
def test_pulls_and_rest_sum_to_the_answer(name, options, norm, tokens):
    made = model(attention=name, attention_options=options, norm=norm, **tokens)
    given = prompt()
    split = point_pulls(made, given)
    answer = made(given.inputs[None], given.labels[None])[0, :, -1]
    torch.testing.assert_close(split.answer, answer)
    assert split.by_head.shape == (3, 3, 2, 7, 1)
    assert split.pulls.abs().max() > 1e-3
    assert (split.residual.abs() / (split.by_head.abs().sum((1, 2, 3)) + 1)).max() < 1e-12


def test_in_one_layer_a_pull_is_weight_times_value_read_out():
    made = model(n_layers=1, ffn_width=0, norm="none", tokens="joint")
    given = prompt()
    block = made.blocks[0]
    h = made.states(given.inputs[None], given.labels[None])[0][0]
    q, k, v = (x.unflatten(-1, (2, 8)).transpose(-3, -2) for x in block.qkv(h[None])[0].chunk(3, -1))
    weights = (q[..., -1:, :] @ k.mT / 8**0.5).softmax(-1)[..., 0, :-1]
    through = torch.stack([v[:, head] @ block.out.weight[0, 8 * head : 8 * head + 8] for head in range(2)], 1)
    by_hand = weights * (through[..., :-1, :] @ made.read_out.weight[0])[..., 0]
    torch.testing.assert_close(point_pulls(made, given).by_head[:, 0, ..., 0], by_hand)


def test_pulls_go_with_their_points():
    made = model(tokens="joint")
    given = prompt()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4, 7])
    moved = PromptBatch(given.inputs[:, order], given.labels[:, order], {})
    torch.testing.assert_close(point_pulls(made, moved).pulls, point_pulls(made, given).pulls[:, order[:-1]])


@pytest.mark.parametrize(
    ("options", "n_context", "said"),
    [
        ({"norm": "post"}, 3, "norm='pre'"),
        ({"residual": False}, 3, "residual=true"),
        ({"attention": "scale-matched"}, 3, "afterwards"),
        ({"tokens": "inputs"}, 3, "no demonstration has its own"),
        ({}, 0, "at least one"),
    ],
)
def test_what_is_no_sum_is_refused(options, n_context, said):
    with pytest.raises(iclens.UserError, match=said):
        point_pulls(model(**options), prompt(n_context))


def test_other_models_are_refused():
    two = build_model("transformer", d=2, d_y=1, seeds=[0, 1])
    with pytest.raises(iclens.UserError, match="only one run"):
        point_pulls(two, prompt())
