"""Settings that leave nothing to compare are refused before anything is trained."""

from __future__ import annotations

import pytest

from iclens.errors import UserError
from iclens.papers.related.goddard_2025 import CapSettings
from iclens.papers.related.joo_klabjan_2025 import SampleSettings
from iclens.papers.related.park_2024 import ChainSettings
from iclens.papers.related.wurgaft_2025 import StrategySettings
from iclens.papers.ren_liu_2024.better_optimizers import OptimizerSettings
from iclens.recipes.settings import overridden

STUDIES = (StrategySettings(), ChainSettings(), CapSettings(), SampleSettings())


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (StrategySettings(), "pools=[]", "judged by the others, so give at least 2"),
        (StrategySettings(), "pools=4", "judged by the others, so give at least 2"),
        (StrategySettings(), "n_kept=1", "n_kept=1 must be at least 2"),
        (ChainSettings(), "pools=[]", "give at least one number of chains"),
        (ChainSettings(), "pools=[0]", "each at least 1"),
        (ChainSettings(), "n_kept=1", "n_kept=1 .* must be at least 2"),
        (ChainSettings(), "n_prompts=1", "n_prompts=1 must be at least 2"),
        (CapSettings(), "angles=[]", "give half-angles of caps"),
        (CapSettings(), "angles=[200]", "in degrees above 0 and up to 180"),
        (CapSettings(), "n_bands=0", "n_bands=0 must be at least 1"),
        (SampleSettings(), "depths=[]", r"depths=\[\]: give at least one number of layers"),
        (SampleSettings(), "n_seeds=0", "n_seeds=0 must be at least 1"),
        (OptimizerSettings(), "epochs=0", "epochs=0 must be at least 1"),
        *[(one, "steps=0", "steps=0 must be at least 1") for one in STUDIES],
    ],
)
def test_settings_that_leave_nothing_to_compare_are_refused(settings, given, message):
    with pytest.raises(UserError, match=message):
        overridden(settings, [given])
