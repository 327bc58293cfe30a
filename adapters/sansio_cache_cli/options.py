"""Options that several subcommands have, and types of arguments. Imports nothing that takes long."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from typing import Final

MEMORY_SCHEME: Final = "memory://"
URL_VARIABLE: Final = "SANSIO_CACHE_REDIS_URL"
NAMESPACE_VARIABLE: Final = "SANSIO_CACHE_NAMESPACE"
"""The variables that `CacheConfig.from_env` reads."""


def add_url(parser: argparse.ArgumentParser) -> None:
    """`--url`. That it is given is checked by `check_given`."""
    parser.set_defaults(url_variable=URL_VARIABLE)
    parser.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE, "").strip() or None,
        help=f"redis://, rediss:// or unix:// (default: ${URL_VARIABLE}, which keeps a password out of the "
        "list of processes)",
    )


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """`--timeout`."""
    add_number(
        parser, "--timeout", seconds(0.05, 600), 5.0, "S", "seconds that the server may take for an answer"
    )


def add_namespace(parser: argparse.ArgumentParser, *, is_required: bool = True) -> None:
    """`--namespace`. That it is given is checked by `check_given`."""
    parser.set_defaults(namespace_variable=NAMESPACE_VARIABLE if is_required else "")
    parser.add_argument(
        "--namespace",
        default=os.environ.get(NAMESPACE_VARIABLE, "").strip() or None,
        metavar="NAME",
        help=f"the first part of the keys (default: ${NAMESPACE_VARIABLE})",
    )


def check_given(options: argparse.Namespace) -> None:
    """Refuse options that lack what a variable may hold as well, and variables that nobody reads.

    Raises:
        ConfigurationError: A variable begins as ours do, and is none.
    """
    from sansio_cache.config import check_variables

    if not hasattr(options, "url_variable"):  # this subcommand reads none
        return
    check_variables(os.environ)
    lacking = [
        f"--{name} (or {variable} in the environment)"
        for name in ("url", "namespace")
        if (variable := getattr(options, f"{name}_variable", "")) and getattr(options, name) is None
    ]
    if lacking:
        options.refuse(f"the following arguments are required: {', '.join(lacking)}")


def add_entity(parser: argparse.ArgumentParser) -> None:
    """The entity of a program."""
    parser.add_argument(
        "entity", metavar="MODULE:ENTITY", help="where the entity is, to be imported from here"
    )


def add_json(parser: argparse.ArgumentParser, what: str = "one JSON object") -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help=f"print {what}, for programs")


def add_number(
    to: argparse._ActionsContainer,
    flag: str,
    kind: Callable[[str], float],
    default: float,
    metavar: str,
    about: str,
) -> None:
    """An argument that is a number: `about` says what it is, and its default stands behind that."""
    shown = f"{default:g}" if isinstance(default, float) else default
    to.add_argument(flag, type=kind, default=default, metavar=metavar, help=f"{about} (default: {shown})")


def add_sample(parser: argparse.ArgumentParser) -> None:
    """How many keys are looked at."""
    add_number(
        parser,
        "--sample",
        whole(1, 100_000_000),
        10_000,
        "N",
        "keys of the namespace to look into, the first that SCAN finds, which is in no order; "
        "whether a key has a time to live is asked of all",
    )
    add_number(parser, "--seconds", seconds(0.1, 3600), 10.0, "S", "seconds to go through keys at most")


def whole(low: int, high: int) -> Callable[[str], int]:
    """A type of argument: a whole number in a range."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"a whole number from {low} to {high} is needed; got {text!r}")
        return number

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """A type of argument: seconds in a range."""
    return _number("seconds", low, high)


def percent(text: str) -> float:
    """A type of argument: a share in percent."""
    return _number("per cent", 0, 100)(text)


def _number(what: str, low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:  # so written, it refuses NaN too
            raise argparse.ArgumentTypeError(f"{what} from {low:g} to {high:g} are needed; got {text!r}")
        return number

    return parse
