"""Learners of the studies: trained once, whole or not at all, and the studies draw what they say."""

from __future__ import annotations

import pytest
import torch

from iclens.errors import UserError
from iclens.papers.attribution import learners, studies
from iclens.papers.attribution.studies import STUDIES, Setting
from iclens.training.language.chain_learner import ChainRecipe
from iclens.training.language.learner import BundledRecipe, TrainedLearner, build_model

TINY = BundledRecipe(n_layers=3, n_heads=1, width=8, inner_width=8)
QUICK = ChainRecipe(batch=2, threshold=-1.0, final_steps=2)


def quiet(done, total):
    pass


@pytest.fixture(autouse=True)
def single_precision():
    torch.set_default_dtype(torch.float32)


class Fresh:
    """Gives fresh weights instead of trained ones, and keeps the recipes that were asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, recipe, advance):
        self.asked.append(recipe)
        return TrainedLearner(build_model(TINY).eval(), recipe, (), (1.0,), 0.0)


def test_a_deep_learner_is_trained_once_and_loaded_afterwards(tmp_path):
    fresh = Fresh()
    first, again = (learners.deep_learner(3, tmp_path / "new" / "folder", quiet, trained=fresh) for _ in range(2))
    assert fresh.asked == [BundledRecipe(n_layers=3)]
    assert first.n_layers == 3
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["learner-3-layers"]


def test_training_that_fails_leaves_nothing(tmp_path):
    def train(recipe, advance):
        raise UserError("stage 1 was not mastered")

    with pytest.raises(UserError, match="not mastered"):
        learners.deep_learner(3, tmp_path, quiet, trained=train)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused_before_training(tmp_path):
    fresh = Fresh()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="cannot create the folder"):
        learners.deep_learner(3, tmp_path / "file", quiet, trained=fresh)
    assert fresh.asked == []


def test_the_chain_learner_starts_from_the_bundled_one_and_is_kept_with_its_recipe(tmp_path):
    first = learners.chain_learner(tmp_path, quiet, QUICK)
    again = learners.chain_learner(tmp_path, quiet, QUICK)
    bundled = learners.load("bundled").model.state_dict()
    changes = []
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
        changes.append(float((value - bundled[name]).abs().max()))
    # A few small steps away from where it began.
    assert 0 < max(changes) < 0.05
    assert (tmp_path / "learner-two-hops" / "recipe.json").is_file()


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_study_draws_the_prompts_that_it_describes(name, tmp_path):
    # Studies take learners that are kept already.
    if name.startswith("deep-"):
        learners.deep_learner(int(name.removeprefix("deep-")), tmp_path, quiet, trained=Fresh())
    if name == "two-hops-trained":
        learners.chain_learner(tmp_path, quiet, QUICK)
    study = STUDIES[name]
    setting = Setting("bundled", tmp_path, 5, 12, 0)
    lens_model, cases = study.make(setting, quiet)
    _, again = study.make(setting, quiet)
    assert [case.prompt.text for case in cases] == [case.prompt.text for case in again]
    assert len(cases) == 5
    counts = {len(case.prompt.demonstrations) for case in cases}
    truths = {len(case.relevant) for case in cases}
    parts = {tuple(case.parts) for case in cases}
    expected = {
        "redundant": ({24}, {12}, {()}),
        "conflicting": ({12}, {4}, {("contradicting",)}),
        "two-hops": ({12}, {2}, {("first hop", "last hop")}),
        "two-hops-trained": ({12}, {2}, {("first hop", "last hop")}),
    }.get(name, ({12}, truths & {2, 3, 4}, {()}))
    assert (counts, truths, parts) == expected
    for case in cases:
        assert lens_model.tokenizer.unk_token_id not in lens_model.tokenizer(case.prompt.text)["input_ids"]


def test_two_hop_cases_name_the_hops(tmp_path):
    lens_model = learners.load("bundled")
    for case in studies.chain_cases(lens_model.tokenizer, torch.Generator().manual_seed(0), 10):
        pairs = [span.of(case.prompt.text).split()[::2] for span in case.prompt.demonstrations]
        query = case.prompt.text.split()[-2]
        (first,), (last,) = case.parts["first hop"], case.parts["last hop"]
        assert (first, last) == case.relevant
        assert pairs[first][0] == query
        assert pairs[first][1] == pairs[last][0]
        assert pairs[last][1] == case.margin.answer


def test_the_two_hop_network_needs_both_hops():
    tokenizer = studies.word_tokenizer()
    model = studies.two_hop_network(tokenizer)
    right = {"whole": 0, "first hop": 0, "last hop": 0}
    for case in studies.chain_cases(tokenizer, torch.Generator().manual_seed(1), 20):
        for name in right:
            text = case.prompt.without(case.parts.get(name, ())).text
            with torch.no_grad():
                found = model(tokenizer(text, return_tensors="pt").input_ids).logits[0, -1].argmax()
            right[name] += tokenizer.decode(found).strip() == case.margin.answer
    assert right["whole"] == 20
    # Without a hop it guesses, and now and then it guesses right.
    assert max(right["first hop"], right["last hop"]) <= 6
