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
    """`--url`."""
    parser.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE),
        required=not os.environ.get(URL_VARIABLE),
        help=f"redis://, rediss:// or unix:// (default: ${URL_VARIABLE}, which keeps a password out of the "
        "list of processes)",
    )


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """`--timeout`."""
    parser.add_argument(
        "--timeout",
        type=seconds(0.05, 600),
        default=5.0,
        metavar="S",
        help="seconds that the server may take for an answer (default: 5)",
    )


def add_namespace(parser: argparse.ArgumentParser, *, is_required: bool = True) -> None:
    """`--namespace`."""
    given = os.environ.get(NAMESPACE_VARIABLE)
    parser.add_argument(
        "--namespace",
        default=given,
        required=is_required and not given,
        metavar="NAME",
        help=f"the first part of the keys (default: ${NAMESPACE_VARIABLE})",
    )


def add_json(parser: argparse.ArgumentParser, what: str = "one JSON object") -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help=f"print {what}, for programs")


def add_sample(parser: argparse.ArgumentParser) -> None:
    """How many keys are looked at."""
    parser.add_argument(
        "--sample",
        type=whole(1, 100_000_000),
        default=10_000,
        metavar="N",
        help="keys of the namespace to look into, the first that SCAN finds, which is in no order; "
        "whether a key has a time to live is asked of all (default: 10000)",
    )
    parser.add_argument(
        "--seconds",
        type=seconds(0.1, 3600),
        default=10.0,
        metavar="S",
        help="seconds to go through keys at most (default: 10)",
    )


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
