"""One step on all runs is the step of `torch.optim` on every run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iclens.training.config import Training
from iclens.training.optimizer import RunsOptimizer

RATES = st.floats(1e-4, 0.3)
FACTORS = st.dictionaries(st.sampled_from(["first", "second", "s"]), st.floats(0, 3), max_size=2)


def of_runs(kind, n_runs):
    options = {"learning_rate": RATES, "clip": st.sampled_from([0.0, 0.05, 1.0, 50.0]), "rates": FACTORS}
    if kind in ("adam", "adamw"):
        options["betas"] = st.tuples(st.floats(0, 0.99), st.floats(0.5, 0.9999))
    else:
        options["momentum"] = st.sampled_from([0.0, 0.5, 0.9])
    options["weight_decay"] = st.sampled_from([0.0, 0.01, 0.3])
    return st.lists(st.builds(Training, optimizer=st.just(kind), **options), min_size=n_runs, max_size=n_runs)


class Two(nn.Module):
    def __init__(self, n_runs):
        super().__init__()
        self.first = nn.Parameter(torch.randn(n_runs, 3, 2))
        self.second = nn.Parameter(torch.randn(n_runs, 4))
        self.unused = nn.Parameter(torch.randn(n_runs, 1))

    def losses(self, goal):
        return ((self.first.sum(-1).tanh() - goal).square()).sum(-1) + (self.second**4).sum(-1) * goal[..., 0]


def reference(settings, kind):
    """torch's optimiser for one run's parameters, each in a group of its own."""

    def make(parameters, rate):
        groups = [{"params": [parameter], "lr": rate(name)} for name, parameter in parameters.items()]
        options = {"weight_decay": settings.weight_decay}
        if kind in ("adam", "adamw"):
            cls = torch.optim.AdamW if kind == "adamw" else torch.optim.Adam
            return cls(groups, betas=settings.betas, **options)
        return torch.optim.SGD(groups, momentum=settings.momentum, **options)

    def rate(name):
        factor = 1.0
        for part, value in settings.rates.items():
            factor *= value if part in name else 1.0
        return settings.learning_rate * factor

    return make, rate


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "gd"])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_step_is_that_of_torch(kind, data):
    torch.manual_seed(0)
    runs = data.draw(of_runs(kind, 3))
    model = Two(3)
    alone = [
        {name: value.detach()[run].clone().requires_grad_() for name, value in model.named_parameters()}
        for run in range(3)
    ]
    makers = [reference(one, kind) for one in runs]
    theirs = [make(own, rate) for (make, rate), own in zip(makers, alone, strict=True)]
    ours = RunsOptimizer(model, runs)
    alive = torch.ones(3, dtype=torch.bool)
    for step in range(5):
        goals = torch.randn(3, 3)
        schedule = torch.tensor([1.0, 0.5, 0.1]) ** step
        ours.zero_grad()
        model.losses(goals).sum().backward()
        ours.step(step, schedule, ours.gather(), alive)
        for run, own in enumerate(alone):
            theirs[run].zero_grad()
            Two.losses(type("", (), own), goals[run]).backward()
            own["unused"].grad = torch.zeros(1)
            if runs[run].clip:
                nn.utils.clip_grad_norm_(own.values(), runs[run].clip)
            for group, name in zip(theirs[run].param_groups, own, strict=True):
                group["lr"] = makers[run][1](name) * float(schedule[run])
            theirs[run].step()
    for run, own in enumerate(alone):
        for name, value in model.named_parameters():
            torch.testing.assert_close(value[run], own[name], rtol=1e-12, atol=1e-12)


def test_a_run_that_is_not_alive_keeps_its_parameters_whatever_its_gradient():
    model = Two(2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    one = Training(optimizer="adam", clip=1.0, weight_decay=0.1)
    optimizer = RunsOptimizer(model, [one, one])
    model.losses(torch.ones(2, 3)).sum().backward()
    model.first.grad[0] = torch.nan
    model.second.grad[0] = torch.inf
    norms = optimizer.gather()
    assert not norms[0].isfinite()
    optimizer.step(0, torch.ones(2), norms, torch.tensor([False, True]))
    for name, value in model.named_parameters():
        assert torch.equal(value[0], before[name][0])
        assert value.isfinite().all()
    assert not torch.equal(model.first[1], before["first"][1])
    assert all(value.isfinite().all() for value in optimizer.state.values())


def test_the_parameters_of_the_module_are_views_of_one_matrix():
    model = Two(2)
    optimizer = RunsOptimizer(model, [Training(), Training()])
    optimizer.values.zero_()
    assert all(not value.any() for value in model.parameters())
