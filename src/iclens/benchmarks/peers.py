"""Peers that may or may not be here: packages by their import name, and folders named by environment variables."""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from iclens.benchmarks.case import Absent

PACKAGES = {
    "captum": "captum",
    "transformer_lens": "transformer-lens",
    "nnsight": "nnsight",
    "performer_pytorch": "performer-pytorch",
}
"""Peers from PyPI: the module, and the distribution to install."""

GARG = "ICLENS_GARG"
"""The environment variable that names a checkout of the repository of Garg et al."""


def missing(module: str) -> Absent | None:
    """None when a peer can be imported, else why it is left out."""
    if importlib.util.find_spec(module) is not None:
        return None
    distribution = PACKAGES[module]
    return Absent(distribution, f"{distribution} is not installed: pip install 'iclens[peers]'")


def folder(variable: str, peer: str, needed: str) -> Path | Absent:
    """Return the folder that an environment variable names, or why it is left out.

    Args:
        variable: the environment variable.
        peer: whose folder it is.
        needed: a file that it must hold.
    """
    named = os.environ.get(variable, "")
    if not named:
        return Absent(peer, f"{variable} does not name a folder with {peer}")
    found = Path(named).expanduser()
    if not (found / needed).is_file():
        return Absent(peer, f"{variable} names {found}, which has no {needed}")
    return found


def versions() -> dict[str, str]:
    """Versions of the peers that are installed, and of what they are compared through."""
    found = {}
    for distribution in (*PACKAGES.values(), "transformers", "scikit-learn", "numpy", "ray"):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found
