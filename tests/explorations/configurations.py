"""The named configurations: closed, not capped.

`QUICK` runs with every test run, `NIGHTLY` where the environment asks for it (see `test_exploration.py`).
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from sansio_cache.exploring.configuration import (
    ALWAYS_EARLY,
    EARLY,
    STALE_AT_LAST,
    STALE_AT_ONCE,
    UNLIMITED,
    WARM,
    Act,
    Configuration,
    Deed,
    Fault,
    Program,
    Start,
)
from sansio_cache.exploring.invariants import ALL, Invariant
from sansio_cache.strategies import CacheAside, WriteThrough

READ: Final = Act(Deed.LOAD)
READ_TEXT: Final = Act(Deed.LOAD, is_text=True)
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
WRITER_THROUGH: Final = (Act(Deed.WRITE, strategy=WriteThrough()),)
WRITER_ASIDE: Final = (Act(Deed.WRITE, strategy=CacheAside()),)
EXPIRER: Final = (Act(Deed.EXPIRE),)

ADDER: Final = (Act(Deed.ADD),)
ADDER_THEN_INVALIDATOR: Final = (Act(Deed.ADD), INVALIDATE)
COUNTER: Final = (Act(Deed.COUNT),)
UPDATER: Final = (Act(Deed.UPDATE),)
TOUCHER: Final = (Act(Deed.TOUCH),)

# What names the tag. `get` finds it in the entry; a generation is a tag like any other.
OUTLIVED_READER: Final = (Act(Deed.LOAD, is_outlived=True),)
OUTLIVED_BATCH: Final = (Act(Deed.LOAD_MANY, (0, 1), is_outlived=True),)
NOTHING_READER: Final = (Act(Deed.LOAD, begins_with_none=True),)
NOTHING_BATCH: Final = (Act(Deed.LOAD_MANY, (0, 1), begins_with_none=True),)
TAGGED_READER: Final = (Act(Deed.LOAD, tagged=True),)
SECOND_TAGGED_READER: Final = (Act(Deed.LOAD, (1,), tagged=True),)
GETTER: Final = (Act(Deed.GET),)
TAG_INVALIDATOR: Final = (Act(Deed.INVALIDATE, (), tagged=True),)
SIGNED_COUNTER: Final = (Act(Deed.COUNT, is_signed=True),)
SIGNED_UPDATER: Final = (Act(Deed.UPDATE, is_signed=True),)
SIGNED_TAGGED_UPDATER: Final = (Act(Deed.UPDATE, tagged=True, is_signed=True),)
SIGNED_ADDER: Final = (Act(Deed.ADD, is_signed=True),)
SIGNED_READER: Final = (Act(Deed.LOAD, is_signed=True),)
SIGNED_INVALIDATOR: Final = (Act(Deed.INVALIDATE, is_signed=True),)
SIGNED_TAG_INVALIDATOR: Final = (Act(Deed.INVALIDATE, (), tagged=True, is_signed=True),)
TEXT_UPDATER: Final = (Act(Deed.UPDATE, is_text=True),)
TAGGED_UPDATER: Final = (Act(Deed.UPDATE, tagged=True),)
TAGGED_TOUCHER: Final = (Act(Deed.TOUCH, tagged=True),)
TAGGED_SETTER: Final = (Act(Deed.SET, tagged=True),)
WRITER_THROUGH_WITH_TAG: Final = (Act(Deed.WRITE, tagged=True, strategy=WriteThrough()),)
"""As entities write: the tag is that of the lists."""
MUTATOR_WITH_TAG: Final = (Act(Deed.MUTATE_AND_SET, tagged=True),)

# Another version of the program, which stores the same as another type.
TEXT_READER: Final = (READ_TEXT,)
TWICE_TEXT_READER: Final = (READ_TEXT, READ_TEXT)
TAGGED_TEXT_READER: Final = (Act(Deed.LOAD, tagged=True, is_text=True),)

# A loader that asks the cache for another key.
OUTER: Final = (Act(Deed.LOAD, inner=Act(Deed.LOAD, (1,))),)
SECOND_READER: Final = (Act(Deed.LOAD, (1,)),)
CROSSED: Final = (Act(Deed.LOAD, (1,), inner=READ),)
"""The other way round: each loader needs what the other loads."""

# Two keys at once.
BATCH: Final = (Act(Deed.LOAD_MANY, (0, 1)),)
REVERSED_BATCH: Final = (Act(Deed.LOAD_MANY, (1, 0)),)
TAGGED_BATCH: Final = (Act(Deed.LOAD_MANY, (0, 1), tagged=True),)
TEXT_BATCH: Final = (Act(Deed.LOAD_MANY, (0, 1), is_text=True),)
BATCH_OF_ONE: Final = (Act(Deed.LOAD_MANY),)
TEXT_BATCH_OF_ONE: Final = (Act(Deed.LOAD_MANY, is_text=True),)
INVALIDATOR_OF_BOTH: Final = (Act(Deed.INVALIDATE, (0, 1)),)

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
RESTARTS: Final = {Fault.SAVED: 1, Fault.RESTART: 1, Fault.PROMOTION: 1}
ANYTHING: Final = TIME | LOSSES | DUPLICATES | INTERRUPTIONS | RAISING | CRASHES
"""Any number of any faults, in any order."""

STALE: Final = {"policy": STALE_AT_ONCE, "starts": (Start.NOTHING, Start.STALE)}
"""Stale values are served at once, and there may be one."""
OLD: Final = {"policy": EARLY, "starts": (Start.FRESH,)}
"""There is a fresh value that is soon to expire."""

SIGNED: Final = {"starts": (Start.FRESH,), "is_reduced": False}
"""Renamed ids would not be those that were signed."""

ALL_BUT_LEAK: Final = ALL - {Invariant.LEAK}
"""Where nearly every world is excused for a lease that is left, it is cheaper not to remember the excuse."""


ALL_BUT_LAST: Final = ALL - {Invariant.S6}
"""Where a version may be committed that nobody stores or invalidates, as another has added one."""


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
    # Adding, counting, updating, touching.
    _case(
        "2 add, 1 of them invalidates; time, duplicates, losses",
        1_000,
        *_alone(ADDER, ADDER_THEN_INVALIDATOR),
        faults=TIME | DUPLICATES | LOSSES,
        invariants=ALL_BUT_LAST,
        all_end=True,
    ),
    _case(
        "3 add; duplicates, losses, interruptions",
        1_000,
        *_alone(ADDER, ADDER, ADDER),
        faults=DUPLICATES | LOSSES | {Fault.INTERRUPTION: 1},
        invariants=ALL_BUT_LAST,
        most_owners=1,
    ),
    _case(
        "1 adds, 1 reader, 1 invalidates; time, duplicates",
        1_000,
        *_alone(ADDER, READER, INVALIDATOR),
        faults=TIME | DUPLICATES,
        invariants=ALL_BUT_LAST,
        all_end=True,
    ),
    _case(
        "3 count; duplicates, losses, interruptions, a key that goes",
        1_000,
        *_alone(COUNTER, COUNTER, COUNTER),
        starts=(Start.FRESH,),
        faults=DUPLICATES | LOSSES | {Fault.INTERRUPTION: 1, Fault.GONE: 1},
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "1 updates, 1 expires, 1 invalidates; duplicates, losses",
        500,
        *_alone(UPDATER, EXPIRER, INVALIDATOR),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=DUPLICATES | LOSSES,
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "1 updates and 1 touches an entry with a tag, 1 invalidates it; duplicates",
        300,
        *_alone(TAGGED_UPDATER, TAGGED_TOUCHER, TAG_INVALIDATOR),
        starts=WARM,
        faults=DUPLICATES | any_number(Fault.GONE),
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "1 touches, 1 expires, 1 reader; time, duplicates, losses",
        500,
        *_alone(TOUCHER, EXPIRER, READER),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=TIME | DUPLICATES | LOSSES,
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "1 mutates with a value, 1 expires, 1 reader; time, lost replies",
        2_000,
        *_alone(MUTATOR_WITH_VALUE, EXPIRER, READER),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=TIME | any_number(Fault.REPLY_LOST),
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "1 sets, 1 adds, 1 expires; time, duplicates",
        500,
        *_alone(SETTER, ADDER, EXPIRER),
        policy=STALE_AT_LAST,
        faults=TIME | DUPLICATES,
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "2 count, 1 reads what is soon to expire; duplicates, a key that goes",
        500,
        *_alone(COUNTER, COUNTER, READER),
        **OLD,
        faults=DUPLICATES | {Fault.GONE: 1},
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "1 touches, 1 sets, 1 expires; half leases, duplicates",
        200,
        *_alone(TOUCHER, SETTER, EXPIRER),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=TIME | DUPLICATES,
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "1 updates as another version, 1 reader, 1 invalidates; duplicates, losses",
        500,
        *_alone(TEXT_UPDATER, READER, INVALIDATOR),
        starts=WARM,
        faults=DUPLICATES | LOSSES,
        invariants=ALL_BUT_LAST,
    ),
    # Signed entries.
    _case(
        "2 count signed entries; 1 duplicate, losses, an interruption, a forgery",
        500,
        *_alone(SIGNED_COUNTER, SIGNED_COUNTER),
        **SIGNED,
        faults=LOSSES | {Fault.DUPLICATE: 1, Fault.INTERRUPTION: 1, Fault.FORGERY: 1},
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "1 updates a signed entry, 1 invalidates it, 1 reads; 1 duplicate, a forgery",
        500,
        *_alone(SIGNED_UPDATER, SIGNED_INVALIDATOR, SIGNED_READER),
        **SIGNED,
        faults={Fault.DUPLICATE: 1, Fault.FORGERY: 1},
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "1 updates a signed entry with a tag, 1 invalidates it; 2 duplicates, a key that goes",
        100,
        *_alone(SIGNED_TAGGED_UPDATER, SIGNED_TAG_INVALIDATOR),
        **SIGNED,
        faults={Fault.DUPLICATE: 2, Fault.GONE: 1},
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "2 add a signed entry; 1 duplicate, a forgery",
        100,
        *_alone(SIGNED_ADDER, SIGNED_ADDER),
        **(SIGNED | {"starts": (Start.NOTHING,)}),
        faults={Fault.DUPLICATE: 1, Fault.FORGERY: 1},
        invariants=ALL_BUT_LAST,
    ),
    # Loaders that ask for other keys: none waits for itself.
    _case("2 loaders that need each other, in 1 process", 250, (OUTER, CROSSED), all_end=True),
    _case("2 loaders that need each other, and a reader", 2_000, (OUTER, CROSSED, READER), all_end=True),
    _case(
        "1 loader that needs what another process loads, which may lapse",
        500,
        *_alone(OUTER, SECOND_READER),
        faults=TIME,
        all_end=True,
    ),
    # Invalidation.
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
        "2 readers and 1 who invalidates in 1 process, whose invalidation may stay pending",
        1_000,
        (READER, READER, INVALIDATOR),
        faults={Fault.REQUEST_LOST: 2},
    ),
    _case(
        "2 who invalidate in 1 process, whose invalidations may stay pending, 1 reader",
        1_000,
        (INVALIDATOR, INVALIDATOR),
        (READER,),
        faults=LOSSES,
        all_end=True,
    ),
    # The breaker stays open until the store has answered a probe.
    _case(
        "2 readers in 1 process, 1 invalidates; the breaker opens",
        1_000,
        (READER, READER),
        (INVALIDATOR,),
        probes=True,
        faults=any_number(Fault.EXPIRY) | {Fault.REQUEST_LOST: 3},
        all_end=True,
    ),
    _case(
        "1 reads twice and 1 invalidates in 1 process, 1 reads in another; the breaker opens",
        1_000,
        (TWICE_READER, INVALIDATOR),
        (READER,),
        probes=True,
        faults=any_number(Fault.EXPIRY) | {Fault.REQUEST_LOST: 2},
        all_end=True,
    ),
    # Writes in an outage do not wait: their keys are pending when they return, and told in the background.
    _case(
        "1 reads twice and 1 sets in 1 process, 1 reads in another; the breaker opens",
        1_000,
        (TWICE_READER, SETTER),
        (READER,),
        probes=True,
        faults={Fault.REQUEST_LOST: 2},
        all_end=True,
    ),
    _case(
        "1 reads and 1 mutates with a value in 1 process, 1 reads in another; the breaker opens",
        1_000,
        (READER, MUTATOR_WITH_VALUE),
        (READER,),
        probes=True,
        faults={Fault.REQUEST_LOST: 3},
        all_end=True,
    ),
    _case(
        "1 reads and 1 mutates with a tag in 1 process; the breaker opens, late duplicates",
        500,
        (TAGGED_READER, MUTATOR_WITH_TAG),
        starts=WARM,
        probes=True,
        faults={Fault.REQUEST_LOST: 2, Fault.DUPLICATE: 1},
        all_end=True,
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
    # Writes of an entity, as its strategy says.
    _case(
        "1 reads twice, 1 writes through; time, losses, interruptions",
        10_000,
        *_alone(TWICE_READER, WRITER_THROUGH),
        starts=WARM,
        faults=TIME | LOSSES | INTERRUPTIONS,
    ),
    _case(
        "1 reads twice, 1 writes aside; time, losses, interruptions",
        7_500,
        *_alone(TWICE_READER, WRITER_ASIDE),
        starts=WARM,
        faults=TIME | LOSSES | INTERRUPTIONS,
    ),
    _case(
        "1 reads and 1 writes through in 1 process, 1 writes aside in another; time",
        4_900,
        (READER, WRITER_THROUGH),
        (WRITER_ASIDE,),
        faults=TIME,
        all_end=True,
    ),
    _case(
        "1 reads a list, 1 writes through one of its things; time, crashes",
        500,
        *_alone(SECOND_TAGGED_READER, WRITER_THROUGH_WITH_TAG),
        starts=WARM,
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
    # What has nothing left to live is not stored, and what it would have replaced goes.
    _case(
        "1 reader of what has no life left, 1 of another, 1 invalidates; time, losses",
        12_000,
        *_alone(OUTLIVED_READER, READER, INVALIDATOR),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=any_number(Fault.EXPIRY) | {Fault.REQUEST_LOST: 1, Fault.INTERRUPTION: 1},
        all_end=True,
    ),
    _case(
        "2 readers of what has no life left in 1 process, served stale at once, 1 mutates; time, losses",
        15_000,
        (OUTLIVED_READER, OUTLIVED_READER),
        (MUTATOR_WITH_VALUE,),
        **STALE,
        faults=any_number(Fault.EXPIRY) | {Fault.REQUEST_LOST: 1},
        all_end=True,
    ),
    _case(
        "1 batch of what has no life left, 1 reader, 1 invalidates; time, losses",
        6_000,
        *_alone(OUTLIVED_BATCH, READER, INVALIDATOR),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=any_number(Fault.EXPIRY) | {Fault.REQUEST_LOST: 1},
        all_end=True,
    ),
    # That there is nothing is an answer, which is kept, and gone when something is written.
    _case(
        "2 processes of 2 readers each of what there is not",
        200,
        (NOTHING_READER, NOTHING_READER),
        (NOTHING_READER, NOTHING_READER),
        loads=1,
        all_end=True,
    ),
    _case(
        "2 readers of what there is not, 1 sets it; time, losses",
        1_500,
        *_alone(NOTHING_READER, NOTHING_READER, SETTER),
        faults=any_number(Fault.EXPIRY) | {Fault.REQUEST_LOST: 1, Fault.INTERRUPTION: 1},
        all_end=True,
    ),
    _case(
        "2 readers of what there is not, 1 mutates; time, losses",
        1_500,
        *_alone(NOTHING_READER, NOTHING_READER, MUTATOR_WITH_VALUE),
        faults=any_number(Fault.EXPIRY) | {Fault.REQUEST_LOST: 1},
        all_end=True,
    ),
    _case(
        "1 batch of what there is not, 1 reader of it, 1 invalidates; time, losses",
        2_000,
        *_alone(NOTHING_BATCH, NOTHING_READER, INVALIDATOR),
        faults=any_number(Fault.EXPIRY) | {Fault.REQUEST_LOST: 1},
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
    # Tags.
    _case(
        "1 reader with a tag, 1 invalidates it; anything",
        3_000,
        *_alone(TAGGED_READER, TAG_INVALIDATOR),
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers with a tag, 1 invalidates it; time",
        700,
        *_alone(TAGGED_READER, TAGGED_READER, TAG_INVALIDATOR),
        faults=TIME,
        all_end=True,
    ),
    _case(
        "2 readers with a tag in 1 process, 1 invalidates it; time",
        4_000,
        (TAGGED_READER, TAGGED_READER),
        (TAG_INVALIDATOR,),
        faults=TIME | RAISING | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers in 1 process, 1 of them with a tag, 1 invalidates it",
        900,
        (TAGGED_READER, READER),
        (TAG_INVALIDATOR,),
        all_end=True,
    ),
    _case(
        "1 reader with a tag, 1 gets, 1 invalidates the tag; time, duplicates",
        2_000,
        *_alone(TAGGED_READER, GETTER, TAG_INVALIDATOR),
        starts=WARM,
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "1 reader with a tag, 1 without, 1 invalidates it; time",
        1_500,
        *_alone(TAGGED_READER, READER, TAG_INVALIDATOR),
        starts=WARM,
        faults=TIME,
        all_end=True,
    ),
    _case(
        "1 reader with a tag, 1 gets and 1 invalidates it in 1 process, whose invalidation may stay pending",
        1_500,
        (TAGGED_READER, GETTER, TAG_INVALIDATOR),
        starts=WARM,
        faults={Fault.REQUEST_LOST: 2},
        all_end=True,
    ),
    _case(
        "1 reader with a tag, 1 sets with it, 1 invalidates it; time, duplicates",
        4_000,
        *_alone(TAGGED_READER, TAGGED_SETTER, TAG_INVALIDATOR),
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "1 reader with a tag, 1 mutates with it, 1 invalidates it; time",
        1_500,
        *_alone(TAGGED_READER, MUTATOR_WITH_TAG, TAG_INVALIDATOR),
        starts=WARM,
        faults=TIME,
        all_end=True,
    ),
    _case(
        "1 reader with a tag, 1 mutates another key with it; time, losses",
        7_000,
        *_alone(SECOND_TAGGED_READER, MUTATOR_WITH_TAG),
        starts=WARM,
        faults=TIME | LOSSES,
        all_end=True,
    ),
    # Refreshes in the background: one load for all, where nothing goes wrong (L2).
    _case("2 readers of a stale value", 30, *_alone(READER, READER), **STALE, loads=1, all_end=True),
    _case("2 readers of a stale value in 1 process", 40, (READER, READER), **STALE, loads=1, all_end=True),
    _case(
        "2 readers of a stale value in 1 process, 1 in another",
        250,
        (READER, READER),
        (READER,),
        **STALE,
        loads=1,
        all_end=True,
    ),
    _case(
        "2 readers of a value that is soon to expire",
        30,
        *_alone(READER, READER),
        **OLD,
        loads=1,
        all_end=True,
    ),
    _case(
        "2 readers of a value that expires meanwhile",
        100,
        *_alone(READER, READER),
        policy=EARLY,
        starts=(Start.ENDING,),
        faults={Fault.AGE: 1},
        loads=1,
        all_end=True,
    ),
    _case(
        "2 readers of a stale value, refreshed by whoever may crash; loaders raise",
        150,
        *_alone(READER, READER),
        **STALE,
        faults=CRASHES | RAISING | any_number(Fault.EXPIRY),
        all_end=True,
    ),
    _case(
        "2 readers, served stale at once, 1 invalidates; time",
        2_000,
        *_alone(READER, READER, INVALIDATOR),
        **STALE,
        faults=TIME | RAISING,
        all_end=True,
    ),
    _case(
        "1 reader, served stale at once, 1 invalidates; anything",
        6_500,
        *_alone(READER, INVALIDATOR),
        **STALE,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers in 1 process, served stale at once, 1 invalidates; time",
        5_000,
        (READER, READER),
        (INVALIDATOR,),
        **STALE,
        faults=TIME | RAISING | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "1 reader who reads twice, served stale at once, 1 invalidates; time",
        2_000,
        *_alone(TWICE_READER, INVALIDATOR),
        **STALE,
        faults=TIME | RAISING,
        all_end=True,
    ),
    _case(
        "1 reader, served stale at once, 1 mutates with a value; time, losses",
        4_000,
        *_alone(READER, MUTATOR_WITH_VALUE),
        **STALE,
        faults=TIME | LOSSES,
        all_end=True,
    ),
    _case(
        "2 readers with a tag, served stale at once, 1 invalidates it; time",
        20_000,
        *_alone(TAGGED_READER, TAGGED_READER, TAG_INVALIDATOR),
        **STALE,
        faults=TIME,
        all_end=True,
    ),
    _case(
        "2 readers of what is always soon to expire, 1 invalidates; time, duplicates",
        6_000,
        *_alone(READER, READER, INVALIDATOR),
        policy=ALWAYS_EARLY,
        load_s=1.0,
        starts=WARM,
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "1 reader of what is soon to expire, 1 invalidates; renewals, half leases, duplicates",
        300,
        *_alone(READER, INVALIDATOR),
        policy=EARLY,
        starts=(Start.FRESH, Start.ENDING),
        renewals=True,
        faults=any_number(Fault.AGE) | DUPLICATES,
        all_end=True,
    ),
    # Soft expiry.
    _case(
        "2 readers, served stale at once, 1 expires; time, duplicates",
        12_000,
        *_alone(READER, READER, EXPIRER),
        **STALE,
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "2 readers of what is never served stale, 1 expires; time, duplicates",
        1_000,
        *_alone(READER, READER, EXPIRER),
        starts=WARM,
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "2 readers, served stale at last, 1 expires; time",
        1_000,
        *_alone(READER, READER, EXPIRER),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=TIME | RAISING | IMPATIENCE,
        all_end=True,
    ),
    _case(
        "2 readers and 1 who expires in 1 process, whose invalidation may stay pending",
        1_000,
        (READER, READER, EXPIRER),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults={Fault.REQUEST_LOST: 2},
    ),
    # Batches: each key is loaded once where nothing goes wrong, and nobody waits for ever.
    _case("2 batches in opposite order", 20, *_alone(BATCH, REVERSED_BATCH), loads=2, all_end=True),
    _case("3 batches", 80, *_alone(BATCH, REVERSED_BATCH, BATCH), loads=2, all_end=True),
    _case("2 batches in 1 process", 30, (BATCH, REVERSED_BATCH), loads=2, all_end=True),
    _case("2 batches, a key at a time", 80, *_alone(BATCH, REVERSED_BATCH), chunk=1, loads=2, all_end=True),
    _case("2 batches, 1 reader", 200, *_alone(BATCH, REVERSED_BATCH, READER), loads=2, all_end=True),
    _case(
        "2 batches, 1 invalidates both keys; time",
        5_000,
        *_alone(BATCH, REVERSED_BATCH, INVALIDATOR_OF_BOTH),
        faults=TIME,
        all_end=True,
    ),
    _case(
        "2 batches, a key at a time, 1 invalidates a key",
        500,
        *_alone(BATCH, REVERSED_BATCH, INVALIDATOR),
        chunk=1,
        all_end=True,
    ),
    _case(
        "1 batch, 1 invalidates both keys; renewals, anything",
        13_000,
        *_alone(BATCH, INVALIDATOR_OF_BOTH),
        renewals=True,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 batch, 1 invalidates both keys; interruptions, losses",
        400,
        *_alone(BATCH, INVALIDATOR_OF_BOTH),
        faults=INTERRUPTIONS | LOSSES | RAISING,
        all_end=True,
    ),
    _case(
        "1 batch, 1 reader, 1 invalidates a key; time",
        1_000,
        *_alone(BATCH, READER, INVALIDATOR),
        faults=TIME,
        all_end=True,
    ),
    _case(
        "1 batch with a tag, 1 invalidates it; time, duplicates",
        4_000,
        *_alone(TAGGED_BATCH, TAG_INVALIDATOR),
        starts=WARM,
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "1 batch with a tag, 1 invalidates it in the same process, whose invalidation may stay pending",
        300,
        (TAGGED_BATCH, TAG_INVALIDATOR),
        starts=WARM,
        faults={Fault.REQUEST_LOST: 3},
        all_end=True,
    ),
    _case(
        "1 batch, 1 mutates with a value; time, losses",
        3_000,
        *_alone(BATCH, MUTATOR_WITH_VALUE),
        faults=TIME | LOSSES,
        all_end=True,
    ),
    _case(
        "1 batch, 1 reader, served stale at once, 1 invalidates; time",
        1_500,
        *_alone(BATCH_OF_ONE, READER, INVALIDATOR),
        **STALE,
        faults=TIME | RAISING,
        all_end=True,
    ),
    _case(
        "2 batches, served stale at last, 1 expires; time",
        1_000,
        *_alone(BATCH_OF_ONE, BATCH_OF_ONE, EXPIRER),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=TIME | RAISING | IMPATIENCE,
        all_end=True,
    ),
    # Two versions of a program: one load for each and every change, and neither replaces the other's.
    _case(
        "2 readers of 1 version, 2 of another",
        400,
        *_alone(READER, READER, TEXT_READER, TEXT_READER),
        loads=2,
        all_end=True,
    ),
    _case("1 batch of each version", 30, *_alone(BATCH, TEXT_BATCH), loads=4, all_end=True),
    _case(
        "1 batch of each version, a key at a time",
        200,
        *_alone(BATCH, TEXT_BATCH),
        chunk=1,
        loads=4,
        all_end=True,
    ),
    _case(
        "1 batch of 1 version, 1 of another reads twice, 1 invalidates; time",
        2_000,
        *_alone(TEXT_BATCH_OF_ONE, TWICE_READER, INVALIDATOR),
        faults=TIME,
        all_end=True,
    ),
    _case(
        "2 versions that read twice, 1 invalidates",
        1_000,
        *_alone(TWICE_READER, TWICE_TEXT_READER, INVALIDATOR),
        starts=WARM,
        most_loads=4,
        all_end=True,
    ),
    _case(
        "2 versions, 1 of them reads twice, 1 invalidates; time",
        2_000,
        *_alone(TWICE_READER, TEXT_READER, INVALIDATOR),
        faults=TIME,
        all_end=True,
    ),
    _case(
        "2 versions in 1 process, 1 invalidates",
        1_000,
        (READER, TEXT_READER),
        (INVALIDATOR,),
        starts=WARM,
        all_end=True,
    ),
    _case(
        "2 versions, 1 sets; time, duplicates",
        8_000,
        *_alone(READER, TEXT_READER, SETTER),
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "2 versions, served stale at once, 1 expires; time",
        2_000,
        *_alone(READER, TEXT_READER, EXPIRER),
        **STALE,
        faults=TIME,
        all_end=True,
    ),
    # A server that compares, and does without the script of a fill: that is one more request, which may be
    # lost, or arrive once more or late, as any other.
    _case(
        "2 readers, 1 invalidates; compares, time, duplicates",
        1_000,
        *_alone(READER, READER, INVALIDATOR),
        compares=True,
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "1 reader, 1 invalidates; compares, renewals, anything",
        2_000,
        *_alone(READER, INVALIDATOR),
        compares=True,
        renewals=True,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers in 1 process, 1 invalidates; compares, time",
        2_000,
        (READER, READER),
        (INVALIDATOR,),
        compares=True,
        faults=TIME | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "1 reader, 1 sets, then invalidates; compares, anything",
        10_000,
        *_alone(READER, SETTER_THEN_INVALIDATOR),
        compares=True,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 reader, 1 mutates with a value; compares, renewals, anything",
        10_000,
        *_alone(READER, MUTATOR_WITH_VALUE),
        compares=True,
        renewals=True,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 reader, 2 mutate with values; compares, time, losses",
        30_000,
        *_alone(READER, MUTATOR_WITH_VALUE, MUTATOR_WITH_VALUE),
        compares=True,
        faults=TIME | LOSSES,
    ),
    _case(
        "1 reader, served stale at once, 1 invalidates; compares, anything",
        7_000,
        *_alone(READER, INVALIDATOR),
        compares=True,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
        **STALE,
    ),
    _case(
        "1 batch, 1 invalidates both keys; compares, renewals, anything",
        20_000,
        *_alone(BATCH, INVALIDATOR_OF_BOTH),
        compares=True,
        renewals=True,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    # A restart brings back what a snapshot has; a replica takes over that is up to date.
    _case(
        "2 readers in 1 process, 1 invalidates; a restart with a snapshot",
        3_000,
        (READER, READER),
        (INVALIDATOR,),
        starts=WARM,
        faults=RESTARTS,
        all_end=True,
    ),
    _case(
        "1 reader with a tag, 1 gets, 1 invalidates the tag; a restart with a snapshot, duplicates",
        1_000,
        *_alone(TAGGED_READER, GETTER, TAG_INVALIDATOR),
        starts=WARM,
        faults=RESTARTS | {Fault.DUPLICATE: 1},
    ),
    _case(
        "1 reader, 1 mutates with a value, 1 sets; a restart with a snapshot",
        1_000,
        *_alone(READER, MUTATOR_WITH_VALUE, SETTER),
        starts=WARM,
        faults=RESTARTS,
    ),
    _case(
        "1 updates, 1 adds, 1 invalidates; a restart with a snapshot",
        300,
        *_alone(UPDATER, ADDER, INVALIDATOR),
        starts=WARM,
        faults=RESTARTS,
        invariants=ALL_BUT_LAST,
    ),
)

NIGHTLY: Final = (
    _case(
        "1 mutates with a value, 1 expires, 1 reader; time, duplicates, losses",
        80_000,
        *_alone(MUTATOR_WITH_VALUE, EXPIRER, READER),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=TIME | DUPLICATES | LOSSES,
        invariants=ALL_BUT_LAST,
    ),
    _case(
        "2 loaders that need each other, 1 invalidates; time",
        15_000,
        (OUTER, CROSSED),
        (INVALIDATOR,),
        faults=TIME,
        all_end=True,
    ),
    _case(
        "2 readers, 1 invalidates; anything",
        40_000,
        *_alone(READER, READER, INVALIDATOR),
        faults=ANYTHING | IMPATIENCE,
        invariants=ALL_BUT_LEAK,
    ),
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
    # Tags.
    _case(
        "1 reader with a tag, 1 gets, 1 invalidates the tag; anything",
        75_000,
        *_alone(TAGGED_READER, GETTER, TAG_INVALIDATOR),
        starts=WARM,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers with a tag, 1 invalidates it, 1 the key; time, duplicates",
        60_000,
        *_alone(TAGGED_READER, TAGGED_READER, TAG_INVALIDATOR, INVALIDATOR),
        starts=WARM,
        faults=TIME | DUPLICATES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers with a tag in 1 process, 1 invalidates it; anything but losses",
        40_000,
        (TAGGED_READER, TAGGED_READER),
        (TAG_INVALIDATOR,),
        faults=TIME | {Fault.DUPLICATE: 1} | INTERRUPTIONS | RAISING | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers in 1 process, 1 of them with a tag, 1 invalidates it; time",
        15_000,
        (TAGGED_READER, READER),
        (TAG_INVALIDATOR,),
        faults=TIME,
        all_end=True,
    ),
    _case(
        "1 reader with a tag, 1 without, 1 invalidates it; time, duplicates",
        20_000,
        *_alone(TAGGED_READER, READER, TAG_INVALIDATOR),
        starts=WARM,
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "1 reader with a tag, 1 sets with it, 1 invalidates it; time, losses",
        5_000,
        *_alone(TAGGED_READER, TAGGED_SETTER, TAG_INVALIDATOR),
        faults=TIME | LOSSES,
        all_end=True,
    ),
    _case(
        "1 reader with a tag, 1 mutates with it, 1 invalidates it; time, duplicates",
        12_000,
        *_alone(TAGGED_READER, MUTATOR_WITH_TAG, TAG_INVALIDATOR),
        starts=WARM,
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    # Refreshes and soft expiry.
    _case(
        "2 readers, served stale at once, 1 invalidates; renewals, time, duplicates",
        20_000,
        *_alone(READER, READER, INVALIDATOR),
        **STALE,
        renewals=True,
        faults=TIME | DUPLICATES,
        all_end=True,
    ),
    _case(
        "1 reader who reads twice, served stale at once, 1 invalidates; time, losses",
        40_000,
        *_alone(TWICE_READER, INVALIDATOR),
        **STALE,
        faults=TIME | RAISING | LOSSES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 reader, served stale at once, 1 mutates with a value; anything",
        40_000,
        *_alone(READER, MUTATOR_WITH_VALUE),
        **STALE,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers with a tag, served stale at once, 1 invalidates it; time, duplicates",
        150_000,
        *_alone(TAGGED_READER, TAGGED_READER, TAG_INVALIDATOR),
        **STALE,
        faults=TIME | DUPLICATES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers of what is always soon to expire in 1 process, 1 reads twice, 1 invalidates; time",
        40_000,
        (READER, TWICE_READER),
        (INVALIDATOR,),
        policy=ALWAYS_EARLY,
        load_s=1.0,
        starts=WARM,
        faults=TIME,
        all_end=True,
    ),
    _case(
        "2 readers of what is soon to expire, 1 invalidates; renewals, half leases, duplicates",
        12_000,
        *_alone(READER, READER, INVALIDATOR),
        policy=EARLY,
        starts=(Start.ENDING,),
        renewals=True,
        faults=any_number(Fault.AGE) | DUPLICATES,
        all_end=True,
    ),
    _case(
        "2 readers of what is never served stale, 1 expires; anything",
        100_000,
        *_alone(READER, READER, EXPIRER),
        starts=WARM,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers, served stale at once, 1 expires, 1 invalidates; time, duplicates",
        50_000,
        *_alone(READER, READER, EXPIRER, INVALIDATOR),
        policy=STALE_AT_ONCE,
        starts=WARM,
        faults=TIME | DUPLICATES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers and 1 who expires in 1 process, served stale at once; time, 2 requests lost",
        25_000,
        (READER, READER, EXPIRER),
        policy=STALE_AT_ONCE,
        starts=WARM,
        faults=TIME | {Fault.REQUEST_LOST: 2},
        invariants=ALL_BUT_LEAK,
    ),
    # Batches.
    _case(
        "2 batches, 1 invalidates both keys; time, duplicates",
        50_000,
        *_alone(BATCH, REVERSED_BATCH, INVALIDATOR_OF_BOTH),
        faults=TIME | DUPLICATES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 batches, a key at a time, 1 invalidates both keys; time",
        20_000,
        *_alone(BATCH, REVERSED_BATCH, INVALIDATOR_OF_BOTH),
        chunk=1,
        faults=TIME,
        all_end=True,
    ),
    _case(
        "1 batch, 1 reader, 1 invalidates a key; time, losses",
        30_000,
        *_alone(BATCH, READER, INVALIDATOR),
        faults=TIME | LOSSES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 batch with a tag, 1 invalidates it; anything",
        20_000,
        *_alone(TAGGED_BATCH, TAG_INVALIDATOR),
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    # Two versions of a program.
    _case(
        "2 versions, 1 invalidates; time, losses",
        12_000,
        *_alone(READER, TEXT_READER, INVALIDATOR),
        starts=WARM,
        faults=TIME | LOSSES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 versions, 1 of them reads twice, 1 invalidates; time, duplicates",
        10_000,
        *_alone(TWICE_READER, TEXT_READER, INVALIDATOR),
        faults=TIME | DUPLICATES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers of 1 version in 1 process, 1 of another, 1 invalidates; time",
        100_000,
        (TEXT_READER, TEXT_READER),
        *_alone(READER, INVALIDATOR),
        starts=WARM,
        faults=TIME,
        all_end=True,
    ),
    _case(
        "2 versions in 1 process, 1 invalidates; time",
        15_000,
        (READER, TEXT_READER),
        (INVALIDATOR,),
        starts=WARM,
        faults=TIME | RAISING,
        all_end=True,
    ),
    _case(
        "2 versions, 1 mutates with a value; time, duplicates",
        15_000,
        *_alone(READER, TEXT_READER, MUTATOR_WITH_VALUE),
        starts=WARM,
        faults=TIME | DUPLICATES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 versions with a tag, 1 invalidates it; time, duplicates",
        35_000,
        *_alone(TAGGED_READER, TAGGED_TEXT_READER, TAG_INVALIDATOR),
        starts=WARM,
        faults=TIME | DUPLICATES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 versions, served stale at once, 1 expires; time, duplicates",
        13_000,
        *_alone(READER, TEXT_READER, EXPIRER),
        **STALE,
        faults=TIME | DUPLICATES,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 batch of each version, 1 invalidates a key; evictions",
        15_000,
        *_alone(BATCH, TEXT_BATCH, INVALIDATOR),
        starts=WARM,
        faults=any_number(Fault.GONE),
        all_end=True,
    ),
    _case(
        "1 batch and 1 reader of 1 version, 1 of another, 1 invalidates; time",
        15_000,
        *_alone(TEXT_BATCH_OF_ONE, TEXT_READER, READER, INVALIDATOR),
        faults=TIME,
        all_end=True,
    ),
    _case(
        "2 versions, 1 of them reads twice, served stale at once, 1 invalidates; time",
        10_000,
        *_alone(READER, TWICE_TEXT_READER, INVALIDATOR),
        **STALE,
        faults=TIME,
        all_end=True,
    ),
    _case(
        "1 reader with a tag, 1 without, served stale at once, 1 invalidates it; time",
        15_000,
        *_alone(TAGGED_READER, READER, TAG_INVALIDATOR),
        **STALE,
        faults=TIME,
        all_end=True,
    ),
    _case(
        "1 batch, 1 reader and 1 who invalidates in 1 process, whose invalidation may stay pending",
        6_000,
        (BATCH, READER, INVALIDATOR),
        starts=WARM,
        faults={Fault.REQUEST_LOST: 2},
    ),
    # A server that compares.
    _case(
        "2 readers in 1 process, 1 invalidates; compares, time, losses",
        20_000,
        (READER, READER),
        (INVALIDATOR,),
        compares=True,
        faults=TIME | LOSSES | RAISING | SHARING_TIMEOUTS,
        all_end=True,
    ),
    _case(
        "2 readers, 1 invalidates; compares, anything",
        100,
        *_alone(READER, READER, INVALIDATOR),
        compares=True,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 readers, 1 sets; compares, anything",
        100,
        *_alone(READER, READER, SETTER),
        compares=True,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "1 reader, 2 mutate with values; compares, anything",
        100,
        *_alone(READER, MUTATOR_WITH_VALUE, MUTATOR_WITH_VALUE),
        compares=True,
        faults=ANYTHING,
        invariants=ALL_BUT_LEAK,
    ),
    _case(
        "2 batches, 1 invalidates both keys; compares, time, duplicates",
        100,
        *_alone(BATCH, BATCH, INVALIDATOR_OF_BOTH),
        compares=True,
        faults=TIME | DUPLICATES,
    ),
    _case(
        "2 readers in 1 process, 1 reader, 1 invalidates; two restarts with snapshots, time",
        10_000,
        (READER, READER),
        (READER,),
        (INVALIDATOR,),
        starts=WARM,
        faults=TIME | {Fault.SAVED: 2, Fault.RESTART: 2, Fault.PROMOTION: 1},
    ),
)

LIMITS: Final = (
    # Two racing `set`s: the last set wins, not the last commit. `mutate` is the answer, as the docs say.
    Configuration(
        name="2 set", processes=_alone(SETTER, SETTER), sets_race=True, invariants=frozenset({Invariant.S6})
    ),
    # The tag is invalidated between a set's call and its hold: the value is older, its tag's version is not.
    Configuration(
        name="1 sets with a tag, 1 invalidates it",
        processes=_alone(TAGGED_SETTER, TAG_INVALIDATOR),
        sets_race=True,
        invariants=frozenset({Invariant.S7_CELL}),
    ),
)
"""Where the promise ends, as documented: the explorer finds these too."""
