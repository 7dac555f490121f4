"""Every test starts from the same state: float64, one seed, one thread, and no network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

# Small tensors: a second thread costs more than it gives, above all when other tests run beside.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def double_precision_and_seed():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
