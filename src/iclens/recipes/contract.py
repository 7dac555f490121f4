"""What a recipe is: a paper's claims, how to measure them, when they hold, and the picture.

A recipe is one file in this folder with one class:

```python
@dataclass(frozen=True)
class StepSettings:
    n_context: int = stated(10, "Fig. 3")           # the paper says so
    n_seeds: int = chosen(5)                        # we chose it

STEP = Claim("One linear head takes one gradient step.", "von Oswald et al. 2023, Proposition 1", "stated")

@recipe("linear-attention-step")                    # what `iclens reproduce` is given
class LinearAttentionStep(Recipe[StepSettings]):
    '''One paragraph for the page: what is measured and how.'''
    title = "One linear attention head takes one step of gradient descent"
    reference = "von Oswald et al. 2023, Proposition 1"
    claims = (STEP,)
    quick = Preset(StepSettings(n_seeds=3), seconds=2)
    paper = Preset(StepSettings(), seconds=10)

    def parts(self, settings):                      # optional: what --resume can skip
        return [{"seed": seed} for seed in range(settings.n_seeds)]

    def measure(self, part, settings, progress):    # rows of one part; the part's keys become columns of their own
        ...
        return Table([{"n": 10, "residual": 1e-16}])

    def check(self, table, settings):               # from the table alone
        worst = table.column("residual").max()
        return [STEP.judged(worst <= 1e-12, f"largest residual {worst:.1e}", "residual ≤ 1e-12")]

    def plot(self, table, settings):                # from the table alone
        figure = new_figure()
        ...
        return figure
```
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from iclens.recipes.settings import setting_rows
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

S = TypeVar("S")

Part = Mapping[str, Cell]
"""A piece of a recipe's work that is finished whole or not at all, e.g. `{"seed": 3, "normalised": True}`."""

Progress = Callable[[int, int, str], None]
"""Called as work proceeds with what is done, the total, and a few words."""


def silent(done: int, total: int, message: str) -> None:
    """A `Progress` that tells nobody."""


@dataclass(frozen=True)
class Preset(Generic[S]):
    """Settings to run a recipe with, and what that costs.

    Attributes:
        settings: an instance of the recipe's settings dataclass.
        seconds: measured time on one thread of a CPU that does nothing else, or on the GPU where it needs one.
        needs_gpu: why it needs a CUDA device, in a few words; empty when a CPU will do.
    """

    settings: S
    seconds: float | int
    needs_gpu: str = ""


