"""Every registered variant, composition and control, against everything that a variant promises."""

from __future__ import annotations

import pytest

from iclens.attention import ATTENTIONS
from iclens.testing import check_attention

ADAPTER = {"name": "adapter", "hidden": 3, "activation": "gelu", "factor": 0.5}
PER_HEAD = {"per_head": True}
EVERY_HEAD = [0.1, -0.2, 0.3, 0.4]

CASES = [
    ("softmax", {}),
    ("linear", {}),
    ("linear", {"features": "elu"}),
    ("regularized", {"alpha": -0.5}),
    ("regularized", {"alpha": EVERY_HEAD, "learned": True}),
    ("weight-decay", {"alpha": 0.5}),
    ("weight-decay", {"alpha": EVERY_HEAD, "learned": True}),
    ("augmented", {}),
    ("augmented", {"g1": "adapter"}),
    ("augmented", {"g2": ADAPTER | PER_HEAD}),
    ("augmented", {"g1": "mlp", "g2": "conv1d"}),
    ("augmented", {"g1": {"name": "conv1d", "size": 4} | PER_HEAD, "g2": {"name": "mlp", "hidden": 2} | PER_HEAD}),
    ("scale-matched", {"strength": EVERY_HEAD}),
    ("parameter-matched", {"g1": "adapter", "g2": {"name": "mlp", "hidden": 2} | PER_HEAD}),
    ("kernel-ridge", {}),
    ("kernel-ridge", {"strength": 0.9, "learned": True}),
    ("preconditioned", {}),
    ("preconditioned", {"rate": 0.5, "learned": True}),
    ("delta-rule", {}),
    ("delta-rule", {"rate": 0.5, "learned": True}),
    ("hebbian", {"rate": 0.7, "learned": True}),
    ("momentum", {"momentum": [0.0, 0.2, 0.5, 0.9]}),
    ("momentum", {"mirrored": True}),
    ("mass-matched", {"of": "kernel-ridge"}),
    ("mass-matched", {"of": "preconditioned", "of_options": {"rate": 0.5, "learned": True}}),
    *(
        ("negative", {"construction": construction, "selection": selection, "beta": 0.3, **count})
        for construction in ("lowest", "hardest", "dissimilar", "random", "noise", "learned")
        for selection in ("query", "key")
        for count in ({"n_negatives": 1}, {"n_negatives": 3, "learned": True})
    ),
    (
        "composed",
        {
            "parts": [
                {"name": "augmented", "g1": "adapter", "g2": "conv1d"},
                {"name": "negative", "n_negatives": 2, "beta": 0.3},
                {"name": "regularized", "alpha": 0.2, "learned": True},
            ]
        },
    ),
    (
        "composed",
        {
            "parts": [
                {"name": "negative", "selection": "key"},
                {"name": "weight-decay", "alpha": 0.2},
                {"name": "negative", "construction": "noise"},
                {"name": "scale-matched", "strength": 0.1},
            ]
        },
    ),
]
# A variant that is not named above is held to the same as it is built without options.
CASES += [
    (name, {})
    for name in ATTENTIONS
    if ATTENTIONS[name].__module__.startswith("iclens.") and name not in {listed for listed, _ in CASES}
]
IDS = [f"{name}-{index}" for index, (name, _) in enumerate(CASES)]


# The others run with the slow tests: each case takes seconds under the runtime checks of shapes.
QUICK = [
    (name, options)
    for name, options in CASES
    if name not in ("negative", "composed")
    or (options.get("construction") == "lowest" and "learned" not in options)
    or "parts" in options
]


@pytest.mark.parametrize(("name", "options"), QUICK)
def test_a_variant_keeps_every_promise(name, options):
    checks = check_attention(name, sizes=(1, 7), **options)
    assert {"fast float32", "gradients float64", "dual", "causal", "groups"} <= {check.name for check in checks}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_variant_keeps_every_promise_at_a_thousand_tokens(name, options):
    # The naive form of a ridge regression is one solve for every query.
    regression = "kernel-ridge" in (name, options.get("of"))
    check_attention(name, sizes=(1, 7, 63, 150 if regression else 1000), **options)
