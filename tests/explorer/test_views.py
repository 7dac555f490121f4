"""The views of a head and of the layers against numbers from other routes."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import iclens
from iclens.bounds import generalization_bounds, measured_gap
from iclens.dual import DualModel
from iclens.explorer.ask import Ask
from iclens.explorer.bound_view import bound_view
from iclens.explorer.glance import glance
from iclens.explorer.head_view import head_view
from iclens.explorer.layers_view import layers_view
from iclens.explorer.viewed import Kept
from iclens.kernels import SignedLog
from iclens.kernels.softcapped import SoftcappedKernel
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.tokens import tokenize
from iclens.lens.read.answers import likeliest
from iclens.lens.read.capture import capture

TEXT = "cat is vux .\n\napple is nef .\n\ndog is vux .\n\nhorse is"
ANSWERS = ("vux", "nef", "zup")


def seen(view, model, document):
    """A view of a question, from a lens of its own."""
    ask = Ask.read(document)
    return view(Kept(model).of(ask), ask)


@pytest.fixture
def asked():
    return {"text": TEXT, "answers": list(ANSWERS)}


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (3, 0)])
def test_a_head_is_the_dual_model_of_its_captured_attention(model, asked, layer, head):
    view = seen(head_view, model, {**asked, "layer": layer, "head": head})
    tokenized = tokenize(Prompt.from_text(TEXT), model.tokenizer)
    record = capture(model, tokenized.input_ids[None]).records[layer]
    q, k, v = (x[0, head].double() for x in (record.q[..., -1:, :], record.k, record.v))
    dual = DualModel.from_attention(q, k, v, tokenized.groups, scale=record.scale)
    own = record.output[0, head, -1].double()

    near = {"rel": 1e-4, "abs": 1e-6}
    assert view["prediction_size"] == pytest.approx(float(own.norm()), **near)
    assert view["residual"] < 1e-5
    assert [one["weight"] for one in view["demonstrations"]] == pytest.approx(dual.weights()[0].tolist(), **near)
    assert view["first"]["weight"] == pytest.approx(float(dual.coefficients[0, 0]), **near)
    outside = view["first"]["weight"] + view["initial"]["weight"]
    assert outside + sum(one["weight"] for one in view["demonstrations"]) == pytest.approx(1.0)
    assert view["loss_after"]["value"] == pytest.approx(float(dual.loss().after), rel=1e-4)
    assert view["loss_after"]["value"] < view["loss_before"]["value"]
    assert view["alignment_after"] == pytest.approx(float(dual.alignment().after.mean()), **near)
    # Training on the first t demonstrations, with D held: what is left to h' are the parts of the others.
    left = [float(dual.contributions()[0, t:].sum(0).norm()) for t in range(4)]
    assert view["trajectory"] == pytest.approx(left, abs=1e-5)


MANY = ["cat", "dog", "plum", "saw", "horse", "nef", "zup", "blick", "vux"]


@pytest.mark.parametrize(
    "given",
    [
        {"answers": list(ANSWERS)},
        {"answers": []},
        {"answers": [], "answer": "nef"},
        {"answers": MANY},
        {"answers": MANY, "answer": "blick"},
        {"answers": ["vux nef", "vux zup"]},
    ],
    ids=["three", "none", "one that is asked for", "the last of many", "an unlikely one of many", "that begin alike"],
)
def test_a_heads_pulls_are_its_cells_of_the_maps(model, given):
    ask = Ask.read({"text": TEXT, **given})
    viewed = Kept(model).of(ask)
    shown = glance(viewed, ask)
    explanation = iclens.explain(model, TEXT, answers=ask.answers or None, answer=ask.answer)
    size = max(abs(value) for row in shown["by_layer_and_head"] for value in row)
    assert size > 1e-3
    for layer, head in [(0, 1), (3, 0)]:
        view = head_view(viewed, replace(ask, layer=layer, head=head))
        pulls = [one["pull"] for one in view["demonstrations"]]
        for cells in (shown["sources"], explanation.to_dict()["sources"]):
            own = [one["by_layer_and_head"][layer][head] for one in cells]
            assert pulls == pytest.approx(own, rel=1e-9, abs=1e-6 * size)
        assert sum(pulls) == pytest.approx(shown["by_layer_and_head"][layer][head], abs=1e-6 * size)
        assert view["initial"]["pull"] == float(viewed.pulls[layer, head, -1])
    first, *others = explanation.tokens
    elsewhere = sum(token.gradient_step for token in others if token.part is None)
    assert float(viewed.pulls[..., -2].sum()) == pytest.approx(first.gradient_step, abs=1e-5 * size)
    assert float(viewed.pulls[..., -1].sum()) == pytest.approx(elsewhere, abs=1e-5 * size)


def test_what_the_positives_say_sums_to_the_heads_pulls(model, asked):
    view = seen(head_view, model, {**asked, "layer": 3, "head": 0})
    chosen = view["readings"].index(iclens.explain(model, TEXT, answers=ANSWERS).answer)
    for i, one in enumerate(view["demonstrations"]):
        said = torch.tensor([pair["pulls"] for pair in view["pairs"] if pair["part"] == i]).sum(0)
        others = torch.cat([said[:chosen], said[chosen + 1 :]])
        assert float(said[chosen] - others.mean()) == pytest.approx(one["pull"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"answers": ["vux", "nef"]}, ["vux", "nef"]),
        ({"answers": MANY}, [*MANY[:5], "vux"]),
        ({"answers": MANY, "answer": "dog"}, MANY[:6]),
    ],
)
def test_the_answers_that_are_read_out_have_the_explained_one_among_them(model, given, read):
    view = seen(head_view, model, {"text": TEXT, **given, "layer": 0, "head": 0})
    assert view["readings"] == read


@pytest.mark.parametrize("given", [{"answers": [], "answer": "nef"}, {"answers": ["vux nef", "vux zup"]}])
def test_where_answers_tell_nothing_apart_likely_tokens_are_read_out_too(model, given):
    ask = Ask.read({"text": TEXT, **given, "layer": 0, "head": 0})
    viewed = Kept(model).of(ask)
    answered = viewed.lens.answer
    wanted = viewed.read_answers(6)
    candidates = [candidate.text for candidate in answered.candidates]
    assert list(wanted)[: len(candidates)] == candidates
    likely = {token.token_id for token in likeliest(model.tokenizer, answered.next_logits, 4)}
    assert likely <= set(wanted.values())
    assert len(wanted) == len(candidates) + len(likely - {wanted[text] for text in candidates})
    assert any(len(set(pair["pulls"])) > 1 for pair in head_view(viewed, ask)["pairs"])


def test_training_pairs_are_the_heaviest_tokens_of_demonstrations(model, asked):
    view = seen(head_view, model, {**asked, "layer": 2, "head": 0})
    weights = [pair["weight"] for pair in view["pairs"]]
    assert weights == sorted(weights, reverse=True)
    assert {pair["part"] for pair in view["pairs"]} == {0, 1, 2}
    assert sum(weights) == pytest.approx(sum(one["weight"] for one in view["demonstrations"]))


@pytest.mark.parametrize(
    ("layer", "head", "said"), [(4, 0, "no head 0 in layer 4"), (0, 2, "no head 2"), (None, 0, "choose")]
)
def test_a_head_that_is_not_there_is_refused(model, asked, layer, head, said):
    with pytest.raises(iclens.UserError, match=said):
        seen(head_view, model, {**asked, "layer": layer, "head": head})


@pytest.mark.parametrize(
    "answers", [["vux", "nef", "zup"], [], ["vux nef", "zup"]], ids=["three", "none", "several tokens"]
)
def test_the_layers_sum_to_the_margin_and_end_at_the_models_answer(model, answers):
    view = seen(layers_view, model, {"text": TEXT, "answers": answers})
    explanation = iclens.explain(model, TEXT, answers=answers or None)
    parts = [value for layer in view["layers"] for value in layer.values()]
    assert sum(parts) + view["embedding"] + view["bias"] == pytest.approx(explanation.margin, rel=1e-4)
    # The margin as it builds up is the running sum, from embedding and biases to the margin itself.
    added = [sum(layer.values()) for layer in view["layers"]]
    steps = [b - a for a, b in pairwise(view["margins"])]
    assert steps == pytest.approx(added, abs=1e-6)
    assert view["margins"][0] == pytest.approx(view["embedding"] + view["bias"], abs=1e-6)
    assert view["margins"][-1] == pytest.approx(explanation.margin, rel=1e-4)
    steps = sum(layer["gradient_step"] for layer in view["layers"])
    assert steps == pytest.approx(sum(effect.gradient_step for effect in explanation.sources), rel=1e-6)
    last = view["states"][-1]["probabilities"]
    known = {token.text.strip(): token.probability for token in explanation.next_tokens}
    for one, probability in zip(view["answers"], last, strict=True):
        first = one["text"].split()[0]
        if first in known:
            assert probability == pytest.approx(known[first], rel=1e-5)
    assert len(view["states"]) == model.n_layers + 1


def test_views_of_a_model_with_other_norms_and_grouped_heads():
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from iclens import bundled
    from iclens.lens.model.loading import LensModel

    tokenizer = AutoTokenizer.from_pretrained(bundled.path())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = LensModel.wrap(LlamaForCausalLM(config).double().eval(), tokenizer, "llama")
    asked = {"text": TEXT, "answers": ["vux", "nef"], "layer": 1, "head": 3}
    assert seen(head_view, model, asked)["residual"] < 1e-12
    view = seen(layers_view, model, asked)
    explanation = iclens.explain(model, TEXT, answers=["vux", "nef"])
    parts = [value for layer in view["layers"] for value in layer.values()]
    assert sum(parts) + view["embedding"] + view["bias"] == pytest.approx(explanation.margin, abs=1e-10)
    scores = [candidate.probability for candidate in explanation.candidates]
    assert view["states"][-1]["probabilities"] == pytest.approx(scores)


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (3, 0)])
def test_the_bound_is_theorem_3_2_for_the_heads_dual(model, asked, layer, head):
    view = seen(head_view, model, {**asked, "layer": layer, "head": head})["bound"]
    tokenized = tokenize(Prompt.from_text(TEXT), model.tokenizer)
    record = capture(model, tokenized.input_ids[None]).records[layer]
    q, k, v = (x[0, head].double() for x in (record.q[..., -1:, :], record.k, record.v))
    found = generalization_bounds(DualModel.from_attention(q, k, v, tokenized.groups, scale=record.scale))
    unit = found.loss_range.log_abs
    assert view["n_tokens"] == int((tokenized.groups >= 0).sum())
    for form in view["forms"]:
        bound = found.by_name[form["name"]]
        assert form["gap"]["log_abs"] == pytest.approx(float(bound.gap.log_abs - unit), abs=1e-3)
        # In units of the range, a bound of 1 is where it stops to say anything.
        assert form["vacuous"] == (form["gap"]["log_abs"] >= 0) == bool(bound.vacuous)
        parts = [torch.tensor(form[name]["log_abs"]) for name in ("complexity", "confidence")]
        assert float(torch.logaddexp(*parts)) == pytest.approx(form["gap"]["log_abs"], abs=1e-6)
    assert view["ingredients"]["w_frobenius"]["log_abs"] == pytest.approx(float(found.w_frobenius.log_abs), rel=1e-3)


def test_the_measured_gap_is_that_of_halves_of_the_demonstrations():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n, 4, generator=generator) for n in (1, 30, 30))
    groups = torch.arange(30) // 3 - 1
    dual = DualModel.from_attention(q, k, v, groups)
    measured = bound_view(dual)["measured"]
    assert (measured["n_demonstrations"], measured["n_held_out"]) == (4, 5)
    own = measured_gap(dual, 4, measured["n_resamples"])
    values = SignedLog(own.gap.log_abs - own.bounds.loss_range.log_abs, own.gap.sign).value[:, 0]
    assert measured["median"] == pytest.approx(float(values.quantile(0.5)))
    # What the query may not attend to changes nothing.
    far = torch.cat([torch.randn(5, 4, generator=generator), k]), torch.cat([torch.ones(5, 4), v])
    mask = torch.arange(35)[None] >= 5
    ids = torch.cat([torch.tensor([0, 0, 0, 1, -1]), torch.where(groups < 0, -1, groups + 2)])
    hidden = bound_view(DualModel.from_attention(q, *far, ids, mask))
    for name in ("median", "low", "high", "bound"):
        assert hidden["measured"][name] == pytest.approx(measured[name]), name


def test_where_there_is_no_bound_it_says_why():
    q, k, v = torch.randn(1, 4), torch.randn(6, 4), torch.randn(6, 3)
    one = bound_view(DualModel.from_attention(q, k, v, torch.tensor([0, 0, 0, -1, -1, -1])))
    assert one["problem"] is None
    assert one["measured"] is None
    unseen = DualModel.from_attention(q, k, v, torch.tensor([0, 0, -1, -1, -1, -1]), torch.arange(6)[None] > 2)
    assert "attends to no demonstration" in bound_view(unseen)["problem"]
    capped = DualModel.from_attention(q, k, v, 3, kernel=SoftcappedKernel(0.5, 10.0))
    assert bound_view(capped)["problem"]
