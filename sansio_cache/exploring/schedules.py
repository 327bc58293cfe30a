"""Schedules: who goes on at each point where several could, as a value that replays.

A program of several participants is deterministic but for such choices. So a run is the list of its choices,
and a run that went wrong is repeated by the same list. The first option of a choice is always to go on as
before; any other costs one, unless there is nobody to go on with. A schedule is bounded by what its choices
cost: most faults of concurrent programs need two switches or fewer (Musuvathi and Qadeer, "Iterative Context
Bounding for Systematic Testing of Multithreaded Programs", PLDI 2007).

`Enumeration` gives all schedules up to a bound, each once: a run that has followed one says which choices it
met, and the next differs from it in the last choice that has an option left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Protocol

import attrs

_WHY: Final = (
    "the program is not the one that the schedule was found with, or it depends on something but the "
    "schedule (real time, random numbers, threads or sockets of its own, what an earlier run has left); or "
    "it is repeated with other faults=, seed= or runtime= than then"
)
_WRITTEN: Final = re.compile(r"(\d+):(\d+)")


class Chooser(Protocol):
    """Decides between options."""

    def choose(self, count: int, *, is_free: bool) -> int:
        """Take one of `count` options, by its place. The first goes on as before.

        Args:
            count: How many options there are, at least two.
            is_free: Whether nobody can go on as before, so that none of them costs anything.
        """
        ...


class NotReplayedError(Exception):
    """The program met other choices than when its schedule was written down: it is not deterministic."""


@attrs.frozen
class Choice:
    """A choice that a run has met."""

    count: int
    taken: int
    is_free: bool

    @property
    def cost(self) -> int:
        """One where it was not to go on as before though that was possible."""
        return int(self.taken > 0 and not self.is_free)


@attrs.define
class Schedule:
    """A chooser that follows a list of choices, and goes on as before after its end. It notes what it met."""

    prefix: tuple[int, ...] = ()
    met: list[Choice] = attrs.field(factory=list)

    def choose(self, count: int, *, is_free: bool) -> int:
        """Take the option that the list names.

        Raises:
            NotReplayedError: There is no such option: another program was run, or it is not deterministic.
        """
        place = len(self.met)
        taken = self.prefix[place] if place < len(self.prefix) else 0
        if taken >= count:
            raise NotReplayedError(f"choice {place} was option {taken}, and there are {count} now: {_WHY}")
        self.met.append(Choice(count, taken, is_free))
        return taken

    def check_followed(self) -> None:
        """Look whether the run has met all choices of the list.

        Raises:
            NotReplayedError: It has not: another program was run, or it is not deterministic.
        """
        if len(self.met) < len(self.prefix):
            raise NotReplayedError(f"there were {len(self.prefix)} choices, and {len(self.met)} now: {_WHY}")

    @property
    def written(self) -> str:
        """The schedule as a short text, which `read_schedule` reads: where it did not go on as before."""
        return write_schedule(tuple(each.taken for each in self.met))


def write_schedule(choices: tuple[int, ...]) -> str:
    """A schedule as a text, such as `"3:1 7:2"`: at choice 3 option 1, at 7 option 2, else the first."""
    return " ".join(f"{place}:{taken}" for place, taken in enumerate(choices) if taken)


def read_schedule(written: str) -> tuple[int, ...]:
    """The choices that a text names.

    Raises:
        ValueError: It is no schedule.
    """
    choices: list[int] = []
    for word in written.split():
        match = _WRITTEN.fullmatch(word)
        if match is None or int(match[1]) < len(choices):
            raise ValueError(
                f"a schedule is like '3:1 7:2', places rising; got {written!r}: copy it as the failure "
                "printed it"
            )
        choices += [0] * (int(match[1]) - len(choices))
        choices.append(int(match[2]))
    return tuple(choices)


@attrs.define
class Enumeration:
    """All schedules of a program, up to a bound.

    Iterating gives schedules, each to be followed by one run before the next is taken.

    Args:
        most_switches: How much the choices of a schedule may cost together.
        most_free: How many of them may be another than the first where that is free. What waits and polls
            comes to so many of these that their orders would never end.
    """

    most_switches: int
    most_free: int = 4
    runs: int = 0
    is_complete: bool = False
    """Whether all have been given."""

    def __iter__(self) -> Iterator[Schedule]:
        prefix: tuple[int, ...] | None = ()
        while prefix is not None:
            schedule = Schedule(prefix)
            self.runs += 1
            yield schedule
            prefix = self._next(schedule.met)
        self.is_complete = True

    def _next(self, met: list[Choice]) -> tuple[int, ...] | None:
        """What the next schedule begins with; None after the last."""
        cost = sum(each.cost for each in met)
        free = sum(each.is_free and each.taken > 0 for each in met)
        while met:
            last = met.pop()
            cost -= last.cost
            free -= last.is_free and last.taken > 0
            is_allowed = free < self.most_free if last.is_free else cost < self.most_switches
            if last.taken + 1 < last.count and is_allowed:
                return (*(each.taken for each in met), last.taken + 1)
        return None
