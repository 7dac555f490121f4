"""Modified attention put into a model and fine-tuned, as a recipe: made data on the bundled learner."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tests.papers.attribution.real_data import write_real_data

from iclens.errors import UserError
from iclens.lens.model.loading import load
from iclens.papers.ren_liu_2024.on_real_models.claims import CLAIMS
from iclens.papers.ren_liu_2024.on_real_models.gains import PUT_IN, TUNED
from iclens.papers.ren_liu_2024.on_real_models.modifications import (
    CONTROLS,
    NEGATIVE,
    PLAIN,
    REGULARIZED,
    SCALE,
    Modification,
    fine_tuned,
    layers_of,
    put_in,
)
from iclens.papers.ren_liu_2024.on_real_models.prompts import answers, drawn_set, lesson, lessons, read, texts_of
from iclens.papers.ren_liu_2024.on_real_models.tuning import loss_of, tune
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["modified-real"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = str(write_real_data(tmp_path_factory.mktemp("data") / "data"))
    return dataclasses.replace(
        ENTRY.quick.settings, model="bundled", data=folder, tasks=("free", "few"), training_tasks=("other",),
        alphas=(0.1,), layers=("all", "last"), n_seeds=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.set_default_dtype(torch.float32)
    return load("bundled")


@pytest.fixture(autouse=True)
def single_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def tiny_run(settings):
    return ENTRY.run(settings)


def texts(model, settings, task="few", number=0):
    known = read(task, settings)
    return texts_of(model, known, *drawn_set(known, settings, number))


def test_a_tiny_run_has_both_studies_and_is_checked_and_drawn(settings, tiny_run):
    back = Table.from_json_columns(tiny_run.to_columns())
    assert set(back.unique("study")) == {PUT_IN, TUNED}
    assert set(back.where(study=PUT_IN).unique("row")) == set(put_in(settings))
    assert set(back.where(study=TUNED).unique("row")) == set(fine_tuned(settings))
    assert [verdict.claim for verdict in ENTRY.check(back, settings)] == [claim.statement for claim in CLAIMS]
    assert not any(verdict.untested for verdict in ENTRY.check(back, settings))
    assert len(ENTRY.summaries(back, settings)) == 5
    assert [axes.get_title() for axes in ENTRY.plot(back, settings).axes] == [PUT_IN, TUNED]
    # Reading a beginning once is reading it with every text.
    assert back.only("off").column("off").max() < 1e-3


def test_a_run_that_is_half_done_says_what_it_lacks(settings, tiny_run):
    for some in (tiny_run.where(study=PUT_IN), tiny_run.where(study=TUNED), tiny_run.where(row="plain"), Table()):
        verdicts = ENTRY.check(some, settings)
        assert any(verdict.untested for verdict in verdicts)
        assert ENTRY.summaries(some, settings) is not None
        assert ENTRY.plot(some, settings).axes
    assert all(verdict.untested for verdict in ENTRY.check(tiny_run.where(row="plain"), settings)[:6])


def test_a_part_is_its_seed_and_leaves_the_model_as_it_was(settings, tiny_run, model):
    part = {"study": TUNED, "row": "augmented g1&g2, all", "seed": 1}
    again = ENTRY.measure_part(part, settings)
    assert list(again) == list(tiny_run.where(**part))
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    tune(model, fine_tuned(settings)["augmented g1&g2, all"], [read("other", settings)], settings, 0)
    assert list(before) == list(model.model.state_dict())
    assert all(torch.equal(before[name], value) for name, value in model.model.state_dict().items())


@pytest.mark.parametrize("kind", [REGULARIZED, NEGATIVE, SCALE])
def test_strength_0_says_what_plain_attention_says(settings, model, kind):
    option = {REGULARIZED: "alpha", NEGATIVE: "beta", SCALE: "strength"}[kind]
    plain = answers(model, texts(model, settings))
    with Modification("none", kind, {option: 0.0}).into(model):
        none = answers(model, texts(model, settings))
    for one, other in zip(none, plain, strict=True):
        assert one.log_loss == pytest.approx(other.log_loss, abs=1e-5)
        assert one.right == other.right
    with Modification("some", kind, {option: 0.5}).into(model):
        some = answers(model, texts(model, settings))
    assert any(abs(one.log_loss - other.log_loss) > 1e-3 for one, other in zip(some, plain, strict=True))
    assert answers(model, texts(model, settings)) == plain


@pytest.mark.parametrize("name", ["plain", "regularized 0.1, last", "negative 0.1 k=1, all"])
@pytest.mark.parametrize("task", ["few", "free"])
def test_answers_are_the_models_own_logits(settings, model, task, name):
    """By whole prompts through the model: of the labels, or of any text."""
    asked = texts(model, settings, task)
    with put_in(settings)[name].into(model):
        found = answers(model, asked)
        for (ids, query), own in zip(asked, found, strict=True):
            with torch.no_grad():
                logits = model.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
            firsts = [answer[0] for answer in query.ids]
            assert all(len(answer) == 1 for answer in query.ids)
            among = logits[firsts] if task == "few" else logits
            right = query.right if task == "few" else firsts[0]
            assert own.log_loss == pytest.approx(-float(among.log_softmax(-1)[right]), abs=1e-4)
            assert own.right == (int(among.argmax()) == right)


@pytest.mark.parametrize("n_layers", [3, 4, 5, 30])
def test_thirds_are_all_layers_once_and_alike(n_layers):
    thirds = [layers_of(group, n_layers) for group in ("first", "middle", "last")]
    assert [number for third in thirds for number in third] == layers_of("all", n_layers) == list(range(n_layers))
    assert max(map(len, thirds)) - min(map(len, thirds)) <= 1


@pytest.mark.parametrize("group", ["first", "middle", "last"])
def test_only_the_layers_of_a_group_are_modified(model, group):
    chosen = layers_of(group, model.n_layers)
    modification = Modification("some", REGULARIZED, {"alpha": 0.5}, group)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain = model.model(input_ids=ids, output_hidden_states=True).hidden_states
        with modification.into(model):
            found = model.model(input_ids=ids, output_hidden_states=True).hidden_states
    changed = [not torch.equal(one, other) for one, other in zip(plain, found, strict=True)]
    assert changed.index(True) == chosen[0] + 1


def test_every_modification_has_its_control():
    for grid in (put_in, fine_tuned):
        for preset in ENTRY.presets.values():
            named = grid(preset.settings)
            assert next(iter(named)) == PLAIN.name
            for one in named.values():
                if one.kind in CONTROLS:
                    control = named[one.matched]
                    assert control.kind == CONTROLS[one.kind]
                    assert control.layers == one.layers
                    strength = one.options.get("alpha", one.options.get("beta"))
                    assert control.options == ({"strength": strength} if strength else one.options)


def test_controls_train_as_many_numbers(settings, model):
    """Of adapters as many as augmentation, of scales none: as plain attention."""
    other = [read("other", settings)]
    short = dataclasses.replace(settings, steps=1, tuned_maps=("g1", "g1&g2"), tuned_layers=("all", "last"))
    counts = {name: tune(model, one, other, short, 0).n_parameters for name, one in fine_tuned(short).items()}
    for name, one in fine_tuned(short).items():
        if one.kind in (REGULARIZED, NEGATIVE, SCALE):
            assert counts[name] == counts[PLAIN.name]
        elif one.matched:
            assert counts[name] == counts[one.matched] > counts[PLAIN.name]
    width, hidden = model.text_config.hidden_size // model.n_heads, settings.hidden
    more = counts["augmented g1&g2, all"] - counts[PLAIN.name]
    assert more == model.n_layers * 2 * 2 * width * hidden
    attention = sum(p.numel() for layer in model.anatomy.layers for p in layer.attention.parameters())
    assert counts[PLAIN.name] == attention
    whole = dataclasses.replace(short, trained="all")
    assert tune(model, PLAIN, other, whole, 0).n_parameters == model.n_parameters


def test_every_attention_is_trained_on_the_same_prompts(settings, model):
    """What starts as plain attention has its first loss; another seed has other prompts; losses fall."""
    other = [read("other", settings)]
    longer = dataclasses.replace(settings, steps=30, batch=4, learning_rate=3e-4)
    named = fine_tuned(longer)
    plain = tune(model, PLAIN, other, longer, 0)
    for name in ("augmented g1&g2, all", "parameter-matched g1&g2, all"):
        assert tune(model, named[name], other, longer, 0).losses[0] == pytest.approx(plain.losses[0], abs=1e-5)
    assert tune(model, named["scale-matched 0.1, all"], other, longer, 0).losses[0] != plain.losses[0]
    assert tune(model, PLAIN, other, longer, 0).losses == plain.losses
    assert tune(model, PLAIN, other, longer, 1).losses[0] != plain.losses[0]
    assert sum(plain.losses[-5:]) < 0.8 * sum(plain.losses[:5])


def test_the_loss_is_that_of_the_outputs_tokens_one_by_one(settings, model):
    """By prefixes of every prompt, each run alone."""
    drawn = lessons(model, [read("other", settings), read("few", settings)], settings, 0)[:3]
    numbers = []
    for one in drawn:
        for place in one.targets:
            with torch.no_grad():
                logits = model.model(input_ids=torch.tensor([one.ids[:place]])).logits[0, -1]
            numbers.append(-float(logits.log_softmax(-1)[one.ids[place]]))
    assert float(loss_of(model, drawn).detach()) == pytest.approx(sum(numbers) / len(numbers), rel=1e-4)


def test_the_targets_are_the_outputs_but_for_the_first(settings, model):
    task = read("other", settings)
    pairs = list(task.pairs[:4])
    made = lesson(model, task, pairs)
    assert [model.tokenizer.decode([made.ids[place]]).strip() for place in made.targets] == [
        own for _, own in pairs[1:]
    ]


def test_no_pair_is_in_two_sets(settings):
    task = read("free", settings)
    sets = [[*shots, *queries] for shots, queries in (drawn_set(task, settings, number) for number in range(2))]
    assert len({pair for one in sets for pair in one}) == 2 * (settings.shots + settings.n_queries)
    with pytest.raises(UserError, match="the task free has 60 pairs, but 400 are needed"):
        drawn_set(task, dataclasses.replace(settings, n_sets=50), 0)


def test_long_inputs_are_left_out(settings):
    short = dataclasses.replace(settings, most_characters=4)
    kept = read("free", short).pairs
    assert kept == tuple(pair for pair in read("free", settings).pairs if len(pair[0]) <= 4)
    assert 0 < len(kept) < 60


def test_prompts_that_are_too_long_are_refused(settings, model):
    """With the room that the answers need, and to train on."""
    small = dataclasses.replace(model, model=copy.deepcopy(model.model))
    longest = max(len(ids) for ids, _ in texts(model, settings))
    small.model.config.max_position_embeddings = longest
    assert texts(small, settings)
    small.model.config.max_position_embeddings = longest - 1
    with pytest.raises(UserError, match=f"has {longest} tokens, .* holds {longest - 1}"):
        texts(small, settings)
    with pytest.raises(UserError, match=rf"of the task other has \d+ tokens, .* holds {longest - 1}: give fewer shots"):
        lessons(small, [read("other", settings)], dataclasses.replace(settings, shots=9), 0)


def test_thirds_of_two_layers_are_refused():
    with pytest.raises(UserError, match="the model has 2 layers, too few for thirds"):
        layers_of("middle", 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": ("top",)}, "layers holds 'top'"),
        ({"layers": ()}, "layers holds nothing"),
        ({"tuned_maps": ("g3",)}, "tuned_maps holds 'g3'"),
        ({"alphas": (0.0,)}, "alphas holds 0: give finite strengths other than 0"),
        ({"betas": (float("nan"),)}, "betas holds nan"),
        ({"tuned_strengths": ()}, "tuned_strengths holds nothing"),
        ({"n_negatives": (0,)}, "n_negatives"),
        ({"shots": 0}, "shots=0"),
        ({"n_sets": 1}, "n_sets is at least 2"),
        ({"n_sets_tuned": 9}, "n_sets_tuned from 2 to n_sets"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"trained": "heads"}, "trained is 'heads'"),
        ({"tasks": ("sentiment",)}, "the task sentiment is both"),
        ({"tasks": ()}, "tasks and training_tasks name at least one"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(ENTRY.paper.settings, **changes)


def test_the_cost_follows_the_tokens(settings):
    short, paper = ENTRY.more["short"], ENTRY.paper
    assert ENTRY.estimate(short.settings, short) == short.seconds
    twice = dataclasses.replace(short.settings, n_sets=4, n_seeds=4, n_sets_tuned=2)
    assert ENTRY.estimate(twice, short) == pytest.approx(2 * short.seconds)
    assert ENTRY.estimate(paper.settings, short) > 10 * short.seconds


def test_data_or_a_model_that_are_missing_are_said(settings):
    assert "data=FOLDER" in ENTRY.lacking(ENTRY.paper.settings)
    assert "absent.json" in ENTRY.lacking(dataclasses.replace(settings, training_tasks=("absent",)))
    assert "cannot be had" in ENTRY.lacking(dataclasses.replace(settings, model="no-such-model-folder"))