class Recipe(abc.ABC, Generic[S]):
    """A figure, theorem or question of a paper, ending in verdicts with numbers.

    Same settings, same machine, same numbers: every random number comes from a seed in the settings or the part, and
    every tensor's dtype is said (float64 unless the claim is about another).

    Class attributes, all required:
        title: what is shown, in one line.
        reference: the paper, and the figure, theorem or section of it.
        claims: what the paper says; every one of them must get at least one verdict from `check`.
        quick: the preset of seconds to 2 minutes.
        paper: the preset with the stated settings.
        more: further presets by name, e.g. `{"small": Preset(…)}`; none unless given.
        revision: raise it when `measure` changes what it measures: finished parts of older ones are not resumed.

    `id` is set by the decorator `recipe`. The class docstring is the page's description.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    claims: ClassVar[tuple[Claim, ...]]
    quick: ClassVar[Preset[Any]]
    paper: ClassVar[Preset[Any]]
    more: ClassVar[Mapping[str, Preset[Any]]] = {}
    revision: ClassVar[int] = 1

    def parts(self, settings: S) -> Sequence[Part]:
        """The work in pieces, each saved when it is finished; one piece unless overridden."""
        return [{}]

    def alone(self, part: Part, settings: S) -> bool:
        """Whether the part watches the clock, so that no other may run beside it; no unless overridden."""
        return False

    def device(self, settings: S) -> str:
        """Where models run: on a GPU with the settings of a preset that needs one, else on the CPU.

        Not on whatever the machine has: the numbers of one preset would then depend on it.
        """
        return "cuda" if any(one.needs_gpu and one.settings == settings for one in self.presets.values()) else "cpu"

    def lacking(self, settings: S) -> str:
        """What the machine lacks for these settings, data for instance, as one sentence; nothing unless overridden."""
        return ""

    def inputs(self, settings: S) -> str:
        """A digest of what the work reads besides its settings, so that other data are not resumed; empty for none."""
        return ""

    def bearing(self, part: Part, settings: S) -> S:
        """The settings that a part's rows follow from: a part that was finished with others is taken where these agree.

        All of them unless overridden. They are an instance of the same settings, from which `inputs` is taken too.
        """
        return settings

    def estimate(self, settings: S, preset: Preset[S]) -> float | int:
        """Seconds of one thread for settings that override a preset's: by the number of parts, unless overridden."""
        return preset.seconds * len(self.parts(settings)) / max(1, len(self.parts(preset.settings)))

    def seconds_by_part(self, settings: S, preset: Preset[S]) -> Sequence[float]:
        """The estimate by part: the same for all, unless overridden."""
        n_parts = len(self.parts(settings))
        return [self.estimate(settings, preset) / max(1, n_parts)] * n_parts

    @abc.abstractmethod
    def measure(self, part: Part, settings: S, progress: Progress) -> Table:
        """The rows of one part, without the part's own keys, which are added.

        Args:
            part: one of `parts(settings)`.
            settings: of the preset.
            progress: to be called now and then with (done, total, message) of this part.
        """

    @abc.abstractmethod
    def check(self, table: Table, settings: S) -> list[Verdict]:
        """The verdicts on `claims`, from the table alone: with numbers, and tests that could fail."""

    @abc.abstractmethod
    def plot(self, table: Table, settings: S) -> Figure:
        """The picture, from the table alone, on a figure of `iclens.recipes.figures.new_figure`."""

    def summaries(self, table: Table, settings: S) -> Mapping[str, Table]:
        """Small tables to print beside the verdicts, by their titles; none unless overridden."""
        return {}

    def run(self, settings: S, progress: Progress = silent) -> Table:
        """All parts, one after another, in one table."""
        parts = self.parts(settings)
        table = Table()
        for index, part in enumerate(parts):
            table = table + self.measure_part(part, settings, within(progress, index, len(parts)))
        return table

    def measure_part(self, part: Part, settings: S, progress: Progress = silent) -> Table:
        """One part's rows with its keys as first columns."""
        return self.measure(part, settings, progress).with_cells(**part)

    @property
    def presets(self) -> dict[str, Preset[S]]:
        """All presets by name."""
        return {"quick": self.quick, "paper": self.paper, **self.more}

    @property
    def description(self) -> str:
        """The class docstring."""
        return inspect.cleandoc(type(self).__doc__ or "")


RECIPES: Registry[Recipe[Any]] = Registry("recipe", "iclens.recipes", papers=True)

R = TypeVar("R", bound=type[Recipe[Any]])


def recipe(name: str) -> Callable[[R], R]:
    """Class decorator that names a recipe and registers an instance of it.

    Args:
        name: its id: lower-case words joined by hyphens, the paper first, e.g. `"yang-fig-2a"`.

    Raises:
        TypeError: a class attribute is missing, a preset is, or a settings field is neither stated nor chosen.
    """

    def add(made: R) -> R:
        required = ("title", "reference", "claims", "quick", "paper")
        missing = [attribute for attribute in required if not hasattr(made, attribute)]
        if missing or not made.__doc__:
            raise TypeError(f"recipe {name!r} has no {(missing or ['docstring'])[0]}")
        for preset in (made.quick, made.paper, *made.more.values()):
            setting_rows(preset.settings)
        made.id = name
        RECIPES.register(name)(made())
        return made

    return add


def within(progress: Progress, index: int, n_parts: int) -> Progress:
    """A part's progress as progress of the whole, in thousandths of a part."""

    def report(done: int, total: int, message: str) -> None:
        progress(index * 1000 + 1000 * done // max(total, 1), n_parts * 1000, message)

    return report
