"""The passes over some prompts side by side: each runs when it is first asked for, and once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclens.lens.by_weight import ByWeight
from iclens.lens.facts import Candidate, Cost
from iclens.lens.model.loading import LensModel
from iclens.lens.model.norms import detours
from iclens.lens.model.placed import doubled
from iclens.lens.prompt import Prompt, tokenize
from iclens.lens.read.answers import Answers, likeliest
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.noise import rounding_noise
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.question import Answer, Question
from iclens.lens.read.shared_texts import cost_of
from iclens.lens.read.tolerance import MOST, NOISES, is_half, path_residual, tolerance_of
from iclens.lens.read.tracing import Trace, off_by, trace
from iclens.lens.scores.candidates import score_candidates
from iclens.lens.scores.cut_out import cut_out
from iclens.lens.scores.deletions import Outcome, run_texts, shortened_ids
from iclens.lens.scores.gradient_step import GradientStep, gradient_step
from iclens.lens.scores.knock_out import KnockOuts, hidden_keys, knock_out
from iclens.lens.scores.path import PathScores, path
from iclens.lens.scores.shares import MOST_NODES

MOST_TOKENS = 1 << 12
"""Tokens that go through the model at once where prompts run several times."""

_Said = tuple[tuple[Candidate, ...], Readout, Tensor]
"""A prompt's candidates with their scores, what is explained, and the logits at its last token."""


