"""The help texts: there for every subcommand, and there at once, as nothing that takes long is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sansio_cache_cli.commands import COMMANDS
from sansio_cache_cli.main import main

SLOW = (
    "redis",
    "hiredis",
    "rich",
    "attrs",
    "msgspec",
    "anyio",
    "asyncio",
    "sansio_cache",
    "importlib.metadata",
)
PROGRAM = """
import sys
from sansio_cache_cli.main import main
for arguments in ([], *([name] for name in sys.argv[1:])):
    assert main([*arguments, "--help"]) == 0
    print("imported:", *sys.modules)
"""


@pytest.fixture(scope="module")
def imported() -> list[set[str]]:
    """What is imported when help was given about the command, and about each subcommand after that."""
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, *COMMANDS], capture_output=True, text=True, check=True
    )
    return [set(line.split()[1:]) for line in said.stdout.splitlines() if line.startswith("imported:")]


@pytest.mark.parametrize("place", range(len(COMMANDS) + 1))
def test_no_help_text_waits_for_an_import_that_takes_long(imported: list[set[str]], place: int) -> None:
    assert len(imported) == len(COMMANDS) + 1
    assert not {name for name in SLOW if name in imported[place]}


def test_the_help_of_the_command_imports_no_subcommand(imported: list[set[str]]) -> None:
    assert not {name for name in imported[0] if name.startswith("sansio_cache_cli.commands.")}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_examples_json_and_a_line_in_the_help(name: str, capsys) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"examples:\n  sansio-cache {name}" in text
    assert "--json" in text
    assert max(map(len, text.splitlines())) <= 90
    assert main(["--help"]) == 0
    assert COMMANDS[name] in " ".join(capsys.readouterr().out.split())


def test_an_unknown_subcommand_is_refused_with_those_that_there_are(capsys) -> None:
    assert main(["chekc"]) == 2
    assert "'check'" in capsys.readouterr().err
