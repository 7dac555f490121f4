"""How far an explanation's statements are from the model's own numbers, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

RESIDUALS = {
    "capture": "captured attention against the model's own",
    "dual_models": "dual models against the attention output of every layer",
    "gradient_step": "direct contributions and the rest against the margin",
    "path": "path parts against the margin",
    "knock_out": "knock-out of nothing against the full pass",
    "weighted": "weighted attention of the influence against the pass's own",
    "response": "influence on the response's tokens against that on all",
    "patch": "logits of the query alone with patched weights against those with the context",
}
"""The checks by their short names."""


@dataclass(frozen=True)
class Residual:
    """How far one of our statements is from the model's own numbers.

    Attributes:
        name: what was compared.
        value: the relative difference found; at most `tolerance` is accepted.
        key: its short name, one of `RESIDUALS`.
    """

    name: str
    value: float
    tolerance: float
    key: str = ""

    @property
    def holds(self) -> bool:
        """True when the value is a number within the tolerance."""
        return self.value <= self.tolerance


@dataclass(frozen=True)
class Completeness:
    """How far the shares are from summing to what the demonstrations change.

    Attributes:
        without: the margin when no dual model is trained on any demonstration.
        gap: |sum of the shares − (margin − without)|, over the change or the largest share, whichever is larger.
        tolerance: the gap up to which they count as complete.
        weights: the weights of all demonstrations that the influence was integrated over, ascending.
    """

    without: float
    gap: float
    tolerance: float
    weights: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Whether the shares are complete."""
        return self.gap <= self.tolerance


@dataclass(frozen=True)
class Agreement:
    """How far two ways to score the demonstrations agree, e.g. `"gradient_step"` and `"knock_out"`.

    Attributes:
        spearman: rank correlation in [-1, 1], or None when it is undefined (one demonstration, or all tied).
        top_k: share of common demonstrations among the k largest of either.
    """

    first: str
    second: str
    spearman: float | None
    top_k: float
    k: int


@dataclass(frozen=True)
class Faithfulness:
    """How well one method's scores predict what the model does on other prompts.

    Attributes:
        method: e.g. `"gradient_step"`.
        lds: linear datamodeling score: Spearman correlation of the sum of scores with the margin, over `n_subsets`
            random subsets of the demonstrations whose text was really deleted; None when undefined.
        margin_drop: full margin minus the margin after deleting the text of the top k demonstrations.
    """

    method: str
    lds: float | None
    margin_drop: float
    k: int
    n_subsets: int


@dataclass(frozen=True)
class Cost:
    """What the explanation cost: full forward passes, backward passes, and seconds of each stage."""

    forward_passes: float
    backward_passes: float
    seconds: dict[str, float]
