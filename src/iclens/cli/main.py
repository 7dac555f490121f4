"""The `iclens` command: read the arguments, run one subcommand, turn errors into an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, Any, Union

from iclens.cli.output import note, say
from iclens.cli.subcommand import Command, discover
from iclens.errors import UserError, is_out_of_memory

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

DESCRIPTION = """iclens {version}: find which examples in a prompt drove a language model's answer.

`iclens COMMAND --help` explains a command; `iclens --version` prints the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows `iclens`; the process's own arguments when None.

    Returns:
        The exit status: 0 good; 1 a check failed; 2 bad input; 130 interrupted;
        141 the reader of the output went away.

    Raises:
        SystemExit: after `--help` (0) and for options that do not exist (2), with the message printed.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except UserError as error:
        note("error: " + " ".join(str(error).split()))
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        note("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return EXIT_BROKEN_PIPE
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        note("error: there is not enough memory for this: make it smaller, or do less at once.")
        return EXIT_USER_ERROR
    return status


MOVED = {
    "finetune": "iclens reproduce ren-liu-table-1 tasks=cola n_seeds=6",
    "bench attribution": "iclens reproduce attribution n_prompts=500",
}
"""Commands of earlier versions: what to type in their place."""


def _run(arguments: list[str]) -> int:
    for name, now in MOVED.items():
        if arguments[: len(name.split())] == name.split():
            raise UserError(f"`iclens {name}` is a recipe now: `{now}`, for example; `--dry-run` says what it costs.")
    if arguments == ["--version"]:
        say(f"iclens {version('iclens')}")
        return 0
    return _parse(arguments).run()


def _parse(arguments: list[str]) -> Command:
    import tyro

    commands = discover()
    tree: dict[str, Any] = {}
    for name in commands:
        *groups, last = name.split()
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[last] = commands[name]
    kind = _union(tree, arguments)
    given: dict[str, Any] = {
        "prog": "iclens",
        "description": DESCRIPTION.format(version=version("iclens")),
        # No arguments at all is a request to be told what there is.
        "args": arguments or ["--help"],
        "config": (tyro.conf.FlagCreatePairsOff,),
    }
    chosen, rest = tyro.cli(kind, return_unknown_args=True, **given)
    if not rest:
        return chosen
    # tyro takes positional words up to an option; overrides may stand behind it, too.
    field = getattr(chosen, "overrides", "")
    if field and all("=" in word and not word.startswith("-") for word in rest):
        return replace(chosen, **{field: (*getattr(chosen, field), *rest)})
    # This says what is unknown, and exits.
    return tyro.cli(kind, **given)


def _union(tree: Mapping[str, Any], arguments: list[str]) -> Any:
    """Return the union type that tyro reads as subcommands; a mapping is a group of them."""
    import tyro

    members = []
    for name, entry in tree.items():
        # Only the subcommand that was asked for shows its whole docstring; in a list each has one paragraph.
        rest = arguments[1:] if arguments[:1] == [name] else []
        if isinstance(entry, Mapping):
            inside = _union(entry, rest)
            description: str | None = f"One of: {', '.join(entry)}."
        else:
            inside = entry
            description = None if rest else _first_paragraph(entry)
        members.append(Annotated[inside, tyro.conf.subcommand(name=name, description=description)])
    # A union needs two members; tyro hides the suppressed one.
    return Union[(*members, Annotated[None, tyro.conf.Suppress])]


def _first_paragraph(configuration: type) -> str:
    return " ".join((configuration.__doc__ or "").strip().split("\n\n")[0].split())


def _discard_output() -> None:
    """Give standard output a place to go, or Python complains about the pipe once more on its way out."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError:
        return
