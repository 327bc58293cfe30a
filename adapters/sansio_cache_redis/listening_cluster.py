"""Listening in a cluster: each key has a channel of its own, which is called like the key.

What is published by PUBLISH goes to every node, and costs each of them; what is published by SPUBLISH goes
to the node that owns the channel's slot, and its replicas. A channel that is called like the key is in the
key's slot, so that a script may publish where it stores. https://valkey.io/topics/pubsub/#sharded-pubsub

    homeless --a connection to the owner--> asked for --`ssubscribe`--> heard
    asked for, or heard --MOVED, `sunsubscribe` unasked, the connection is lost, another owner--> homeless

One thread listens to all nodes that have keys which somebody waits for. A connection is opened on a thread
of its own, so that a node that is dead or cut off takes no time from the others. What holds of one channel
for all keys (`listening.py`) holds here of each key: subscribe, re-check, wait; while its subscription does
not stand, those who wait for it poll. That is so from the moment in which its slot moves, or its node fails,
until the new owner has the subscription.
"""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final

import attrs
from redis.exceptions import ClusterDownError, MovedError, ResponseError

from sansio_cache.signals import let_through
from sansio_cache_redis.calls import TEST
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.connections.redispy import connect_unless, pack, shut_down, socket_of
from sansio_cache_redis.listening import FIRST_PAUSE_S, IDLE_S, LONGEST_PAUSE_S, Listener
from sansio_cache_redis.topology.cluster import WATCH_PAUSE_S, Cluster
from sansio_cache_redis.topology.slots import NOBODY
from sansio_cache_redis.watchers import LOOK_S, Pulse, Sign, Watchers

_SUBSCRIBE: Final = b"SSUBSCRIBE"
_UNSUBSCRIBE: Final = b"SUNSUBSCRIBE"
_PING: Final = b"PING"


@attrs.frozen
class _Opened:
    """What came of opening a connection: it, or that it was lost or refused."""

    redispy: Any = None
    trip_s: float = 0.0
    is_refused: bool = False
    """Whether the node serves, and does not allow it."""


@attrs.define(eq=False)
class _Post:
    """One node, as it is listened to."""

    address: str
    redispy: Any = None
    """The connection; None where there is none."""
    pulse: Pulse = attrs.field(factory=lambda: Pulse(0.0))
    looked_s: float = 0.0
    is_silent: bool = False
    """Whether it has given no sign of life for some time."""
    channels: set[bytes] = attrs.field(factory=set)
    """What it was asked for, and has not lost."""
    asked: deque[tuple[bytes, bytes]] = attrs.field(factory=deque)
    """Commands that it has not answered yet, with their channels. It answers in order."""
    opened: deque[_Opened] = attrs.field(factory=deque)
    """Handed over by the thread that has opened it."""
    is_opening: bool = False
    connecting: Any = None
    """The connection that is being opened."""
    due_s: float = 0.0
    """When to open another connection, at the earliest."""
    pause_s: float = FIRST_PAUSE_S

    def send(self, command: bytes, *channels: bytes) -> None:
        """Send a command for each channel, in one write."""
        self.asked += ((command, each) for each in channels)
        self.redispy.send_packed_command([pack([(command, each) for each in channels])], check_health=False)

    def ask_for_sign(self) -> None:
        """Ask it for a sign of life."""
        self.asked.append((_PING, b""))
        self.redispy.send_packed_command([pack([(_PING,)])], check_health=False)

    def answered(self, command: bytes, channel: bytes) -> None:
        """A command was answered."""
        with suppress(ValueError):
            self.asked.remove((command, channel))


