import hashlib
import json
import math

import pytest
import torch
from safetensors.torch import load_file

import iclens.bundled
from iclens.cli.train_bundled import TrainBundled
from iclens.errors import UserError
from iclens.language.words import CATEGORY_OF, LABELS, VOCABULARY, held_out_label
from iclens.plain_data import record_of
from iclens.training.language.accuracy import draw, right
from iclens.training.language.learner import (
    CURRICULUM,
    BundledRecipe,
    TrainedLearner,
    build_model,
    train,
    write,
)

SMALL = BundledRecipe(n_layers=1, n_heads=1, width=8, inner_width=8, batch=4)
FOLDER = iclens.bundled.path()


@pytest.fixture(scope="module")
def shipped():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True).eval()


def test_the_shipped_model_is_small(shipped):
    assert sum(parameter.numel() for parameter in shipped.parameters()) <= 2_000_000
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) <= 6_000_000
    assert not [file for file in FOLDER.iterdir() if file.suffix in {".bin", ".pt", ".pkl"}]


def test_the_shipped_model_answers_from_the_context(shipped):
    prompts = draw(torch.Generator().manual_seed(7), 400, present=True)
    assert all(prompt.answer == held_out_label(prompt.query) for prompt in prompts)
    verdicts = right(shipped, prompts)
    assert sum(verdicts) / len(verdicts) >= 0.95


def test_without_the_category_the_shipped_model_is_at_chance(shipped):
    prompts = draw(torch.Generator().manual_seed(8), 600, present=False, split="any")
    rate = sum(right(shipped, prompts)) / len(prompts)
    chance = 1 / len(LABELS)
    assert abs(rate - chance) < 4 * math.sqrt(chance * (1 - chance) / len(prompts))


def test_the_shipped_model_gives_its_probability_to_labels(shipped):
    prompts = draw(torch.Generator().manual_seed(9), 60, present=True)
    labels = [VOCABULARY.index(label) for label in LABELS]
    for prompt in prompts:
        tokens = [VOCABULARY.index(token) for token in ["<s>", *prompt.text().split()]]
        with torch.no_grad():
            probabilities = shipped(torch.tensor([tokens])).logits[0, -1].softmax(-1)
        assert probabilities[labels].sum() > 0.99


def test_the_example_prompt_is_answered_rightly(shipped):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    assert tokenizer.is_fast
    text = (FOLDER / "prompt.txt").read_text()
    *demonstrations, query = text.strip().split("\n\n")
    word = query.split()[0]
    pairs = [(line.split()[0], line.split()[2]) for line in demonstrations]
    answers = {label for other, label in pairs if CATEGORY_OF[other] == CATEGORY_OF[word]}
    assert len(pairs) == 12
    assert len(answers) == 1
    encoded = tokenizer(text.strip(), return_tensors="pt")
    assert tokenizer.unk_token_id not in encoded["input_ids"]
    with torch.no_grad():
        best = shipped(**encoded).logits[0, -1].argmax()
    assert {tokenizer.decode(best)} == answers


def test_the_record_belongs_to_the_weights(shipped):
    recorded = json.loads((FOLDER / "recipe.json").read_text())
    assert recorded["weights_sha256"] == hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert record_of(BundledRecipe, recorded["recipe"]) == BundledRecipe()
    assert recorded["n_parameters"] == sum(parameter.numel() for parameter in shipped.parameters())
    assert recorded["measured"]["present"] >= 0.95
    assert recorded["steps"] == recorded["stage_ends"][-1] + 1 + BundledRecipe().final_steps
    assert len(recorded["curriculum"]) == len(CURRICULUM) == len(recorded["stage_ends"])


def state(learner):
    return learner.model.state_dict()


def test_training_reproduces_bit_for_bit_and_leaves_global_state_alone():
    before = torch.random.get_rng_state(), torch.get_num_threads()
    one, two = (train(SMALL, max_steps=3) for _ in range(2))
    assert all(torch.equal(state(one)[name], state(two)[name]) for name in state(one))
    assert one.losses == two.losses
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


def test_another_seed_gives_other_weights():
    one, two = train(SMALL, max_steps=1), train(BundledRecipe(**{**vars(SMALL), "seed": 1}), max_steps=1)
    assert one.losses != two.losses


def test_the_shipped_weights_begin_as_the_recipe_says():
    # The first steps of the real recipe: their losses are those of guessing among all tokens, then among labels.
    learner = train(max_steps=40)
    assert abs(learner.losses[0] - math.log(len(VOCABULARY))) < 1
    assert learner.losses[-1] < math.log(len(LABELS))


def test_training_reports_its_progress():
    seen = []
    train(SMALL, lambda done, total: seen.append((done, total)), max_steps=3)
    assert seen == [(1, None), (2, None), (3, None)]


def test_after_the_curriculum_come_the_final_steps():
    easy = BundledRecipe(**{**vars(SMALL), "threshold": 1e-9, "final_steps": 2, "batch": 16})
    learner = train(easy)
    assert len(learner.stage_ends) == len(CURRICULUM)
    assert len(learner.losses) == learner.stage_ends[-1] + 1 + 2


def test_a_stage_that_is_not_mastered_is_said():
    with pytest.raises(UserError, match=r"stage 1 of .* within 2 steps"):
        train(BundledRecipe(**{**vars(SMALL), "patience": 2, "threshold": 1.0}))


@pytest.mark.parametrize(("name", "value"), [("n_heads", 3), ("n_layers", 0), ("batch", 0), ("learning_rate", -1.0)])
def test_impossible_recipes_are_refused(name, value):
    with pytest.raises(UserError, match=r"width|must be positive"):
        train(BundledRecipe(**{**vars(SMALL), name: value}), max_steps=1)


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    learner = TrainedLearner(build_model(SMALL).eval(), SMALL, (), (1.0,), 0.0)
    write(learner, tmp_path / "done")
    names = {file.name for file in (tmp_path / "done").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "recipe.json"} <= names
    recorded = json.loads((tmp_path / "done" / "recipe.json").read_text())
    assert record_of(BundledRecipe, recorded["recipe"]) == SMALL
    with pytest.raises(UserError, match="exists already"):
        write(learner, tmp_path / "done")

    def fail(folder):
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(learner.model, "save_pretrained", fail)
    with pytest.raises(UserError, match="No space left"):
        write(learner, tmp_path / "half")
    assert [entry.name for entry in tmp_path.iterdir()] == ["done"]


def test_a_target_that_cannot_be_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        TrainBundled(tmp_path / "missing" / "learner").run()
    with pytest.raises(UserError, match="exists already"):
        TrainBundled(tmp_path).run()
    with pytest.raises(UserError, match="--threads 0"):
        TrainBundled(tmp_path / "new", threads=0).run()


@pytest.mark.slow
def test_the_recipe_gives_a_learner_as_good_as_the_shipped_one(tmp_path):
    out = tmp_path / "again"
    assert TrainBundled(out).run() == 0
    recorded = json.loads((out / "recipe.json").read_text())
    assert recorded["measured"]["present"] >= 0.95
    shipped = json.loads((FOLDER / "recipe.json").read_text())
    if recorded["torch"] == shipped["torch"] and recorded["stage_ends"] == shipped["stage_ends"]:
        ours, theirs = load_file(out / "model.safetensors"), load_file(FOLDER / "model.safetensors")
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-2) for name in theirs)
