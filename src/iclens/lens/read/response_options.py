"""What of a response is explained, as a caller or a prompt's own document says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt.options import check_string
from iclens.lens.read.margin import MEASURES

KEYS = ("response", "generate", "statement", "foil", "measure")
"""Entries of a document that stand beside a prompt, as `"answers"` do."""


@dataclass(frozen=True)
class ResponseOptions:
    """Which response, and what of it is read; without a response and nothing to generate, answers are explained.

    Attributes:
        response: the response.
        generate: how many tokens the model writes at most, where no response is given.
        statement: the part of the response that is read.
        foil: what is compared with it, whose log-probability is subtracted: another response, or, with a statement,
            what stands in its place.
        measure: one of `MEASURES`.
        seed: draws what the model writes; without it, it writes the likeliest tokens.
    """

    response: str | None = None
    generate: int | None = None
    statement: str | None = None
    foil: str | None = None
    measure: str = MEASURES[0]
    seed: int | None = None

    @property
    def given(self) -> bool:
        """Whether a response, or a part or measure of one, was asked for."""
        return replace(self, seed=None) != ResponseOptions()

    def settled(self, document: Mapping[str, Any]) -> ResponseOptions:
        """Put what a prompt's document says itself in the place of these; its own answers leave no response.

        Raises:
            UserError: a value that is none.
        """
        own = {key: document[key] for key in KEYS if document.get(key) is not None}
        for key, value in own.items():
            if key == "generate":
                if isinstance(value, bool) or not isinstance(value, int):
                    raise UserError(f'"generate" is {value!r}: give a whole number of tokens.')
            else:
                check_string(value, f'"{key}"')
        if not own and (document.get("answers") or document.get("answer") is not None):
            return ResponseOptions()
        base = replace(self, response=None, generate=None) if {"response", "generate"} & own.keys() else self
        return replace(base, **own)
