"""The named configurations: closed, not capped.

`QUICK` runs with every test run, `NIGHTLY` where the environment asks for it (see `test_exploration.py`).
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from exploring.configuration import (
    STALE_AT_LAST,
    UNLIMITED,
    WARM,
    Act,
    Configuration,
    Deed,
    Fault,
    Program,
)
from exploring.invariants import ALL, Invariant

READ: Final = Act(Deed.LOAD)
INVALIDATE: Final = Act(Deed.INVALIDATE)
SET: Final = Act(Deed.SET)

READER: Final = (READ,)
TWICE_READER: Final = (READ, READ)
READER_WITHOUT_STORE: Final = (Act(Deed.LOAD, is_without_store=True),)
INVALIDATOR: Final = (INVALIDATE,)
SETTER: Final = (SET,)
SETTER_THEN_INVALIDATOR: Final = (SET, INVALIDATE)
MUTATOR: Final = (Act(Deed.MUTATE),)
MUTATOR_WITH_VALUE: Final = (Act(Deed.MUTATE_AND_SET),)

Faults = dict[Fault, int]


def any_number(*faults: Fault) -> Faults:
    """These faults, as often as they like."""
    return dict.fromkeys(faults, UNLIMITED)


TIME: Final = any_number(Fault.GONE, Fault.EXPIRY, Fault.LAPSE)
"""What happens to the cell by itself."""
LOSSES: Final = any_number(Fault.REQUEST_LOST, Fault.REPLY_LOST)
DUPLICATES: Final = any_number(Fault.DUPLICATE)
INTERRUPTIONS: Final = any_number(Fault.INTERRUPTION)
RAISING: Final = any_number(Fault.RAISING)
CRASHES: Final = any_number(Fault.CRASH)
IMPATIENCE: Final = any_number(Fault.IMPATIENCE)
SHARING_TIMEOUTS: Final = any_number(Fault.SHARING_TIMEOUT)
ANYTHING: Final = TIME | LOSSES | DUPLICATES | INTERRUPTIONS | RAISING | CRASHES
"""Any number of any faults, in any order."""

ALL_BUT_LEAK: Final = ALL - {Invariant.LEAK}
"""Where nearly every world is excused for a lease that is left, it is cheaper not to remember the excuse."""


@attrs.frozen
class Case:
    """A configuration, and how many worlds it has at least: fewer, and a fault or a worker is missing."""

    configuration: Configuration
    at_least: int


def _case(name: str, at_least: int, *processes: tuple[Program, ...], **rest: Any) -> Case:
    return Case(Configuration(name=name, processes=processes, **rest), at_least)


def _alone(*programs: Program) -> tuple[tuple[Program, ...], ...]:
    """Each in a process of its own."""
    return tuple((program,) for program in programs)


QUICK: Final = (
    # One load for all, where nothing goes wrong (L2).
    _case("3 readers in 3 processes", 20, *_alone(READER, READER, READER), loads=1, all_end=True),
    _case("3 readers in 1 process", 50, (READER, READER, READER), loads=1, all_end=True),
    _case(
        "2 processes of 2 readers each",
        200,
        (READER, READER),
        (READER, READER),
        loads=1,
        all_end=True,
    ),
    # Invalidation.
    _case(
        "2 readers, 1 invalidates; anything",
        40_000,
        *_alone(READER, READER, INVALIDATOR),
        faults=ANYTHING | IMPATIENCE,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers, 2 invalidate; time, duplicates, crashes",
        3_000,
        *_alone(READER, READER, INVALIDATOR, INVALIDATOR),
        faults=TIME | DUPLICATES | CRASHES,
        all_end=True,
    ),
    _case(
        "2 readers, 1 invalidates; renewals, time, duplicates",
        1_000,
        *_alone(READER, READER, INVALIDATOR),
        renewals=True,
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    # Sharing in one process.
    _case(
        "2 readers in 1 process, 1 invalidates; anything but losses",
        10_000,
        (READER, READER),
        (INVALIDATOR,),
        faults=TIME | {Fault.DUPLICATE: 1} | INTERRUPTIONS | RAISING | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers in 1 process, 1 invalidates; time, losses",
        8_000,
        (READER, READER),
        (INVALIDATOR,),
        faults=TIME | LOSSES | RAISING | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers in 1 process, 1 in another, 1 invalidates; time",
        10_000,
        (READER, READER),
        *_alone(READER, INVALIDATOR),
        faults=TIME | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers in 1 process, 1 of them without the store, 1 invalidates; time, losses",
        5_000,
        (READER, READER_WITHOUT_STORE),
        (INVALIDATOR,),
        faults=TIME | LOSSES | RAISING | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers and 1 who invalidates in 1 process; time",
        1_000,
        (READER, READER, INVALIDATOR),
        faults=TIME | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers and 1 who invalidates in 1 process, which may have to remember it",
        1_000,
        (READER, READER, INVALIDATOR),
        faults={Fault.REQUEST_LOST: 2},
    ),
    # Mutation.
    _case(
        "1 reader, 1 mutates with a value; anything",
        5_000,
        *_alone(READER, MUTATOR_WITH_VALUE),
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 reader, 1 mutates with a value; renewals, anything",
        8_000,
        *_alone(READER, MUTATOR_WITH_VALUE),
        renewals=True,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 reader, 2 mutate; time, 1 duplicate",
        3_000,
        *_alone(READER, MUTATOR, MUTATOR_WITH_VALUE),
        faults=TIME | {Fault.DUPLICATE: 1},
        all_end=True,
    ),
    _case(
        "1 reader, 2 mutate with values; time, losses",
        8_000,
        *_alone(READER, MUTATOR_WITH_VALUE, MUTATOR_WITH_VALUE),
        faults=TIME | LOSSES,
        all_end=True,
    ),
    _case(
        "2 readers, 1 mutates; renewals, time, duplicates",
        4_000,
        *_alone(READER, READER, MUTATOR),
        renewals=True,
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "2 readers, 1 mutates, 1 invalidates; time, crashes",
        1_000,
        *_alone(READER, READER, MUTATOR_WITH_VALUE, INVALIDATOR),
        faults=TIME | CRASHES,
        all_end=True,
    ),
    # Setting.
    _case(
        "2 readers, 1 sets, then invalidates; time, duplicates",
        3_000,
        *_alone(READER, READER, SETTER_THEN_INVALIDATOR),
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "1 reader, 1 sets, then invalidates; anything",
        6_000,
        *_alone(READER, SETTER_THEN_INVALIDATOR),
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    # Old values, kept while they are loaded anew.
    _case(
        "2 readers of stale values, 1 invalidates; time, 1 reply lost, 1 duplicate",
        10_000,
        *_alone(READER, READER, INVALIDATOR),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=TIME | RAISING | {Fault.REPLY_LOST: 1, Fault.DUPLICATE: 1},
        all_end=True,
    ),
    _case(
        "2 readers of stale values in 1 process, 1 invalidates; time",
        1_500,
        (READER, READER),
        (INVALIDATOR,),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=TIME | RAISING,
        all_end=True,
    ),
    # Leases are given back.
    _case(
        "3 readers, whose holder may crash",
        100,
        *_alone(READER, READER, READER),
        faults=CRASHES | IMPATIENCE | any_number(Fault.EXPIRY),
        all_end=True,
    ),
    _case(
        "2 readers, 1 invalidates; interruptions, losses",
        5_000,
        *_alone(READER, READER, INVALIDATOR),
        faults=INTERRUPTIONS | RAISING | LOSSES,
    ),
    _case(
        "2 readers in 1 process, 1 invalidates; interruptions",
        500,
        (READER, READER),
        (INVALIDATOR,),
        faults=INTERRUPTIONS | RAISING,
        all_end=True,
    ),
    _case(
        "2 mutate with values; interruptions, losses",
        500,
        *_alone(MUTATOR_WITH_VALUE, MUTATOR_WITH_VALUE),
        faults=INTERRUPTIONS | LOSSES,
        all_end=True,
    ),
)

NIGHTLY: Final = (
    _case(
        "2 readers, 1 mutates; anything",
        100_000,
        *_alone(READER, READER, MUTATOR),
        faults=ANYTHING | IMPATIENCE,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers, 1 sets; anything",
        100_000,
        *_alone(READER, READER, SETTER),
        faults=ANYTHING | IMPATIENCE,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 reader, 2 mutate with values; anything",
        150_000,
        *_alone(READER, MUTATOR_WITH_VALUE, MUTATOR_WITH_VALUE),
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 reader, 1 sets twice; anything",
        15_000,
        *_alone(READER, (SET, SET)),
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers, 2 mutate with values; time, duplicates",
        15_000,
        *_alone(READER, READER, MUTATOR_WITH_VALUE, MUTATOR_WITH_VALUE),
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "3 readers, 1 invalidates; time, losses",
        15_000,
        *_alone(READER, READER, READER, INVALIDATOR),
        faults=TIME | LOSSES,
        all_end=True,
    ),
    _case(
        "3 readers, 1 invalidates; anything but crashes and interruptions",
        80_000,
        *_alone(READER, READER, READER, INVALIDATOR),
        faults=TIME | LOSSES | DUPLICATES | RAISING | IMPATIENCE,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers, 2 invalidate; anything but interruptions",
        100_000,
        *_alone(READER, READER, INVALIDATOR, INVALIDATOR),
        faults=TIME | LOSSES | DUPLICATES | RAISING | CRASHES | IMPATIENCE,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers, 2 mutate with values; time, losses, duplicates",
        300_000,
        *_alone(READER, READER, MUTATOR_WITH_VALUE, MUTATOR_WITH_VALUE),
        faults=TIME | LOSSES | DUPLICATES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers, 1 mutates with a value, 1 invalidates; time, losses",
        80_000,
        *_alone(READER, READER, MUTATOR_WITH_VALUE, INVALIDATOR),
        faults=TIME | LOSSES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 reader, 2 invalidate; anything",
        15_000,
        *_alone(READER, INVALIDATOR, INVALIDATOR),
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers who read twice, 1 invalidates; time, losses, duplicates",
        60_000,
        *_alone(TWICE_READER, TWICE_READER, INVALIDATOR),
        faults=TIME | LOSSES | DUPLICATES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers in 1 process who read twice, 1 invalidates; time, duplicates, interruptions",
        60_000,
        (TWICE_READER, TWICE_READER),
        (INVALIDATOR,),
        faults=TIME | DUPLICATES | INTERRUPTIONS,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers in 1 process, 1 invalidates; renewals, time, 1 duplicate, 1 interruption",
        10_000,
        (READER, READER),
        (INVALIDATOR,),
        renewals=True,
        faults=TIME | {Fault.DUPLICATE: 1, Fault.INTERRUPTION: 1} | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers in 1 process, 1 invalidates; anything",
        100_000,
        (READER, READER),
        (INVALIDATOR,),
        faults=ANYTHING | SHARING_TIMEOUTS,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "3 readers in 1 process, 1 invalidates; time",
        15_000,
        (READER, READER, READER),
        (INVALIDATOR,),
        faults=TIME | RAISING | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers in 1 process, 1 in another, 1 invalidates; time, losses",
        150_000,
        (READER, READER),
        *_alone(READER, INVALIDATOR),
        faults=TIME | LOSSES | RAISING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers of stale values, 1 invalidates; anything but crashes",
        50_000,
        *_alone(READER, READER, INVALIDATOR),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=TIME | LOSSES | DUPLICATES | RAISING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers of stale values in 1 process, 1 mutates with a value; time, losses",
        100_000,
        (READER, READER),
        (MUTATOR_WITH_VALUE,),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=TIME | LOSSES | RAISING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers and 1 who invalidates in 1 process; time, losses",
        10_000,
        (READER, READER, INVALIDATOR),
        faults=TIME | LOSSES | RAISING | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers and 1 who sets in 1 process; time, losses",
        30_000,
        (READER, READER, SETTER),
        faults=TIME | LOSSES | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers and 1 who mutates in 1 process; time, losses",
        50_000,
        (READER, READER, MUTATOR_WITH_VALUE),
        faults=TIME | LOSSES | SHARING_TIMEOUTS,
        all_end=True,
    ),
)

LIMITS: Final = (
    # Two racing `set`s: the last set wins, not the last commit. `mutate` is the answer, as the docs say.
    Configuration(
        name="2 set", processes=_alone(SETTER, SETTER), sets_race=True, invariants=frozenset({Invariant.S6})
    ),
)
"""Where the promise ends, as documented: the explorer finds these too."""
