"""Rows of RTE and a relation in words that the bundled learner knows."""

from __future__ import annotations

from pathlib import Path

import torch

from iclens.language.words import CATEGORIES, LABELS
from iclens.papers.attribution.contexts.facts import Relation

KNOWN = {word: label for label, words in zip(LABELS, CATEGORIES.values(), strict=False) for word in words}
RELATION = Relation("label", "{subject} is {answer} .", "{subject} ?", "; ".join(f"{w}: {a}" for w, a in KNOWN.items()))


def write_context_data(folder: Path, n_rows: int = 40) -> Path:
    """Files `train` and `dev` of RTE whose premises and hypotheses are demonstrations of the made-up language."""
    (folder / "glue" / "RTE").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    words = list(KNOWN)
    for name in ("train", "dev"):
        order = [words[i] for i in torch.randperm(len(words), generator=generator)[:n_rows].tolist()]
        lines = [
            f"{i}\t{word} is {KNOWN[word]} .\t{word} is\t{'entailment' if i % 2 else 'not_entailment'}"
            for i, word in enumerate(order)
        ]
        text = "\n".join(["index\tsentence1\tsentence2\tlabel", *lines]) + "\n"
        (folder / "glue" / "RTE" / f"{name}.tsv").write_text(text)
    return folder
