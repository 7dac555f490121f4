"""Several processes that share every batch train the run that one process trains."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from tests.training import together
from tests.training.test_train import assert_identical, interrupted
from tests.training.torchrun import COMPLETE, said_by, torchrun

from iclens.errors import UserError
from iclens.training.checkpoint import read_checkpoint
from iclens.training.distributed import Processes, joined, launched
from iclens.training.loop import TrainedRun, train
from iclens.training.metric import Metric

BIAS = "blocks.0.qkv.bias"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What both processes saw of all trainings of `together.py`, and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp("together")
    interrupted(together.SEVERAL, folder / "one.safetensors", 7)
    (folder / "damaged.safetensors").write_bytes(b"text")
    with torchrun(together.__file__, str(folder)) as process:
        said = said_by(process)
    assert process.returncode == 0, said
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)], folder


def runs_of(found, configs):
    return [
        TrainedRun(
            config,
            one["tensors"],
            [Metric(*row) for row in one["metrics"]],
            one["status"],
            None if one["diverged_at"] < 0 else one["diverged_at"],
            0.0,
        )
        for one, config in zip(found, configs, strict=True)
    ]


def assert_close(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.status, ours.diverged_at) == (theirs.status, theirs.diverged_at)
        for name, value in theirs.tensors.items():
            torch.testing.assert_close(ours.tensors[name], value, rtol=tolerance, atol=tolerance, msg=name)
        assert [row[:3] for row in ours.metrics] == [row[:3] for row in theirs.metrics]
        assert [row[3] for row in ours.metrics] == pytest.approx(
            [row[3] for row in theirs.metrics], rel=tolerance, abs=tolerance
        )


@pytest.mark.parametrize(
    ("name", "configs", "tolerance"),
    [
        ("several", together.SEVERAL, 1e-12),
        ("query", together.QUERY, 1e-12),
        ("from one", together.SEVERAL, 1e-12),
        ("again", together.SEVERAL, 1e-12),
    ],
)
def test_two_processes_train_what_one_trains(trained, name, configs, tolerance):
    (first, _), _ = trained
    assert_close(runs_of(first[name], configs), train(configs), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-5)])
def test_adam_agrees_to_rounding(trained, dtype, tolerance):
    """But for the biases of keys, which have no effect: their gradient is rounding, and Adam divides it by its size."""
    (first, _), _ = trained
    found, expected = (
        [replace(run, tensors={**run.tensors, BIAS: run.tensors[BIAS].clone()}) for run in runs]
        for runs in (runs_of(first[dtype], together.ADAM[dtype]), train(together.ADAM[dtype]))
    )
    for run in (*found, *expected):
        run.tensors[BIAS].chunk(3)[1].zero_()
    assert_close(found, expected, tolerance)


def test_all_processes_have_the_same_parameters(trained):
    (first, second), _ = trained
    for name in ("several", "float64", "float32", "query", "wild", "nan"):
        for ours, theirs in zip(first[name], second[name], strict=True):
            assert (ours["status"], ours["diverged_at"]) == (theirs["status"], theirs["diverged_at"])
            for key, value in theirs["tensors"].items():
                assert torch.equal(ours["tensors"][key], value)
            losses = [row for row in ours["metrics"] if row[1] == "loss"]
            assert theirs["metrics"] == losses  # only the first evaluates


def test_a_divergence_is_that_of_one_process(trained):
    (first, _), _ = trained
    expected = train(together.WILD)
    assert [one.status for one in expected] == ["diverged", "finished"]
    found = runs_of(first["wild"], together.WILD)
    assert found[0].diverged_at == expected[0].diverged_at
    assert_close(found[1:], expected[1:], 1e-12)


def test_what_is_not_finite_in_one_process_ends_the_run_in_all(trained):
    for found in trained[0]:
        assert [(one["status"], one["diverged_at"]) for one in found["nan"]] == [("diverged", 5)]


def test_a_signal_to_one_process_ends_all_after_the_same_step(trained):
    results, folder = trained
    keys = [one.key() for one in together.SEVERAL]
    for found in results:
        assert found["interrupted"] == [True, True]
        assert found["handlers"] == [True]
    for name in ("SIGINT", "kept"):
        step = int(read_checkpoint(folder / f"{name}.safetensors", keys).state["step"])
        assert step == together.STOPPED_AT
    assert not list(folder.glob(".*.tmp"))


def test_a_run_goes_on_with_as_many_processes_bit_for_bit(trained):
    (first, _), _ = trained
    assert_identical(runs_of(first["again"], together.SEVERAL), runs_of(first["several"], together.SEVERAL))


def test_a_run_goes_on_with_another_number_of_processes(trained, tmp_path):
    shutil.copy(trained[1] / "kept.safetensors", tmp_path)
    alone = train(together.SEVERAL, checkpoint=tmp_path / "kept.safetensors")
    assert_close(alone, train(together.SEVERAL), 1e-12)


def test_what_cannot_be_trained_together_is_refused_everywhere(trained):
    for rank, found in enumerate(trained[0]):
        assert "different configurations" in found["different"]
        assert "training.batch=1 prompts cannot be shared by 2 processes" in found["few"]
        assert ("see what it says" if rank else "no checkpoint of iclens, or is damaged") in found["damaged"]


def test_shares_are_the_batch_once():
    for batch in (5, 8, 13):
        for size in range(1, 6):
            each = [Processes(rank, size, torch.device("cpu")) for rank in range(size)]
            places = [place for one in each for place in range(batch)[one.share(batch)]]
            assert places == list(range(batch))
            lengths = [len(range(batch)[one.share(batch)]) for one in each]
            assert max(lengths) - min(lengths) <= 1
            assert sum(one.weight(batch) for one in each) == pytest.approx(1)


def test_alone_or_complete():
    assert launched({"MASTER_ADDR": "localhost"}) is None
    one = launched(COMPLETE)
    assert (one.rank, one.size, one.local_rank) == (1, 2, 0)
    for name in COMPLETE:
        with pytest.raises(UserError, match=rf"only half that of .*: {name} is missing"):
            launched({key: value for key, value in COMPLETE.items() if key != name})
        with pytest.raises(UserError, match=rf"{name} is missing"):
            launched({**COMPLETE, name: ""})
    for changes, message in (
        ({"RANK": "x"}, "RANK='x' must be a whole number"),
        ({"MASTER_PORT": "-1"}, "MASTER_PORT='-1' must be"),
        ({"RANK": "2"}, "RANK=2 and LOCAL_RANK=0 must be less than WORLD_SIZE=2"),
    ):
        with pytest.raises(UserError, match=message):
            launched({**COMPLETE, **changes})


def test_a_device_is_cpu_or_cuda():
    one = launched(COMPLETE)
    with pytest.raises(UserError, match="LOCAL_RANK picks the GPU"), joined(one, "cuda:1"):
        pass
    if torch.cuda.device_count() == 0:
        with pytest.raises(UserError, match=r"needs GPU 0 of its machine, which has 0"), joined(one, "cuda"):
            pass
