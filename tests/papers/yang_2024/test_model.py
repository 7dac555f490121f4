import pytest
import torch

from iclens.errors import UserError
from iclens.models.model import build_model
from iclens.papers.yang_2024.model import DictionaryModel
from iclens.papers.yang_2024.task import Dictionary
from iclens.tasks.task import build_task


def filled(model):
    with torch.no_grad():
        model.w.copy_(torch.randn(model.w.shape, generator=torch.Generator().manual_seed(9)))
    return model


def drawn(n_runs=3, n_prompt=4):
    return Dictionary.stack([Dictionary.draw(5, 3, 9, n_prompt, 0.1, seed, normalised=False) for seed in range(n_runs)])


def by_hand(model, run, n_prompt):
    """Â as the paper writes it, one number after another."""
    tokens = model.tokens[run]
    a_hat = torch.zeros(n_prompt, len(tokens))
    for k, token in enumerate(tokens):
        for h in range(model.heads[run]):
            scores = torch.stack([shown @ model.Q[run, :, h] @ token for shown in tokens[:n_prompt]])
            a_hat[:, k] += model.w[run, h, k] * scores.softmax(0)
    return a_hat


def test_the_weights_are_the_papers_formula():
    model = filled(DictionaryModel.on(drawn(), range(3), n_heads=4, heads=[4, 2, 1]))
    found = model.weights(4)
    for run in range(3):
        torch.testing.assert_close(found[run], by_hand(model, run, 4))


def test_one_attention_for_all_prompts_answers_as_one_for_each():
    dictionary = drawn()
    model = filled(DictionaryModel.on(dictionary, range(3), n_heads=5, heads=[5, 2, 3]))
    labels = dictionary.sample_labels([torch.Generator().manual_seed(seed) for seed in range(3)], 7)[..., :4]
    shown = model.tokens[:, None, :4].expand(-1, 7, -1, -1)
    plain = model.answers_per_prompt(shown, labels)
    torch.testing.assert_close(model.answers(labels), plain)
    (plain**2).sum().backward()
    expected = [parameter.grad.clone() for parameter in (model.w, model.Q)]
    model.zero_grad()
    (model.answers(labels) ** 2).sum().backward()
    torch.testing.assert_close([model.w.grad, model.Q.grad], expected)


def test_as_a_model_for_prompts_it_answers_the_query():
    options = dict(n_tokens=8, normalised=True)
    task = build_task("dictionary", d=4, n_features=3, tau=0.2, seed=1, **options)
    model = filled(build_model("dictionary", d=4, d_y=1, seeds=[0, 1], n_heads=3, dictionary_seed=1, **options))
    prompt = task.sample(torch.Generator().manual_seed(0), (2, 6), 5)
    answers = model(prompt.inputs, prompt.labels)
    expected = model.answers(prompt.ys[..., 0]).gather(2, task.indices(prompt.inputs)[..., -1:])
    torch.testing.assert_close(answers, expected[..., None])
    assert model.every_prefix is False
    changed = prompt.labels.clone()
    changed[:, :, -1] += 1
    assert torch.equal(model(prompt.inputs, changed), answers)


def test_a_run_starts_as_it_would_alone_whatever_the_number_of_heads():
    dictionary = drawn()
    together = DictionaryModel.on(dictionary, [5, 6, 7], n_heads=6, heads=[6, 3, 2], beta=2.0)
    alone = DictionaryModel.on(dictionary[1], [6], n_heads=3, beta=2.0)
    assert torch.equal(together.Q[1, :, :3], alone.Q[0])
    assert float(together.Q.detach().std()) == pytest.approx(2, rel=0.15)
    assert not together.w.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": [3, 9]}, "between 1 and n_heads=4"),
        ({"heads": [3]}, "every run"),
        ({"d_y": 2}, "d_y=2"),
        ({"tokens": torch.zeros(3, 5, 4)}, "do not fit 2 runs"),
    ],
)
def test_impossible_models_are_refused(options, message):
    given = {"d": 4, "d_y": 1, "seeds": [0, 1], "n_heads": 4} | options
    with pytest.raises(UserError, match=message):
        DictionaryModel(**given)


def test_a_prompt_needs_a_demonstration():
    model = DictionaryModel(4, 1, [0], n_heads=2, n_tokens=5)
    with pytest.raises(UserError, match="at least one demonstration"):
        model(model.tokens[:, None, :1], torch.zeros(1, 1, 1, 1))
