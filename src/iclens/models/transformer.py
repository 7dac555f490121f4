"""A transformer for prompts: any attention variant, any depth, one ensemble of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.dual import ACTIVATIONS
from iclens.errors import UserError
from iclens.models.model import MODELS, PromptModel
from iclens.models.per_run import PerRun, for_runs
from iclens.models.runs import Draws, RunsLayerNorm, RunsLinear
from iclens.models.runs_attention import RunsAttention
from iclens.models.tokens import interleaved, joint, pairs
from iclens.tasks.shapes import RunsInputs, RunsLabels

_ANSWERED = {
    "interleaved": slice(0, None, 2),
    "joint": slice(-1, None),
    "pairs": slice(0, None, 2),
    "inputs": slice(0, None),
}
"""The tokens that are answered, by kind of tokens."""

_READ = {"interleaved": interleaved, "joint": joint, "pairs": pairs, "inputs": lambda inputs, labels: inputs}
"""Prompts as tokens, by kind."""


@MODELS.register("transformer")
class PromptTransformer(PromptModel):
    """Layers of attention and feed-forward networks on the tokens of a prompt.

    With `norm="pre"` a layer is h ← h + Attention(LN(h)); h ← h + FFN(LN(h)), and a LayerNorm stands before the
    read-out; with `"post"` it is h ← LN(h + Attention(h)); h ← LN(h + FFN(h)); with `"none"` there is no LayerNorm.

    Interleaved tokens x_1, y_1, x_2, … under a causal mask answer every prefix at once, at the tokens of the x. Joint
    tokens (x_i, y_i) attend to all demonstrations and to the query's token (x, 0), and answer the query only. Pairs
    (x_1, 0), (x_1, y_1), (x_2, 0), … are both: joint tokens that answer every prefix under a causal mask. Where every
    label is the next input, as in a chain, inputs alone may be the tokens; each is answered.

    Args:
        d: width of the inputs.
        d_y: width of the labels.
        seeds: one for each run.
        n_layers: number of layers.
        n_heads: heads of a layer; may differ between runs when `head_width` is given.
        width: width of the residual stream; with `embed=False` it must be that of a token.
        head_width: width of a head; width / n_heads when 0.
        ffn_width: width of the feed-forward network's hidden layer; 0 for none.
        activation: of the feed-forward network: `gelu`, `gelu-tanh`, `relu`, `silu`, or a registered one of yours.
        norm: where LayerNorm stands.
        tokens: `interleaved`, `joint`, `pairs` or `inputs`.
        positions: `learned`, added to the tokens, or `none`.
        max_points: longest prompt that learned positions serve, the query counted.
        attention: registered name of the attention variant.
        attention_options: its options; strengths may differ between runs.
        embed: whether tokens are read in and answers read out by linear maps; otherwise the tokens themselves are the
            residual stream, and the answer is the label's part of the query's token (joint tokens only).
        query_in_keys: whether joint tokens may attend to the query's token.
        residual: whether a layer adds to its input; if not, the output replaces it.
        bias: whether linear maps have one.
        init_std: standard deviation of initial weights; width_in^(−1/2) when 0. The projections that write to the
            residual stream are divided by √(2 n_layers), as in GPT-2.

    Raises:
        UserError: sizes that do not fit each other.
    """

    def __init__(
        self,
        d: int,
        d_y: int,
        seeds: Sequence[int],
        *,
        n_layers: int = 1,
        n_heads: int | PerRun[int] = 1,
        width: int = 64,
        head_width: int = 0,
        ffn_width: int = 0,
        activation: str = "gelu",
        norm: Literal["pre", "post", "none"] = "pre",
        tokens: Literal["interleaved", "joint", "pairs", "inputs"] = "interleaved",
        positions: Literal["learned", "none"] = "none",
        max_points: int = 0,
        attention: str = "softmax",
        attention_options: Mapping[str, Any] | PerRun[Mapping[str, Any] | None] | None = None,
        embed: bool = True,
        query_in_keys: bool = True,
        residual: bool = True,
        bias: bool = True,
        init_std: float = 0.0,
    ) -> None:
        super().__init__(d, d_y, seeds)
        heads_of = for_runs("n_heads", n_heads, self.n_runs)
        self._check(locals() | {"n_heads": max(heads_of)})
        draws = Draws(self.seeds)
        self.tokens, self.norm, self.residual, self.query_in_keys = tokens, norm, residual, query_in_keys
        self.every_prefix = tokens != "joint"
        self.answered = _ANSWERED[tokens]
        self.width = width
        self.max_points = max_points if positions == "learned" else 0
        token_width = {"interleaved": max(d, d_y), "inputs": d}.get(tokens, d + d_y)
        std = init_std or None
        self.read_in = RunsLinear(draws, token_width, width, std=std, bias=bias) if embed else None
        n_positions = 2 * max_points - 1 if tokens in ("interleaved", "pairs") else max_points
        self.positions = draws.normal(n_positions, width, std=init_std or 0.02) if positions == "learned" else None
        options = [given or {} for given in for_runs("attention_options", attention_options, self.n_runs)]
        self.blocks = nn.ModuleList(
            _Block(
                draws,
                width=width,
                n_heads=max(heads_of),
                heads_of=heads_of,
                head_width=head_width or width // max(heads_of),
                ffn_width=ffn_width,
                activation=activation,
                norm=norm,
                attention=attention,
                options=options,
                residual=residual,
                bias=bias,
                std=std,
                out_scale=(2 * n_layers) ** -0.5,
            )
            for _ in range(n_layers)
        )
        self.final_norm = RunsLayerNorm(draws, width) if norm == "pre" else None
        self.read_out = RunsLinear(draws, width, d_y, std=std, bias=bias) if embed else None

    @staticmethod
    def _check(given: Mapping[str, Any]) -> None:
        for name in ("n_layers", "n_heads", "width"):
            if given[name] < 1:
                raise UserError(f"model.{name}={given[name]} must be at least 1.")
        for name in ("head_width", "ffn_width", "max_points"):
            if given[name] < 0:
                raise UserError(f"model.{name}={given[name]} must not be negative.")
        width, n_heads = given["width"], given["n_heads"]
        if not given["head_width"] and width % n_heads:
            raise UserError(
                f"model.n_heads={n_heads} does not divide model.width={width}; choose another, or give head_width."
            )
        for name, known in (
            ("norm", ("pre", "post", "none")),
            ("tokens", tuple(_ANSWERED)),
            ("positions", ("learned", "none")),
            ("activation", tuple(ACTIVATIONS)),
        ):
            if given[name] not in known:
                raise UserError(f"model.{name}={given[name]!r} is not known. Known: {', '.join(known)}.")
        if given["positions"] == "learned" and given["max_points"] < 1:
            raise UserError("model.positions='learned' needs model.max_points: the longest prompt, the query counted.")
        if not given["init_std"] >= 0 or given["init_std"] == float("inf"):
            raise UserError(f"model.init_std={given['init_std']} must be a finite number, 0 or more.")
        if not given["embed"]:
            d, d_y = given["d"], given["d_y"]
            if given["tokens"] != "joint" or width != d + d_y:
                raise UserError(
                    f"model.embed=false needs tokens='joint' and model.width={d + d_y}, the width of a token (x, y)."
                )

    def check_points(self, n_points: int) -> None:  # noqa: D102
        if self.max_points and n_points > self.max_points:
            raise UserError(
                f"the model has positions for {self.max_points} points and the prompt has {n_points}, the query "
                "counted: raise model.max_points or shorten the prompt."
            )

    def forward(self, inputs: RunsInputs, labels: RunsLabels) -> Float[Tensor, "runs batch n_answers d_y"]:  # noqa: D102
        self.check_points(inputs.shape[-2])
        h = self.states(inputs, labels)[-1]
        if self.final_norm is not None:
            h = self.final_norm(h)
        return h[..., -self.d_y :] if self.read_out is None else self.read_out(h)

    def states(
        self, inputs: RunsInputs, labels: RunsLabels, *, every_token: bool = False
    ) -> list[Float[Tensor, "runs batch _ width"]]:
        """Return the residual stream before the first layer and after every layer.

        After the last layer only the tokens that are answered are computed, unless `every_token` is set.
        """
        h = self._read(inputs, labels)
        states = [h]
        mask = None
        if not self.every_prefix and not self.query_in_keys:
            mask = torch.ones(1, h.shape[-2], dtype=torch.bool, device=h.device)
            mask[:, -1] = False
        for place, block in enumerate(self.blocks, 1):
            only = self.answered if place == len(self.blocks) and not every_token else None
            h = block(h, mask, self.every_prefix, only)
            states.append(h)
        return states

    def _read(self, inputs: Tensor, labels: Tensor) -> Tensor:
        tokens = _READ[self.tokens](inputs, labels)
        h = tokens if self.read_in is None else self.read_in(tokens)
        if self.positions is None:
            return h
        # The query of joint tokens keeps the last place, however many demonstrations there are.
        n = h.shape[-2]
        where = self.positions[:, :n] if self.every_prefix else self.positions[:, -n:]
        return h + where.unsqueeze(1)


class _Block(nn.Module):
    """One layer."""

    def __init__(
        self,
        draws: Draws,
        *,
        width: int,
        n_heads: int,
        heads_of: Sequence[int],
        head_width: int,
        ffn_width: int,
        activation: str,
        norm: str,
        attention: str,
        options: Sequence[Mapping[str, Any]],
        residual: bool,
        bias: bool,
        std: float | None,
        out_scale: float,
    ) -> None:
        super().__init__()
        self.n_heads, self.head_width, self.residual, self.norm = n_heads, head_width, residual, norm
        inner = n_heads * head_width
        self.qkv = RunsLinear(draws, width, 3 * inner, std=std, bias=bias)
        self.attention = RunsAttention(draws, attention, options, n_heads, heads_of, head_width)
        self.out = RunsLinear(draws, inner, width, std=out_scale * (std or inner**-0.5), bias=bias)
        self.norm_attention = RunsLayerNorm(draws, width) if norm != "none" else None
        self.ffn: nn.Sequential | None = None
        if ffn_width:
            self.ffn = nn.Sequential(
                RunsLinear(draws, width, ffn_width, std=std, bias=bias),
                _Activation(activation),
                RunsLinear(draws, ffn_width, width, std=out_scale * (std or ffn_width**-0.5), bias=bias),
            )
            self.norm_ffn = RunsLayerNorm(draws, width) if norm != "none" else None

    def forward(self, h: Tensor, mask: Tensor | None, is_causal: bool, only: slice | None) -> Tensor:
        """Return the layer; `only` picks the tokens that are answered."""
        x = h if self.norm_attention is None or self.norm == "post" else self.norm_attention(h)
        heads = self.qkv(x).unflatten(-1, (3, self.n_heads, self.head_width))
        q, k, v = heads.movedim(-3, 0).transpose(-3, -2).unbind(0)
        if only is not None and only.start == -1:
            # One query sees every key: the tokens without an answer need no attention of their own.
            q = q[..., -1:, :]
            is_causal = False
        out = self.attention(q, k, v, mask, is_causal=is_causal)
        if only is not None and only.start == 0:
            out = out[..., only, :]
        if only is not None:
            h = h[..., only, :]
        h = self._joined(h, self.out(out.transpose(-3, -2).flatten(-2)), self.norm_attention)
        if self.ffn is None:
            return h
        x = h if self.norm_ffn is None or self.norm == "post" else self.norm_ffn(h)
        return self._joined(h, self.ffn(x), self.norm_ffn)

    def _joined(self, h: Tensor, update: Tensor, norm: nn.Module | None) -> Tensor:
        h = h + update if self.residual else update
        return norm(h) if norm is not None and self.norm == "post" else h


class _Activation(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.value = ACTIVATIONS[name].value

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x)
