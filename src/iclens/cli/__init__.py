"""The command line: one subcommand a file, found without a list."""

from iclens.cli.output import note, say, show
from iclens.cli.subcommand import COMMANDS, Command, command, discover

__all__ = [
    "COMMANDS",
    "Command",
    "command",
    "discover",
    "note",
    "say",
    "show",
]
