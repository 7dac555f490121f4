"""Training to the end: what is measured, what an interruption leaves, and that resumption changes no bit."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.training.tiny_runs import tiny

from iclens.errors import UserError
from iclens.training import loop as training
from iclens.training.baseline import optimal_errors
from iclens.training.checkpoint import Checkpoint, checkpoint_keys, read_checkpoint, write_checkpoint
from iclens.training.ensemble import Ensemble
from iclens.training.loop import train
from iclens.training.losses import point_losses
from iclens.training.metric import Metric
from iclens.training.optimizer import RunsOptimizer


def assert_identical(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.config.key() == theirs.config.key()
        assert (ours.status, ours.diverged_at) == (theirs.status, theirs.diverged_at)
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name, value in theirs.tensors.items():
            assert torch.equal(ours.tensors[name], value), name
        assert ours.metrics == theirs.metrics


def interrupted(configs, path, at):
    """Train as far as step `at`, where whoever watches gives up."""

    def give_up(step, _total, _loss):
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(configs, checkpoint=path, advance=give_up)


@given(
    stops=st.lists(st.integers(1, 16), min_size=1, max_size=3, unique=True).map(sorted),
    optimizer=st.sampled_from(["adam", "adamw", "sgd", "gd"]),
    evaluate_every=st.sampled_from([0, 3, 8]),
    dtype=st.sampled_from(["float32", "float64", "bfloat16"]),
    every=st.sampled_from([0, 5]),
)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_resumption_changes_no_bit(tmp_path, stops, optimizer, evaluate_every, dtype, every):
    changes = {"optimizer": optimizer, "evaluate_every": evaluate_every, "dtype": dtype, "steps": 16, "clip": 1.0}
    if optimizer == "sgd":
        changes["momentum"] = 0.9
    curriculum = {"every": 0 if optimizer == "gd" else every, "d_start": 2, "n_start": 2}
    configs = [
        tiny(seed=seed, training={**changes, "learning_rate": rate}, curriculum=curriculum)
        for seed, rate in enumerate((0.01, 0.02))
    ]
    path = tmp_path / "checkpoint.safetensors"
    path.unlink(missing_ok=True)
    for at in stops:
        interrupted(configs, path, at)
        assert path.exists()
    assert_identical(train(configs, checkpoint=path), train(configs))


def test_resumption_of_runs_that_have_diverged(tmp_path):
    configs = [tiny(seed=seed, training={"learning_rate": rate, "steps": 20}) for seed, rate in ((0, 1e9), (1, 0.01))]
    whole = train(configs)
    assert [one.status for one in whole] == ["diverged", "finished"]
    for at in (1, 2, 9, 20):
        interrupted(configs, tmp_path / f"{at}.safetensors", at)
        assert_identical(train(configs, checkpoint=tmp_path / f"{at}.safetensors"), whole)


def test_a_checkpoint_is_written_as_time_passes(tmp_path):
    path = tmp_path / "folder" / "checkpoint.safetensors"
    seen = []
    config = tiny(training={"steps": 5})
    train([config], checkpoint=path, checkpoint_seconds=0.0, advance=lambda step, *_: seen.append(path.exists()))
    assert seen == [False, True, True, True, True]
    # After the last step too: what follows may fail.
    assert int(read_checkpoint(path, [config.key()]).state["step"]) == 5
    assert [entry.name for entry in path.parent.iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_in_the_middle_of_a_step(tmp_path, monkeypatch, presses):
    """Pressed once it waits for the end of the step; a second time it does not, and nothing half done is written."""
    configs = [tiny(training={"steps": 10, "evaluate_every": 2})]
    whole = train(configs)
    path = tmp_path / "checkpoint.safetensors"
    plain = RunsOptimizer.step

    def pressed(self, step, *rest):
        if step == 5:
            self.values.mul_(0.5)
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGINT)
            self.values.mul_(2.0)
        plain(self, step, *rest)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(RunsOptimizer, "step", pressed)
    with pytest.raises(KeyboardInterrupt):
        train(configs, checkpoint=path)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is handler
    assert path.exists() == (presses == 1)
    if presses == 1:
        assert int(read_checkpoint(path, [configs[0].key()]).state["step"]) == 6
    assert_identical(train(configs, checkpoint=path), whole)


def test_ctrl_c_during_the_last_evaluation_loses_nothing(tmp_path, monkeypatch):
    configs = [tiny()]
    whole = train(configs)
    path = tmp_path / "checkpoint.safetensors"
    plain = Ensemble.evaluate

    def pressed(self, runs=None):
        os.kill(os.getpid(), signal.SIGINT)
        return plain(self, runs)

    monkeypatch.setattr(Ensemble, "evaluate", pressed)
    with pytest.raises(KeyboardInterrupt):
        train(configs, checkpoint=path)
    monkeypatch.undo()
    assert_identical(train(configs, checkpoint=path), whole)


def test_training_in_another_thread_minds_no_signals():
    found = []
    thread = threading.Thread(target=lambda: found.extend(train([tiny()])))
    thread.start()
    thread.join()
    assert_identical(found, train([tiny()]))


def test_metrics():
    config = tiny(training={"steps": 22, "evaluate_every": 10})
    (run,) = train([config], loss_points=10)
    losses = [(step, value) for step, name, prefix, value in run.metrics if name == "loss"]
    assert [step for step, _ in losses] == [*range(2, 23, 2)]
    ensemble = Ensemble([config])
    each = [float(ensemble.step()) for _ in range(22)]
    expected = [(each[step - 2] + each[step - 1]) / 2 for step, _ in losses]
    torch.testing.assert_close(torch.tensor([value for _, value in losses]), torch.tensor(expected))
    errors = [row for row in run.metrics if row[1] == "error"]
    assert [(step, prefix) for step, _, prefix, _ in errors] == [
        (step, prefix) for step in (10, 20, 22) for prefix in (0, 1, 2, 3, 4, 5, None)
    ]
    last = [value for step, _, _, value in errors if step == 22]
    assert last[-1] == pytest.approx(sum(last[:-1]) / 6)
    assert last[:-1] == pytest.approx(ensemble.evaluate()[0].tolist())
    assert run.status == "finished"
    assert run.diverged_at is None
    assert all(isinstance(row, Metric) for row in run.metrics)


def test_a_run_shows_how_it_ended_in_one_line():
    good, bad = train([tiny(), tiny(seed=1, training={"learning_rate": 1e9})])
    error = f"error {good.metrics[-1].value:.4g}"
    assert repr(good) == f"<TrainedRun {good.config.key()}: transformer on linear, finished at step 6, {error}>"
    assert f"diverged at step {bad.diverged_at}" in repr(bad)


def test_a_model_that_answers_the_query_has_one_error():
    (run,) = train([tiny(model={"tokens": "joint"}, training={"loss": "query", "n_context": 4})])
    assert [(step, prefix) for step, name, prefix, _ in run.metrics if name == "error"] == [(6, 4), (6, None)]


@pytest.mark.parametrize("beside", [[], [tiny(seed=1, training={"steps": 60, "evaluate_every": 20})]])
def test_a_diverged_run_is_recorded_as_it_is_alone(beside):
    """Its last finite parameters, its losses up to then, and its errors as of that step."""
    wild = tiny(training={"steps": 60, "evaluate_every": 20, "learning_rate": 1e9})
    seen = []
    run = train([wild, *beside], advance=lambda step, *_: seen.append(step))[0]
    assert run.status == "diverged"
    assert 0 < run.diverged_at < 5
    assert all(value.isfinite().all() for value in run.tensors.values())
    assert [step for step, name, *_ in run.metrics if name == "error"] == [run.diverged_at] * 7
    assert not [row for row in run.metrics if row[1] == "loss" and row[0] > run.diverged_at]
    # When nobody is left, there is no need to go on.
    assert seen[-1] == (60 if beside else run.diverged_at + 1)


def test_progress_is_reported_about_a_hundred_times():
    seen = []
    train([tiny(training={"steps": 200})], advance=lambda *told: seen.append(told))
    assert [step for step, *_ in seen] == list(range(2, 201, 2))
    seen.clear()
    train([tiny(seed=0), tiny(seed=1)], advance=lambda *told: seen.append(told))
    assert [(step, total) for step, total, _ in seen] == [(step, 6) for step in range(1, 7)]
    seen.clear()
    (run,) = train([tiny(training={"steps": 25})], advance=lambda *told: seen.append(told), loss_points=10)
    assert len(seen) == 25 // 2 + 1
    assert [loss for _, _, loss in seen] == [value for _, name, _, value in run.metrics if name == "loss"]


def checkpoint_of(configs, path):
    interrupted(configs, path, 3)
    return path


def test_a_damaged_checkpoint_is_refused(tmp_path):
    configs = [tiny()]
    data = checkpoint_of(configs, tmp_path / "good").read_bytes()
    path = tmp_path / "checkpoint"
    flipped = bytearray(data)
    flipped[-100] ^= 1
    for wrong in (b"", b"text", data[:-1], data[: len(data) // 2], bytes(flipped)):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=r"no checkpoint of iclens, or is damaged; remove it"):
            train(configs, checkpoint=path)
        assert path.read_bytes() == wrong


def test_a_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    for meta in (None, {"format": "pt"}, {"iclens": "[1]"}, {"iclens": json.dumps({"keys": []})}):
        save_file({"w": torch.zeros(2)}, path, meta)
        with pytest.raises(UserError, match="no checkpoint of iclens"):
            train([tiny()], checkpoint=path)
        assert checkpoint_keys(path) == []
    assert checkpoint_keys(tmp_path / "none") == []


def test_a_checkpoint_of_other_runs_is_refused(tmp_path):
    path = checkpoint_of([tiny(seed=0), tiny(seed=1)], tmp_path / "checkpoint")
    assert checkpoint_keys(path) == [tiny(seed=0).key(), tiny(seed=1).key()]
    for others in ([tiny(seed=0)], [tiny(seed=1), tiny(seed=0)], [tiny(seed=0), tiny(seed=2)]):
        with pytest.raises(UserError, match="checkpoint of other runs"):
            train(others, checkpoint=path)


def test_a_state_that_does_not_fit_is_refused():
    ensemble = Ensemble([tiny()])
    state = ensemble.state()
    for wrong in ({}, {**state, "more": torch.zeros(1)}, {**state, "values": torch.zeros(1, 2)}):
        with pytest.raises(UserError, match="made by other runs"):
            ensemble.restore(wrong)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    old = Checkpoint({"values": torch.arange(3.0)}, [[(1, "loss", None, float("nan"))]], 2.5)
    write_checkpoint(path, ["a"], old)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*checkpoint: No space left"):
        write_checkpoint(path, ["a"], Checkpoint({}, [], 0.0))
    found = read_checkpoint(path, ["a"])
    assert torch.equal(found.state["values"], old.state["values"])
    assert found.seconds == 2.5
    assert found.metrics[0][0][3] != found.metrics[0][0][3]
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]


def test_runs_of_other_shapes_are_refused():
    with pytest.raises(UserError, match="must have one shape"):
        training.train([tiny(), tiny(model={"width": 16})])


def test_the_baseline_is_the_best_estimator_on_the_evaluation_prompts():
    """Noiseless linear regression: exact with d demonstrations or more, and E‖w‖² = d without any."""
    config = tiny(task={"noise_std": 0.0}, training={"evaluation_prompts": 3000})
    name, errors, n_prompts = optimal_errors(config)
    assert name == "least-squares"
    assert n_prompts == 3000
    assert list(errors) == [0, 1, 2, 3, 4, 5]
    assert errors[0] == pytest.approx(3, rel=0.15)
    assert errors[1] > errors[2] > 0.1
    assert max(errors[place] for place in (3, 4, 5)) < 1e-9


def test_a_slow_baseline_is_not_waited_for():
    config = tiny().from_dict({"task": {"name": "decision-tree", "d": 2}, "training": {"n_context": 1}})
    name, errors, n_prompts = optimal_errors(config, seconds=0.0)
    assert (name, n_prompts, len(errors)) == ("gradient-boosting", 1, 2)


def test_losses_sum_outputs_and_read_the_last_points():
    predictions, labels = torch.randn(2, 1, 3), torch.randn(2, 5, 3)
    found = point_losses(predictions, labels, "squared")
    torch.testing.assert_close(found[:, 0], ((predictions[:, 0] - labels[:, -1]) ** 2).sum(-1))
