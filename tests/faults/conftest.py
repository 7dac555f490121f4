"""What the fault suite counted, at the end of the output."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.faults.commands import serving

COUNTS: Counter[str] = Counter()


@pytest.fixture(scope="session")
def counts():
    """Counts of faults by name, and of what they harmed; printed at the end."""
    for name in ("lost or changed", "duplicated or unexpected", "orphans"):
        COUNTS[name] += 0
    return COUNTS


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """The fork server."""
    with serving(tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def uninterrupted(commands, tmp_path_factory):
    """A function that gives, for a command, its uninterrupted result and the seconds that it took."""
    known = {}

    def result(work):
        if type(work) not in known:
            folder = tmp_path_factory.mktemp("uninterrupted")
            work.prepare(folder)
            outcome = commands.warm(folder, *work.arguments)
            assert outcome.statuses == [0], outcome.said
            # Once more with everything imported, for the time.
            again = tmp_path_factory.mktemp("again")
            work.prepare(again)
            outcome = commands.run(again, *work.arguments)
            assert outcome.statuses == [0], outcome.said
            assert work.result(again) == work.result(folder)
            assert work.left(again) == []
            known[type(work)] = work.result(folder), outcome.seconds
        return known[type(work)]

    return result


def pytest_terminal_summary(terminalreporter):
    if COUNTS:
        terminalreporter.write_line("faults: " + ", ".join(f"{number} {name}" for name, number in COUNTS.items()))
