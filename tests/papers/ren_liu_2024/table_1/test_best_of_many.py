"""The fine-tuning table: resuming, intervals, and corrections that keep their promise when nothing works."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from scipy.stats import t as student

from iclens.cli.main import main
from iclens.errors import UserError
from iclens.papers.ren_liu_2024.table_1 import best_of_many as recipe
from iclens.papers.ren_liu_2024.table_1.best_of_many import (
    ORIGINAL,
    PRESETS,
    ROWS,
    Plan,
    chosen_rows,
    cost,
    run,
    task_data,
)
from iclens.papers.ren_liu_2024.table_1.sentences import generate_sentences
from iclens.papers.ren_liu_2024.table_1.training import Backbone, Settings, run_file
from iclens.recipes.selection import halves, max_statistic, nested, over_seeds

SETTINGS = Settings(n_steps=2, batch=4, learning_rate=1e-3, max_length=24)


@pytest.fixture(scope="module")
def backbone():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    data = [generate_sentences(name, 20, 12) for name in ("cola", "stsb")]
    words = sorted({w for d in data for e in (*d.train, *d.validation) for text in e.texts for w in text.split()})
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[PAD]", "[UNK]", *words])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    config = BertConfig(
        vocab_size=len(words) + 2,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    return Backbone.wrap("tiny", BertModel(config, add_pooling_layer=False).float(), fast)


def plan(backbone, out, rows=("regularized α=0.5", "negative k=1 β=0.5", "control scale 0.5"), seeds=(0, 1)):
    data = tuple(generate_sentences(name, 20, 12) for name in ("cola", "stsb"))
    return Plan(backbone, data, chosen_rows(rows), seeds, SETTINGS, out)


def test_an_interrupted_grid_goes_on_and_gives_what_the_uninterrupted_one_gives(backbone, tmp_path):
    whole = run(plan(backbone, tmp_path / "whole"))
    started = []

    def stop_at_the_sixth(what):
        started.append(what)
        if len(started) == 6:
            raise KeyboardInterrupt

    grid = plan(backbone, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        run(grid, stop_at_the_sixth)
    assert len(grid.finished()) == 5
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "cut" / "runs").iterdir()}
    rest = []
    resumed = run(grid, rest.append)
    assert len(rest) == 16 - 5 + 1
    assert all(file.stat().st_mtime_ns == at for file, at in times.items())
    for key, made in whole.runs.items():
        assert replace(resumed.runs[key], seconds=0.0) == replace(made, seconds=0.0)
    again = []
    run(grid, again.append)
    assert again == [""]


def test_the_cost_counts_what_is_missing(backbone, tmp_path):
    grid = plan(backbone, tmp_path)
    before = cost(grid)
    assert (before.n_runs, before.n_missing) == (16, 16)
    assert before.seconds > 0
    run(grid)
    after = cost(grid)
    assert (after.n_runs, after.n_missing, after.seconds) == (16, 0, 0.0)


def test_a_damaged_run_stops_the_grid_by_name(backbone, tmp_path):
    grid = plan(backbone, tmp_path, rows=(), seeds=(0,))
    run(grid)
    run_file(tmp_path, "stsb", "original", 0).write_text("{")
    with pytest.raises(UserError, match=r"stsb--original--0\.json is damaged"):
        run(grid)


def test_the_grids_are_the_papers_and_say_what_is_read():
    alphas = {row.options["alpha"]: row.origin for row in ROWS.values() if row.kind == "regularized"}
    assert {a for a, origin in alphas.items() if origin.startswith("read")} == {0.5, -0.5}
    assert len(alphas) > 2
    negatives = {(r.options["n_negatives"], r.options["beta"]) for r in ROWS.values() if r.kind == "negative"}
    assert negatives == {(1, 0.1), (1, 0.5), (3, 0.1), (3, 0.5)}
    assert [set(r.options) for r in ROWS.values() if r.kind == "augmented"] == [{"g1"}, {"g2"}, {"g1", "g2"}]
    assert {r.variant for r in ROWS.values() if r.kind == "control"} == {"scale-matched", "parameter-matched"}
    assert len({run_file(recipe.Path(), "cola", name, 0).name for name in ROWS}) == len(ROWS)


def test_rows_are_chosen_by_kind_or_name():
    assert chosen_rows(()) == (ORIGINAL,)
    assert [row.kind for row in chosen_rows(("negative",))] == ["original", *["negative"] * 4]
    assert [row.name for row in chosen_rows(("augmented g2", "original"))] == ["original", "augmented g2"]
    with pytest.raises(UserError, match="unknown row 'postive'"):
        chosen_rows(("postive",))


def test_every_preset_names_rows_and_data_that_exist():
    for preset in PRESETS.values():
        assert set(preset.rows) <= set(ROWS)
        for name in preset.tasks:
            data = task_data(name, "generated", replace(preset, n_train=4, n_validation=4))
            assert data.generated


def test_differences_are_paired_by_seed(backbone, tmp_path):
    results = run(plan(backbone, tmp_path))
    for name in ("cola", "stsb"):
        row = "negative k=1 β=0.5"
        by_seed = results.scores(name, row) - results.scores(name, "original")
        assert results.difference(name, row) == over_seeds(by_seed)
        best = results.best(name, "all")
        assert best.n_rows == 2  # controls are not chosen
        assert best.gain.mean == max(results.difference(name, r).mean for r in ("regularized α=0.5", row))
        assert best.simultaneous.low <= best.gain.low
        assert results.best(name, "augmented") is None
    assert len(results.verdicts()) == 4


def test_one_seed_gives_no_verdict(backbone, tmp_path):
    assert run(plan(backbone, tmp_path, seeds=(0,))).verdicts() == ()


# --- the statistics


def test_the_t_interval_has_its_known_value():
    estimate = over_seeds(torch.tensor([1.0, 2.0, 3.0]))
    reach = 4.302652729911275 / 3**0.5  # t(0.975, 2 degrees of freedom); the standard deviation is 1
    assert (estimate.low, estimate.high) == (pytest.approx(2 - reach), pytest.approx(2 + reach))
    wider = over_seeds(torch.tensor([1.0, 2.0, 3.0]), 10)
    assert wider.high - wider.mean == pytest.approx(student.ppf(1 - 0.025 / 10, 2) / 3**0.5)
    assert over_seeds(torch.tensor([1.0])).mean == 1.0
    assert over_seeds(torch.tensor([1.0])).low != over_seeds(torch.tensor([1.0])).low  # NaN


def test_halves_split_the_examples():
    pairs = halves(11, n_splits=3)
    assert len(pairs) == 6
    for first, second in pairs:
        assert sorted([*first.tolist(), *second.tolist()]) == list(range(11))
    assert torch.equal(pairs[0][0], pairs[1][1])


def test_max_statistic_counts_all_sign_patterns():
    # In units of √5 and √2.5. Patterns ++, +-, -+, --; means of row 0: 0.89, -0.45, 0.45, -0.89; of row 1: 0.95, 0.32,
    # -0.32, -0.95; of row 2, in units of √5: 0.45, 0.89, -0.89, -0.45.
    p = max_statistic(torch.tensor([[1.0, 3.0], [2.0, 1.0], [3.0, -1.0]]))
    # largest: ++ 0.95; +- 0.89; -+ 0.45; -- -0.45
    assert p.tolist() == [0.5, 0.25, 0.75]
    assert max_statistic(torch.zeros(1, 3)).item() == 1.0
    assert max_statistic(torch.ones(1, 5)).item() == pytest.approx(1 / 32)
    many = max_statistic(torch.ones(2, 20))
    assert (many > 0).all()
    assert (many < 0.01).all()


def test_a_far_worse_row_does_not_hide_a_gain():
    """At every seed ten times as bad: plain differences, or their spread, would give the gain p ≥ 1/2."""
    gain = torch.linspace(0.5, 1.5, 6)
    worse = -10 - 0.01 * torch.arange(6.0)
    assert max_statistic(torch.stack([gain, worse]))[0] == pytest.approx(1 / 32)
    assert max_statistic(torch.stack([gain, 1e6 * worse]))[0] == pytest.approx(1 / 32)


N_ROWS, N_SEEDS, N_STUDIES = 10, 6, 1000


def planted(effect=0.0):
    """Studies in which rows differ by noise of the seed, of the row's run and of the half; row 0 has an effect."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(N_STUDIES, *shape, generator=generator)

    run_noise = noise(N_ROWS, N_SEEDS, 1) - noise(1, N_SEEDS, 1)
    folds = run_noise + 0.5 * noise(N_ROWS, N_SEEDS, 2)
    folds[:, 0] += effect
    return folds