class ShardListener(Watchers):
    """Watches keys of a cluster for any number of waiters, of threads or of an event loop.

    Args:
        cluster: Who owns which slot.
        make_connection: Makes a blocking connection of redis-py to an address, not open yet.
        start_thread: Starts the thread that listens, and those that open connections.
        look: See to it that the map of the cluster is fetched, where it is wanted.
    """

    def __init__(
        self,
        cluster: Cluster,
        make_connection: Callable[[str], Any],
        start_thread: StartThread,
        look: Callable[[], object],
    ) -> None:
        super().__init__(start_thread)
        self._cluster = cluster
        self._make_connection = make_connection
        self._look = look
        self._poker: socket.socket | None = None
        """Ends the wait of the thread; None where it does not wait."""
        self._changes: set[bytes] = set()
        """Keys that somebody has begun to watch, or nobody watches any more, since the thread has looked."""
        self._heard: dict[bytes, _Post] = {}
        """By key, where its subscription stands."""
        self._posts: dict[str, _Post] = {}
        self._homeless: dict[bytes, float] = {}
        """Keys that are watched without a subscription, and when to ask for one again."""

    def hears(self, key: str) -> bool:
        """Whether the subscription of a key stands."""
        post = self._heard.get(key.encode())
        return post is not None and not post.is_silent

    def _changed_for(self, name: bytes) -> None:
        if self._is_running:
            self._changes.add(name)
            self._poke()

    def _leave(self) -> None:
        for post in tuple(self._posts.values()):
            if post.connecting is not None:
                shut_down(post.connecting)
        self._poke()

    def _poke(self) -> None:
        poker = self._poker
        if poker is not None:
            with suppress(OSError):  # it is full: then the thread goes on anyway; or it has ended
                poker.send(b".")

    # On the thread.

    def _run(self) -> None:
        while True:
            try:
                self._listen()
            except OSError as error:  # the system has no more descriptors to give
                let_through(error)
                self._has_ended.wait(LONGEST_PAUSE_S)
            if self._is_over():
                return

    def _listen(self) -> None:
        """Pass messages on until nobody has watched for some time."""
        poked, poker = socket.socketpair()
        with poked, poker:
            poked.setblocking(False)
            poker.setblocking(False)
            with self._lock:
                self._poker, self._changes = poker, set(self._watches)
            try:
                self._listen_until_idle(poked)
            finally:
                self._end()

    def _listen_until_idle(self, poked: socket.socket) -> None:
        idle, changes = 0, self._cluster.changes
        while idle * LOOK_S < IDLE_S and not self._is_closed:
            if changes != self._cluster.changes:
                changes = self._cluster.changes
                self._move()
            self._take_over()
            self._heed()
            self._settle()
            if not self._hear(poked):
                idle = 0 if self._watches else idle + 1

    def _end(self) -> None:
        """Let go of all connections."""
        with self._lock:
            self._poker = None
            posts, self._posts = self._posts, {}
            self._heard, self._homeless = {}, {}
            opened = [each.redispy for post in posts.values() for each in post.opened]
        for redispy in (*opened, *(post.redispy for post in posts.values())):
            if redispy is not None:
                redispy.disconnect()
        self._wake()

    # Which keys are asked for where.

    def _heed(self) -> None:
        """Take in who has begun to watch, and who does not any more."""
        with self._lock:
            changes, self._changes = self._changes, set()
            watched = {name for name in changes if name in self._watches}
        for name in watched:
            if not any(name in post.channels for post in self._posts.values()):
                self._homeless.setdefault(name, 0.0)
        left = changes - watched
        for name in left:
            self._homeless.pop(name, None)
        for post in tuple(self._posts.values()):
            self._leave_to(post, left & post.channels)

    def _move(self) -> None:
        """Some slots have other owners than before: so have some keys."""
        for post in tuple(self._posts.values()):
            moved = {name for name in post.channels if self._owner(name) != post.address}
            self._leave_to(post, moved)
            self._lack(moved)
            if (
                not post.channels
                and post.address not in self._cluster.nodes
                and not (post.is_opening or post.opened)
            ):
                self._close(post)
                del self._posts[post.address]

    def _leave_to(self, post: _Post, names: set[bytes]) -> None:
        """Listen for some keys no longer at a node."""
        if not names:
            return
        post.channels -= names
        for name in names:
            self._heard.pop(name, None)
        try:
            post.send(_UNSUBSCRIBE, *names)
        except Exception as error:  # noqa: BLE001 - whatever it was: it is listened to anew
            let_through(error)
            self._lose(post)

    def _lack(self, names: set[bytes], due_s: float = 0.0) -> None:
        """Keys have lost their subscription: another is asked for from a moment on."""
        for name in names:
            self._heard.pop(name, None)
            self._homeless[name] = due_s
        self._wake(names)

    def _owner(self, name: bytes) -> str:
        return self._cluster.owner(name.decode())

    def _settle(self) -> None:
        """Ask for the subscriptions that are lacking."""
        now_s = monotonic()
        asking: dict[str, list[bytes]] = {}
        for name, due_s in tuple(self._homeless.items()):
            address = self._owner(name) if due_s <= now_s else NOBODY
            if address == NOBODY:
                if due_s <= now_s:
                    self._look()
                    self._homeless[name] = now_s + WATCH_PAUSE_S
                continue
            post = self._posts.get(address)
            if post is None:
                post = self._posts[address] = _Post(address)
            if post.redispy is None:
                self._open(post, name, now_s)
            else:
                asking.setdefault(address, []).append(name)
        for address, names in asking.items():
            post = self._posts[address]
            post.channels.update(names)
            for name in names:
                del self._homeless[name]
            try:
                post.send(_SUBSCRIBE, *names)
            except Exception as error:  # noqa: BLE001 - whatever it was: it is listened to anew
                let_through(error)
                self._lose(post)

    # Connections.

    def _open(self, post: _Post, name: bytes, now_s: float) -> None:
        if post.is_opening or post.opened or now_s < post.due_s:
            return
        post.is_opening = True  # first: it may be open before its thread is known to run
        if not self._start_thread(partial(self._connect, post, name), "sansio-cache-listener"):
            post.is_opening, post.due_s = False, now_s + LONGEST_PAUSE_S

    def _connect(self, post: _Post, name: bytes) -> None:
        """Open a connection, and see whether its user may publish. On a thread of its own."""
        redispy: Any = None
        opened = _Opened()
        try:
            redispy = post.connecting = self._make_connection(post.address)
            connect_unless(redispy, lambda: self._is_closed)
            began_s = monotonic()
            redispy.send_command("SPUBLISH", name, TEST)
            with suppress(MovedError, ClusterDownError):  # it may, and elsewhere: that shows soon enough
                redispy.read_response(disable_decoding=True)
            opened = _Opened(redispy, monotonic() - began_s)
        except Exception as error:  # noqa: BLE001 - whatever it was: polling until it works again
            let_through(error)
            opened = _Opened(is_refused=isinstance(error, ResponseError))
        finally:
            with self._lock:
                is_wanted = self._posts.get(post.address) is post
                post.connecting = None
                post.opened.append(opened)
                post.is_opening = False  # last: where it is not, what came of it is there to be looked at
                if is_wanted and opened.redispy is not None:
                    redispy = None
            if redispy is not None:
                redispy.disconnect()
            self._poke()

    def _take_over(self) -> None:
        """Take over the connections that were opened."""
        for post in tuple(self._posts.values()):
            if not post.opened:
                continue
            opened, now_s = post.opened.popleft(), monotonic()
            if opened.redispy is None:
                self._pause(post, is_lost=not opened.is_refused)
                continue
            post.redispy, post.looked_s, post.is_silent = opened.redispy, now_s, False
            post.pulse = Pulse(2 * opened.trip_s)

    def _pause(self, post: _Post, *, is_lost: bool) -> None:
        """A node is not listened to for a moment."""
        post.due_s = monotonic() + post.pause_s
        post.pause_s = min(2 * post.pause_s, LONGEST_PAUSE_S)
        if is_lost:  # another may own its slots by now
            self._cluster.want()
            self._look()

    def _close(self, post: _Post) -> None:
        redispy, post.redispy = post.redispy, None
        post.asked.clear()
        if redispy is not None:
            with suppress(Exception):
                redispy.disconnect()

    def _lose(self, post: _Post) -> None:
        """The connection to a node is of no use any more."""
        self._close(post)
        lacking, post.channels = post.channels, set()
        self._pause(post, is_lost=True)
        self._lack(lacking)

    # What is heard.

    def _hear(self, poked: socket.socket) -> bool:
        """Take in what nodes tell, for a moment at most. Whether there was anything, or a waiter."""
        posts = [post for post in self._posts.values() if post.redispy is not None]
        ready, is_poked = self._ready(posts, poked)
        now_s = monotonic()
        for post in posts:
            try:
                if post in ready:
                    self._take_all(post, now_s)
                elif now_s - post.looked_s >= LOOK_S:
                    post.looked_s = now_s
                    self._feel(post)
            except Exception as error:  # noqa: BLE001 - whatever it was: it is listened to anew
                let_through(error)
                self._lose(post)
        return is_poked or bool(ready)

    def _ready(self, posts: list[_Post], poked: socket.socket) -> tuple[list[_Post], bool]:
        """Those from whom something has come, as soon as there is one; and whether a waiter has."""
        with selectors.DefaultSelector() as selector:
            selector.register(poked, selectors.EVENT_READ)
            for post in posts:
                sock = socket_of(post.redispy)
                if sock is None or sock.fileno() < 0:
                    return [post], False  # it is closed, or cannot be waited for: to be looked at
                selector.register(sock, selectors.EVENT_READ, post)
            found = [key.data for key, _ in selector.select(LOOK_S)]
        if None in found:
            poked.recv(4096)
        return [each for each in found if each is not None], None in found

    def _take_all(self, post: _Post, now_s: float) -> None:
        post.pulse.heard()
        post.looked_s = now_s
        if post.is_silent:
            post.is_silent = False
            self._wake(post.channels)
        while post.redispy is not None and post.redispy.can_read(timeout=0):
            self._take(post)

    def _feel(self, post: _Post) -> None:
        """Nothing has come from a node for a look."""
        match post.pulse.looked(is_awaited=bool(post.channels)):
            case Sign.TO_ASK:
                post.ask_for_sign()
            case Sign.SILENT if not post.is_silent:
                post.is_silent = True
                self._wake(post.channels)
            case Sign.DEAD:
                self._lose(post)
            case _:
                pass

    def _take(self, post: _Post) -> None:
        """Read one thing that a node tells."""
        try:
            told = post.redispy.read_response(disable_decoding=True)
        except ResponseError as error:
            self._refused(post, error)
            return
        match told:
            case [b"smessage", name, message]:
                if message != TEST:
                    self._wake([name])
            case [b"ssubscribe", name, _]:
                post.answered(_SUBSCRIBE, name)
                if name in post.channels:
                    post.pause_s = FIRST_PAUSE_S
                    self._heard[name] = post
                    self._wake([name])
            case [b"sunsubscribe", name, _]:
                if post.asked and post.asked[0] == (_UNSUBSCRIBE, name):
                    post.asked.popleft()
                elif name in post.channels:  # unasked: its slot has moved, and where to the node will say
                    post.channels.discard(name)
                    self._lack({name})
            case _:
                post.answered(_PING, b"")

    def _refused(self, post: _Post, error: ResponseError) -> None:
        """A node has refused the first command that it had not answered."""
        command, name = post.asked.popleft() if post.asked else (b"", b"")
        if isinstance(error, MovedError):
            self._cluster.moved(error.slot_id, error.host, error.port, post.address)
            self._look()
        elif isinstance(error, ClusterDownError):
            self._cluster.want()
            self._look()
        if command == _SUBSCRIBE and name in post.channels:
            post.channels.discard(name)
            # Two nodes that name each other are not asked in turns for ever.
            pause_s = LOOK_S if isinstance(error, MovedError) else LONGEST_PAUSE_S
            self._lack({name}, monotonic() + pause_s)


class ClusterListener:
    """Watches keys of a cluster, or of the single server that has turned up in its place.

    Args:
        cluster: What is known of it.
        shards: Listens in a cluster.
        single: Listens on a single server.
    """

    def __init__(self, cluster: Cluster, shards: ShardListener, single: Listener) -> None:
        self._cluster = cluster
        self._both: tuple[Watchers, Watchers] = shards, single

    @property
    def _chosen(self) -> Watchers:
        return self._both[self._cluster.is_single]

    def hears(self, key: str) -> bool:
        """Whether changes of a key are heard at the moment. Where not, waiters had better look themselves."""
        return self._chosen.hears(key)

    def watch(self, key: str, wake: Callable[[], object]) -> int:
        """Call `wake`, from another thread, for every message about a key, and when `hears` of it changes."""
        return self._chosen.watch(key, wake)

    def unwatch(self, key: str, number: int) -> None:
        """Stop watching."""
        for each in self._both:  # it may have been another when the watch began
            each.unwatch(key, number)

    def close(self, *, wait: bool) -> None:
        """End the threads, and wait for them, where nobody else would have to wait as well."""
        for each in self._both:
            each.close(wait=wait)
