"""What every source does to every token of a response: the matrix, in forward passes and in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from iclens.benchmarks.case import (
    CASES,
    Absent,
    Agreement,
    Cell,
    Comparison,
    Context,
    Entry,
    Listing,
    Probe,
    Side,
    Target,
    Verdict,
    takes,
)
from iclens.benchmarks.few_shot import few_shot
from iclens.benchmarks.llama_shaped import LARGE, SMALL, llama_model, smollm2
from iclens.benchmarks.measuring import MEBIBYTE
from iclens.benchmarks.memory import peak_bytes
from iclens.lens import Lens, LensModel
from iclens.lens.read.margin import Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.weighted import Edges
from iclens.lens.scores.influence import HALF
from iclens.lens.scores.pushing import TokenInfluence
from iclens.lens.scores.tangents import token_influence

SIXTEEN = (16, 26, 12)
"""16 demonstrations: 512 tokens by the case's own tokenizer."""
N_WRITTEN = 64
"""Tokens of the response."""

MOST_PASSES = 12.0
MOST_WEIGHTS = 2.0

_SIZES = ("n_demonstrations", "words", "query_words")


@CASES.register("responses")
@takes(minutes=11)
def responses(context: Context) -> Iterator[Entry]:
    """Influence of 16 sources on each of 64 response tokens: in forward passes, and in memory."""
    size, n_written = context.pick((4, 10, 12), SIXTEEN), context.pick(8, N_WRITTEN)
    models = [llama_model(context.pick(SMALL, LARGE)), *([] if context.quick else [smollm2()])]
    for model in models:
        if isinstance(model, Absent):
            yield model
        else:
            yield _beside_forward(Matrix.of(model, size, n_written), context)
    del models
    yield _memory(context, size, n_written)


@dataclass(frozen=True)
class Matrix:
    """A prompt with a response, where the influence of its demonstrations is taken at half weight.

    Attributes:
        lens: the prompt and its response.
        tokens: both as they go through the model.
        readouts: every token of the response.
        edges: which attention edges carry weights.
        weights: of every token: ½ in demonstrations.
    """

    lens: Lens
    tokens: PaddedTokens
    readouts: Readouts
    edges: Edges
    weights: torch.Tensor

    @classmethod
    def of(cls, model: LensModel, size: tuple[int, ...], n_written: int) -> Matrix:
        """Let a model write `n_tokens` after a few-shot prompt."""
        words = few_shot(1, 4 * n_written, 4).split("\n")[0].split()[1:]
        lens = Lens(model, few_shot(*size), response=" ".join(words[:n_written]), held=False)
        response, tokenized = lens.passes.questions[0].response, lens.tokenized
        assert response is not None
        ids = torch.cat([tokenized.input_ids, torch.tensor(response.token_ids)])[:-1]
        start = tokenized.query_start
        tokens = PaddedTokens(ids[None], torch.tensor([len(ids)]), torch.tensor([start]))
        readouts = Readouts.of([response.readout], [tokenized.n_tokens - 1], model.index_device)
        groups = torch.cat([lens.groups, lens.groups.new_full((len(ids) - len(lens.groups),), -1)])
        edges = Edges(groups[None], torch.zeros(1, dtype=torch.long))
        weights = torch.where(groups < 0, 1.0, HALF)[None]
        return cls(lens, tokens, readouts, edges, weights)

    @property
    def title(self) -> str:
        """Name the model, the sources, and the tokens of prompt and response, as the rows of the results show them."""
        n_read, n = self.readouts.term_rows.shape[1], self.lens.tokenized.n_tokens
        return f"{self.lens.model.name}, {self.lens.n_demonstrations} sources in {n} tokens, {n_read} response tokens"

    def found(self, *, forward: bool | None = None) -> TokenInfluence:
        """Compute ∂ log p_t / ∂ log w_i, tokens × sources, by forward derivatives or a backward pass for each token."""
        lens = self.lens
        return token_influence(
            lens.model, self.tokens, self.readouts, self.edges, self.weights, lens.n_demonstrations, forward=forward
        )

    @torch.no_grad()
    def every_logit(self) -> torch.Tensor:
        """Return a forward pass of the model as it is, over prompt and response, with all logits."""
        found: torch.Tensor = self.lens.model.model(input_ids=self.tokens.ids, use_cache=False).logits
        return found

    def agreements(self) -> list[Agreement]:
        """Against a backward pass for each token, and the rows' sum against the influence on the whole response."""
        ours, backward = self.found(forward=True).by_source, self.found(forward=False).by_source
        whole = self.lens.influences(torch.full((1, ours.shape[1]), HALF, dtype=torch.float64))[0]
        largest = float(backward.abs().sum(0).max())
        return [
            Agreement("a backward pass for each token", float((ours - backward).abs().max()) / largest, 1e-4),
            Agreement("influence on the whole", float((ours.sum(0) / HALF - whole).abs().max()) / largest, 1e-3),
        ]


def _beside_forward(matrix: Matrix, context: Context) -> Comparison:
    return Comparison(
        f"influence on every token of a response: {matrix.title}",
        Side("the matrix, by forward derivatives", matrix.found),
        Side("plain forward, all logits", matrix.every_logit),
        matrix.agreements,
        targets=()
        if context.quick
        else (Target("speed-up", 1 / MOST_PASSES, f"at most {MOST_PASSES:g} forward passes"),),
        most_pairs=3,
        warm_up=False,
    )


def _memory(context: Context, size: tuple[int, ...], n_written: int) -> Listing:
    """Return the peak of the matrix above the weights."""
    shape = context.pick(SMALL, LARGE)
    settings = {"quick": context.quick, "n_written": n_written} | dict(zip(_SIZES, size, strict=True))
    small = {"quick": True, "n_written": 4} | dict(zip(_SIZES, (2, 10, 12), strict=True))
    peak = peak_bytes(Probe("iclens.benchmarks.cases.responses:matrix_call", settings, small), threads=context.threads)
    weights = shape.weight_bytes() / MEBIBYTE
    above = None if peak is None else peak / MEBIBYTE
    rows: list[Mapping[str, Cell]] = [
        {"what": "weights, MiB", "value": weights},
        {"what": "peak of the matrix above them, MiB", "value": above},
    ]
    verdicts: tuple[Verdict, ...] = ()
    if above is not None and not context.quick:
        claim = f"the matrix takes at most {MOST_WEIGHTS:g} times as much memory again as the weights"
        verdicts = (Verdict(claim, above <= MOST_WEIGHTS * weights, f"{above / weights:.2f} × the weights"),)
    return Listing("memory of the matrix, Llama-shaped", rows, verdicts)


def matrix_call(
    quick: bool, n_demonstrations: int, words: int, query_words: int, n_written: int
) -> Callable[[], object]:
    """Return the call of the matrix, in its own process."""
    model = llama_model(SMALL if quick else LARGE)
    return Matrix.of(model, (n_demonstrations, words, query_words), n_written).found
