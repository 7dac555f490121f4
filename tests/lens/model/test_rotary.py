"""Where the length of a text moves its positions, no pass depends on its company or on what was read before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.lens.many_prompts import prompt, reader, tokenizer
from tests.lens.zoo import read_last
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from iclens.lens.many.plan import batches
from iclens.lens.model.loading import LensModel
from iclens.lens.model.rotary import longest_alike
from iclens.lens.read.capture import run
from iclens.lens.read.question import ask
from iclens.lens.scores.candidates import score_candidates
from iclens.lens.scores.deletions import run_texts, shortened_ids


def test_prompts_whose_length_moves_their_positions_run_alone() -> None:
    model = reader("llama-dynamic-rope")
    limit = longest_alike(model)
    assert limit == 16
    assert longest_alike(reader("llama")) is None
    everything = [ask(model, prompt(n, 1, seed)) for seed, n in enumerate([1, 1, 2, 4, 4, 5, 5])]
    for one in batches(everything, model, 10_000):
        assert len(one) == 1 or max(everything[i].longest for i in one) <= limit


def nested() -> LensModel:
    """A model whose kinds of layers have rotary positions of their own; one kind stretches."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=16,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        },
        tie_word_embeddings=False,
    )
    return LensModel.wrap(Gemma3ForCausalLM(config).double().eval(), tokenizer(), "nested")


def test_settings_of_a_kind_of_layers_count() -> None:
    assert longest_alike(nested()) == 16


@pytest.mark.parametrize("made", [lambda: reader("llama-dynamic-rope"), nested])
def test_a_pass_does_not_remember_longer_prompts(made: Callable[[], LensModel]) -> None:
    model = made()
    short, long = torch.arange(4, 24)[None], torch.arange(4, 44)[None]
    fresh = run(model, short)
    # The same first tokens: without the stretch the logits would be the same.
    assert not torch.allclose(run(model, long)[:, : short.shape[1]], fresh)
    torch.testing.assert_close(run(model, short), fresh, rtol=0, atol=0)


def test_shortened_prompts_and_candidates_do_not_depend_on_their_batch() -> None:
    model, whole = reader("llama-dynamic-rope"), prompt(6, 1, 0)
    one = ask(model, whole, ["w1", "w2 w3", "w2 w4"])
    readout = one.answers.readout(model.tokenizer, run(model, one.tokenized.input_ids[None])[0, -1], 0)
    sets = [[], [0], [1, 2], [0, 1, 2, 3, 4]]
    texts = [(ids, readout) for ids in shortened_ids(model, whole, sets)]
    together = run_texts(model, texts, 4096)
    alone = [run_texts(model, [text], 1) for text in texts]
    assert together.margins.tolist() == pytest.approx([float(some.margins) for some in alone], rel=1e-12)
    # Some of them are longer than the limit, and the last is not.
    assert one.tokenized.n_tokens > (longest_alike(model) or 0)
    traced = read_last(model, [one.tokenized.input_ids])
    (scores,), _ = score_candidates(traced, [[entry.token_ids for entry in one.answers.candidates]])
    for candidate, score in zip(one.answers.candidates, scores, strict=True):
        ids = torch.cat([one.tokenized.input_ids, torch.tensor(candidate.token_ids)])
        steps = run(model, ids[None, :-1]).detach()[0, one.tokenized.n_tokens - 1 :].log_softmax(-1)
        assert score == pytest.approx(float(steps.gather(1, torch.tensor(candidate.token_ids)[:, None]).sum()))
