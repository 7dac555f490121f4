"""Every test starts from the same state: float64, one seed, one thread, and no network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A process that has once asked for Ray's token asks for it to its end, and tests write no token into a home.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import pytest
import torch
from hypothesis import settings

# Before anything imports iclens.
pytest_plugins = ["tests.shapes"]

# A check of a change must not depend on luck; elsewhere new examples are drawn every time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Small tensors: a second thread costs more than it gives, above all when other tests run beside.
torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    if config.getoption("jaxtyping_packages", None):
        for item in items:
            if "wrong_types" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="the check of every signature refuses it first"))


@pytest.fixture(autouse=True)
def double_precision_and_seed():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
    # Sums change in the last bit with the number of threads: whoever changes it has to put it back.
    assert torch.get_num_threads() == 1
