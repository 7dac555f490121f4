"""Families of models that the lens handles exactly: one file for each layout, found by its decorator."""

from iclens.lens.model.families.family import FAMILIES, REFUSED, Affine, Family

__all__ = ["FAMILIES", "REFUSED", "Affine", "Family"]
