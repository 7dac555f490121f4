"""The dictionary task of Yang et al. 2024: K fixed tokens, labels linear in fixed features of theirs.

Token v_k has features f(v_k) in R^m, drawn once. A prompt draws λ and noise and labels every token with
y_k = λᵀ(f(v_k) + ε_k), ε_k ~ N(0, τ I_m). It shows the first N tokens with their labels; the labels of all K tokens are
asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.tasks.options import require_at_least_zero, require_counts
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shapes import Inputs
from iclens.tasks.task import TASKS, Optimal, Task

SHIFTED_MEAN, SHIFTED_SPREAD = 1.0, 2.0
"""Out of domain λ ~ N(**1**, 4 I): mean of each entry, and its standard deviation."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Tokens and their features; several dictionaries of one shape under leading axes of runs.

    Attributes:
        tokens: v_1 … v_K as rows.
        features: f(v_1) … f(v_K) as rows.
        n_prompt: N, how many tokens a prompt shows with their labels: always the first ones.
        tau: τ, the variance of the features' noise.
    """

    tokens: Float[Tensor, "*runs n_tokens d"]
    features: Float[Tensor, "*runs n_tokens m"]
    n_prompt: int
    tau: float

    def __post_init__(self) -> None:
        if self.tokens.shape[:-1] != self.features.shape[:-1]:
            raise UserError(
                f"tokens have shape {tuple(self.tokens.shape)} and features {tuple(self.features.shape)}: all axes but "
                "the last must be equal."
            )
        if not 1 <= self.n_prompt <= self.n_tokens:
            raise UserError(f"n_prompt={self.n_prompt} must lie between 1 and the {self.n_tokens} tokens there are.")
        require_at_least_zero(tau=self.tau)
        if not (self.tokens.isfinite().all() and self.features.isfinite().all()):
            raise UserError("tokens and features of a dictionary must be finite.")

    @staticmethod
    def draw(
        d: int,
        n_features: int,
        n_tokens: int,
        n_prompt: int,
        tau: float,
        seed: int,
        *,
        normalised: bool,
    ) -> Dictionary:
        """Standard normal tokens and features, in float64: Yang et al. 2024.

        Args:
            d: width of the tokens.
            n_features: m.
            n_tokens: K.
            n_prompt: N.
            tau: τ.
            seed: equal seeds give equal features, and equal tokens up to their norms, at any `normalised`.
            normalised: whether tokens are scaled to norm 1, as the paper's theory has them.

        Raises:
            UserError: sizes below 1, N > K, or a negative variance.
        """
        require_counts(d=d, n_features=n_features, n_tokens=n_tokens)
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(n_tokens, d, generator=generator, dtype=torch.float64)
        features = torch.randn(n_tokens, n_features, generator=generator, dtype=torch.float64)
        if normalised:
            tokens = tokens / tokens.norm(dim=-1, keepdim=True)
        return Dictionary(tokens, features, n_prompt, tau)

    @staticmethod
    def stack(dictionaries: Sequence[Dictionary]) -> Dictionary:
        """Dictionaries of equal sizes under a new first axis, the runs.

        Raises:
            UserError: none, or sizes, N or τ that differ.
        """
        if not dictionaries:
            raise UserError("give at least one dictionary to stack.")
        first = dictionaries[0]
        for other in dictionaries[1:]:
            same = (other.tokens.shape, other.features.shape, other.n_prompt, other.tau)
            if same != (first.tokens.shape, first.features.shape, first.n_prompt, first.tau):
                raise UserError("dictionaries of one stack must agree in d, m, K, N and tau.")
        return Dictionary(
            torch.stack([each.tokens for each in dictionaries]),
            torch.stack([each.features for each in dictionaries]),
            first.n_prompt,
            first.tau,
        )

    def __getitem__(self, run: int) -> Dictionary:
        """The dictionary of one run of a stack."""
        return Dictionary(self.tokens[run], self.features[run], self.n_prompt, self.tau)

    def to(self, device: torch.device | str) -> Dictionary:
        """Return the same dictionary on another device."""
        return Dictionary(self.tokens.to(device), self.features.to(device), self.n_prompt, self.tau)

    def first(self, n_tokens: int) -> Dictionary:
        """Only the first tokens.

        Raises:
            UserError: fewer than N.
        """
        return Dictionary(self.tokens[..., :n_tokens, :], self.features[..., :n_tokens, :], self.n_prompt, self.tau)

    @property
    def n_tokens(self) -> int:
        """K."""
        return self.tokens.shape[-2]

    @property
    def d(self) -> int:
        """Width of a token."""
        return self.tokens.shape[-1]

    @property
    def n_features(self) -> int:
        """m."""
        return self.features.shape[-1]

    @property
    def shown(self) -> Float[Tensor, "*runs n_prompt d"]:
        """The tokens of every prompt, v_1 … v_N."""
        return self.tokens[..., : self.n_prompt, :]

    def labels_of(
        self, weight: Float[Tensor, "*runs batch m"], noise: Float[Tensor, "*runs batch n_tokens"]
    ) -> Float[Tensor, "*runs batch n_tokens"]:
        """y_k = λᵀ f(v_k) + √τ ‖λ‖ g_k.

        Given λ, the noise λᵀε_k is normal with variance τ‖λ‖² and independent over k, so that one number g_k ~ N(0, 1)
        stands for the m numbers of ε_k.

        Args:
            weight: λ.
            noise: g.
        """
        return weight @ self.features.mT + math.sqrt(self.tau) * weight.norm(dim=-1, keepdim=True) * noise

    def sample_labels(
        self, generators: Sequence[torch.Generator], batch: int, *, shifted: bool = False
    ) -> Float[Tensor, "runs batch n_tokens"]:
        """Labels of all tokens in `batch` prompts of each run; run r draws from `generators[r]` alone.

        Args:
            generators: one for each run; the dictionary has one axis of runs.
            batch: prompts a run.
            shifted: λ ~ N(**1**, 4 I) in place of N(0, I).
        """
        draws = [self._draws(generator, (batch,), shifted) for generator in generators]
        weight, noise = (torch.stack(part) for part in zip(*draws, strict=True))
        return self.labels_of(weight, noise)

    def second_moment(self, *, shifted: bool = False) -> Float[Tensor, "*runs n_tokens n_tokens"]:
        """E[y yᵀ] over λ and noise.

        In domain Z̃ᵀZ̃ + mτ I; shifted 4 Z̃ᵀZ̃ + (Z̃ᵀ1)(Z̃ᵀ1)ᵀ + 5mτ I, because E‖λ‖² = 5m there.
        """
        gram = self.features @ self.features.mT
        mean, variance = (SHIFTED_MEAN, SHIFTED_SPREAD**2) if shifted else (0.0, 1.0)
        sums = self.features.sum(-1, keepdim=True)
        noise = self.n_features * self.tau * (mean**2 + variance)
        identity = torch.eye(self.n_tokens, dtype=gram.dtype, device=gram.device)
        return variance * gram + mean**2 * sums @ sums.mT + noise * identity

    def _draws(self, generator: torch.Generator, batch: tuple[int, ...], shifted: bool) -> tuple[Tensor, Tensor]:
        dtype = self.features.dtype
        weight = torch.randn(*batch, self.n_features, generator=generator, dtype=dtype)
        if shifted:
            weight = SHIFTED_MEAN + SHIFTED_SPREAD * weight
        noise = torch.randn(*batch, self.n_tokens, generator=generator, dtype=dtype)
        return weight.to(self.features), noise.to(self.features)


@TASKS.register("dictionary")
class DictionaryTask(Task):
    """Yang et al. 2024 as a stream of prompts with one query each.

    A prompt shows the first `n_context` tokens and asks for a token drawn from all K, so that the mean squared error at
    the query is 2 L of the paper. A token that the prompt shows has the label that it shows.

    Args:
        d: width of the tokens.
        n_features: m.
        n_tokens: K.
        tau: τ, a variance.
        normalised: whether tokens have norm 1.
        shifted: λ ~ N(**1**, 4 I) in place of N(0, I).
        seed: of the dictionary.

    Raises:
        UserError: sizes below 1, or a negative variance.
    """

    def __init__(
        self,
        *,
        d: int = 100,
        n_features: int = 20,
        n_tokens: int = 200,
        tau: float = 0.01,
        normalised: bool = False,
        shifted: bool = False,
        seed: int = 0,
    ) -> None:
        self.d, self.n_features, self.n_tokens, self.tau = d, n_features, n_tokens, tau
        self.normalised, self.shifted, self.seed = normalised, shifted, seed
        # Which tokens are shown is the business of each prompt.
        self.dictionary = Dictionary.draw(d, n_features, n_tokens, n_tokens, tau, seed, normalised=normalised)

    def sample_inputs(self, generator: torch.Generator, batch: tuple[int, ...], n_points: int) -> Inputs:
        """v_1 … v_N and one of all K tokens.

        Raises:
            UserError: more demonstrations than tokens.
        """
        if n_points - 1 > self.n_tokens:
            raise UserError(f"n_context={n_points - 1} is more than the {self.n_tokens} tokens of the dictionary.")
        shown = torch.arange(n_points - 1).expand(*batch, -1)
        asked = torch.randint(self.n_tokens, (*batch, 1), generator=generator)
        return self.dictionary.tokens.to(torch.get_default_dtype())[torch.cat([shown, asked], dim=-1)]

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """λ as `weight`, and `noise`: the standard normal number g_k of each token."""
        weight, noise = self.dictionary._draws(generator, batch, self.shifted)
        dtype = torch.get_default_dtype()
        return {"weight": weight.to(dtype), "noise": noise.to(dtype)}

    def values(self, inputs: Inputs, function: Mapping[str, Tensor]) -> Float[Tensor, "*batch n_points 1"]:
        """λᵀ f(v).

        Raises:
            UserError: an input that is not a token of the dictionary.
        """
        features = self.dictionary.features.to(inputs)[self.indices(inputs)]
        return features @ function["weight"][..., None]

    def sample(self, generator: torch.Generator, batch: int | tuple[int, ...], n_context: int) -> PromptBatch:
        """See `Task.sample`; the noise belongs to the token, not to the place in the prompt."""
        clean = super().sample(generator, batch, n_context)
        indices, function = self.indices(clean.inputs), clean.function
        noise = function["noise"].gather(-1, indices)[..., None]
        size = math.sqrt(self.tau) * function["weight"].norm(dim=-1)[..., None, None]
        return PromptBatch(clean.inputs, clean.labels + size * noise, function)

    def indices(self, inputs: Inputs) -> Tensor:
        """Which token of the dictionary each input is, (*batch, n_points).

        Raises:
            UserError: an input that is not a token.
        """
        return find_tokens(self.dictionary.tokens, inputs)

    def optimal(self) -> Optimal:
        """Ridge regression over the features, with strength mτ; labels in the prompt are copied."""
        options = {name: getattr(self, name) for name in ("d", "n_features", "n_tokens", "tau", "normalised", "seed")}
        return Optimal(
            "dictionary-ridge", options, exact=False, source="Yang et al. 2024, Theorem 2: best of those linear in y"
        )


def find_tokens(tokens: Float[Tensor, "n_tokens d"], inputs: Inputs) -> Tensor:
    """Index of the token that each input is, (*batch, n_points).

    Raises:
        UserError: an input that is further from every token than rounding explains.
    """
    flat, known = inputs.reshape(-1, inputs.shape[-1]), tokens.to(inputs)
    distances = torch.cdist(flat, known, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, indices = distances.min(dim=-1)
    allowed = 1e-5 * (1 + known.norm(dim=-1)[indices])
    if not (nearest <= allowed).all():
        raise UserError("an input is not a token of the dictionary: the task and the model must share seed and sizes.")
    return indices.reshape(inputs.shape[:-1])
