"""One recipe, run to its end."""

from __future__ import annotations

from contextlib import closing

from iclens.recipes.reproduce import Order, reproduce_all


def reproduce(recipe, preset, folder, *, command="", settings=None, **options):
    with closing(reproduce_all([Order(recipe, preset, folder, command, settings)], **options)) as outcomes:
        (outcome,) = outcomes
    if outcome.error is not None:
        raise outcome.error
    return outcome.made
