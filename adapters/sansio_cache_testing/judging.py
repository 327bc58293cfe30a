"""Judging a run: what readers were given, and what is there in the end, against the database alone.

The oracle is the program itself without a cache: a reader that is called while the caches do nothing and the
database stands at one of its states says what it would give then. A read is right where it is what the reader
would have given at some state that it may see: not before the newest that a writer had told the cache of
when the read began, nor after the last one that there was when it ended (S1, a regular register). When all is
done, each reader must give through the cache what it gives without. One that may be
stale may see any state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from sansio_cache_testing.database import Database
from sansio_cache_testing.steps import CACHE, Place, Step, shorten


@attrs.frozen
class Result:
    """What a call gave, or raised."""

    value: Any = None
    error: BaseException | None = None

    @property
    def told(self) -> str:
        """What it does, in the present tense."""
        return f"raises {self.error!r}" if self.error is not None else f"gives {shorten(self.value)}"


@attrs.define(eq=False)
class Reader:
    """A function of the program that reads through the cache, and what one call of it was given."""

    name: str
    call: Callable[[], Any]
    may_be_stale: bool
    first: int = 0
    """The oldest state that it may see."""
    last: int = 0
    """The newest one that there was when it ended."""
    began_step: int = 0
    ended_step: int = 0
    seen: Result | None = None


@attrs.define(eq=False)
class Writer:
    """A function of the program that writes, and whether the caches were told of all that it wrote."""

    name: str
    call: Callable[[], Any]
    last: int = 0
    """The newest state when it returned: all that it committed is not newer."""
    has_returned: bool = False
    is_complete: bool = False


@attrs.frozen
class Finding:
    """What was wrong with a run."""

    sentence: str
    steps: tuple[Step, ...] = ()
    """What is to be looked at, the first first."""

    def __str__(self) -> str:
        lines = [self.sentence]
        lines += [f"  {step.who} {step.what}{_at(step.place)}" for step in self.steps]
        return "\n".join(lines)


def _at(place: Place | None) -> str:
    return f"   ({place.file}:{place.line}, in {place.function})" if place is not None else ""


def agrees(seen: Result, ideals: Sequence[Result]) -> bool:
    """Whether what was seen is one of what may be. The items of a mapping are judged each by itself."""
    if seen.error is not None:
        return any(type(ideal.error) is type(seen.error) for ideal in ideals)
    values = [ideal.value for ideal in ideals if ideal.error is None]
    if any(type(value) is type(seen.value) and value == seen.value for value in values):
        return True
    if not isinstance(seen.value, Mapping):
        return False
    mappings = [value for value in values if isinstance(value, Mapping)]
    keys = {*seen.value, *(key for value in mappings for key in value)}
    missing = object()
    return bool(mappings) and all(
        any(value.get(key, missing) == seen.value.get(key, missing) for value in mappings) for key in keys
    )


def stale_read(
    reader: Reader, ideals: Sequence[Result], database: Database, steps: Sequence[Step]
) -> Finding | None:
    """What is wrong with what a reader was given; None where nothing is.

    Args:
        reader: The reader.
        ideals: What it gives without a cache at each state from `first` to `last`.
        database: All states.
        steps: All that happened.
    """
    assert reader.seen is not None
    if agrees(reader.seen, ideals):
        return None
    first, newest = ideals[0], ideals[-1]
    then = first.told if len(ideals) == 1 else f"{first.told}, and later {newest.told}"
    sentence = f"{reader.name} {reader.seen.told}; without a cache it {then}"
    missed = [steps[database.commits[reader.first - 1]]] if reader.first else []
    return Finding(sentence, (*_origin(reader.name, steps[: reader.ended_step]), *missed))


def wrong_in_the_end(
    reader: Reader,
    seen: Result,
    ideals: Sequence[Result],
    database: Database,
    steps: Sequence[Step],
) -> Finding | None:
    """What is wrong with what a reader is given when all is done; None where nothing is."""
    if agrees(seen, ideals):
        return None
    sentence = (
        f"when all is done, {reader.name} {seen.told}; without a cache it {ideals[-1].told}, and nobody will "
        "tell the cache"
    )
    missed = [steps[database.commits[-1]]] if database.commits else []
    return Finding(sentence, (*_origin(reader.name, steps), *missed))


def _origin(name: str, steps: Sequence[Step]) -> list[Step]:
    """Who stored what a reader was given, and where they had it from."""
    keys = {key for step in steps if step.who == name and step.whom == CACHE for key in step.asked}
    for place in range(len(steps) - 1, -1, -1):
        if keys & set(steps[place].stored):
            who = steps[place].who
            before = [step for step in steps[:place] if step.who == who and step.whom not in ("", CACHE)]
            return [*before[-1:], steps[place]]
    return []
