"""Judging a run: what readers were given, and what is there in the end, against the database alone.

The oracle is the program itself without a cache: a reader that is called while the caches do nothing and the
database stands at one of its states says what it would give then. A read is right where it is what the reader
would have given at some state that it may see: not before the newest that a writer had told the cache of
when the read began, nor after the last one that there was when it ended (S1, a regular register). When all is
done, each reader must give through the cache what it gives without. One that may be
stale may see any state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutine
from typing import Any

import attrs

from sansio_cache.errors import CacheConnectionError
from sansio_cache_testing.database import Database
from sansio_cache_testing.scheduling import ScenarioError
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
    is_wrong: bool = False
    """Whether what it was given is known to be wrong."""

    @property
    def is_empty(self) -> bool:
        """Whether it has told nothing: it raised, or gave None."""
        return self.seen is None or self.seen.error is not None or self.seen.value is None


@attrs.define(eq=False)
class Writer:
    """A function of the program that writes, and whether the caches were told of all that it wrote."""

    name: str
    call: Callable[[], Any]
    last: int = 0
    """The newest state when it returned: all that it committed is not newer."""
    has_returned: bool = False
    is_complete: bool = False
    may_raise: tuple[type[Exception], ...] = ()
    """What it may end with: an outcome like another."""


@attrs.frozen
class Ideals:
    """What a reader gives without a cache at some states, and what it has used of the world for it."""

    results: tuple[Result, ...]
    has_read: bool
    """Whether it has read a row of the world."""
    has_asked: bool
    """Whether it has asked a cache of the world, now or when it ran with the others."""

    @property
    def told(self) -> str:
        """What it gives, in words."""
        first, newest = self.results[0].told, self.results[-1].told
        return first if len(self.results) == 1 else f"{first}, and later {newest}"

    @property
    def hint(self) -> str:
        """What may be wrong with the scenario rather than with the program; mostly empty."""
        if not self.has_asked:
            return (
                ". It has used no cache of the world: what it reads through has to be world.cache(…), as the "
                "world cannot leave another cache out. Make it in the scenario, or bind to it what is "
                "decorated: function.bind(world.cache())"
            )
        if any(isinstance(each.error, CacheConnectionError) for each in self.results):
            return (
                ". Without a cache nobody has the lock, or the counter, that it asks for: a world cannot "
                "judge what lives in the cache alone, so leave that out of readers"
            )
        if not self.has_read:
            return (
                ". It has read no row of the world for that: what it reads has to be of world.rows(…), as "
                "the world cannot take another database back to an earlier state"
            )
        return ""


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


def stale_read(reader: Reader, ideals: Ideals, database: Database, steps: Sequence[Step]) -> Finding | None:
    """What is wrong with what a reader was given; None where nothing is.

    Args:
        reader: The reader.
        ideals: What it gives without a cache at each state from `first` to `last`.
        database: All states.
        steps: All that happened.
    """
    assert reader.seen is not None
    if agrees(reader.seen, ideals.results):
        return None
    sentence = f"{reader.name} {reader.seen.told}; without a cache it {ideals.told}{ideals.hint}"
    missed = [steps[database.commits[reader.first - 1]]] if reader.first else []
    wrong = _wrong_items(reader.seen, ideals.results)
    return Finding(sentence, (*_origin(reader.name, steps[: reader.ended_step], wrong), *missed))


def wrong_in_the_end(
    reader: Reader,
    seen: Result,
    ideals: Ideals,
    database: Database,
    steps: Sequence[Step],
) -> Finding | None:
    """What is wrong with what a reader is given when all is done; None where nothing is."""
    if agrees(seen, ideals.results):
        return None
    sentence = (
        f"when all is done, {reader.name} {seen.told}; without a cache it {ideals.results[-1].told}, and "
        f"nobody will tell the cache{ideals.hint}"
    )
    missed = [steps[database.commits[-1]]] if database.commits else []
    wrong = _wrong_items(seen, ideals.results)
    return Finding(sentence, (*_origin(reader.name, steps, wrong), *missed))


def broken_in_the_end(name: str, error: Exception, steps: Sequence[Step]) -> Finding:
    """What a check of the user's raised when all was done."""
    said = str(error).strip()
    why = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return Finding(f"when all is done, {name} fails: {why}", tuple(steps[-1:]))


def check_returned(name: str, returned: object) -> None:
    """Take nothing from a check of the user's: what it finds it has to raise.

    Raises:
        ScenarioError: It has returned something, as a predicate does, and so could not fail.
    """
    if returned is None:
        return
    if iscoroutine(returned):
        returned.close()
        raise ScenarioError(
            f"in_the_end takes a function that asserts; it returned a coroutine ({name}): make the scenario "
            "one, too (async def)"
        )
    raise ScenarioError(
        f"in_the_end takes a function that asserts; it returned {shorten(returned)}: write `assert …` in "
        f"{name}, and return nothing"
    )


def _wrong_items(seen: Result, ideals: Sequence[Result]) -> tuple[str, ...]:
    """Of a mapping, the keys whose items are wrong, as texts; nothing of all else."""
    if not isinstance(seen.value, Mapping):
        return ()
    mappings = [ideal.value for ideal in ideals if isinstance(ideal.value, Mapping)]
    missing = object()
    return tuple(
        str(key)
        for key, value in seen.value.items()
        if not any(each.get(key, missing) == value for each in mappings)
    )


def _origin(name: str, steps: Sequence[Step], wrong: Sequence[str]) -> list[Step]:
    """Who stored what a reader was given, and where they had it from.

    Of the keys that it asked for, those that end with the name of an item that is wrong come first.
    """
    keys = {key for step in steps if step.who == name and step.whom == CACHE for key in step.asked}
    blamed = {key for key in keys if key.rpartition(":")[2] in wrong}
    for place in range(len(steps) - 1, -1, -1):
        stored = set(steps[place].stored) & (blamed or keys)
        if stored:
            who, texts = steps[place].who, [key.rpartition(":")[2] for key in stored]
            before = [step for step in steps[:place] if step.who == who and step.whom not in ("", CACHE)]
            of_it = [
                step for step in before if any(re.search(rf"\b{re.escape(t)}\b", step.what) for t in texts)
            ]
            return [*(of_it or before)[-1:], steps[place]]
    return []
