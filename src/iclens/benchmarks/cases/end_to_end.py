"""All of `explain`, from text to checked scores: in forward passes, beside Captum, in memory, on long prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclens.benchmarks import gpt2_shaped
from iclens.benchmarks.captum_ablation import feature_ablation
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
from iclens.benchmarks.ceilings import Floor
from iclens.benchmarks.few_shot import ANSWERS, answer_ids, few_shot, groups_of
from iclens.benchmarks.gpt2_shaped import Shape
from iclens.benchmarks.largest import largest_tensor
from iclens.benchmarks.llama_shaped import LARGE, LONG, SMALL, llama_model, smollm2
from iclens.benchmarks.measuring import MEBIBYTE
from iclens.benchmarks.memory import peak_bytes
from iclens.benchmarks.pass_counts import counts
from iclens.benchmarks.peers import missing
from iclens.lens import Explanation, LensModel, explain, explain_many
from iclens.lens.prompt.sources import BLANK_LINE

EIGHT = (8, 13, 12, 2)
"""Demonstrations, words of each, words of the query, seed: 160 tokens by the case's own tokenizer.

The seed is one by which the path's sum loses digits in float32, on both models, and stays within the tolerance.
"""
SIXTEEN = (16, 26, 12)
"""512 tokens."""
SIXTY_FOUR = (64, 3, 2)
"""518 tokens."""

SCORES = ("gradient_step", "path", "knock_out")


def explained(lens_model: LensModel, prompt: str, rerun: bool = False) -> Explanation:
    """Explain by gradient step, path and knock-out, and on demand by the rerun, with all checks."""
    return explain(lens_model, prompt, answers=ANSWERS, scores=(*SCORES, "rerun") if rerun else SCORES)


def explained_in_a_batch(lens_model: LensModel, prompt: str) -> object:
    """Explain a prompt as one of many."""
    return list(explain_many(lens_model, [prompt], answers=ANSWERS, scores=SCORES))


@CASES.register("explain")
@takes(minutes=8)
def explain_end_to_end(context: Context) -> Iterator[Entry]:
    """All of explain, from text to checked scores: in forward passes, beside Captum, in memory, on long prompts."""
    yield from comparisons(context)
    yield _memory(context)
    yield _long(context)
    yield _passes(context)


def comparisons(context: Context) -> Iterator[Entry]:
    """Yield the timed comparisons of `explain`: both shapes, SmolLM2 where it is installed, and Captum."""
    llama_shape, gpt2_shape = context.pick(SMALL, LARGE), context.pick(gpt2_shaped.TINY, gpt2_shaped.SMALL)
    llama = Text(llama_model(llama_shape), few_shot(*EIGHT))
    yield llama.beside_forward(context, 4.5, llama_shape)
    yield llama.beside_forward(context, 12.0, llama_shape, rerun=True)
    absent = missing("captum")
    if absent is None:
        yield llama.beside_captum(context, 2.0)
        longer = few_shot(*context.pick((16, 3, 2), SIXTY_FOUR))
        yield Text(llama.lens_model, longer).beside_captum(context, 12.0, checked=llama)
    else:
        yield Absent("Captum FeatureAblation", absent.reason)
    del llama
    if not context.quick:
        yield from _real(context)
    gpt2 = Text(gpt2_shaped.lens_model(gpt2_shape), few_shot(*context.pick((4, 26, 12), SIXTEEN)))
    yield gpt2.beside_forward(context, 4.0, gpt2_shape)


def _real(context: Context) -> Iterator[Entry]:
    """A model that has learned something, where it is installed."""
    model = smollm2()
    yield model if isinstance(model, Absent) else Text(model, few_shot(*EIGHT)).beside_forward(context, 4.5, LARGE)


@dataclass(frozen=True)
class Text:
    """A model and a few-shot prompt for it.

    Attributes:
        lens_model: the model.
        prompt: demonstrations, and a query whose answers are `ANSWERS`.
        explained: explains it.
    """

    lens_model: LensModel
    prompt: str
    explained: Callable[[LensModel, str, bool], Explanation] = explained

    @property
    def ids(self) -> Tensor:
        """Return the token ids of the prompt, (n,)."""
        return groups_of(self.prompt, self.lens_model.tokenizer)[0]

    @property
    def title(self) -> str:
        """Name the model and the size of the prompt, as the rows of the results show them."""
        n = self.prompt.count(BLANK_LINE)
        return f"{self.lens_model.name}, {n} demonstrations, {len(self.ids)} tokens"

    @torch.no_grad()
    def forward(self, ids: Tensor, **options: Any) -> Tensor:
        """Return the logits (vocabulary,) of the last token, by the model's own attention."""
        found: Tensor = self.lens_model.model(input_ids=ids[None], use_cache=False, logits_to_keep=1, **options).logits
        return found[0, -1]

    def beside_forward(self, context: Context, most: float, shape: Shape, *, rerun: bool = False) -> Comparison:
        """`explain` against one forward pass.

        Args:
            context: how to measure.
            most: forward passes that it may take.
            shape: of the model.
            rerun: with the rerun.
        """
        ids = self.ids
        scores = "gradient step, path, knock-out" + (", rerun" if rerun else "")
        return Comparison(
            f"explain by {scores}, with all checks: {self.title}",
            Side("explain", lambda: self.explained(self.lens_model, self.prompt, rerun)),
            Side("plain forward, last logits only", lambda: self.forward(ids)),
            lambda: self.agreements(rerun=rerun),
            self.floor(shape, rerun=rerun),
            () if context.quick else (Target("speed-up", 1 / most, f"at most {most:g} forward passes"),),
            most_pairs=3 if rerun else 5,
            # The check ran both.
            warm_up=False,
        )

    def beside_captum(self, context: Context, least: float, checked: Text | None = None) -> Comparison:
        """`explain` against feature ablation, one prompt at a time, from the text.

        Args:
            context: how to measure.
            least: how many times as fast it must be.
            checked: a shorter prompt, on which Captum's scores are compared with their definition.
        """
        other = checked or self
        return Comparison(
            f"scores of demonstrations, from text: {self.title}" + (", without a warm-up call" if checked else ""),
            Side(
                "explain by gradient step, path, knock-out", lambda: self.explained(self.lens_model, self.prompt, False)
            ),
            Side("Captum FeatureAblation, one at a time", lambda: feature_ablation(self.lens_model, self.prompt)),
            lambda: [*self.agreements(), *other.ablated(feature_ablation)],
            targets=() if context.quick else (Target("speed-up", least, "with all checks"),),
            most_pairs=2 if checked else 5,
            repeat=checked is None,
            warm_up=False,
        )

    def agreements(self, *, rerun: bool = False) -> list[Agreement]:
        """What `explain` says against the model's own passes: as it is, with masked attention, and on less text."""
        found = self.explained(self.lens_model, self.prompt, rerun)
        answers = answer_ids(self.prompt, self.lens_model.tokenizer)
        logits = self.forward(self.ids).double()
        said = torch.tensor([candidate.log_probability for candidate in found.candidates], dtype=torch.float64)
        explained_answer = ANSWERS.index(found.answer)
        largest = float(logits.abs().max())

        def margin(of: Tensor) -> float:
            chosen, other = answers if explained_answer == 0 else reversed(answers)
            return float(of[chosen].double() - of[other].double())

        def apart(what: str, ours: float, theirs: float) -> Agreement:
            return Agreement(what, abs(ours - theirs) / largest, 1e-5)

        first = found.demonstrations[0]
        assert first.knock_out is not None
        agreed = [
            Agreement.of("log-probabilities of the answers", said, logits.log_softmax(-1)[answers]),
            apart("margin, in proportion to the largest logit", found.margin, margin(logits)),
            apart("knock-out against masked attention", first.knock_out.margin, margin(self.masked_out(0))),
            *(Agreement(one.name, one.value, one.tolerance) for one in found.residuals),
        ]
        if rerun:
            assert first.rerun_margin_change is not None
            shorter = Text(self.lens_model, self.prompt.split(BLANK_LINE, 1)[1])
            without = margin(shorter.forward(shorter.ids))
            agreed.append(apart("rerun against the text without", found.margin - first.rerun_margin_change, without))
        return agreed

    def masked_out(self, demonstration: int) -> Tensor:
        """Return the logits when the query's rows of the model's own mask hide a demonstration."""
        ids, groups = groups_of(self.prompt, self.lens_model.tokenizer)
        query = self.prompt.rindex(BLANK_LINE) + len(BLANK_LINE)
        offsets = self.lens_model.tokenizer(self.prompt, return_offsets_mapping=True)["offset_mapping"]
        in_query = torch.tensor([first >= query for first, _ in offsets])
        seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        seen &= ~(in_query[:, None] & (groups == demonstration))
        # A mask with four axes is used as it is; very negative where nothing is seen.
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
        return self.forward(ids, attention_mask=mask)

    def ablated(self, scores: Callable[[LensModel, str], Tensor]) -> list[Agreement]:
        """Scores against what replacing each demonstration by token 0 takes from the margin of the first answer."""
        ids, groups = groups_of(self.prompt, self.lens_model.tokenizer)
        rows = [ids, *(ids.masked_fill(groups == i, 0) for i in range(int(groups.max()) + 1))]
        first, second = answer_ids(self.prompt, self.lens_model.tokenizer)
        margins = torch.stack([logits[first] - logits[second] for logits in map(self.forward, rows)])
        expected = margins[0] - margins[1:]
        return [Agreement.of("ablation of every demonstration", scores(self.lens_model, self.prompt), expected, 1e-3)]

    def floor(self, shape: Shape, *, rerun: bool) -> Floor:
        """Return the pass, its backward, a plain pass for the check, and n + 1 passes over the query's tokens."""
        n, count = len(self.ids), self.prompt.count(BLANK_LINE)
        query = len(self.lens_model.tokenizer(self.prompt.rsplit(BLANK_LINE, 1)[1])["input_ids"])
        shorter = count * shape.forward_operations(n * (count - 1) // count, 1) if rerun else 0.0
        return Floor(
            3 * shape.forward_operations(n, 1) + (count + 1) * shape.rerun_operations(n, query) + shorter,
            shape.weight_bytes(),
            "the pass, a plain one for the check, one backward to the embeddings, n + 1 passes over the query's tokens"
            + (", n passes over the shortened prompts" if rerun else ""),
        )


def _memory(context: Context) -> Listing:
    shape = context.pick(SMALL, LARGE)
    probe = Probe("iclens.benchmarks.cases.end_to_end:explain_call", {"quick": context.quick}, {"quick": True})
    peak = peak_bytes(probe, threads=context.threads)
    weights = shape.weight_bytes() / MEBIBYTE
    above = None if peak is None else peak / MEBIBYTE
    rows: list[Mapping[str, Cell]] = [
        {"what": "weights, MiB", "value": weights},
        {"what": "peak of explain above them, MiB", "value": above},
        {"what": "share", "value": None if above is None else above / weights},
    ]
    verdicts: tuple[Verdict, ...] = ()
    if above is not None and not context.quick:
        claim = "explain takes at most as much memory again as the weights"
        verdicts = (Verdict(claim, above <= weights, f"{above / weights:.2f} × the weights"),)
    return Listing("memory of explain, Llama-shaped, 8 demonstrations", rows, verdicts)


def explain_call(quick: bool) -> Callable[[], object]:
    """Return the call of `explain` on the Llama, in its own process."""
    lens_model = llama_model(SMALL if quick else LARGE)
    return lambda: explained(lens_model, few_shot(*EIGHT))


def _long(context: Context) -> Listing:
    """Return the largest tensor beside n²: attention may be computed in blocks of rows of one head."""
    lens_model, prompt = llama_model(LONG), few_shot(8, context.pick(100, 3993), 12)
    n = len(lens_model.tokenizer(prompt)["input_ids"])
    rows: list[Mapping[str, Cell]] = []
    verdicts = []
    for name, call in (("in a batch", explained_in_a_batch), ("alone", explained)):
        elements = largest_tensor(partial(call, lens_model, prompt), most=n**2 / 10)
        rows.append({"prompt": name, "largest tensor, elements": elements, "share of n²": elements / n**2})
        verdicts.append(
            Verdict(f"{n:,} tokens {name}: no tensor of n × n", elements <= n**2 / 10, f"{elements / n**2:.3f} n²")
        )
    return Listing(f"the largest tensor, {n:,} tokens", rows, () if context.quick else tuple(verdicts))


def _passes(context: Context) -> Listing:
    """Counts do not depend on the model's size."""
    found = counts(llama_model(SMALL), few_shot(*EIGHT))
    names = {"edit": "an edit in the page", "explain": "iclens explain", "page": "iclens explain --html"}
    rows: list[Mapping[str, Cell]] = [
        {"what": names[name], "passes with the lens's attention": traced, "all forward passes": every}
        for name, (traced, every) in found.items()
    ]
    traced, every = found["edit"]
    further = found["page"][1] - found["explain"][1]
    verdicts = (
        Verdict("an edit in the page takes one traced pass, and one with training weights", traced <= 2, f"{traced:g}"),
        Verdict("an edit in the page takes at most 4 forward passes", every <= 4, f"{every:.2f}"),
        Verdict("explain --html takes at most 2 further forward passes", further <= 2, f"{further:.2f}"),
    )
    return Listing("forward passes", rows, () if context.quick else verdicts)
