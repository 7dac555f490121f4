"""Which demonstrations moved this answer: for one prompt, and for many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Unpack

from iclens.errors import UserError
from iclens.lens.building import SCORES, explanations
from iclens.lens.calls import check_call, check_scores, reading_model
from iclens.lens.explanation import Explanation
from iclens.lens.lens import Lens
from iclens.lens.many.plan import batches, tokens_at_once
from iclens.lens.model.loading import LensModel
from iclens.lens.passes import MOST_TOKENS, Passes
from iclens.lens.prompt import Prompt, PromptOptions
from iclens.lens.prompt.options import Written
from iclens.lens.read.margin import MEASURES
from iclens.lens.read.question import PromptLike, Question, ask
from iclens.lens.read.responding import responding
from iclens.lens.read.response_options import ResponseOptions
from iclens.lens.scores.shares import MOST_NODES
from iclens.work.progress import bar, stages


def explain(
    model: Any,
    prompt: PromptLike = "",
    *misplaced: Any,
    tokenizer: Any = None,
    answers: Iterable[str] | None = None,
    answer: str | None = None,
    response: str | None = None,
    generate: int | None = None,
    statement: str | None = None,
    foil: str | None = None,
    measure: str = MEASURES[0],
    scores: Sequence[str] | None = None,
    knock_out: Iterable[Iterable[int | str]] = (),
    rerun_text: bool = False,
    faithfulness: bool = False,
    precise: bool = False,
    nodes: int = MOST_NODES,
    edges: str | None = None,
    pairs: bool = False,
    patch: bool = False,
    within: str | None = None,
    budget: int = 0,
    grounding: bool | None = None,
    matrix: bool = True,
    n_next: int = 10,
    seed: int | None = None,
    command: str = "",
    progress: bool | Callable[[str], None] = False,
    **written: Unpack[Written],
) -> Explanation:
    """Explain a language model's answer to a prompt by its sources: demonstrations, documents, messages, sentences.

    For the margin of the answer's logit over its alternatives, and for every source: its *influence* (how the
    margin changes with its weight in the training set of every dual model) and its *gradient step* (its contribution to
    the dual models' one step of training, direct, through the frozen final norm). On request its *shares* (influence
    from no source to all, which sums to what they change), its *path* (through all layers, with attention
    weights, norms and gates held: the parts sum to the margin), its *exact knock-out* (dual models trained without it),
    and what really deleting its text changes. Margins are in nats; positive scores support the answer.

    Args:
        model: `"bundled"`, a local folder, a hub name, a Hugging Face model, or a `LensModel`.
        prompt: plain text (blank lines between demonstrations, query last), pairs, chat messages, documents with a
            question, any other document that `read_document` reads, or a `Prompt`.
        *misplaced: nothing; an argument here gets an error that shows the right call.
        tokenizer: the tokenizer of a Hugging Face model; the others bring theirs.
        answers: candidate answers. The likeliest is explained, against the mean of the others.
        answer: the answer to explain instead; without candidates its alternatives are the next most likely tokens.
        response: a text of any length that is explained instead of answers: its log-probability, the sum over its
            tokens, each after those before it.
        generate: instead let the model write a response of at most this number of tokens.
        statement: a part of the response, word for word: its tokens alone are read.
        foil: another response, or, with a statement, what stands in its place: the difference of the two
            log-probabilities is explained.
        measure: of a response `"log_probability"`, or `"logit"`: log p − log(1 − p).
        scores: names of scores: `"gradient_step"`, `"path"`, `"knock_out"`, `"influence"`, `"shares"`, `"rerun"` or any
            of `ATTRIBUTIONS`; what they do not need is not run. The first orders the sources. When None, those of
            `Lens.usual_scores`.
        knock_out: groups of sources to knock out together, by numbers from 0 or by names, such as a document's id.
        rerun_text: add the score `"rerun"`: the true leave-one-out, by deleting each demonstration's text.
        faithfulness: also measure LDS and the removal test by running the model on shortened prompts.
        precise: take the path in a float64 copy of the model; without it only where the float32 check fails.
        nodes: weights that the shares are integrated over at most.
        edges: `"later"`: training weights and knock-outs act on the attention of all later tokens, nearer to deleting
            the text; `"query"`: on that of the query's tokens alone. By default influence and shares take the first,
            and the knock-out the second, which runs only the query again.
        pairs: also find which demonstrations say the same, or depend on each other; 25 passes more.
        patch: also write the context as an update of every MLP's weights, split by source, and run it: two passes.
        within: `"sentences"`, `"lines"` or `"paragraphs"`: also score these within each source. They are sums over the
            tokens of an additive score, and cost no pass.
        budget: how many of the strongest sources, and of the strongest pieces in these, are really deleted, from the
            largest score on: at most a pass each.
        grounding: also find what the model says without any source, one pass more; by default for documents alone.
        matrix: with the influence on a response, also find what each source does to each of its tokens, which is most
            of the cost; its statements are cited without it too.
        n_next: number of likely next tokens to report.
        seed: seed of what is drawn; 0 when None, but a generated response is then the likeliest, not drawn.
        command: the command that gives the same numbers, to be shown with them.
        progress: True shows the stages on standard error; or a function that is called with each one's name.
        **written: how the prompt is written, see `PromptOptions`: `separator`, `template_args`, `system_in_user`,
            `instruction`, `instruction_blocks`, `template`, `query`; and what is scored: `split`, `score_instruction`,
            `as_chat`.

    Raises:
        UserError: the model, the prompt, a score or an answer cannot be handled exactly.

    Source: Ren & Liu 2024, Theorem 3.1 and its extension to layers; docs/explain.md.
    """
    check_call("explain", prompt, misplaced)
    wanted = None if scores is None else _wanted(scores, rerun_text)
    asked: dict[str, Any] = {
        "tokenizer": tokenizer,
        "answers": answers,
        "answer": answer,
        "response": response,
        "generate": generate,
        "seed": seed,
        "statement": statement,
        "foil": foil,
        "measure": measure,
        "precise": precise,
        "nodes": nodes,
    }
    told: dict[str, Any] = {"faithfulness": faithfulness, "n_next": n_next, "seed": seed or 0, "command": command}
    told |= {"edges": edges, "pairs": pairs, "patch": patch, "within": within, "budget": budget}
    told |= {"grounding": grounding, "matrix": matrix}
    with _stages(progress) as stage:
        lens = Lens(model, prompt, held="path" in (wanted or ()), progress=stage, **asked, **written)
        wanted = wanted or _wanted(lens.usual_scores, rerun_text)
        return lens.explanation(wanted, knock_out=knock_out, **told)


def explain_many(
    model: Any,
    prompts: Iterable[PromptLike],
    *misplaced: Any,
    tokenizer: Any = None,
    answers: Iterable[str] | None = None,
    answer: str | None = None,
    response: str | None = None,
    generate: int | None = None,
    statement: str | None = None,
    foil: str | None = None,
    measure: str = MEASURES[0],
    scores: Sequence[str] = SCORES,
    rerun_text: bool = False,
    precise: bool = False,
    nodes: int = MOST_NODES,
    edges: str | None = None,
    within: str | None = None,
    budget: int = 0,
    grounding: bool | None = None,
    matrix: bool = True,
    n_next: int = 10,
    seed: int | None = None,
    most_tokens: int | None = None,
    progress: bool = False,
    **written: Unpack[Written],
) -> Iterator[Explanation]:
    """Explain many prompts, which go through the model side by side; each to rounding as `explain` would.

    Every prompt is checked before the first one runs. Explanations come in the order of the prompts, which may be
    objects that hold `"answers"` as well, or `"response"`, `"generate"`, `"statement"`, `"foil"` and `"measure"`, as
    the lines of `--batch` do. `most_tokens` go through the model at once (by the model's size when left out); prompts
    with a foil run one by one, and so do all with methods of `ATTRIBUTIONS`, `within` or `budget`. `progress` shows a
    bar on standard error. All other arguments are those of `explain` and hold for every prompt that does not say
    otherwise itself.

    Raises:
        UserError: the model, a prompt (which is named) or an answer cannot be handled exactly.
    """
    if isinstance(prompts, str | Mapping | Prompt):
        raise UserError("the prompts are one prompt: give a list of prompts, or call explain(model, prompt).")
    check_call("explain_many", prompts, misplaced, "prompts")
    wanted = _wanted(scores, rerun_text)
    lens_model = reading_model(model, tokenizer)
    questions, options, given = (
        [],
        PromptOptions(**written),
        answers if isinstance(answers, str | None) else list(answers),
    )
    said = ResponseOptions(response, generate, statement, foil, measure, seed)
    for number, prompt in enumerate(prompts):
        with _of_prompt(number):
            question = ask(lens_model, prompt, given, answer, options, response=said)
            questions.append(responding(lens_model, question, write=False))
    most = most_tokens or tokens_at_once(lens_model)
    told: dict[str, Any] = {"precise": precise, "nodes": nodes, "edges": edges, "n_next": n_next, "seed": seed or 0}
    told |= {"within": within, "budget": budget, "grounding": grounding, "matrix": matrix}
    return _each(lens_model, questions, most, progress, scores=wanted, **told)


def explain_together(
    lens_model: LensModel,
    questions: Sequence[Question],
    scores: Sequence[str] = SCORES,
    *,
    precise: bool = False,
    nodes: int = MOST_NODES,
    edges: str | None = None,
    within: str | None = None,
    budget: int = 0,
    grounding: bool | None = None,
    matrix: bool = True,
    n_next: int = 10,
    seed: int = 0,
    most_tokens: int = MOST_TOKENS,
    progress: Callable[[str], None] = lambda stage: None,
) -> list[Explanation]:
    """Explain prompts that go through the model side by side, whose responses are read already.

    Prompts with a foil run one by one, and so do all with methods of `ATTRIBUTIONS`, `within` or `budget`. The closer
    the lengths of the questions, the less is spent on filling up; `most_tokens` go through the model at once where
    prompts run several times. `progress` is called with the name of every stage before it starts, and what it raises
    ends the work. The other arguments are those of `explain`.
    """
    options: dict[str, Any] = {"held": "path" in scores, "precise": precise, "nodes": nodes}
    options |= {"most_tokens": most_tokens, "progress": progress}
    told: dict[str, Any] = {"edges": edges, "grounding": grounding, "matrix": matrix, "n_next": n_next, "seed": seed}
    each = bool(check_scores(scores)) or within is not None or budget != 0
    beside = [i for i, one in enumerate(questions) if not each and one.foil is None]
    found: dict[int, Explanation] = {}
    if beside:
        passes = Passes(lens_model, [questions[i] for i in beside], **options)
        found |= zip(beside, explanations(passes, scores, **told), strict=True)
    for i in range(len(questions)):
        if i not in found:
            lens = Lens(lens_model, questions[i], **options)
            found[i] = replace(lens.explanation(scores, within=within, budget=budget, **told), lens=None)
    return [found[i] for i in range(len(questions))]


def _wanted(scores: Iterable[str], rerun_text: bool) -> list[str]:
    """The scores, checked, and the rerun where it is asked for by its own option."""
    wanted = scores if isinstance(scores, str) else list(scores)
    check_scores(wanted)
    return [*wanted, *(["rerun"] if rerun_text and "rerun" not in wanted else [])]


def _each(
    lens_model: LensModel, questions: Sequence[Question], most_tokens: int, progress: bool, **options: Any
) -> Iterator[Explanation]:
    """The explanations in the order of the questions, computed in batches of like length."""
    ready: dict[int, Explanation] = {}
    following = 0
    planned = batches(questions, lens_model, most_tokens)
    with bar([len(one) for one in planned], "explaining") if progress else nullcontext() as report:
        for number, batch in enumerate(planned):
            asked = []
            for i in batch:
                with _of_prompt(i):
                    asked.append(responding(lens_model, questions[i]))
            found = explain_together(lens_model, asked, most_tokens=most_tokens, **options)
            ready |= zip(batch, found, strict=True)
            if report is not None:
                report(number, len(batch))
            while following in ready:
                yield ready.pop(following)
                following += 1


@contextmanager
def _of_prompt(number: int) -> Iterator[None]:
    """Name the prompt whose error it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"prompt {number}: {error}") from None


def _stages(progress: bool | Callable[[str], None]) -> AbstractContextManager[Callable[[str], None]]:
    if callable(progress):
        return nullcontext(progress)
    return stages("explaining") if progress else nullcontext(lambda stage: None)
