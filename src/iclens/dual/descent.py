"""Linear attention that *is* gradient descent on least squares: von Oswald et al.'s and Dai et al.'s constructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.dual.model import DualModel
from iclens.errors import UserError


@dataclass(frozen=True, eq=False)
class GradientStepHead:
    """A linear self-attention head on tokens e_i = (x_i, y_i) whose update is one step of gradient descent.

    In the paper's layout, acting on columns:

        W_K = W_Q = diag(I_x, 0),   W_V = ((0, 0), (W_0, −I_y)),   P = (η/N) I,
        e_j ← e_j + P W_V Σ_i e_i (W_K e_i)ᵀ (W_Q e_j).

    The label part of every token becomes y_j − ΔW x_j, with W_0 + ΔW one gradient step at rate η from W_0 on
    L(W) = (1/2N) Σ_i ‖W x_i − y_i‖². A query (x, −W_0 x) so becomes (x, −(W_0 + ΔW) x). The head acts on any tokens of
    this width, and the same head applied again takes the next step.

    Unlike the dual of softmax attention this is a *construction*: it holds for these weights, and for no others.

    Source: von Oswald et al. 2023, Proposition 1; the block −(γN/η) I_x of W_V is their GD++.

    Attributes:
        W_K: (d_x + d_y, d_x + d_y); W_Q is the same.
        W_V: (d_x + d_y, d_x + d_y).
        P: the output projection, (d_x + d_y, d_x + d_y).
        W_0: where the step starts, (d_y, d_x).
        tokens: the context's tokens (x_i, y_i), (..., N, d_x + d_y).
    """

    W_K: Float[Tensor, "d_token d_token"]
    W_V: Float[Tensor, "d_token d_token"]
    P: Float[Tensor, "d_token d_token"]
    W_0: Float[Tensor, "d_y d_x"]
    tokens: Float[Tensor, "*batch N d_token"]

    @property
    def W_Q(self) -> Float[Tensor, "d_token d_token"]:
        """The same matrix as W_K."""
        return self.W_K

    def query(self, x: Float[Tensor, "*batch n d_x"]) -> Float[Tensor, "*batch n d_token"]:
        """Query tokens (x, −W_0 x)."""
        return torch.cat([x, -x @ self.W_0.mT], -1)

    def dual(self, queries: Tensor, tokens: Tensor | None = None) -> DualModel:
        """The head as a dual model: linear kernel, every context token a demonstration, P absorbed in the values.

        Args:
            queries: the tokens that attend, (..., n_query, d_x + d_y).
            tokens: the context; `self.tokens` when None.
        """
        tokens = self.tokens if tokens is None else tokens
        v = tokens @ (self.P @ self.W_V).mT
        return DualModel.from_attention(
            queries @ self.W_Q.mT, tokens @ self.W_K.mT, v, tokens.shape[-2], kernel="linear"
        )

    def update(self, queries: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """Return the tokens after the head and its residual: e + Σ_i P W_V e_i (W_K e_i)ᵀ W_Q e.

        Args:
            queries: tokens to update, (..., n_query, d_x + d_y); the context itself when None.
            tokens: the context; `self.tokens` when None.
        """
        tokens = self.tokens if tokens is None else tokens
        queries = tokens if queries is None else queries
        return queries + self.dual(queries, tokens).predict()

    def predict(self, x: Float[Tensor, "*batch n_query d_x"], steps: int = 1) -> Float[Tensor, "*out n_query d_y"]:
        """Predict W x at new inputs after `steps` layers of this head, which are as many gradient steps.

        Raises:
            UserError: steps is negative.
        """
        if steps < 0:
            raise UserError(f"steps={steps} must not be negative.")
        tokens, queries = self.tokens, self.query(x)
        for _ in range(steps):
            tokens, queries = self.update(tokens=tokens), self.update(queries, tokens)
        return -queries[..., self.W_0.shape[1] :]


def one_step_head(x: Tensor, y: Tensor, W_0: Tensor, eta: float, gamma: float = 0.0) -> GradientStepHead:
    """Return the weights of von Oswald et al.'s Proposition 1 for a context (x, y).

    Args:
        x: inputs, (..., N, d_x).
        y: targets, (..., N, d_y).
        W_0: where gradient descent starts, (d_y, d_x).
        eta: the learning rate η, positive.
        gamma: GD++: the head also takes x_j ← (I − γ Σ_i x_i x_iᵀ) x_j; 0 for plain gradient descent.

    Raises:
        UserError: shapes that do not fit, or a learning rate that is not positive.
    """
    fits = x.ndim >= 2 and y.ndim >= 2 and W_0.ndim == 2 and x.shape[:-1] == y.shape[:-1]
    if not fits or W_0.shape != (y.shape[-1], x.shape[-1]):
        raise UserError(
            f"x {tuple(x.shape)}, y {tuple(y.shape)} and W_0 {tuple(W_0.shape)} must be (..., N, d_x), (..., N, d_y) "
            "and (d_y, d_x)."
        )
    if not eta > 0:
        raise UserError(f"eta={eta} must be positive.")
    n, d_x, d_y = x.shape[-2], x.shape[-1], y.shape[-1]
    eye_x, eye_y = (torch.eye(d, dtype=x.dtype, device=x.device) for d in (d_x, d_y))
    W_K = torch.block_diag(eye_x, torch.zeros_like(eye_y))
    top = torch.cat([-gamma * n / eta * eye_x, x.new_zeros(d_x, d_y)], 1)
    W_V = torch.cat([top, torch.cat([W_0, -eye_y], 1)])
    P = eta / n * torch.eye(d_x + d_y, dtype=x.dtype, device=x.device)
    return GradientStepHead(W_K, W_V, P, W_0, torch.cat([x, y], -1))


def gradient_descent(
    x: Float[Tensor, "*batch N d_x"],
    y: Float[Tensor, "*batch N d_y"],
    W_0: Float[Tensor, "d_y d_x"],
    eta: float,
    steps: int = 1,
) -> Float[Tensor, "*batch d_y d_x"]:
    """W after gradient steps at rate η on L(W) = (1/2N) Σ_i ‖W x_i − y_i‖², by autograd: the reference for the head.

    Each leading index has its own W.
    """
    W = W_0.detach().expand(*x.shape[:-2], -1, -1)
    for _ in range(steps):
        with torch.enable_grad():
            leaf = W.clone().requires_grad_()
            loss = (x.detach() @ leaf.mT - y.detach()).square().sum() / (2 * x.shape[-2])
            (gradient,) = torch.autograd.grad(loss, leaf)
        W = W - eta * gradient
    return W


def gd_plus_plus(x: Float[Tensor, "*batch N d_x"], gamma: float) -> Float[Tensor, "*batch N d_x"]:
    """GD++'s change of data x_j ← (I − γ Σ_i x_i x_iᵀ) x_j (von Oswald et al. 2023, their X in columns).

    An eigenvalue λ of Σ_i x_i x_iᵀ becomes λ(1 − γλ)²: large ones shrink most, which makes later steps better
    conditioned.
    """
    return x - gamma * (x @ x.mT) @ x


class WeightUpdate(NamedTuple):
    """Two forms of one output, each (..., d_out).

    Attributes:
        updated: (W_0 + Σ_i e_i ⊗ x'_i) x, a layer whose weights have been updated.
        attended: W_0 x + LinAttn(E, X', x), the old layer plus linear attention to the training examples.
    """

    updated: Float[Tensor, "*batch d_out"]
    attended: Float[Tensor, "*batch d_out"]


def weight_update_as_attention(
    W_0: Float[Tensor, "d_out d_in"],
    errors: Float[Tensor, "*batch n d_out"],
    inputs: Float[Tensor, "*batch n d_in"],
    x: Float[Tensor, "*batch d_in"],
) -> WeightUpdate:
    """Both sides of (W_0 + Σ_i e_i ⊗ x'_i) x = W_0 x + LinAttn(E, X', x): any gradient update is linear attention.

    The values are the error signals e_i (learning rate included), the keys the training inputs x'_i, the query is x.

    Source: Dai et al. 2023.
    """
    updated = (W_0 + errors.mT @ inputs) @ x.unsqueeze(-1)
    dual = DualModel.from_attention(x.unsqueeze(-2), inputs, errors, inputs.shape[-2], kernel="linear")
    return WeightUpdate(updated.squeeze(-1), x @ W_0.mT + dual.predict().squeeze(-2))
