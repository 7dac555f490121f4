"""Peak memory of calls whose memory is known."""

from __future__ import annotations

import sys

import pytest

from iclens.benchmarks.case import Probe
from iclens.benchmarks.memory import peak_bytes
from iclens.errors import UserError

MEBIBYTE = 1 << 20
TARGET = "tests.benchmarks.allocating"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own account")


def test_a_tensor_of_known_size_is_the_peak():
    # Some pages of what the warm-up freed are used once more.
    peak = peak_bytes(Probe(f"{TARGET}:block", {"mebibytes": 96}, {"mebibytes": 1}))
    assert 92 * MEBIBYTE <= peak <= 104 * MEBIBYTE


def test_what_is_built_before_counts_only_if_asked():
    probe = Probe(f"{TARGET}:built", {"mebibytes": 96}, {"mebibytes": 1})
    assert peak_bytes(probe) <= 8 * MEBIBYTE
    with_building = Probe(probe.target, probe.arguments, probe.warm_up, with_building=True)
    assert 92 * MEBIBYTE <= peak_bytes(with_building) <= 104 * MEBIBYTE


def test_a_process_that_fails_is_reported():
    with pytest.raises(UserError, match="there is no such thing"):
        peak_bytes(Probe(f"{TARGET}:failing", {"mebibytes": 1}))
