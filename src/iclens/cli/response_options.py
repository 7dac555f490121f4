"""Options that say which response is explained, in place of an answer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from iclens.errors import UserError


@dataclass(frozen=True)
class Responses:
    """What to explain, if not an answer.

    Attributes:
        response: a text of any length that is explained instead of an answer, over all its tokens.
        response_file: a file that holds it.
        generate: let the model write a response of at most this number of tokens: the likeliest, or drawn with --seed.
        statement: a part of the response, word for word: only its tokens are read.
        foil: another response, or with --statement what stands in its place: the difference of the two
            log-probabilities is explained.
        measure: of a response its "log_probability", or "logit": log p − log(1 − p).
    """

    response: str | None = None
    response_file: Path | None = None
    generate: int | None = None
    statement: str | None = None
    foil: str | None = None
    measure: Literal["log_probability", "logit"] = "log_probability"

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the options that differ from their defaults."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name) != one.default)

    def arguments(self) -> dict[str, Any]:
        """Give the arguments of `explain` that they stand for, with the text of the file.

        Raises:
            UserError: two responses are given, or the file cannot be read.
        """
        return {
            "response": self._text(),
            "generate": self.generate,
            "statement": self.statement,
            "foil": self.foil,
            "measure": self.measure,
        }

    def _text(self) -> str | None:
        if self.response_file is None:
            return self.response
        if self.response is not None:
            raise UserError("--response and --response-file are both given: give one of them.")
        try:
            return self.response_file.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise UserError(f"{self.response_file} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise UserError(f"{self.response_file} is no text in UTF-8.") from None