def test_corrections_keep_their_level_where_choosing_the_best_does_not():
    folds = planted()
    whole = folds.mean(-1)
    naive = corrected = bonferroni = honest = 0
    for study in range(N_STUDIES):
        index = int(whole[study].mean(-1).argmax())
        naive += over_seeds(whole[study, index]).low > 0
        bonferroni += over_seeds(whole[study, index], N_ROWS).low > 0
        corrected += float(max_statistic(whole[study])[index]) <= 0.05
        pairs = torch.stack([folds[study], folds[study].flip(-1)], dim=-1)
        honest += nested(pairs[..., 0], pairs[..., 1]).gain.low > 0
    # The naive interval's nominal rate is 0.025.
    assert naive / N_STUDIES > 0.075
    # 0.05 and three standard errors of a share over so many studies; one-sided intervals have 0.025.
    bound = 0.05 + 3 * (0.05 * 0.95 / N_STUDIES) ** 0.5
    assert corrected / N_STUDIES < bound
    assert bonferroni / N_STUDIES < 0.04
    assert honest / N_STUDIES < bound
    # A correction that never rejects would keep its level, too.
    assert corrected / N_STUDIES > 0.01


def test_corrections_find_a_large_effect_and_the_nested_gain_is_unbiased():
    effect = 4.0
    folds = planted(effect)[:200]
    gains, found, chosen = [], 0, 0
    for study in folds:
        pairs = torch.stack([study, study.flip(-1)], dim=-1)
        result = nested(pairs[..., 0], pairs[..., 1])
        gains.append(result.gain.mean)
        chosen += result.chosen.get(0, 0)
        found += bool(max_statistic(study.mean(-1))[0] <= 0.05)
    assert chosen / (200 * N_SEEDS * 2) > 0.95
    assert sum(gains) / 200 == pytest.approx(effect, abs=0.2)
    assert found / 200 > 0.9


