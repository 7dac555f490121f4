"""How a file of this folder becomes a subcommand: one frozen dataclass, one decorator."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import iclens.cli
from iclens.registry import Registry


@runtime_checkable
class Command(Protocol):
    """A subcommand: its fields are the options, its docstring is the help.

    A class attribute `overrides` names the positional field whose words NAME=VALUE may also stand after options.
    """

    def run(self) -> int:
        """Do the work and return the exit status: 0 good, 1 a check failed."""
        ...


C = TypeVar("C", bound=type[Command])

COMMANDS: Registry[type[Command]] = Registry("command", "iclens.commands")


def command(name: str) -> Callable[[C], C]:
    """Register a frozen dataclass as the subcommand `name`.

    Args:
        name: what the user types after `iclens`; a space nests, as in `"runs list"`.

    Raises:
        ValueError: another class already has that name.
    """

    def add(configuration: C) -> C:
        COMMANDS.register(name)(configuration)
        return configuration

    return add


def discover() -> Registry[type[Command]]:
    """Import every module of this folder, so that each registers its subcommand.

    The modules import torch and the rest inside `run` only: help must come at once.
    """
    for module in pkgutil.iter_modules(iclens.cli.__path__, "iclens.cli."):
        importlib.import_module(module.name)
    return COMMANDS
