"""Variants: the protocol with one known mistake in it. The explorer must find each of them.

A check that has never failed may be a check that cannot fail. So every mistake that RELIABILITY.md and its
sources know of, and some more, are made on purpose in `mistakes.py`, and the explorer has to come back with
a counterexample of the invariant that the mistake breaks. Every invariant has at least one variant.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from exploring.configuration import (
    STALE_AT_LAST,
    UNLIMITED,
    WARM,
    Configuration,
    Fault,
)
from exploring.configurations import INVALIDATOR, MUTATOR_WITH_VALUE, READER, SETTER_THEN_INVALIDATOR
from exploring.invariants import S1, Invariant
from exploring.mistakes import (
    CarelessFill,
    CarelessRelease,
    CarelessRenewal,
    CredulousFlights,
    EternalLease,
    FlightsThatShareHits,
    ForgetfulFill,
    GenerousAcquire,
    GrantOfClient,
    GrantOfProcess,
    LockBeside,
    LockBesideAndPlainFill,
    PlainFill,
    SetsAnything,
    WipingRelease,
    end_without_removal,
    join_first,
    load_caching_failures,
    load_forgetfully,
    load_hastily,
    load_trusting,
    lone_set,
)


@attrs.frozen
class Variant:
    """A wrong protocol, and the invariant that it is known to break."""

    configuration: Configuration
    breaks: Invariant


def _variant(name: str, breaks: Invariant, *processes: Any, judged: Any = None, **parts: Any) -> Variant:
    invariants = frozenset({breaks}) if judged is None else judged
    return Variant(
        Configuration(name=name, processes=processes, invariants=invariants, is_reduced=False, **parts),
        breaks,
    )


VARIANTS: Final = (
    _variant(
        "1 a fill is a plain SET",
        Invariant.S1_CELL,
        (READER,),
        (INVALIDATOR,),
        judged=S1,
        store=PlainFill,
    ),
    _variant(
        "2 a SET NX lock and a plain SET",
        Invariant.S1_CELL,
        (READER,),
        (INVALIDATOR,),
        judged=S1,
        store=LockBesideAndPlainFill,
    ),
    _variant(
        "3 a lock that invalidation does not touch",
        Invariant.S1_CELL,
        (READER,),
        (INVALIDATOR,),
        judged=S1,
        store=LockBeside,
    ),
    _variant(
        "4 one grant id a process",
        Invariant.S1_CELL,
        (READER,),
        (READER,),
        (INVALIDATOR,),
        judged=S1,
        store=GrantOfProcess,
    ),
    _variant(
        "4 one grant id a process, by its ids",
        Invariant.S3,
        (READER,),
        (READER,),
        (INVALIDATOR,),
        store=GrantOfProcess,
    ),
    _variant(
        "5 a client token, reused on retry",
        Invariant.S1_CELL,
        (READER,),
        (INVALIDATOR,),
        judged=S1,
        store=GrantOfClient,
        faults={Fault.DUPLICATE: 1},
    ),
    _variant(
        "5 a client token, reused on retry, by its ids",
        Invariant.S3,
        (READER,),
        (INVALIDATOR,),
        store=GrantOfClient,
        faults={Fault.DUPLICATE: 1},
    ),
    _variant(
        "6 a release without owner check",
        Invariant.S5,
        (READER,),
        (READER,),
        store=CarelessRelease,
        faults={Fault.RAISING: 1, Fault.EXPIRY: 1},
    ),
    _variant(
        "7 a fill without owner check",
        Invariant.S1_CELL,
        (READER,),
        (READER,),
        (INVALIDATOR,),
        judged=S1,
        store=CarelessFill,
    ),
    _variant(
        "7 a fill without owner check, by its grant",
        Invariant.S2,
        (READER,),
        (READER,),
        store=CarelessFill,
        faults={Fault.EXPIRY: 1},
    ),
    _variant(
        "8 a renewal without owner check",
        Invariant.S5,
        (READER,),
        (READER,),
        store=CarelessRenewal,
        renewals=True,
        faults={Fault.EXPIRY: 1, Fault.LAPSE: 1},
    ),
    _variant(
        "9 a mutation that takes a refused fill as done",
        Invariant.S1_CELL,
        (READER,),
        (MUTATOR_WITH_VALUE,),
        judged=S1,
        end_mutation=end_without_removal,
        faults={Fault.EXPIRY: 1},
    ),
    _variant(
        "9 the same, between two writers",
        Invariant.S6,
        (MUTATOR_WITH_VALUE,),
        (MUTATOR_WITH_VALUE,),
        (READER,),
        end_mutation=end_without_removal,
    ),
    _variant(
        "10 a set that is a lone SET",
        Invariant.S1_CELL,
        (SETTER_THEN_INVALIDATOR,),
        judged=S1,
        store=SetsAnything,
        store_values=lone_set,
        faults={Fault.DUPLICATE: 1},
    ),
    _variant(
        "11 a follower that takes an unaccepted value",
        Invariant.S1_READ,
        (READER, READER),
        (INVALIDATOR,),
        judged=S1,
        flights=CredulousFlights,
    ),
    _variant(
        "12 a follower that joins a read in flight",
        Invariant.S1_READ,
        (READER, READER),
        (INVALIDATOR,),
        judged=S1,
        flights=FlightsThatShareHits,
        load=join_first,
        starts=WARM,
    ),
    _variant(
        "13 an interrupted acquire that is not released",
        Invariant.LEAK,
        (READER,),
        load=load_forgetfully,
        faults={Fault.INTERRUPTION: 1},
    ),
    _variant(
        "14 a load begun before the grant's reply",
        Invariant.S1_CELL,
        (READER,),
        (INVALIDATOR,),
        judged=S1,
        load=load_hastily,
    ),
    _variant(
        "14 a load begun before the grant's reply, by its grant",
        Invariant.S4,
        (READER,),
        load=load_hastily,
    ),
    _variant(
        "15 a fill that can be repeated",
        Invariant.S2,
        (READER,),
        store=ForgetfulFill,
        faults={Fault.REPLY_LOST: 1},
    ),
    _variant(
        "16 an acquire that takes the lease from its holder",
        Invariant.LOADS,
        (READER,),
        (READER,),
        store=GenerousAcquire,
        loads=1,
    ),
    _variant(
        "17 a lease that never expires",
        Invariant.ALL_END,
        (READER,),
        (READER,),
        store=EternalLease,
        all_end=True,
        faults={Fault.CRASH: 1, Fault.EXPIRY: UNLIMITED},
    ),
    _variant(
        "18 a loader's failure that is stored",
        Invariant.S13,
        (READER,),
        load=load_caching_failures,
        faults={Fault.RAISING: 1},
    ),
    _variant(
        "19 a release that removes the old value",
        Invariant.S13,
        (READER,),
        store=WipingRelease,
        policy=STALE_AT_LAST,
        starts=WARM,
        faults={Fault.RAISING: 1, Fault.EXPIRY: 1},
    ),
    _variant(
        "20 a process that trusts the store with what it remembers",
        Invariant.S1_REMEMBERED,
        (READER, INVALIDATOR),
        starts=WARM,
        load=load_trusting,
        faults={Fault.REQUEST_LOST: 2},
    ),
)
