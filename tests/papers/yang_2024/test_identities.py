"""Identities of the dictionary task: they hold at other seeds, and notice what is broken."""

import pytest
import torch

from iclens.identities.checks import IDENTITIES, Setting, check_all
from iclens.papers.yang_2024 import identities as closed_forms
from iclens.papers.yang_2024 import training_identities as training

NAMES = (
    "dictionary-optimum",
    "dictionary-lemma-5",
    "dictionary-gap",
    "dictionary-best-linear",
    "dictionary-heads",
    "dictionary-theorem-1",
    "dictionary-lazy-limit",
    "dictionary-slower-with-tokens",
    "dictionary-theorem-2",
    "dictionary-any-prompt",
)


def test_they_hold_at_another_seed():
    failed = [check.identity.name for check in check_all(Setting(seed=3), NAMES) if not check.holds]
    assert failed == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_they_do_not_depend_on_the_default_dtype(dtype):
    torch.set_default_dtype(dtype)
    (check,) = check_all(Setting(seed=1), ("dictionary-lazy-limit",))
    assert check.holds


@pytest.mark.parametrize(
    ("module", "function", "name"),
    [
        (closed_forms, "optimum", "dictionary-optimum"),
        (closed_forms, "smallest_loss", "dictionary-lemma-5"),
        (closed_forms, "smallest_loss", "dictionary-monte-carlo"),
        (closed_forms, "best_possible", "dictionary-gap"),
        (closed_forms, "zeta", "dictionary-heads"),
        (training, "lazy_excess", "dictionary-lazy-limit"),
        (training, "smallest_loss", "dictionary-theorem-2"),
        (training, "excess", "dictionary-any-prompt"),
        (training, "one_head_floor", "dictionary-one-head"),
    ],
)
def test_they_notice_a_wrong_closed_form(monkeypatch, module, function, name):
    right = getattr(module, function)
    wrong = {"excess": 1e-3, "zeta": 0.0, "one_head_floor": 100.0}.get(function, 1.3)
    monkeypatch.setattr(module, function, lambda *args, **options: wrong * right(*args, **options))
    entry = IDENTITIES[name]
    assert not entry.residual(Setting()) <= entry.tolerance


def test_theorem_1_notices_a_smaller_learning_rate(monkeypatch):
    right = training.rate

    def slower(*args, **options):
        constants = right(*args, **options)
        return constants.__class__(**(vars(constants) | {"learning_rate": constants.learning_rate / 20}))

    monkeypatch.setattr(training, "rate", slower)
    entry = IDENTITIES["dictionary-theorem-1"]
    assert entry.residual(Setting()) > entry.tolerance
