"""A loopback proxy on a thread of its own: sockets, what passes between them, how fast and how late.

It serves blocking, asyncio and trio clients alike, and what a test asks for has happened once the method
returns. What is done to commands is in `faults`.
"""

import enum
import errno
import heapq
import itertools
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Self

from support.servers import PortReservation

TIMEOUT_S = 10.0  # bounds failures only
CHUNK_BYTES = 1 << 16
# What the kernel may take from a client while the link is slow: its sender must notice that it is.
SLOW_BUFFER_BYTES = 1 << 14
# As on a network. With the segments of loopback, 64 KiB, a sender stops for 200 ms where a buffer is small.
SEGMENT_BYTES = 1460
BURST_S = 0.01


class Ending(enum.Enum):
    """How a connection ends that its relay has done with."""

    CLOSE = enum.auto()
    RESET = enum.auto()


class Relay:
    """What passes between a client and the server: takes bytes from both, leaves bytes for both."""

    def __init__(self) -> None:
        self.to_client = bytearray()
        self.to_upstream = bytearray()
        # Once set, what is left to send is sent and the connection ends.
        self.ending: Ending | None = None
        # While set, nothing more is read from the client, not even that it left.
        self.holding = False
        # What the client has sent that has not come to the relay yet.
        self.travelling = 0
        self.later: Callable[[float, Callable[[], object]], None]
        """Does something on this connection so many seconds from now; the proxy sets it."""

    def from_client(self, data: bytes) -> None:
        """Take what the client sent."""
        self.to_upstream += data

    def from_upstream(self, data: bytes) -> None:
        """Take what the server sent."""
        self.to_client += data


