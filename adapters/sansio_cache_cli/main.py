"""The `sansio-cache` command.

Exit codes: 0 all is well; 1 something was found that should not be, or the server cannot be reached; 2 the
command cannot be run as it was given; 130 interrupted by Ctrl-C.

A help text is there within 150 ms: until a subcommand runs, nothing is imported that takes long, and of the
subcommands only the one that is asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sansio_cache_cli.commands import COMMANDS
from sansio_cache_cli.failures import FOUND, INTERRUPTED, MISUSED, OK, CommandError
from sansio_cache_cli.options import check_given

_EXAMPLES = """\
examples:
  sansio-cache demo
  sansio-cache health --url redis://localhost:6379
  sansio-cache check --url redis://localhost:6379 --namespace shop
"""
_NO_RICH = "sansio-cache: this needs rich, which is not installed: pip install 'sansio-cache[cli]'"


class _Version(argparse.Action):
    """Prints the version: looking it up takes longer than all the rest of a help text."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from importlib.metadata import version

        print(f"sansio-cache {version('sansio-cache')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        options = _parser(arguments).parse_args(arguments)
        if find_spec("rich") is None:
            print(_NO_RICH, file=sys.stderr)
            return MISUSED
        return _run(options)
    except SystemExit as leave:  # argparse has said why
        return int(leave.code or OK)
    except KeyboardInterrupt:
        print("sansio-cache: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough; what Python would flush at the end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _run(options: argparse.Namespace) -> int:
    from sansio_cache import CacheError, ConfigurationError, InvalidKeyError

    try:
        check_given(options)
        _check_pattern(options)
        status = int(_module(options.command).run(options))
        sys.stdout.flush()
    except CommandError as error:
        return _fail(error, error.status)
    except (ConfigurationError, InvalidKeyError) as error:
        return _fail(error, MISUSED)
    except CacheError as error:
        return _fail(error, FOUND)
    return status


def _check_pattern(options: argparse.Namespace) -> None:
    """Refuse a pattern with its namespace, as keys are shown: it is meant inside of that."""
    pattern, entity = getattr(options, "pattern", None) or "", getattr(options, "namespace", None)
    if entity and pattern.startswith(f"{entity}:"):
        rest = pattern.removeprefix(f"{entity}:")
        raise CommandError(
            f"a pattern is given inside the namespace: write {rest!r} in place of {pattern!r}, or "
            f"'[{entity[0]}]{entity[1:]}:{rest}' where an entity is called {entity!r}, too",
            MISUSED,
        )


def _fail(error: Exception, status: int) -> int:
    from sansio_cache_cli.words import printable

    sys.stdout.flush()
    print(f"sansio-cache: {printable(str(error))}", file=sys.stderr)
    return status


def _module(command: str) -> Any:
    return import_module(f"sansio_cache_cli.commands.{command.replace('-', '_')}")


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command; of the subcommands only the one that the arguments name has its options."""
    parser = argparse.ArgumentParser(
        prog="sansio-cache",
        description="A read-through cache over Redis: see it work, check a server for it, look into it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked_for = next((each for each in arguments if not each.startswith("-")), "")
    for name, summary in COMMANDS.items():
        if name == asked_for:
            module = _module(name)
            subparser = commands.add_parser(
                name,
                help=summary,
                description=module.DESCRIPTION,
                epilog=module.EXAMPLES,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.add_arguments(subparser)
            subparser.set_defaults(refuse=subparser.error)
        else:
            commands.add_parser(name, help=summary)
    return parser
