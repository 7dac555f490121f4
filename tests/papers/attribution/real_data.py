"""Small data in the layout of the real ones, in words that the bundled learner knows."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from iclens.language.words import CATEGORIES, LABELS

_WORDS = [word for words in CATEGORIES.values() for word in words]


def write_real_data(folder: Path, n_pairs: int = 60) -> Path:
    """Tasks `free` and `other` of many labels, `few` of two, and the family `rules` of settling demonstrations."""
    (folder / "icl").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for name, labels in (("free", LABELS), ("other", LABELS[::-1]), ("few", LABELS[:2])):
        words = [_WORDS[i] for i in torch.randperm(len(_WORDS), generator=generator)[:n_pairs].tolist()]
        pairs = [{"input": word, "output": labels[i % len(labels)]} for i, word in enumerate(words)]
        (folder / "icl" / f"{name}.json").write_text(json.dumps(pairs))
    family = folder / "disambiguation" / "rules" / "10_shots"
    family.mkdir(parents=True)
    for right, wrong in (LABELS[:2], LABELS[1::-1]):
        tasks = []
        for start in range(8):
            lines = [f"Input: {_WORDS[start + i]} Output: {right if i % 2 else wrong}\n" for i in range(4)]
            entry = {"exemplars": "".join(lines), "target_question": f"Input: {_WORDS[start + 5]} Output:"}
            tasks.append(entry | {"target_answer": right, "foil_answer": wrong, "exemplar_index_for_diff": start % 4})
        (family / f"{right}.json").write_text(json.dumps({"tasks": tasks}))
    return folder