class Meter:
    """How many bytes may pass now, so that so many pass in a second."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst_s = max(BURST_S, 1 / bytes_per_s)
        self._paid_until_s = 0.0

    def allowed(self) -> int:
        """How many bytes may pass."""
        now_s = time.monotonic()
        self._paid_until_s = max(self._paid_until_s, now_s - self._burst_s)
        # Half a byte is rounded up: what is left after a division must not stop it for ever.
        return int((now_s - self._paid_until_s) * self._bytes_per_s + 0.5)

    def spend(self, count: int) -> None:
        """So many bytes have passed."""
        self._paid_until_s += count / self._bytes_per_s


class Link:
    """The socket of a client, the one to the server that belongs to it, the relay between."""

    def __init__(self, client: socket.socket, upstream: socket.socket, relay: Relay) -> None:
        self.relay = relay
        self.sockets = (client, upstream)
        self.finished = False
        self.is_paced = False
        self.has_timer = False
        self._to_server: Meter | None = None
        self._to_client: Meter | None = None
        self._client = client
        self._upstream = upstream
        self._client_gone = False
        self._upstream_gone = False
        for end in self.sockets:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def pace(self, to_server_bytes_per_s: float | None, to_client_bytes_per_s: float | None) -> None:
        """From now on so many bytes pass in a second; None: as many as there are."""
        self._to_server = None if to_server_bytes_per_s is None else Meter(to_server_bytes_per_s)
        self._to_client = None if to_client_bytes_per_s is None else Meter(to_client_bytes_per_s)
        if self._to_server is not None:
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)

    def read(self, end: socket.socket) -> None:
        """Take what has arrived on one of the two sockets."""
        meter = self._to_server if end is self._client else None
        room = CHUNK_BYTES if meter is None else min(CHUNK_BYTES, meter.allowed())
        if not room:
            return
        try:
            data = end.recv(room)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a reset is an end as well
        if meter is not None:
            meter.spend(len(data))
        if end is self._client:
            self._client_gone |= not data
            self.relay.from_client(data)
        else:
            self._upstream_gone |= not data
            self.relay.from_upstream(data)

    def settle(self) -> dict[socket.socket, int]:
        """Send what can be sent, and say which events to wait for on each socket.

        `is_paced` tells whether to settle again soon: there is more to pass than may pass now.
        """
        self._upstream_gone |= not _send(self._upstream, self.relay.to_upstream)
        self._client_gone |= not _send(self._client, self.relay.to_client, self._to_client)
        unsent = bool(self.relay.to_client) and not self._client_gone
        unheard = bool(self.relay.to_upstream) and not self._upstream_gone
        done = self.relay.ending is not None and not unheard
        if (self._upstream_gone or done) and not unsent:
            self.finished = True
            return dict.fromkeys(self.sockets, 0)
        must_wait = unsent and self._to_client is not None and not self._to_client.allowed()
        must_not_read = self._to_server is not None and not self._to_server.allowed()
        self.is_paced = must_wait or must_not_read
        writing = selectors.EVENT_WRITE * (unsent and not must_wait)
        if self._upstream_gone:
            return {self._client: writing, self._upstream: 0}
        waits = self.relay.holding or bool(self.relay.travelling)
        if self._client_gone and not (waits or unheard):
            # The server executes what it was sent, then sees the end and closes its side.
            with suppress(OSError):
                self._upstream.shutdown(socket.SHUT_WR)
        listening = not (self._client_gone or self.relay.holding or self.relay.ending or must_not_read)
        return {
            self._client: selectors.EVENT_READ * listening | writing,
            self._upstream: selectors.EVENT_READ | selectors.EVENT_WRITE * unheard,
        }

    def close(self, *, reset: bool) -> None:
        """End both connections; with `reset` the client sees RST instead of an orderly end."""
        if reset:
            _reset_on_close(self._client)
        for end in self.sockets:
            end.close()


def _send(end: socket.socket, data: bytearray, meter: Meter | None = None) -> bool:
    """Send what fits now; False if the other side is gone."""
    # Asked once: while it is being sent there is room for a little more, and so on, and others would wait.
    room = len(data) if meter is None else min(len(data), meter.allowed())
    try:
        while room:
            sent = end.send(data[:room] if room < len(data) else data)
            del data[:sent]
            room -= sent
            if meter is not None:
                meter.spend(sent)
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True


def _reset_on_close(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Proxy:
    """A loopback proxy for one server, faithful until told otherwise; a context manager."""

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self._upstream = (upstream_host, upstream_port)
        self._reservation = PortReservation()
        self.port = self._reservation.port
        self.connections_opened = 0
        self.switched: Counter[str] = Counter()
        """How often what concerns all connections was begun, and how many were reset."""
        self._links: set[Link] = set()
        self._listener: socket.socket | None = None
        self._deaf: tuple[socket.socket, ...] = ()
        self._selector = selectors.DefaultSelector()
        # While frozen only this one is asked, so calls of the test are still heard.
        self._control = selectors.DefaultSelector()
        self._waker, self._wakee = socket.socketpair()
        self._calls: SimpleQueue[tuple[Callable[[], object], Future[None]]] = SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._rates: tuple[float | None, float | None] = (None, None)
        self._frozen = False
        self._running = True
        self._failure: BaseException | None = None
        for selector in (self._selector, self._control):
            selector.register(self._wakee, selectors.EVENT_READ, self._on_call)
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._listen()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._post(partial(setattr, self, "_running", False))
        self._thread.join(TIMEOUT_S)
        for part in (self._waker, self._wakee, self._selector, self._control):
            part.close()
        self._reservation.release()
        if self._failure is not None:
            raise RuntimeError("the proxy itself failed") from self._failure

    @property
    def connections_open(self) -> int:
        """How many connections there are now."""
        return len(self._links)

    def refuse_connections(self) -> None:
        """Fault 5: who connects is refused; connections that are open stay."""
        self.switched["refuse connections"] += 1
        self._in_thread(self._unlisten)

    def accept_connections(self) -> None:
        """End `refuse_connections`."""
        self._in_thread(self._listen)

    def freeze(self) -> None:
        """Fault 4: connections stay open, new ones are accepted, no byte passes either way."""
        self.switched["freeze"] += 1
        self._in_thread(partial(setattr, self, "_frozen", True))

    def thaw(self) -> None:
        """End `freeze`: what was sent meanwhile passes now."""
        self._in_thread(partial(setattr, self, "_frozen", False))

    def vanish(self) -> None:
        """A black hole: no byte passes on open connections, and who connects is never answered (Linux)."""
        self.switched["vanish"] += 1
        self._in_thread(self._vanish)

    def appear(self) -> None:
        """End `vanish`: what was sent meanwhile passes now, and who still tries to connect is accepted."""
        self._in_thread(self._appear)

    def drop_all(self) -> None:
        """Fault 5: every open connection is reset."""
        self._in_thread(self._reset_links)

    def limit(
        self, *, to_server_bytes_per_s: float | None = None, to_client_bytes_per_s: float | None = None
    ) -> None:
        """A slow link: so many bytes a second each way on every connection, also on open ones."""
        self._rates = (to_server_bytes_per_s, to_client_bytes_per_s)
        if self._rates != (None, None):
            self.switched["limit"] += 1
        self._in_thread(self._pace_links)

    def _relay(self) -> Relay:
        return Relay()

    def _in_thread(self, call: Callable[[], object]) -> None:
        """Have the thread do it between two of its steps, and wait until that is done."""
        if not self._thread.is_alive():
            raise RuntimeError("the proxy is not running") from self._failure
        self._post(call).result(TIMEOUT_S)

    def _post(self, call: Callable[[], object]) -> Future[None]:
        done: Future[None] = Future()
        self._calls.put((call, done))
        self._waker.send(b"!")
        return done

    # What follows runs on the thread of the proxy.

    def _run(self) -> None:
        try:
            while self._running:
                for key, _events in self._wait():
                    key.data()
                    if key.fileobj is self._wakee:
                        break  # a call may have ended the others; what is ready still comes again
        except BaseException as error:  # reported by __exit__: nobody is there to catch it
            self._failure = error
        finally:
            self._unlisten()
            self._hear_again()
            self._drop_links()

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready, after what was to be done by now. While frozen nothing is but calls."""
        if self._frozen:
            return self._control.select()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()
        timeout_s = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        return self._selector.select(timeout_s)

    def _after(self, delay_s: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._numbers), call))

    def _on_call(self) -> None:
        for _ in self._wakee.recv(CHUNK_BYTES):
            call, done = self._calls.get()
            try:
                call()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = self._server(backlog=128)
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
            self._listener.setblocking(False)
            accept = partial(self._on_client, self._listener)
            self._selector.register(self._listener, selectors.EVENT_READ, accept)

    def _server(self, backlog: int) -> socket.socket:
        """A socket that listens at the port, which had another maybe until now."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return socket.create_server(("127.0.0.1", self.port), backlog=backlog)
            except OSError as error:
                # A program that is being started has all that this process had open, until it runs.
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.001)

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _vanish(self) -> None:
        self._unlisten()
        self._frozen = True
        # Nobody accepts, and the queue is full: Linux drops whatever asks for a connection.
        deaf = self._server(backlog=0)
        fillers = [socket.socket() for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(deaf.getsockname())
        self._deaf = (*fillers, deaf)

    def _appear(self) -> None:
        self._hear_again()
        self._frozen = False
        self._listen()

    def _hear_again(self) -> None:
        for end in self._deaf:
            end.close()
        self._deaf = ()

    def _on_client(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it left before it was accepted
        self.connections_opened += 1
        try:
            upstream = socket.create_connection(self._upstream, TIMEOUT_S)
        except OSError:
            _reset_on_close(client)  # as near as a proxy gets to refusing
            client.close()
            return
        relay = self._relay()
        link = Link(client, upstream, relay)
        relay.later = partial(self._later, link)
        link.pace(*self._rates)
        self._links.add(link)
        self._opened(relay)
        self._settle(link)

    def _opened(self, relay: Relay) -> None:
        """A connection has been accepted; nothing was read from it yet."""

    def _later(self, link: Link, delay_s: float, call: Callable[[], object]) -> None:
        def act() -> None:
            if not link.finished:
                call()
                self._settle(link)

        self._after(delay_s, act)

    def _on_bytes(self, link: Link, end: socket.socket) -> None:
        if not link.finished:
            link.read(end)  # nothing, if it was room to send that it waited for
            self._settle(link)

    def _settle(self, link: Link) -> None:
        for end, events in link.settle().items():
            self._watch(link, end, events)
        if link.finished:
            self._links.remove(link)
            link.close(reset=link.relay.ending is Ending.RESET)
        elif link.is_paced and not link.has_timer:
            link.has_timer = True
            self._after(BURST_S / 2, partial(self._unpace, link))

    def _unpace(self, link: Link) -> None:
        link.has_timer = False
        if not link.finished:
            self._settle(link)

    def _pace_links(self) -> None:
        for link in tuple(self._links):
            link.pace(*self._rates)
            self._settle(link)

    def _watch(self, link: Link, end: socket.socket, events: int) -> None:
        watched = end in self._selector.get_map()
        if events and watched:
            self._selector.modify(end, events, partial(self._on_bytes, link, end))
        elif events:
            self._selector.register(end, events, partial(self._on_bytes, link, end))
        elif watched:
            self._selector.unregister(end)

    def _reset_links(self) -> None:
        self.switched["reset"] += len(self._links)
        self._drop_links()

    def _drop_links(self) -> None:
        for link in self._links:
            link.finished = True
            for end in link.sockets:
                self._watch(link, end, 0)
            link.close(reset=True)
        self._links.clear()
