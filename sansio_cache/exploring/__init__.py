"""The exhaustive explorer: every interleaving of a few workers, over the machines that ship.

An operation of your own, or a change to one of these, is explored like this::

    reader, writer = (Act(Deed.LOAD),), (Act(Deed.INVALIDATE),)
    found = explore(
        Configuration(
            name="a reader and a writer, while keys are evicted",
            processes=((reader,), (writer,)),  # for each process, what its callers do
            faults={Fault.GONE: UNLIMITED},
            load=begin_mine,  # a function like `get_or_load`: from a request to its first step
        )
    )
    assert found.is_closed and found.counterexample is None, found.counterexample

It takes a third less time while the collector of garbage is off: there is none in cycles.

Theory of operation.

*What runs is the product.* A worker holds the frozen `Step` of an operation of `sansio_cache.operations`;
its commands are performed by `sansio_cache.memory_store.MemoryStore`, and what the operations of one process
have to do with each other is decided by `sansio_cache.coordinator.Coordinator`. `driving.py` does to them
what drivers do. Nothing of the protocol is written down twice here.

*A world* (`world.py`, with `process.py` and `storing.py`) is all there is at one moment: the processes with
their workers, the store, the requests that may still arrive a second time, the database's versions, and the
book-keeping of the oracle. A worker's value is the version of the database that its loader saw, so every
value tells its age. Most configurations have one key, those of batches two; and one tag, which may as well be
the generation of an entity, as that is a tag by another name. Two versions of a program are two codecs. What
runs in the background, a refresh or a recovery, is one more worker of its process until it ends. So is what a
loader asks the cache for, which waits for that before it looks at the database.

*A move* (`moves.py`, with `tables.py`) is one thing that may happen next: a request is performed and
answered, a loader looks at the database, a writer commits; or a fault strikes. `search.py` takes all moves
from all worlds, breadth first, until there is no world left that it has not seen: the configuration is
closed. A violated invariant (`invariants.py`) stops it, and the shortest way there is printed, move by move.

*Faults* strike as often as they like, unless a configuration gives them a budget. Without limit the claim is
stronger and yet the space smaller, as there is no counter to tell worlds apart: "anything" in a name means
any number of lost requests, lost replies, late duplicates, expiries, evictions, crashes, interruptions and
failing loaders, in any order. It closes because worlds are few once what does not matter is left out.

*What callers are asked for is assumed*: that nobody commits between the call of `set` and its hold, as its
value would be the older one; `LIMITS` shows what happens otherwise.

*What is left to other tests*: more keys than two, `get_many`, negative answers and times to live that
loaders give, patterns, values that cannot be stored, the breaker, deadlines in seconds, the bounds on
background work, second looks at entries of other keys, and who wakes a waiter: here a sleep just ends. A
command about several keys is performed at once, where a server may see to other callers between them; a batch
that claims and fills a key at a time has that.

Why each reduction is sound:

- *No clock.* Every event says the same `now_s`, so deadlines never pass and only attempts limit retries.
  What time would do is a move of its own: a sleep ends whenever it likes, a lease lapses whenever it likes,
  sharing and waiting run out of patience, and so does the rest of a load that is not to be led for a while.
  The store only ever compares its clock with times in a cell, so to move the clock forward and to move the
  cell's times back are the same; we do the latter, and cut off what has passed. Values are never near their
  hard expiry, whose effect is that of an eviction; but for a value that a lease must keep alive.
- *A reply is delivered in the moment the request is performed*, unless other callers of the same process
  could tell the difference, that is, unless the answer moves a load on, or ends a recovery while others
  may have something to tell the store. A worker alone is not observable, and its next request may come as
  late as it likes. It makes the oracle stricter: writes are complete as early, and reads begin as late, as
  they can.
- *What nobody can observe happens at once*: a sleep's end, the `ShareLoad` of a lone caller, its loader's
  return: a refresh in the background shares nothing with callers. Not so while an interruption could still
  strike there.
- *Renaming.* Ids, of grants and of tags' versions, are only compared for being equal, or for beginning with
  a nonce; never ordered. So their microseconds are renamed in the order in which they are met, and loads
  are renumbered. Beginning with a nonce matters only to an id that is held, and whose nonce somebody can say.
  All others give theirs up for one that stands for all; they stay as different from each other as they were,
  as an entry is compared with its tags. The store's promise that it never issues an id twice has a test of
  its own (`test_the_memory_store_never_issues_an_id_twice`).
- *Requests that can never have an effect again* are forgotten: a fill, renewal or release by an id that
  the cell does not hold. The store issues no id twice, so the cell will never hold it again. Requests with
  the same effect are the same request. A read has none.
- *Symmetry.* Workers with the same program in processes of the same shape may be swapped, with the nonces
  they own, everywhere. Of all such worlds the least stands for all.
- *The breaker* opens and closes in one moment, as a probe may be answered as soon as it is asked; but where a
  configuration wants to see readers do without the store (`probes`).
- *Tickets* are the places of workers in their process, and go with them where those are swapped. A ticket is
  given up in the moment in which its operation ends: that changes nothing that anybody asks for.
- *What is over is dropped*: a finished operation keeps nothing; where no reader is left, no load rests; a
  machine's count of its pauses, which only decides how long the next one is, is cut off at one.

*A history* (`history.py`) is for what cannot be explored: what real processes read and wrote, judged by S1.

`tests/test_exploration.py` does not take this on trust: it explores some configurations with and without
renaming, pruning and symmetry, and with and without doing things at once, and compares what is reached.
"""

from sansio_cache.exploring.configuration import (
    ALWAYS_EARLY,
    EARLY,
    PLAIN,
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
from sansio_cache.exploring.history import History, Read, Violation, Write
from sansio_cache.exploring.invariants import ALL, Invariant
from sansio_cache.exploring.search import Counterexample, Exploration, explore

__all__ = [
    "ALL",
    "ALWAYS_EARLY",
    "EARLY",
    "PLAIN",
    "STALE_AT_LAST",
    "STALE_AT_ONCE",
    "UNLIMITED",
    "WARM",
    "Act",
    "Configuration",
    "Counterexample",
    "Deed",
    "Exploration",
    "Fault",
    "History",
    "Invariant",
    "Program",
    "Read",
    "Start",
    "Violation",
    "Write",
    "explore",
]
