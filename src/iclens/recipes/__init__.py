"""Studies that end in a table and in verdicts with numbers."""

from iclens.recipes.best_of_many import Nested, max_statistic, nested, over_seeds
from iclens.recipes.contract import RECIPES, Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import COLOURS, band, log_ticks, new_figure
from iclens.recipes.seed_curves import Curve, seed_curve, seed_estimate, seed_mean
from iclens.recipes.settings import chosen, option, stated
from iclens.recipes.table import Cell, Row, Table
from iclens.recipes.verdict import Claim, Verdict

__all__ = [
    "COLOURS",
    "RECIPES",
    "Cell",
    "Claim",
    "Curve",
    "Nested",
    "Part",
    "Preset",
    "Progress",
    "Recipe",
    "Row",
    "Table",
    "Verdict",
    "band",
    "chosen",
    "log_ticks",
    "max_statistic",
    "nested",
    "new_figure",
    "option",
    "over_seeds",
    "recipe",
    "seed_curve",
    "seed_estimate",
    "seed_mean",
    "stated",
]
