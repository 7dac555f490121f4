"""Times in words."""

from __future__ import annotations

import pytest

from iclens.work.progress import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (45, "45 s"),
        (100, "2 min"),
        (3600, "60 min"),
        (7500, "2 h 5 min"),
        (float("nan"), "–"),
    ],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
