"""Refusing numbers that are none of what is asked for: what is given is named, and what to give instead."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from sansio_cache.errors import ConfigurationError


def check_whole(
    name: str, given: Any, least: int | None = None, *, error: type[Exception] = ConfigurationError
) -> None:
    """Take a whole number only. True and False are none.

    Args:
        name: What the number is called where it is given.
        given: The number.
        least: The least that will do; any will, where None.
        error: What is raised.

    Raises:
        ConfigurationError: It is no such number; or `error`, where another is given.
    """
    is_whole = isinstance(given, int) and not isinstance(given, bool)
    if not is_whole or (least is not None and given < least):
        bound = "" if least is None else f" from {least} on"
        raise error(f"{name} is a whole number{bound}; got {given!r:.80}")


def check_amount(name: str, given: Any, what: str = "a number of seconds") -> None:
    """Take a number from 0 on only, and no infinite one.

    Args:
        name: What the number is called where it is given.
        given: The number.
        what: What it is a number of.

    Raises:
        ConfigurationError: It is no such number.
    """
    if not _is_number(given) or not 0 <= given < math.inf:
        raise ConfigurationError(f"{name} is {what} from 0 on; got {given!r:.80}")


def check_time(name: str, given: Any) -> None:
    """Take a time in seconds only, an infinite one too: what never ends.

    Raises:
        ConfigurationError: It is no number.
    """
    if not _is_number(given):
        raise ConfigurationError(f"{name} is a time in seconds, a number; got {given!r:.80}")


def _is_number(given: Any) -> bool:
    return not isinstance(given, bool) and isinstance(given, Real) and not math.isnan(given)
