"""The shell around every command: exit statuses, messages, discovery, nesting."""

from __future__ import annotations

import dataclasses
import os
import pkgutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

import iclens.cli
from iclens.cli.main import main
from iclens.cli.output import say
from iclens.cli.subcommand import COMMANDS, Command, command, discover
from iclens.errors import UserError

NOT_COMMANDS = {
    "subcommand",
    "main",
    "output",
    "explain_batch",
    "prompt_options",
    "response_options",
    "source_options",
    "resumable",
    "where",
}


def register_probes():
    @command("probe")
    @dataclass(frozen=True)
    class Probe:
        """Print what it was given. One line in the list.

        Only its own help has this paragraph.

        Attributes:
            path: a file.
            loud: whether to shout.
            words: some words.
        """

        path: Path | None = None
        loud: bool = False
        words: tuple[str, ...] = ()

        def run(self) -> int:
            say(f"{self.path} {self.loud} {self.words}")
            return 1 if self.loud else 0

    @command("probe-error")
    @dataclass(frozen=True)
    class ProbeError:
        """End as it is told."""

        kind: str

        def run(self) -> int:
            errors = {"user": UserError("layer 3\n has no heads."), "interrupt": KeyboardInterrupt()}
            raise errors[self.kind]

    @command("group probe")
    @dataclass(frozen=True)
    class Nested:
        """A command inside a group."""

        n: int = 3

        def run(self) -> int:
            return self.n


@pytest.fixture
def probes():
    """Commands that exist for one test: one that prints, one that ends badly, one that is nested."""
    discover()
    with COMMANDS.restored():
        register_probes()
        yield COMMANDS


def outcome(arguments):
    """The exit status, whichever way the command line ended."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code or 0


def test_options_reach_the_command_and_its_status_comes_back(probes, capsys):
    assert main(["probe", "--path", "a/b", "--words", "x", "[y]"]) == 0
    assert capsys.readouterr().out == f"{Path('a/b')} False ('x', '[y]')\n"
    assert main(["probe", "--loud"]) == 1


def test_a_space_in_the_name_nests(probes, capsys):
    assert main(["group", "probe", "--n", "0"]) == 0
    assert main(["group", "probe"]) == 3
    assert outcome(["group", "--help"]) == 0
    assert "A command inside a group." in capsys.readouterr().out


def test_help_lists_every_command_with_one_paragraph(probes, capsys):
    assert outcome(["--help"]) == 0
    listing = capsys.readouterr().out
    assert all(name.split()[0] in listing for name in probes)
    assert "Print what it was given." in listing
    assert "Only its own help" not in listing
    assert outcome(["probe", "--help"]) == 0
    own = capsys.readouterr().out
    assert "Only its own help has this paragraph." in own
    assert "whether to shout." in own
    assert "--no-loud" not in own


def test_no_arguments_show_the_help(capsys):
    assert outcome([]) == 0
    assert "--version" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"iclens {version('iclens')}\n"


def test_a_mistake_of_the_user_is_one_line_and_status_2(probes, capsys):
    assert main(["probe-error", "--kind", "user"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: layer 3 has no heads.\n"


def test_an_interruption_is_status_130(probes, capsys):
    assert main(["probe-error", "--kind", "interrupt"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["probe", "--no-such-option"], ["group"], ["group", "probe", "--n", "x"]]
)
def test_an_option_that_does_not_exist_is_status_2(probes, arguments, capsys):
    assert outcome(arguments) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert printed.err != ""


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_reader_that_goes_away_is_no_error(unbuffered):
    """As in `iclens --version | true`: standard output is a pipe that nobody reads.

    With a buffer the failure comes only when it is flushed, and would come again when Python ends.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    code = "import sys; from iclens.cli.main import main; sys.exit(main(['--version']))"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [sys.executable, *(["-u"] if unbuffered else []), "-c", code],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment,
        )
    finally:
        os.close(writer)
    assert result.returncode == 141
    assert result.stderr == ""


def test_every_file_of_the_folder_is_a_command():
    commands = discover()
    modules = {module.name for module in pkgutil.iter_modules(iclens.cli.__path__)}
    homes = {commands[name].__module__.removeprefix("iclens.cli.") for name in commands}
    assert modules - NOT_COMMANDS <= homes
    assert {"demo"} <= homes


def test_every_command_is_a_frozen_dataclass_that_explains_itself():
    commands = discover()
    for name in commands:
        configuration = commands[name]
        assert issubclass(configuration, Command), name
        assert dataclasses.is_dataclass(configuration), name
        assert configuration.__dataclass_params__.frozen, name
        help_text = "".join(one.__doc__ or "" for one in configuration.__mro__ if dataclasses.is_dataclass(one))
        for option in dataclasses.fields(configuration):
            assert f"{option.name}:" in help_text, f"{name}: the option {option.name} has no help"
