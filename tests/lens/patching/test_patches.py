"""The query alone with patched weights is the model with its context; the parts of the update sum to it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, reader
from tests.lens.zoo import CAUSAL, ENCODERS, GROUPS, QUERY_START, build, lens, tokens, without_detours

from iclens import UserError
from iclens.lens import Lens
from iclens.lens.model.anatomy import matrix
from iclens.lens.model.loading import LensModel
from iclens.lens.patching.patches import BELOW, CONTEXTS, Patches, patches_of

EXPERTS = [name for name in CAUSAL if CAUSAL[name][1].get("num_experts_per_tok") or name.startswith("llama4")]
LAYOUTS = ["gpt2", "llama-biased-tied", "mistral-window", "phi3", "gpt_neox", "gpt_neox-sequential", "cohere", "gemma2",
           "olmo2", "opt", "opt-350m", "granite", "arcee"]  # fmt: skip
OTHERS = [name for name in CAUSAL if name not in (*LAYOUTS, *EXPERTS)]
PARALLEL = ["gpt_neox", "phi", "cohere", "stablelm-parallel"]
N, N_SOURCES = len(GROUPS), 4
IDS = tokens(N)[0]
READ = torch.tensor([20, 23])


def exact(name: str) -> LensModel:
    """A model of the zoo in float64, whose own detours through float32 `without_detours` takes away."""
    return LensModel.wrap(build(name, torch.float64, throughout=True), name=name)


def patches(model: LensModel, context: str = CONTEXTS[0], below: str = BELOW[0]) -> Patches:
    return patches_of(model, IDS, GROUPS, QUERY_START, READ, N_SOURCES, context=context, below=below)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def check_all_blocks(model: LensModel) -> None:
    with without_detours():
        for context in CONTEXTS:
            made = patches(model, context)
            for form in ("offset", "weights"):
                run = made.run(form=form)
                assert max(run.off, run.worst_block) < 1e-10
                assert run.layers == (0, 1, 2)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_query_alone_with_patched_weights_is_the_model_with_its_context(name: str) -> None:
    check_all_blocks(exact(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_same_holds_for_every_family_without_experts(name: str) -> None:
    check_all_blocks(exact(name))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_in_single_precision_seven_digits_agree(name: str) -> None:
    for context in CONTEXTS:
        run = patches(lens(name), context).run()
        assert max(run.off, run.worst_block) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "opt-350m"])
def test_one_block_patched_by_itself_gives_what_it_gives_with_the_context(name: str) -> None:
    model = exact(name)
    with without_detours():
        made = patches(model, below="plain")
        for form in ("offset", "weights"):
            runs = [made.run(layer, form=form) for layer in range(3)]
            assert max(run.worst_block for run in runs) < 1e-10
            # Nothing above the last block hears of the context: the others leave the logits where they are.
            assert runs[-1].off < 1e-10
            assert min(run.off for run in runs[:-1]) > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "phi", "gemma2"])
def test_without_patches_the_query_alone_is_another_model(name: str) -> None:
    made = patches(lens(name))
    assert off(made.plain.logits, made.whole.logits) > 1e-2


@pytest.mark.parametrize("name", ["gpt2", "llama-biased-tied", "phi3", "gpt_neox", "starcoder2"])
def test_an_update_written_into_the_weights_lets_the_plain_model_answer_without_its_context(name: str) -> None:
    model = exact(name)
    query, places = IDS[None, QUERY_START:], torch.arange(QUERY_START, N)[None]
    with without_detours(), torch.no_grad():
        expected = model.model(input_ids=IDS[None], position_ids=torch.arange(N)[None]).logits[0, -1]
        patch = patches(model, "everything", "plain")[2]
        before = model.model(input_ids=query, position_ids=places).logits[0, -1]
        for path, update in patch.dense().items():
            assert int(torch.linalg.matrix_rank(update)) == (0 if not bool(update.any()) else 1)
            linear: Any = model.anatomy.layers[2].module.get_submodule(path)
            # Conv1D keeps its matrix the other way round.
            linear.weight += update if isinstance(linear, torch.nn.Linear) else update.T
        found = model.model(input_ids=query, position_ids=places).logits[0, -1]
    assert off(found, expected) < 1e-10
    assert off(before, expected) > 1e-3


@pytest.mark.parametrize("name", [*LAYOUTS, "phi", "stablelm-parallel"])
@pytest.mark.parametrize("below", BELOW)
def test_the_parts_sum_to_the_update(name: str, below: str) -> None:
    model = exact(name)
    with without_detours():
        for context in CONTEXTS:
            for patch in patches(model, context, below):
                assert off(patch.offsets.total, patch.offset) < 1e-12
                for update in patch.updates:
                    size = float(update.left.abs().max() / patch.matrix(update.name).abs().max())
                    difference = float((patch.left(update.name).total - update.left).abs().max())
                    assert difference <= 1e-11
                    # Beside the attention, the MLP hears of the context by the stream alone.
                    assert (size < 1e-12) == (patch.parallel and (below == "patched" or patch.layer == 0))
                # A token before all sources is not changed by them.
                if context == "sources" and below == "patched":
                    assert float(patch.offset[0].abs().max()) < 1e-12
                    assert not bool(patch.offsets.rest.any())
                    assert float(patch.offsets.states.abs().max()) < 1e-12


def test_a_sources_part_is_its_heads_contribution_through_the_output_matrix() -> None:
    lens_of_it = Lens(reader("gpt2"), PROMPTS[1])
    made = lens_of_it.patches()
    at = int((made.text.kept == lens_of_it.readouts.positions[0, 0]).nonzero())
    for layer, patch in enumerate(made):
        output = lens_of_it.model.anatomy.layers[layer].output
        assert output is not None
        duals = [lens_of_it.head(layer, head).contributions()[0] for head in range(lens_of_it.model.n_heads)]
        expected = torch.cat(duals, -1)[: lens_of_it.n_demonstrations] @ matrix(output).detach().T
        assert off(patch.offsets.part[:, at], expected) < 1e-5


def test_weights_of_one_are_the_patches_and_lead_to_the_models_logits() -> None:
    model = exact("llama")
    with without_detours(), torch.no_grad():
        made = patches(model)
        ones = torch.ones(N_SOURCES, dtype=torch.float64)
        for patch in made:
            scaled = patch.scaled(ones)
            assert off(scaled.offset, patch.offset) < 1e-12
            for mine, whole in zip(scaled.updates, patch.updates, strict=True):
                assert off(mine.left, whole.left) < 1e-11
        assert off(made.logits(ones), made.whole.logits) < 1e-10


@pytest.mark.parametrize("name", PARALLEL)
def test_weights_of_zero_are_the_query_without_its_sources(name: str) -> None:
    model = exact(name)
    with without_detours(), torch.no_grad():
        made = patches(model)
        assert off(made.logits(torch.zeros(N_SOURCES, dtype=torch.float64)), made.plain.logits) < 1e-10


def test_rows_tell_every_term_of_every_block_and_their_shares_sum_to_one() -> None:
    made = patches(exact("llama"))
    rows = made.to_rows()
    assert len(rows) == 3 * (2 * N_SOURCES + 3)
    assert [row["source"] for row in rows[: N_SOURCES + 1]] == [0, 1, 2, 3, 0]
    assert {row["position"] for row in rows} == {N - 1}
    assert {row["matrices"] for row in rows} == {"mlp.gate_proj+mlp.up_proj"}
    for layer in range(3):
        assert math.isclose(sum(row["share"] for row in rows if row["layer"] == layer), 1.0, abs_tol=1e-9)
    assert len(made.to_rows(token=None)) == len(rows) * len(made.text.kept)
    patch = made[1]
    dense = torch.cat([patch.dense()[name] for name in patch.told])
    terms = patch.left(token=-1)
    written_out = torch.einsum("so,i->soi", terms.part, patch.updates[0].right[-1])
    weight = torch.cat([patch.matrix(name) for name in patch.told])
    parts = [row for row in rows if row["layer"] == 1 and row["term"] == "part"]
    for own, row in zip(written_out, parts, strict=True):
        assert math.isclose(row["size"], float(own.norm() / weight.norm()), rel_tol=1e-9)
        assert math.isclose(row["share"], float((own * dense).sum() / dense.square().sum()), rel_tol=1e-9)
    flat = written_out.flatten(1) / written_out.flatten(1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(made.cosines()[1], flat @ flat.T, rtol=0, atol=1e-10)


def test_a_data_frame_has_the_rows() -> None:
    pandas = pytest.importorskip("pandas")
    made = patches(exact("gpt_neox"))
    frame = made.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.groupby("layer")["share"].sum().sub(1).abs().max() < 1e-9
    assert set(frame["matrices"]) == {"mlp.dense_4h_to_h"}


def test_the_model_is_left_as_it_was() -> None:
    model = exact("gemma2")
    before = copy.deepcopy(model.model.state_dict())
    made = patches(model)
    made.run(form="weights")
    made.run()
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.model.modules())


def test_a_lens_gives_them_once_and_counts_the_pass() -> None:
    lens_of_it = Lens(reader("gpt2"), PROMPTS[1])
    _ = lens_of_it.answer
    before = lens_of_it.passes.cost.forward_passes
    made = lens_of_it.patches()
    assert made is lens_of_it.patches()
    assert lens_of_it.passes.cost.forward_passes == pytest.approx(before + 1 + made.share, abs=1e-3)
    assert lens_of_it.patch(1) is made[1]
    assert made.run().off < 1e-5
    assert made.share < 1


def refusals() -> dict[str, tuple[Any, str]]:
    made, alone = patches(lens("llama")), patches(lens("llama"), below="plain")
    normed = patches(lens("olmo2"))[0]
    asked = Lens(reader("gpt2"), PROMPTS[1])
    return {
        "layer": (lambda: made[3], "there is no layer 3: llama has 3, counted from 0"),
        "layer of a lens": (lambda: asked.patch(99), "there is no layer 99"),
        "context": (lambda: asked.patches(context="all"), "context is 'all': give 'sources' or 'everything'"),
        "below": (lambda: asked.patches(below="patch"), "Did you mean 'patched'"),
        "form": (lambda: made.run(form="weight"), "form is 'weight'"),  # type: ignore[arg-type]
        "one of all": (lambda: made.run(1), "these patches run together: leave layer out"),
        "all of one": (lambda: alone.run(), "these patches run one at a time: name a layer"),
        "weights": (lambda: made[0].scaled(torch.ones(3)), "weights of shape \\(3,\\) are given for 4 sources"),
        "scaled apart": (lambda: alone.logits(torch.ones(4)), "only patches that run together are scaled together"),
        "token": (lambda: made[0].dense(13), "there is no token 13: 10 tokens stay"),
        "row's token": (lambda: made.to_rows(-11), "there is no token -11"),
        "matrix": (lambda: made[0].left("gate"), "layer 0 has no matrix 'gate' to patch: it has mlp.gate_proj"),
        "offset": (lambda: normed.offset_update, "a norm ends the MLP of layer 0"),
    }  # fmt: skip


WRONG_TYPES = ("form",)


@pytest.mark.parametrize(
    "what", [pytest.param(one, marks=pytest.mark.wrong_types if one in WRONG_TYPES else ()) for one in refusals()]
)
def test_what_cannot_be_is_refused_in_a_sentence(what: str) -> None:
    call, message = refusals()[what]
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("name", EXPERTS)
def test_mixtures_of_experts_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="is a mixture of experts"):
        patches(lens(name))


def test_an_encoder_and_a_prompt_without_context_are_refused() -> None:
    with pytest.raises(UserError, match="it has no next token"):
        patches(lens(next(iter(ENCODERS))))
    nothing = torch.full((N,), -1)
    with pytest.raises(UserError, match="there is no context to take away"):
        patches_of(lens("gpt2"), IDS, nothing, 0, READ, 0)


def test_a_foil_is_refused() -> None:
    one = Lens(reader("gpt2"), PROMPTS[1], response="w1 w2", foil="w3")
    with pytest.raises(UserError, match="a patch is of one text"):
        one.patches()
