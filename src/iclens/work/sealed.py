"""A JSON document that holds a checksum of itself, so that a number in it cannot change unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sha256"
"""The entry that holds the checksum."""


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with the SHA-256 of its values as its last entry."""
    content = {name: value for name, value in document.items() if name != SEAL}
    return {**content, SEAL: _digest(content)}


def is_whole(document: Mapping[str, Any]) -> bool:
    """Whether a document that was read says what was written; white space and the order of its entries do not count."""
    return SEAL in document and document[SEAL] == sealed(document)[SEAL]


def _digest(content: Mapping[str, Any]) -> str:
    # Through JSON once, so that tuples and keys that are numbers are what a reader will find.
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