@dataclass(eq=False, repr=False)
class Passes:
    """What a model's passes over some prompts give, lazily.

    One pass answers every prompt and serves the gradient step, the path (with its backward pass) and the knock-out. A
    second one runs first where the answer's later tokens, or its margin's, depend on what the model answers.

    The closer the lengths of the questions, the less is spent on filling up. The options are those of `Lens`; what
    `progress` raises ends the work. The path is taken in a float64 copy of the model where float32 leaves its sum
    outside the tolerance, if the model is small enough to copy; with `precise`, always.
    Shares are integrated over `nodes` weights at most.

    Raises:
        UserError: an encoder.
    """

    lens_model: LensModel
    questions: Sequence[Question]
    _: KW_ONLY
    held: bool = True
    precise: bool = False
    nodes: int = MOST_NODES
    most_tokens: int = MOST_TOKENS
    progress: Callable[[str], None] = lambda stage: None
    forward_passes: float = field(default=0.0, init=False)
    """Full forward passes over each prompt so far; one over a part of the tokens counts their share."""
    backward_passes: float = field(default=0.0, init=False)
    """Backward passes so far."""
    seconds: dict[str, float] = field(default_factory=dict, init=False)
    """Seconds that each stage took."""
    _knocked: dict[tuple[tuple[tuple[tuple[int, ...], ...], ...], bool], KnockOuts] = field(
        default_factory=dict, init=False
    )

    def __post_init__(self) -> None:
        self.lens_model.require_causal()

    @property
    def cost(self) -> Cost:
        """What ran so far."""
        return Cost(round(self.forward_passes, 3), self.backward_passes, dict(self.seconds))

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """The model's answers."""
        said, traced = self._first
        margins, log_ps = (doubled(one).tolist() for one in (traced.margins, traced.log_probabilities))
        answers = []
        for (candidates, readout, own), margin, log_p in zip(said, margins, log_ps, strict=True):
            likely = likeliest(self.lens_model.tokenizer, own)
            answers.append(Answer(readout.answer, margin, log_p, readout.definition, candidates, likely, own, readout))
        return tuple(answers)

    @property
    def traced(self) -> Trace:
        """The pass in which every margin is read: the prompts, and the answers' tokens that are forced after them."""
        return self._first[1]

    def readout(self, prompt: int) -> Readout:
        """Return what is explained of one of the prompts; no pass runs where the answers alone decide it."""
        return self.questions[prompt].settled or self._first[0][prompt][1]

    @cached_property
    def groups(self) -> Int[Tensor, "batch n"]:
        """The demonstration of every token, −1 for none and where prompts are filled up."""
        groups = torch.full(self.asked[0].ids.shape, -1)
        for row, one in zip(groups, self.questions, strict=True):
            row[: one.tokenized.n_tokens] = one.tokenized.groups
        return groups

    @cached_property
    def outputs(self) -> Bool[Tensor, "batch n"]:
        """Which tokens show the output of their demonstration."""
        outputs = torch.zeros_like(self.groups, dtype=torch.bool)
        for row, one in zip(outputs, self.questions, strict=True):
            row[: one.tokenized.n_tokens] = one.tokenized.in_output
        return outputs

    @cached_property
    def gradient_step(self) -> GradientStep:
        """Every token's direct contribution to its prompt's margin."""
        traced = self.traced
        with self.stage("gradient step"):
            return gradient_step(traced)

    @cached_property
    def path(self) -> PathScores:
        """Every token's share of its prompt's margin through all layers."""
        traced = self.traced
        with self.stage("path"):
            if traced.leaves is None or traced.leaves.unembedded is None:
                traced = self._traced(traced.tokens, traced.readouts, held=True)
            whole = path(traced)
            self.backward_passes += 1
            near = (self.path_residuals(whole) > tolerance_of(self.lens_model.dtype)) | self.precise
            if bool(near.any()) and self.lens_model.can_be_doubled:
                # Parts that nearly cancel lose digits to the rounding of single precision, not to the decomposition.
                whole = self._in_double(whole, near)
            return whole

    @cached_property
    def by_weight(self) -> ByWeight:
        """What depends on the training weights of the demonstrations: influence, shares, pairs."""
        return ByWeight(self)

    @cached_property
    def own_pass(self) -> Float[Tensor, " batch"]:
        """How far the traced pass is from a plain one of the model: the check that comes before all others."""
        traced = self.traced
        with self.stage("check against the model"):
            self.forward_passes += 1
            residuals = off_by(traced)
            traced.attended.clear()
            return residuals

    def knock_out(self, sets: Sequence[Sequence[Sequence[int]]], *, query_only: bool = True) -> KnockOuts:
        """Knock out sets of demonstrations, for each prompt its own; prompts with fewer are filled up.

        Args:
            sets: of demonstrations, numbered from 0.
            query_only: cut the edges from the query's tokens alone: then only these run again, once for each set.
                Otherwise also those from all later demonstrations, as weights of zero do: a pass for each set.

        Raises:
            UserError: a demonstration that does not exist.
        """
        chosen = tuple(tuple(map(tuple, own)) for own in sets)
        key = (chosen, query_only)
        if key not in self._knocked:
            traced, groups = self.traced, self.groups
            hidden = hidden_keys(groups.to(traced.tokens.ids.device), chosen)
            with self.stage("knock-out"):
                lengths = traced.tokens.lengths
                share = float(((lengths - traced.tokens.starts) / lengths).mean()) if query_only else 1.0
                self.forward_passes += (hidden.shape[1] + 1) * share
                if query_only:
                    self._knocked[key] = knock_out(traced, hidden, most_tokens=self.most_tokens)
                else:
                    edges = self.by_weight.edges(False)
                    self._knocked[key] = cut_out(traced, hidden, edges, most_tokens=self.most_tokens)
        return self._knocked[key]

    def rerun(self, prompt: int, sets: Sequence[Iterable[int]], sources: Prompt | None = None) -> Outcome:
        """Run one of the prompts again without the text of each set of its sources.

        `sources` is the same text with other sources, of which the sets then are.
        """
        whole, readout = sources or self.questions[prompt].tokenized.prompt, self.readout(prompt)
        with self.stage("rerun"):
            texts = [(ids, readout) for ids in shortened_ids(self.lens_model, whole, sets)]
            self.forward_passes += self.share_of(prompt, [ids for ids, _ in texts])
            return run_texts(
                self.lens_model, texts, most_tokens=self.most_tokens, advance=lambda done: self.progress("rerun")
            )

    def share_of(self, prompt: int, texts: Sequence[Sequence[int]]) -> float:
        """How many passes over one of the prompts texts cost, by their tokens: what they begin with alike counts once.

        In passes over all prompts side by side, as all costs.
        """
        forced = self.readout(prompt).forced
        n = len(self.questions[prompt].tokenized.input_ids) + len(forced)
        rows = [(*ids, *forced) for ids in texts]
        return cost_of(self.lens_model, rows, self.most_tokens) / n / len(self.questions)

    @property
    def dual_models_residuals(self) -> Float[Tensor, " batch"]:
        """How far the dual models are from the attention modules' own outputs."""
        return self.gradient_step.attention_residual

    def without_sources(self, prompt: int) -> Passes:
        """Return a pass over one of the prompts without the text of any source, and with the same read-out."""
        question, model = self.questions[prompt], self.lens_model
        whole = question.tokenized.prompt
        shorter = tokenize(whole.without(range(len(whole.sources))), model.tokenizer)
        candidates = [one.text for one in question.answers.candidates]
        answers = Answers.build(shorter, model.tokenizer, candidates)
        asked = replace(question, tokenized=shorter, answers=answers, readout=self.readout(prompt))
        if question.foil is not None:
            asked = replace(asked, foil=replace(question.foil, tokenized=shorter))
        found = type(self)(model, [asked], held=False, most_tokens=self.most_tokens)
        with self.stage("without sources"):
            _ = found.answers
        share = shorter.n_tokens / question.tokenized.n_tokens
        self.forward_passes += found.cost.forward_passes * share / len(self.questions)
        return found

    @property
    def gradient_step_residuals(self) -> Float[Tensor, " batch"]:
        """How far direct contributions and the rest are from the margins.

        In half precision relative to what the rounding of the logits leaves of a margin, as for the path.
        """
        step = self.gradient_step
        if not is_half(self.lens_model.dtype):
            return step.residual
        largest = self.traced.readouts.largest(self.traced.logits).to(step.margin.device)
        return path_residual(step.total, step.margin, step.largest, largest, self.lens_model.dtype)

    def path_residuals(self, whole: PathScores) -> Float[Tensor, " batch"]:
        """Return how far the parts of a path are from the margin of the traced pass."""
        traced, parts = self.traced, whole.parts.cpu()
        largest = doubled(traced.readouts.largest(traced.logits)).cpu()
        margins = doubled(traced.margins).cpu()
        return path_residual(whole.total.cpu(), margins, parts.abs().amax(-1), largest, self.lens_model.dtype)

    def tolerances(self, residuals: Mapping[str, Float[Tensor, " batch"]]) -> dict[str, list[float]]:
        """Return the largest residual accepted as exact in each prompt, by the name of the check.

        In half precision, where one exceeds the tolerance of the type, the noise of the model on these prompts is
        measured, and a multiple of it is accepted; it is relative to the logits, from which a path's parts may be far.
        """
        dtype = self.lens_model.dtype
        # Parts that are computed in float32 whatever the weights' type keep the digits of float32.
        single = {key: tolerance_of(torch.float32) for key in self.lens_model.family.single}
        if detours(self.lens_model):
            # A text that is read in pieces is rounded otherwise there.
            single["response"] = tolerance_of(torch.float32)
        least = {key: max(tolerance_of(dtype), single.get(key, 0.0)) for key in residuals}
        limits = {key: torch.full((len(self.questions),), one, dtype=torch.float64) for key, one in least.items()}
        if is_half(dtype) and any(bool((doubled(one).cpu() > limits[key]).any()) for key, one in residuals.items()):
            traced = self.traced
            with self.stage("noise of half precision"):
                self.forward_passes += 2
                everywhere, noise = (NOISES * doubled(one).cpu() for one in rounding_noise(traced))
            for key, limit in limits.items():
                limits[key] = torch.maximum(limit, everywhere if key == "capture" else noise).clamp_max(MOST)
            if "path" in limits:
                largest = torch.maximum(doubled(traced.margins).cpu().abs(), self.path.parts.cpu().abs().amax(-1))
                size = doubled(traced.readouts.largest(traced.logits)).cpu() / largest
                limits["path"] = torch.maximum(limits["path"], noise * size).clamp_max(MOST)
        return {key: limit.tolist() for key, limit in limits.items()}

    @cached_property
    def asked(self) -> tuple[PaddedTokens, Readouts]:
        """The tokens and what is read of their logits; no pass runs where the answers alone decide that."""
        settled = [readout for one in self.questions if (readout := one.settled) is not None]
        if len(settled) == len(self.questions):
            return self._tokens(settled), self._readouts(settled)
        return self.traced.tokens, self.traced.readouts

    @cached_property
    def _first(self) -> tuple[list[_Said], Trace]:
        """What the model says to every prompt, and the pass in which its margin is read."""
        with self.stage("answer"):
            settled = [one.settled for one in self.questions]
            known = [readout for readout in settled if readout is not None]
            if len(known) == len(settled):
                traced = self._read(known, self.held)
                return self._said(traced, known), traced
            last = Readout(((0, 0, 1.0),))
            several = any(one.n_answer > 1 for one in self.questions)
            first = self._read([last] * len(settled), self.held and not several, forced=False)
            said = self._said(first, settled)
            readouts = [readout for _, readout, _ in said]
            if any(readout.forced for readout in readouts):
                return said, self._read(readouts, self.held)
            return said, replace(first, readouts=self._readouts(readouts))

    def _read(self, readouts: Sequence[Readout], held: bool, *, forced: bool = True) -> Trace:
        """Return the pass over the prompts and the tokens that are forced after them."""
        return self._traced(self._tokens(readouts, forced=forced), self._readouts(readouts), held=held)

    def _tokens(self, readouts: Sequence[Readout], *, forced: bool = True) -> PaddedTokens:
        rows = [
            torch.cat([one.tokenized.input_ids, torch.tensor(readout.forced if forced else (), dtype=torch.long)])
            for one, readout in zip(self.questions, readouts, strict=True)
        ]
        starts = [one.tokenized.query_start for one in self.questions]
        return PaddedTokens.of(rows, starts, self.lens_model.device)

    def _traced(self, tokens: PaddedTokens, readouts: Readouts, *, held: bool) -> Trace:
        self.forward_passes += 1
        return trace(self.lens_model, tokens, readouts, held=held)

    def _readouts(self, readouts: Sequence[Readout]) -> Readouts:
        origins = [one.tokenized.n_tokens - 1 for one in self.questions]
        return Readouts.of(readouts, origins, self.lens_model.index_device)

    def _said(self, traced: Trace, settled: Sequence[Readout | None]) -> list[_Said]:
        """Return the candidates' scores and what is explained, from the logits at the prompts' last tokens."""
        # Offset 0 is always read, and the least.
        logits = traced.logits[:, 0].cpu()
        ids = [[entry.read_ids for entry in one.answers.candidates] for one in self.questions]
        every, cost = score_candidates(traced, ids, self.most_tokens)
        self.forward_passes += cost
        said: list[_Said] = []
        for one, own, scores, readout in zip(self.questions, logits, every, settled, strict=True):
            chosen = one.answers.choose(scores) if scores else None
            if readout is None:
                readout = one.answers.readout(self.lens_model.tokenizer, own, chosen)
            said.append((() if chosen is None else one.answers.scored(scores, chosen), readout, own))
        return said

    def _in_double(self, whole: PathScores, near: Tensor) -> PathScores:
        """Return the same path, in float64 for the prompts `near`."""
        chosen = near.to(self.traced.tokens.ids.device)
        tokens, readouts = self.traced.tokens[chosen], self.traced.readouts[chosen]
        exact = path(trace(self.lens_model.in_double(), tokens, readouts, held=True))
        self.forward_passes += float(near.double().mean())
        self.backward_passes += float(near.double().mean())
        embedding, bias, residual = whole.embedding.clone(), whole.bias.clone(), whole.residual.clone()
        embedding[chosen], bias[chosen], residual[chosen] = exact.embedding, exact.bias, exact.residual
        return PathScores(embedding, bias, whole.margin, residual, whole.rest)

    @contextmanager
    def stage(self, name: str, about: str = "") -> Iterator[None]:
        """Name what runs inside the block, with what it costs, and add its seconds."""
        self.progress(f"{name}: {about}" if about else name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)
