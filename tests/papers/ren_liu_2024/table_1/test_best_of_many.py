"""The fine-tuning table: its rows, intervals, and corrections that keep their promise when nothing works."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import t as student

from iclens.errors import UserError
from iclens.papers.ren_liu_2024.table_1.rows import ORIGINAL, PRESETS, ROWS, chosen_rows, task_data
from iclens.papers.ren_liu_2024.table_1.sentences import GENERATED
from iclens.recipes.best_of_many import halves, max_statistic, nested, over_seeds


def test_the_grids_are_the_papers_and_say_what_is_read():
    alphas = {row.options["alpha"]: row.origin for row in ROWS.values() if row.kind == "regularized"}
    assert {a for a, origin in alphas.items() if origin.startswith("read")} == {0.5, -0.5}
    assert len(alphas) > 2
    negatives = {(r.options["n_negatives"], r.options["beta"]) for r in ROWS.values() if r.kind == "negative"}
    assert negatives == {(1, 0.1), (1, 0.5), (3, 0.1), (3, 0.5)}
    assert [set(r.options) for r in ROWS.values() if r.kind == "augmented"] == [{"g1"}, {"g2"}, {"g1", "g2"}]
    assert {r.variant for r in ROWS.values() if r.kind == "control"} == {"scale-matched", "parameter-matched"}


def test_rows_are_chosen_by_kind_or_name():
    assert chosen_rows(()) == (ORIGINAL,)
    assert [row.kind for row in chosen_rows(("negative",))] == ["original", *["negative"] * 4]
    assert [row.name for row in chosen_rows(("augmented g2", "original"))] == ["original", "augmented g2"]
    with pytest.raises(UserError, match="unknown row 'postive'"):
        chosen_rows(("postive",))


def test_every_preset_has_data_of_every_task():
    for preset in PRESETS.values():
        for name in GENERATED:
            data = task_data(name, "generated", replace(preset, n_train=4, n_validation=4))
            assert data.generated


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
