"""The keeper of a cluster's map: fetches it from one node after the other, on a thread of its own.

There is one for a cache, whichever runtime it is for, and at most one fetch at a time, however many callers
find that the map is wrong. The thread lives as long as there is something to be found out: while a node fails
that owns slots, it looks whether a replica has taken over. What is to be asked, and when, `cluster.py` says.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Protocol

from redis.exceptions import ResponseError

from sansio_cache.signals import let_through
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.connections.redispy import connect_unless, shut_down
from sansio_cache_redis.errors import as_opening_failure
from sansio_cache_redis.reasons import is_of_nobody
from sansio_cache_redis.topology.cluster import Cluster
from sansio_cache_redis.topology.slots import MapError
from sansio_cache_runtime.process import process_lock
from sansio_cache_runtime.sync.event import ThreadEvent

_FIRST_S: Final = 0.3
"""How long each node may take at first, in seconds."""
_SECOND_S: Final = 3.0
"""The same where none has answered in that time."""


class _IsSingleError(Exception):
    """A node has answered that it is no cluster."""


class Waiter(Protocol):
    """Who waits for a map: an event of threads, or of an event loop."""

    def set(self) -> object:
        """Whoever waits may look again."""
        ...


class MapKeeper:
    """Fetches the map of a cluster.

    Args:
        cluster: Takes it in.
        make_connection: Makes a blocking connection of redis-py to an address, not open yet.
        start_thread: Starts the thread that fetches.
        on_map: Called on that thread when there is a new map.
    """

    def __init__(
        self,
        cluster: Cluster,
        make_connection: Callable[[str], Any],
        start_thread: StartThread,
        on_map: Callable[[], object],
    ) -> None:
        self._cluster = cluster
        self._make_connection = make_connection
        self._start_thread = start_thread
        self._on_map = on_map
        self._lock = process_lock()
        self._is_running = False
        self._waiting: list[Waiter] = []
        self._is_over = ThreadEvent()
        self._redispy: Any = None
        """Where a map is being fetched."""
        self.failure: tuple[str, Exception] | None = None
        """Who had no map to give, and why, as far as that tells most; None where one had."""

    def look(self) -> None:
        """See to it that a map is fetched, if one is wanted."""
        if self._is_over.is_set() or not self._cluster.is_wanted:
            return
        with self._lock:
            if not self._is_running:
                self._is_running = self._start_thread(self._run, "sansio-cache-cluster")

    def tell(self, waiter: Waiter) -> None:
        """Have somebody told when the next fetch is over, whatever came of it. It is begun, if need be."""
        with self._lock:
            self._waiting.append(waiter)
        self.look()
        if not self._is_running:
            self._tell_all()

    def close(self) -> None:
        """End."""
        self._is_over.set()
        if (redispy := self._redispy) is not None:
            shut_down(redispy)  # it may take its time-outs to open, or to answer
        self._tell_all()

    def _tell_all(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.set()

    # On the thread.

    def _run(self) -> None:
        try:
            self._keep()
        except BaseException:  # of whoever is told of the map: the next who asks starts another thread
            with self._lock:
                self._is_running = False
            self._tell_all()
            raise

    def _keep(self) -> None:
        cluster = self._cluster
        while True:
            self._is_over.wait(cluster.pause_s(monotonic()))
            changes = cluster.changes
            has_map = not self._is_over.is_set() and self._fetch()
            if cluster.changes != changes:
                self._on_map()
            with self._lock:
                # Where nothing is known, whoever needs it asks again.
                if not (has_map and cluster.is_wanted):
                    self._is_running = False
                    break
            self._tell_all()
        self._tell_all()

    def _fetch(self) -> bool:
        candidates = self._cluster.candidates(monotonic())
        for timeout_s in (_FIRST_S, _SECOND_S):
            failures: list[tuple[str, Exception]] = []
            single = ""
            for address in candidates:
                if self._is_over.is_set():
                    return False
                failure = self._fetch_from(address, timeout_s)
                if failure is None:
                    self.failure = None
                    return True
                if isinstance(failure, _IsSingleError):
                    single = single or address
                else:
                    failures.append((address, failure))
            if single:  # and nobody says otherwise: an address may be another's by now
                self._cluster.take_single(single)
                self.failure = None
                return True
            if failures:  # of many nodes some are down, and the one that refuses says what is to be done
                self.failure = min(failures, key=lambda each: is_of_nobody(each[1]))
        return False

    def _fetch_from(self, address: str, timeout_s: float) -> Exception | None:
        """Take in what a node says; or why it says nothing."""
        redispy: Any = None
        try:
            redispy = self._redispy = self._make_connection(address)
            redispy.socket_timeout = redispy.socket_connect_timeout = timeout_s
            connect_unless(redispy, self._is_over.is_set)
            redispy.send_command("CLUSTER", "SLOTS")
            try:
                reply = redispy.read_response(disable_decoding=True)
            except ResponseError as error:
                if "cluster support disabled" not in str(error):
                    raise
                return _IsSingleError()
            self._cluster.take(reply, address)
        except MapError as error:
            return error
        except Exception as error:  # noqa: BLE001 - another node is asked
            let_through(error)
            return as_opening_failure(error)
        else:
            return None
        finally:
            self._redispy = None
            if redispy is not None:
                redispy.disconnect()
