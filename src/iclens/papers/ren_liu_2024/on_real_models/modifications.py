"""The modifications of attention that are put into a model, with the control of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from iclens.attention import Applied, apply
from iclens.attention.patchable import attention_layers
from iclens.errors import UserError
from iclens.lens import LensModel
from iclens.papers.ren_liu_2024.on_real_models.settings import MAPS, ModifiedSettings

REGULARIZED, AUGMENTED, NEGATIVE, SCALE, PARAMETERS = (
    "regularized",
    "augmented",
    "negative",
    "scale-matched",
    "parameter-matched",
)
CONTROLS = {REGULARIZED: SCALE, NEGATIVE: SCALE, AUGMENTED: PARAMETERS}
"""What a modification is held against: the rescaling alone, or as many parameters elsewhere."""


@dataclass(frozen=True)
class Modification:
    """An attention in some layers of a model.

    Attributes:
        name: unique among those of a study.
        kind: the registered variant; empty for plain attention.
        options: the variant's.
        layers: the group of layers.
        what: the strength, or what is augmented.
        matched: the name of its control; empty for controls and plain attention.
    """

    name: str
    kind: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: str = "all"
    what: str = ""
    matched: str = ""

    @contextmanager
    def into(self, lens_model: LensModel) -> Iterator[None]:
        """Put it into a model inside the `with` block."""
        handle = self.apply(lens_model)
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()

    def apply(self, lens_model: LensModel) -> Applied | None:
        """Put it into a model for good; nothing happens for plain attention."""
        if not self.kind:
            return None
        # A model may have further attention, of images for one.
        names = {layer.attention_name for layer in lens_model.anatomy.layers}
        numbers = [number for number, one in enumerate(attention_layers(lens_model.model)) if one.name in names]
        chosen = [numbers[place] for place in layers_of(self.layers, len(numbers))]
        return apply(lens_model.model, self.kind, layers=chosen, **self.options)


PLAIN = Modification("plain")


def layers_of(group: str, n_layers: int) -> list[int]:
    """The numbers of a group's layers: all, or the first, middle or last third, the thirds as equal as can be.

    Raises:
        UserError: a third of a model of fewer than three layers.
    """
    if group == "all":
        return list(range(n_layers))
    if n_layers < 3:
        raise UserError(f"the model has {n_layers} layers, too few for thirds: give layers=all and tuned_layers=all.")
    ends = [round(part * n_layers / 3) for part in range(4)]
    place = ("first", "middle", "last").index(group)
    return list(range(ends[place], ends[place + 1]))


def put_in(settings: ModifiedSettings) -> dict[str, Modification]:
    """Everything that is put in without training, by name; plain attention comes first."""
    regularized = [(REGULARIZED, alpha, {"alpha": alpha}, "") for alpha in settings.alphas]
    negative = [
        (NEGATIVE, beta, {"n_negatives": k, "beta": beta}, f" k={k}")
        for k in settings.n_negatives
        for beta in settings.betas
    ]
    return _by_name(_scaled([*regularized, *negative], settings.layers))


def fine_tuned(settings: ModifiedSettings) -> dict[str, Modification]:
    """Everything that is fine-tuned, by name; plain attention comes first."""
    k = settings.n_negatives[0]
    scaled = [(REGULARIZED, one, {"alpha": one}, "") for one in settings.tuned_strengths]
    scaled += [(NEGATIVE, one, {"n_negatives": k, "beta": one}, f" k={k}") for one in settings.tuned_strengths]
    found = _scaled(scaled, settings.tuned_layers)
    for maps in settings.tuned_maps:
        options = {name: {"name": "adapter", "hidden": settings.hidden} for name in MAPS[maps]}
        for layers in settings.tuned_layers:
            own, control = (f"{kind} {maps}, {layers}" for kind in (AUGMENTED, PARAMETERS))
            found += [
                Modification(own, AUGMENTED, options, layers, maps, control),
                Modification(control, PARAMETERS, options, layers, maps),
            ]
    return _by_name(found)


def _scaled(given: list[tuple[str, float, dict[str, Any], str]], groups: tuple[str, ...]) -> list[Modification]:
    """Modifications of a strength in every group of layers, and the scale control of every strength once."""
    found = [
        Modification(f"{kind} {strength:g}{more}, {layers}", kind, options, layers, f"{strength:g}{more}",
                     f"{SCALE} {strength:g}, {layers}")
        for kind, strength, options, more in given for layers in groups
    ]  # fmt: skip
    strengths = sorted({strength for _, strength, _, _ in given})
    return found + [
        Modification(f"{SCALE} {one:g}, {layers}", SCALE, {"strength": one}, layers, f"{one:g}")
        for one in strengths for layers in groups
    ]  # fmt: skip


def _by_name(found: list[Modification]) -> dict[str, Modification]:
    return {one.name: one for one in (PLAIN, *found)}
