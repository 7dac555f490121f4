"""A model, a prompt, and what is read of it: every pass runs when it is first asked for, and once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iclens.dual import DualModel, TrainingWeights
from iclens.dual.counterfactual import RIDGE
from iclens.errors import UserError
from iclens.lens.building import explanations, usual_scores
from iclens.lens.calls import check_call, check_scores, check_sets, reading_model
from iclens.lens.contrast import Contrast
from iclens.lens.explanation import Explanation
from iclens.lens.head_statistics import HeadStatistics, head_statistics
from iclens.lens.inside import confirmed, inside, statements_inside
from iclens.lens.model.placed import doubled
from iclens.lens.passes import MOST_TOKENS, Passes
from iclens.lens.patching.effects import with_patch
from iclens.lens.patching.patches import BELOW, CONTEXTS, Patches, patches_of
from iclens.lens.patching.update import Patch
from iclens.lens.prompt.options import PromptOptions, Written
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.tokens import NOT_A_DEMONSTRATION, TokenizedPrompt, by_source
from iclens.lens.read.margin import MEASURES, Readout, Readouts
from iclens.lens.read.question import Answer, PromptLike, Question, ask
from iclens.lens.read.responding import responding
from iclens.lens.read.response_options import ResponseOptions
from iclens.lens.read.tracing import Trace
from iclens.lens.scores.deletions import Outcome, shortened_ids
from iclens.lens.scores.faithfulness import faithfulness as measure
from iclens.lens.scores.gradient_step import GradientStep
from iclens.lens.scores.influence import Influence
from iclens.lens.scores.knock_out import KnockOuts
from iclens.lens.scores.method import ATTRIBUTIONS, Scores
from iclens.lens.scores.pairs import N_VECTORS, Pairs
from iclens.lens.scores.path import PathScores
from iclens.lens.scores.shares import MOST_NODES, Shares


class Lens:
    """A language model's answer to one prompt, read as its dual models' predictions.

    Lazy and cached: a pass runs when something that needs it is first asked for, and once. One pass serves the answer,
    the gradient step, the path and the knock-outs.

    >>> lens = Lens("bundled", prompt, answers=["red", "blue"])    # doctest: +SKIP
    >>> lens.answer.text, lens.gradient_step.contributions.shape    # doctest: +SKIP

    Model, prompt, answers, response (with `generate`, `seed`, `statement`, `foil`, `measure`), tokenizer, `precise` and
    `nodes` are those of `explain`; a `Question` in place of the prompt holds its answers too. `readout` is what is
    explained instead of what the answers decide. With `held=False` the first pass keeps less, and a path costs one
    more. `most_tokens` go through the model at once where prompts run several times, and `progress` is called with the
    name of every stage before it starts. Further keywords say how the prompt is written: those of `PromptOptions`.

    Raises:
        UserError: the model, the prompt or an answer cannot be handled exactly.
    """

    def __init__(
        self,
        model: Any,
        prompt: PromptLike | Question,
        *misplaced: Any,
        answers: Iterable[str] | None = None,
        answer: str | None = None,
        response: str | None = None,
        generate: int | None = None,
        seed: int | None = None,
        statement: str | None = None,
        foil: str | None = None,
        measure: str = MEASURES[0],
        tokenizer: Any = None,
        readout: Readout | None = None,
        held: bool = True,
        precise: bool = False,
        nodes: int = MOST_NODES,
        most_tokens: int = MOST_TOKENS,
        progress: Callable[[str], None] = lambda stage: None,
        **written: Unpack[Written],
    ) -> None:
        check_call("Lens", prompt, misplaced)
        self.model = reading_model(model, tokenizer)
        said = ResponseOptions(response, generate, statement, foil, measure, seed)
        if isinstance(prompt, Question):
            question = replace(prompt, writing=said) if said.given else prompt
        else:
            options = PromptOptions(**written)
            question = ask(self.model, prompt, answers, answer, options, readout, response=said, binding=bool(written))
        question = responding(self.model, question)
        at_once: dict[str, Any] = {"most_tokens": most_tokens, "progress": progress}
        kind = Passes if question.foil is None else Contrast
        self.passes = kind(self.model, [question], held=held, precise=precise, nodes=nodes, **at_once)
        self._scored: dict[tuple[str, int], Scores] = {}
        self._patches: dict[tuple[str, str], Patches] = {}
        self.tokenized: TokenizedPrompt = question.tokenized
        """The prompt's tokens."""
        self.prompt: Prompt = self.tokenized.prompt
        """The prompt."""
        self.n_demonstrations: int = self.tokenized.n_demonstrations
        """How many demonstrations are scored."""
        self.query_start: int = self.tokenized.query_start
        """Index of the query's first token."""

    @property
    def usual_scores(self) -> tuple[str, ...]:
        """The scores where none are chosen; no pass runs for it."""
        settled = self.passes.questions[0].settled
        n = self.tokenized.n_tokens + (0 if settled is None else len(settled.forced))
        return usual_scores(self.n_demonstrations, (n - self.query_start) / n)

    def __repr__(self) -> str:
        size = f"{self.n_demonstrations} {self.prompt.noun}s, {self.tokenized.n_tokens} tokens"
        return f"Lens({self.model.name!r}, {size})"

    @property
    def traced(self) -> Trace:
        """The pass that everything is read from; a batch of one."""
        return self.passes.traced

    @property
    def readout(self) -> Readout:
        """What is explained: whose logits are read, at which tokens."""
        return self.passes.readout(0)

    @property
    def input_ids(self) -> Int[Tensor, " n"]:
        """The prompt's token ids, with the answer's tokens that are forced after them."""
        return torch.cat([self.tokenized.input_ids, torch.tensor(self.readout.forced, dtype=torch.long)])

    @property
    def groups(self) -> Int[Tensor, " n"]:
        """The demonstration of each of these tokens, −1 for none."""
        n_behind = len(self.readout.forced)
        return nn.functional.pad(self.tokenized.groups, (0, n_behind), value=NOT_A_DEMONSTRATION)

    @property
    def readouts(self) -> Readouts:
        """What is read of the logits, as tensors of a batch of one."""
        return Readouts.of([self.readout], [self.tokenized.n_tokens - 1], self.model.index_device)

    @property
    def answer(self) -> Answer:
        """The model's answer, with its margin, its probability and the candidates beside it."""
        return self.passes.answers[0]

    @property
    def gradient_step(self) -> GradientStep:
        """Every token's direct contribution to the margin, by layer and head."""
        return self.passes.gradient_step[0]

    @property
    def path(self) -> PathScores:
        """Every token's share of the margin through all layers; the shares sum to it."""
        return self.passes.path[0]

    @property
    def own_pass(self) -> float:
        """How far the traced pass is from a plain one of the model: the largest relative difference."""
        return float(self.passes.own_pass[0])

    def influence(self, weights: float | Sequence[float] | None = None, *, query_only: bool = False) -> Influence:
        """How the margin changes with the training weight of each demonstration: ∂M/∂w, split by layer, head and token.

        One forward and one backward pass for all demonstrations. `by_demonstration(influence.by_token)` sums it.

        Args:
            weights: where the derivative is taken: one weight for all demonstrations, or one for each; 1 is the prompt
                itself, ½ halfway to a prompt without them. Without weights ½, or the smaller weight at which they
                matter most where the answer is certain at ½: the result's `weights` say which, and its `unit`.
            query_only: weight the edges from the query's tokens alone, not those from all later tokens.

        Raises:
            UserError: a weight that is not positive, or another number of weights than demonstrations.
        """
        if weights is None or isinstance(weights, float | int):
            return self.passes.by_weight.influence(weights, query_only=query_only)[0]
        if len(weights) != self.n_demonstrations:
            raise UserError(f"there are {len(weights)} weights for {self.n_demonstrations} {self.prompt.noun}s.")
        given = torch.tensor([list(map(float, weights))], dtype=torch.float64)
        return self.passes.by_weight.influence(given, query_only=query_only)[0]

    def influences(self, weights: Float[Tensor, "m n_demonstrations"]) -> Float[Tensor, "m n_demonstrations"]:
        """∂M/∂w_i at several weight vectors, side by side: a forward and a backward pass for each.

        Raises:
            UserError: a weight that is not positive.
        """
        return self.passes.by_weight.influences(weights[:, None])[:, 0]

    def response_influence(self, *, query_only: bool = False) -> Float[Tensor, "n_tokens n_demonstrations"]:
        """∂ log p_t / ∂w_i of every token of the response, where `influence()` takes it; the rows sum to the influence.

        Forward derivatives over the texts after each demonstration, or a backward pass for each token, whichever
        costs less.

        Raises:
            UserError: the lens has no response.
        """
        if self.passes.questions[0].response is None:
            raise UserError("there is no response: make the lens with response=..., or generate=....")
        return self.passes.by_weight.responses.of_tokens(0, query_only=query_only).influence

    def shares(self, nodes: int | None = None, *, query_only: bool = False) -> Shares:
        """Divide the margin's change from no demonstration to all among them: ∫₀¹ ∂M/∂w (t, …, t) dt.

        Args:
            nodes: how many weights the influence is integrated over at most; those of the lens when None.
            query_only: weight the edges from the query's tokens alone, not those from all later tokens.

        Raises:
            UserError: fewer than one node.
        """
        return self.passes.by_weight.shares(nodes, query_only=query_only)[0]

    def pairs(self, n_vectors: int = N_VECTORS, *, seed: int = 0) -> Pairs:
        """Which demonstrations are redundant with, or depend on, which others: ∂²M/∂w_i∂w_j near half weight.

        A quadratic model of the margin, fitted to its derivatives at some random weight vectors (a forward and a
        backward pass each) and compared with the model itself on random halves of the demonstrations.

        Args:
            n_vectors: weight vectors, an even number from 4 on.
            seed: of the vectors and of the halves.

        Raises:
            UserError: too few vectors, or an odd number.
        """
        return self.passes.by_weight.pairs(n_vectors, seed)[0]

    def predict(self, keep: Iterable[int], *, seed: int = 0) -> float:
        """Predict the margin when the model sees some demonstrations only, by `pairs`; no pass runs for it.

        `pairs().error` is the root mean square error of such predictions, measured on random halves;
        `knock_out([dropped], query_only=False)` is the number itself, for a pass.

        Args:
            keep: the demonstrations that stay, numbered from 0.
            seed: of the pairs.

        Raises:
            UserError: a demonstration that does not exist.
        """
        chosen = tuple(keep)
        kept = list(check_sets([chosen], self.prompt)[0]) if chosen else []
        mask = torch.zeros(self.n_demonstrations, dtype=torch.bool)
        mask[kept] = True
        return float(self.pairs(seed=seed).predict(mask))

    def knock_out(self, sets: Iterable[Iterable[int | str]] | None = None, *, query_only: bool = True) -> KnockOuts:
        """Exact margins when dual models are trained without some demonstrations, numbered from 0.

        Those of a set are left out together; without sets, each is left out alone. By default the dual models of the
        query's tokens alone; with `query_only=False` those of all later tokens, which is nearer to deleting the text
        and costs a pass for each set.

        Raises:
            UserError: a demonstration that does not exist, or an empty set.
        """
        alone = ((i,) for i in range(self.n_demonstrations))
        chosen = check_sets(alone if sets is None else sets, self.prompt)
        return self.passes.knock_out([chosen], query_only=query_only)[0]

    def head(self, layer: int, head: int, *, training_weights: TrainingWeights | None = None) -> DualModel:
        """One head's dual model at the positions that are read, with the demonstrations as its groups.

        `training_weights` say how often each demonstration counts in this head, which sees the tokens as they are: in
        `influence` and `shares` all heads and layers have them.

        Raises:
            UserError: there is no such layer or head, or a weight that does not fit.
        """
        if not 0 <= layer < self.model.n_layers or not 0 <= head < self.model.n_heads:
            size = f"{self.model.n_layers} layers of {self.model.n_heads} heads, counted from 0."
            raise UserError(f"there is no head {head} in layer {layer}: {self.model.name} has {size}")
        return self.traced.layers[layer].dual(head, self.groups, training_weights=training_weights)

    def head_statistics(self, place: int = 0, *, ridge: float | None = RIDGE) -> HeadStatistics:
        """Every head's numbers where the answer is read: how much its values disagree, what one token does, the end.

        The end is the head's dual model trained on the squared loss, kernel ridge regression: see
        `iclens.dual.Counterfactual`. No pass beyond the one that is read; then O(n³) for each key head, in float64.

        Args:
            place: which of the positions that are read, from 0: of an answer's or a response's several tokens.
            ridge: λ of the end, positive; None leaves out what needs it.

        Raises:
            UserError: there is no such place, its token sees no other, or `ridge` is not positive and finite.
        """
        positions = self.traced.readouts.positions[0].tolist()
        if not 0 <= place < len(positions):
            raise UserError(f"place={place}: the number of positions that are read is {len(positions)}, from 0.")
        return head_statistics(self.traced.layers, self.model.name, positions[place], place, ridge)

    def patches(self, *, context: str = CONTEXTS[0], below: str = BELOW[0]) -> Patches:
        """What the context does to every block, as an update of rank 1 of its MLP at each token that stays.

        Running these tokens alone, at their own positions, with all blocks patched gives the logits that the whole
        prompt gives: `patches().run()` does so and says how far it is off. One pass over the prompt, and one over the
        tokens that stay.

        Args:
            context: what is taken away: `"sources"`, so that the query and all that is of no source stay, or
                `"everything"` before the query.
            below: `"patched"`: all patches run together; `"plain"`: each by itself, with the blocks below as they are.

        Raises:
            UserError: an unknown choice, a mixture of experts, a foil, or a prompt without context.

        Source: Dherin et al. 2025, Theorem 2.2; Goldwaser et al. 2025; docs/patch.md.
        """
        if (context, below) not in self._patches:
            if self.passes.questions[0].foil is not None:
                raise UserError("a patch is of one text, not of a response against a foil: leave the foil out.")
            made = patches_of(
                self.model, self.input_ids, self.groups, self.query_start, self.readouts.positions[0].cpu(),
                self.n_demonstrations, context=context, below=below,
            )  # fmt: skip
            with self.passes.stage("patch"):
                self.passes.forward_passes += 1.0 + made.share
                _ = made[0]
            self._patches[context, below] = made
        return self._patches[context, below]

    def patch(self, layer: int, *, context: str = CONTEXTS[0], below: str = BELOW[0]) -> Patch:
        """What the context does to one block: `patches(…)[layer]`.

        Raises:
            UserError: there is no such layer, or as in `patches`.
        """
        return self.patches(context=context, below=below)[layer]

    def score(self, name: str, *, seed: int = 0) -> Scores:
        """Score the demonstrations by a method of `ATTRIBUTIONS`, e.g. `"lasso"`; `seed` is of what it draws.

        Raises:
            UserError: there is no such method.
        """
        if (name, seed) not in self._scored:
            scored = ATTRIBUTIONS[name](self, torch.Generator().manual_seed(seed))
            if getattr(scored, "values", torch.empty(0)).shape != (self.n_demonstrations,):
                raise UserError(f"the method {name!r} gave no `Scores` with one value per {self.prompt.noun}.")
            self._scored[name, seed] = scored
        return self._scored[name, seed]

    def rerun(self, sets: Sequence[Iterable[int]]) -> Outcome:
        """Run the model on the prompt without the text of each set of demonstrations."""
        return self.passes.rerun(0, sets)

    def deletions(self, keep: Bool[Tensor, "n_prompts n_demonstrations"]) -> Outcome:
        """Run the model on really shortened prompts, one per keep-mask."""
        return self.rerun([(~row).nonzero().flatten().tolist() for row in keep])

    def shortened(self, keep: Bool[Tensor, "n_prompts n_demonstrations"]) -> list[list[int]]:
        """The token ids of really shortened prompts, one per keep-mask."""
        sets = [(~row).nonzero().flatten().tolist() for row in keep]
        return shortened_ids(self.model, self.prompt, sets)

    def by_demonstration(self, values: Float[Tensor, " n"]) -> Float[Tensor, " n_demonstrations"]:
        """Sum values of tokens within each demonstration, in float64."""
        return by_source(doubled(values.detach()).cpu(), self.groups, self.n_demonstrations)[:-1]

    def explanation(
        self,
        scores: Sequence[str] | None = None,
        *,
        knock_out: Iterable[Iterable[SupportsIndex | str]] = (),
        edges: str | None = None,
        pairs: bool = False,
        patch: bool = False,
        faithfulness: bool = False,
        within: str | None = None,
        budget: int = 0,
        grounding: bool | None = None,
        matrix: bool = True,
        n_next: int = 10,
        seed: int = 0,
        command: str = "",
    ) -> Explanation:
        """Put together what was read; what the scores need and has not run yet runs now. See `explain`.

        Raises:
            UserError: an unknown score, or a group that does not fit.
        """
        scores = self.usual_scores if scores is None else scores
        groups = check_sets(knock_out, self.prompt)
        if n_next < 1:
            raise UserError(f"n_next is {n_next}: report at least 1 likely next token.")
        others = {name: self.score(name, seed=seed).values.tolist() for name in check_scores(scores)}
        how: dict[str, Any] = {"edges": edges, "pairs": pairs, "seed": seed, "n_next": n_next, "command": command}
        how |= {"grounding": grounding, "matrix": matrix, "pieces": within is not None}
        (found,) = explanations(self.passes, scores, knock_out=groups, others=others, **how)
        found = replace(found, seed=seed, lens=self)
        if within is not None:
            sources = inside(self, found.sources, found.tokens, found.scores, within, budget)
            response = found.response
            if response is not None and response.statements:
                response = statements_inside(self, response, within, query_only=edges == "query")
            found = replace(found, sources=sources, response=response, cost=self.passes.cost)
        elif budget:
            found = replace(
                found, sources=confirmed(self, found.sources, found.scores[0], budget), cost=self.passes.cost
            )
        if patch:
            found = with_patch(self, found)
        if not faithfulness:
            return found
        rows = {name: [effect.score(name) or 0.0 for effect in found.sources] for name in found.scores}
        generator = torch.Generator().manual_seed(seed)
        tested = measure(self.rerun, rows, found.margin, generator, self.n_demonstrations)
        return replace(found, faithfulness=tested, cost=self.passes.cost)
