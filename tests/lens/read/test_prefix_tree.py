"""Texts that begin alike, read as one tree, give what each gives alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lens.zoo import CAUSAL, build

from iclens.lens import LensModel
from iclens.lens.model.rotary import longest_alike
from iclens.lens.read.capture import run
from iclens.lens.read.margin import Readout
from iclens.lens.read.prefix_tree import prefix_trees, read_tree
from iclens.lens.read.shared_texts import WORTH, cost_of
from iclens.lens.scores.deletions import run_texts

TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8)


def halves(seed: int, count: int = 9, blocks: int = 5, width: int = 5) -> list[list[int]]:
    """Random halves of some blocks of ids behind one start, each with the same end."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randint(3, 60, (blocks + 2, width), generator=generator).tolist()
    kept = torch.rand(count, blocks, generator=generator) < 0.5
    inside = [
        [ids for part, here in zip(parts[1:], row, strict=False) if here for ids in part] for row in kept.tolist()
    ]
    return [[*parts[0], *own, *parts[-1]] for own in inside]


@pytest.mark.parametrize("name", CAUSAL)
def test_every_family_reads_a_tree_as_it_reads_its_texts(name: str) -> None:
    model = LensModel.wrap(build(name, torch.float64), name=name)
    texts = halves(seed=1, count=16)
    # Its own softmax takes a detour through float32.
    limit = 1e-5 if "capture" in model.family.single else 1e-10
    if longest_alike(model) is not None:
        # The length of a text moves its positions: each runs alone.
        assert cost_of(model, texts, 10_000) == sum(map(len, texts))
        return
    # All in one tree are more tokens than some of these models have positions; no text is.
    trees = [*prefix_trees(texts, 60), *prefix_trees(texts, 1_000)]
    assert len(trees[-1].ids) > 128
    with torch.no_grad():
        alone = [run(model, torch.tensor([text]))[0, -2:] for text in texts]
        for tree in trees:
            last = torch.tensor([[len(texts[i]) - 2, len(texts[i]) - 1] for i in tree.numbers])
            for i, own in zip(tree.numbers, read_tree(model, tree, last), strict=True):
                assert (own - alone[i]).abs().max() <= limit * alone[i].abs().max(), name


@given(TEXTS, st.integers(1, 12))
def test_trees_hold_every_text_once(texts: list[list[int]], most: int) -> None:
    trees = list(prefix_trees(texts, most))
    assert sorted(i for tree in trees for i in tree.numbers) == list(range(len(texts)))
    for tree in trees:
        assert len(tree.ids) <= most or len(tree.numbers) == 1 or len(set(tree.paths)) == 1
        for i, path in zip(tree.numbers, tree.paths, strict=True):
            assert [tree.ids[node] for node in path] == texts[i]
            assert [tree.parents[node] for node in path] == [-1, *path[:-1]]
            assert tree.places[list(path)].tolist() == list(range(len(path)))
            (before,) = tree.before(slice(path[-1], path[-1] + 1))
            assert before.nonzero().flatten().tolist() == sorted(path)
        every = tree.before(slice(0, len(tree.ids)))
        assert torch.equal(every[2:5], tree.before(slice(2, 5)))


@given(TEXTS)
def test_one_tree_reads_every_beginning_once(texts: list[list[int]]) -> None:
    beginnings = {tuple(text[:n]) for text in texts for n in range(1, len(text) + 1)}
    (tree,) = prefix_trees(texts, 10_000)
    assert len(tree.ids) == len(beginnings)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2-window", "opt"])
def test_texts_side_by_side_and_as_a_tree_say_the_same(name: str) -> None:
    model = LensModel.wrap(build(name, torch.float64), name=name)
    readout = Readout(((0, 7, 1.0), (1, 9, -1.0)), answer_ids=(7, 8), append=(7,))
    texts = [(ids, readout) for ids in halves(seed=3)]
    together = run_texts(model, texts, 200)
    for one, text in zip(zip(*together, strict=True), texts, strict=True):
        alone = run_texts(model, [text], 200)
        assert float(one[0]) == pytest.approx(float(alone.margins), abs=1e-10)
        assert float(one[1]) == pytest.approx(float(alone.log_probabilities), abs=1e-10)
        assert bool(one[2]) == bool(alone.answered)
    rows = [[*ids, 7] for ids, _ in texts]
    different = len({tuple(row[:n]) for row in rows for n in range(1, len(row) + 1)})
    assert different <= cost_of(model, rows, 200) < sum(map(len, rows))


@given(st.integers(1, 200), st.integers(1, 5), st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_a_long_beginning_is_read_once_for_as_many_tokens_as_go_through_at_once(long: int, own: int, most: int) -> None:
    model = LensModel.wrap(build("llama", torch.float64), name="llama")
    rows = [[*[1] * long, *[2 + i] * own] for i in range(12)]
    n_trees = -(-12 // (1 + most // own))
    shared, apart = n_trees * long + 12 * own, 12 * (long + own)
    assert cost_of(model, rows, most) == (shared if shared <= WORTH * apart else apart)


def test_a_model_that_reads_a_tree_otherwise_reads_every_text_by_itself() -> None:
    model = LensModel.wrap(build("llama", torch.float64), name="llama")
    # What a token means depends on how many there are.
    model.model.get_input_embeddings().register_forward_hook(lambda module, args, output: output * output.shape[1])
    readout = Readout(((0, 7, 1.0), (0, 9, -1.0)))
    texts = [(ids, readout) for ids in halves(seed=3)]
    together = run_texts(model, texts, 200).margins
    alone = torch.stack([run_texts(model, [text], 200).margins[0] for text in texts])
    # Side by side, shorter texts are filled up, so that such a model is right on texts of the longest length alone.
    longest = [len(ids) == max(len(ids) for ids, _ in texts) for ids, _ in texts]
    assert torch.allclose(together[longest], alone[longest], rtol=1e-10)
    assert cost_of(model, [ids for ids, _ in texts], 200) == sum(len(ids) for ids, _ in texts)
