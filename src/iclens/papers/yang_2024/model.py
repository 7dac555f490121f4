"""Yang et al. 2024's one-layer transformer for the dictionary task, whose attention does not depend on the prompt.

ŷ_k = ⟨y_{1:N}, Σ_h w_{h,k} softmax(Vᵀ Q_h v_k)⟩ with V = (v_1 … v_N): keys are the prompt's tokens only; no 1/√d, no
positions, no residual connection, no MLP. The prompt's tokens are always the first N, so that ŷ = Âᵀ y_{1:N} with one
matrix Â for all prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.errors import UserError
from iclens.models.model import MODELS, PromptModel
from iclens.papers.yang_2024.task import Dictionary, find_tokens
from iclens.tasks.shapes import RunsInputs


@MODELS.register("dictionary")
class DictionaryModel(PromptModel):
    """One layer of softmax attention with weights w_{h,k} for every token of the dictionary.

    Parameters, with a leading axis of runs: `w` (runs, H, K), initially 0, and `Q` (runs, d, H, d), initially N(0, β²),
    where `Q[r, :, h]` is the matrix Q_h: heads stand inside, so that one matrix product serves them all.

    As a `PromptModel` it recomputes its attention for every prompt, finds the query among its tokens, and answers the
    query only. `weights` and `answers` are the fast road: one attention for all prompts.

    Args:
        d: width of the tokens.
        d_y: 1.
        seeds: one for each run.
        n_heads: H.
        n_tokens: K.
        normalised: as in the task.
        dictionary_seed: the task's `seed`.
        beta: β.
        heads: number of heads of each run, at most H; the other heads of a run have w = 0 and do not learn. Head h of a
            run starts the same whatever H is. None for H in every run.
        tokens: the tokens themselves, (K, d) or (runs, K, d), in place of those of `dictionary_seed`.
        dtype: of the parameters; torch's default when None.

    Raises:
        UserError: d_y other than 1, no head, more heads in a run than H, or tokens of another shape.
    """

    every_prefix = False
    tokens: Tensor
    head_mask: Tensor

    def __init__(
        self,
        d: int,
        d_y: int,
        seeds: Sequence[int],
        *,
        n_heads: int = 64,
        n_tokens: int = 200,
        normalised: bool = False,
        dictionary_seed: int = 0,
        beta: float = 1.0,
        heads: Sequence[int] | None = None,
        tokens: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d, d_y, seeds)
        heads = [n_heads] * self.n_runs if heads is None else list(heads)
        if d_y != 1:
            raise UserError(f"d_y={d_y}: the dictionary model has labels of width 1.")
        if len(heads) != self.n_runs or not all(1 <= count <= n_heads for count in heads):
            raise UserError(f"heads={heads} must give every run ({self.n_runs}) between 1 and n_heads={n_heads}.")
        if tokens is None:
            tokens = Dictionary.draw(d, 1, n_tokens, 1, 0.0, dictionary_seed, normalised=normalised).tokens
        tokens = tokens.expand(self.n_runs, *tokens.shape[-2:]) if tokens.ndim == 2 else tokens
        if tokens.ndim != 3 or tokens.shape[0] != self.n_runs or tokens.shape[-1] != d:
            raise UserError(f"tokens of shape {tuple(tokens.shape)} do not fit {self.n_runs} runs of width {d}.")
        self.n_heads, self.n_tokens, self.heads = n_heads, tokens.shape[-2], tuple(heads)
        if dtype is None:
            dtype = torch.get_default_dtype()
        self.register_buffer("tokens", tokens.to(dtype).contiguous(), persistent=False)
        mask = torch.tensor([[float(head < count) for head in range(n_heads)] for count in heads], dtype=dtype)
        self.register_buffer("head_mask", mask[..., None], persistent=False)
        self.w = nn.Parameter(torch.zeros(self.n_runs, n_heads, self.n_tokens, dtype=dtype))
        self.Q = nn.Parameter(beta * torch.stack([_drawn(seed, n_heads, d, dtype) for seed in self.seeds]))
        self.to(tokens.device)

    @classmethod
    def on(
        cls,
        dictionary: Dictionary,
        seeds: Sequence[int],
        *,
        n_heads: int,
        heads: Sequence[int] | None = None,
        beta: float = 1.0,
        dtype: torch.dtype | None = None,
    ) -> DictionaryModel:
        """Return a model for these tokens, one dictionary for all runs or one for each.

        Raises:
            UserError: as the constructor.
        """
        tokens = dictionary.tokens
        return cls(dictionary.d, 1, seeds, n_heads=n_heads, heads=heads, beta=beta, tokens=tokens, dtype=dtype)

    def attention(self, n_prompt: int) -> Float[Tensor, "runs n_prompt n_heads n_tokens"]:
        """softmax(Vᵀ Q_h v_k) over the first `n_prompt` tokens, C_k of the paper for every k."""
        shown = self.tokens[:, :n_prompt]
        keys = shown @ self.Q.flatten(2)
        scores = keys.reshape(self.n_runs, n_prompt * self.n_heads, self.d) @ self.tokens.mT
        return scores.view(self.n_runs, n_prompt, self.n_heads, self.n_tokens).softmax(1)

    def weights(self, n_prompt: int) -> Float[Tensor, "runs n_prompt n_tokens"]:
        """Â, with Â_{:,k} = Σ_h w_{h,k} softmax(Vᵀ Q_h v_k)."""
        return torch.einsum("rhk,rnhk->rnk", self.w * self.head_mask, self.attention(n_prompt))

    def answers(self, labels: Float[Tensor, "runs batch n_prompt"]) -> Float[Tensor, "runs batch n_tokens"]:
        """ŷ of all tokens from the labels of the first ones: one attention for all prompts."""
        return labels @ self.weights(labels.shape[-1])

    def answers_per_prompt(
        self, shown: Float[Tensor, "runs batch n_prompt d"], labels: Float[Tensor, "runs batch n_prompt"]
    ) -> Float[Tensor, "runs batch n_tokens"]:
        """Return the same as `answers`, the plain way: every prompt brings its tokens and gets its own attention.

        The reference of the fast road, and what it is timed against.
        """
        scores = torch.einsum("rbnd,rdhe,rke->rbhnk", shown, self.Q, self.tokens)
        read = torch.einsum("rbhnk,rbn->rbhk", scores.softmax(3), labels)
        return torch.einsum("rbhk,rhk->rbk", read, self.w * self.head_mask)

    def forward(
        self, inputs: RunsInputs, labels: Float[Tensor, "runs batch n_points 1"]
    ) -> Float[Tensor, "runs batch 1 1"]:
        """ŷ at the last point of every prompt, from its own attention.

        Raises:
            UserError: a prompt without demonstrations, or a query that is not a token of the dictionary.
        """
        if inputs.shape[2] < 2:
            raise UserError("the dictionary model needs at least one demonstration before the query.")
        asked = inputs[:, :, -1]
        indices = torch.stack([find_tokens(tokens, query) for tokens, query in zip(self.tokens, asked, strict=True)])
        scores = torch.einsum("rbnd,rdhe,rbe->rbhn", inputs[:, :, :-1], self.Q, asked)
        read = torch.einsum("rbhn,rbn->rbh", scores.softmax(-1), labels[:, :, :-1, 0])
        w = (self.w * self.head_mask).mT.gather(1, indices[..., None].expand(-1, -1, self.n_heads))
        return (w * read).sum(-1)[..., None, None]


def _drawn(seed: int, n_heads: int, d: int, dtype: torch.dtype) -> Tensor:
    # Head by head, so that more heads leave the first ones as they were.
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(d, d, generator=generator, dtype=dtype) for _ in range(n_heads)], dim=1)
