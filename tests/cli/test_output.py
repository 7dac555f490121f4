"""What a command prints: text as text, remarks apart from the result, a table's cells on one line."""

from __future__ import annotations

import sys

from rich.table import Table

from iclens.cli.output import note, say, show


def test_brackets_are_text_and_remarks_go_to_standard_error(capsys):
    say("[bold]x[/bold] [/]")
    note("[y]")
    assert capsys.readouterr() == ("[bold]x[/bold] [/]\n", "[y]\n")


def test_a_table_in_a_pipe_keeps_its_cells_on_one_line(capsys):
    table = Table("statement", "source")
    table.add_row("s" * 60, "t" * 60)
    assert not sys.stdout.isatty()
    show(table)
    lines = capsys.readouterr().out.splitlines()
    assert any("s" * 60 in line and "t" * 60 in line for line in lines)
    assert not any("\x1b" in line for line in lines)
