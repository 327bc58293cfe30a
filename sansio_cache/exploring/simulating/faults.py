"""What goes wrong in a simulation, how often, and how often it did."""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs

from sansio_cache.exploring.refusing import check_amount


class SimulatedFault(Enum):
    """What may go wrong, with its number in the list of faults where it has one."""

    REQUEST_LOST = "1 request lost"
    REPLY_LOST = "2 reply lost"
    DUPLICATE = "3 delayed duplicate of a request"
    FROZEN = "4 frozen server"
    REFUSED = "5 connections refused"
    RESTART_EMPTY = "6 restart without data"
    RESTART_KEPT = "6 restart with all data"
    SCRIPTS_LOST = "7 scripts forgotten"
    LEASE_LAPSED = "8 lease over before the load"
    HUNG = "9 loader hangs"
    CRASH = "10 process dies"
    PAUSE = "11 process stands still"
    EVICTION = "12 keys evicted"
    OUT_OF_MEMORY = "13 out of memory"
    WRITES_REFUSED = "14 writes refused"
    UNAVAILABLE = "15 server is loading or busy"
    READ_ONLY = "16 read only after a failover"
    FAILOVER = "18, 19 failover to an older copy"
    SERVER_CLOCK = "22 server clock jumps"
    WAKE_UP_LOST = "24 wake-up lost"
    CANCELLED = "28 cancellation"
    CROSSED = "29 a reply to another's read"
    EXHAUSTED = "30, 41 no connection left in the process"
    FOREIGN = "32 foreign bytes under a key"
    VARIANT = "33 an entry of another program version"
    DENIED = "34 a key that may not be written"
    LATE = "36 request performed after its caller gave up"
    SLOW = "40 slow server"
    RESTORED = "42 restart from an old snapshot"
    RAISING = "the loader raises"
    REORDERED = "a request overtakes another"

    __hash__ = object.__hash__


@attrs.frozen
class Rates:
    """How often things go wrong: each is a probability. What strikes always may be above 1.

    Of what happens to the server or to a process as a whole, each kind strikes once in every round of all of
    them, in a new order each time.

    Raises:
        ConfigurationError: One is no number from 0 on.
    """

    request_lost: float = 0.01
    reply_lost: float = 0.01
    duplicate: float = 0.03
    late: float = 0.004
    reordered: float = 0.05
    crossed: float = 0.01
    exhausted: float = 0.002
    wake_up_lost: float = 0.1
    cancelled: float = 0.03
    raising: float = 0.04
    slow_loader: float = 0.05
    hung: float = 0.004
    accident_pause_s: float = 0.8
    """How long the server and the processes are left alone between two accidents, on average. 0 for ever."""

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(Rates):
            what = "a number of seconds" if field.name.endswith("_s") else "a rate"
            check_amount(field.name, getattr(self, field.name), what)


FAULTS: Final = Rates()
"""Everything goes wrong now and then."""
NO_FAULTS: Final = Rates(*(0.0,) * 13)
"""Nothing goes wrong."""