def test_the_nested_gain_of_nothing_is_nothing_while_the_chosen_one_is_not():
    folds = planted()
    chosen = torch.stack([study.mean((-1, -2)).max() for study in folds]).mean()
    honest = []
    for study in folds:
        pairs = torch.stack([study, study.flip(-1)], dim=-1)
        honest.append(nested(pairs[..., 0], pairs[..., 1]).gain.mean)
    assert chosen > 0.4
    assert abs(sum(honest) / N_STUDIES) < 0.06


# --- the command


@pytest.fixture
def command(backbone, monkeypatch, tmp_path):
    small = replace(
        PRESETS["quick"],
        settings=SETTINGS,
        n_train=20,
        n_validation=12,
        rows=("original", "negative k=1 β=0.5"),
        seeds=2,
    )
    monkeypatch.setitem(PRESETS, "quick", small)
    monkeypatch.setattr("iclens.papers.ren_liu_2024.table_1.training.load_backbone", lambda name, layers=None: backbone)
    return lambda *words: main(["finetune", "--out", str(tmp_path / "out"), *words])


def test_the_command_prints_the_cost_first_and_always_says_generated(command, capsys, tmp_path):
    target = tmp_path / "table.json"
    assert command("--json", str(target)) == 0
    out, err = capsys.readouterr()
    assert "8 runs, 0 finished before, 8 to train: about" in err
    assert "CoLA (generated): GENERATED by iclens, not GLUE." in out
    assert "STS-B (generated): GENERATED by iclens, not GLUE." in out
    for line in out.splitlines():
        if "CoLA" in line or "STS-B" in line:
            assert "generated" in line, line
    document = json.loads(target.read_text())
    assert document["generated"] is True
    assert [task["generated"] for task in document["tasks"]] == [True, True]
    assert command("--json", str(target)) == 0
    second, err = capsys.readouterr()
    assert "8 runs, 8 finished before, 0 to train" in err
    assert second == out


def test_a_dry_run_trains_nothing(command, capsys, tmp_path):
    assert command("--dry-run", "--tasks", "cola", "--seeds", "3") == 0
    assert "6 runs, 0 finished before, 6 to train" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", "qqp"), "unknown task 'qqp'"),
        (("--rows", "none"), "unknown row 'none'"),
        (("--seeds", "0"), "--seeds 0"),
        (("--steps", "0"), "n_steps 0"),
        (("--data", "nowhere-at-all"), "it is not a folder"),
        (("--json", "no/such/folder/x.json"), "does not exist"),
    ],
)
def test_mistakes_end_with_one_line(command, capsys, words, message):
    assert command(*words) == 2
    assert message in capsys.readouterr().err
