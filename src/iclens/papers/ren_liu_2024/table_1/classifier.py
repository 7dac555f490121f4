"""An encoder with a head for a task."""

from __future__ import annotations

import torch
from torch import nn

from iclens.papers.ren_liu_2024.table_1.packed import states


class Classifier(nn.Module):
    """An encoder with a fresh head on the mean of its tokens' states, as sentence encoders are pooled.

    Args:
        encoder: gives `last_hidden_state`.
        width: of its states.
        n_outputs: classes, or 1 for a grade.
        dropout: before the head.
        packed: whether the encoder was made ready for packed batches.
    """

    def __init__(self, encoder: nn.Module, width: int, n_outputs: int, dropout: float, packed: bool = False) -> None:
        super().__init__()
        self.encoder, self.packed = encoder, packed
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(width, width, dtype=torch.float32)
        self.head = nn.Linear(width, n_outputs, dtype=torch.float32)
        for layer in (self.dense, self.head):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits or grades, (n_examples, n_outputs)."""
        found = states(self.encoder, inputs) if self.packed else self.encoder(**inputs).last_hidden_state
        real = inputs["attention_mask"].to(found.dtype)[..., None]
        pooled = (found * real).sum(1) / real.sum(1)
        return self.head(self.dropout(torch.tanh(self.dense(self.dropout(pooled)))))
