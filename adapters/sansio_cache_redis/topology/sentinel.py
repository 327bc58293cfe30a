"""Hearing of failovers: every sentinel tells of them on a channel, `+switch-master`.

A server that was frozen, or cut off, when it was deposed does not know so. It answers as if nothing had
happened until a sentinel makes it a replica, and that may be seconds later: connections to it had better be
closed before. Sentinels are no fence: who is cut off together with the old primary, and from all sentinels,
reads there until it is deposed as well.
https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel#pubsub-messages

There is one thread for a cache, from its first connection on. It listens to all sentinels, as any of them may
be the one that is down, or cut off; and asks each one that it comes to listen to where the primary is, as it
may have missed the message. A message that comes from several is heeded once.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import attrs
import redis

from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.connections.redispy import connect_unless, pack, shut_down, socket_of
from sansio_cache_redis.connections.sentinel import (
    Search,
    Sentinels,
    SentinelSettings,
    asyncio_to_primary,
    blocking_to_primary,
    find_primary,
    find_primary_async,
    sentinel_connection,
)
from sansio_cache_redis.reasons import Where
from sansio_cache_runtime.process import is_inside, process_lock
from sansio_cache_runtime.sync.event import ThreadEvent

_CHANNEL: Final = b"+switch-master"
_LOOK_S: Final = 0.25
_QUIET_S: Final = 1.0
"""A sentinel that has said nothing for so long is asked for a sign of life."""
_SILENT_S: Final = 4.0
"""One that has given none for so long is listened to anew."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_CLOSE_S: Final = 1.0


@attrs.define(eq=False)
class _Post:
    """One sentinel, as it is listened to."""

    address: str
    redispy: Any = None
    """The connection; None where there is none."""
    heard_s: float = 0.0
    is_asked: bool = False
    """Whether a sign of life was asked for."""
    due_s: float = 0.0
    """When to try to listen to it again."""
    pause_s: float = _FIRST_PAUSE_S
    began_s: float = 0.0
    """Since when it has been listened to."""


class SentinelWatch:
    """Finds the primary, and hears of failovers.

    Args:
        settings: The sentinels.
        start_thread: Starts the thread that listens; False where there is none to be had.
    """

    def __init__(self, settings: SentinelSettings, start_thread: StartThread) -> None:
        self._settings = settings
        self._start_thread = start_thread
        self._sentinels = Sentinels(settings)
        self._lock = process_lock()
        self._posts = [_Post(address) for address in settings.addresses]
        self._opening: Any = None
        """The connection to a sentinel that is being opened."""
        self._is_running = False
        self._is_closed = False
        self._has_ended = ThreadEvent()
        self.on_switch: Callable[[], object] = bool
        """Called, from another thread, when the primary is another one than connections lead to."""

    @property
    def listening(self) -> tuple[int, int]:
        """How many sentinels are listened to, and how many there are."""
        return sum(post.redispy is not None for post in self._posts), len(self._posts)

    @property
    def where(self) -> Where:
        """Where the server is, for messages."""
        return self._settings.where

    def blocking(self) -> Callable[[], Any]:
        """A function that makes blocking connections of redis-py to the primary, not yet open."""
        return blocking_to_primary(self._settings, self.find)

    def asyncio(self) -> Callable[[], Any]:
        """A function that makes asyncio connections of redis-py to the primary, not yet open."""
        return asyncio_to_primary(self._settings, self.find_async)

    def warnings(self) -> tuple[str, ...]:
        """What will hurt, a sentence each: sentinels that are not heard."""
        listening, count = self.listening
        if listening == count:
            return ()
        heard = f"{listening} of the {count} sentinels" if listening else "none of the sentinels"
        warning = (
            f"{heard} can be listened to: where a failover is not heard of, what is read on connections to "
            "the old primary may be old until that is made a replica"
        )
        return (warning,)

    def find(self) -> tuple[str, int]:
        """Where the primary is; whoever asks first has failovers listened for.

        Raises:
            NoPrimaryError: No sentinel says so.
        """
        self._begin()
        return find_primary(self._settings, self._sentinels)

    async def find_async(self) -> tuple[str, int]:
        """Where the primary is, under asyncio; whoever asks first has failovers listened for.

        Raises:
            NoPrimaryError: No sentinel says so.
        """
        self._begin()
        return await find_primary_async(self._settings, self._sentinels)

    def close(self, *, wait: bool) -> None:
        """End the thread, and wait for it."""
        self._is_closed = True
        for redispy in (self._opening, *(post.redispy for post in self._posts)):
            if redispy is not None:
                shut_down(redispy)
        if wait and self._is_running and not is_inside(self._lock):
            self._has_ended.wait(_CLOSE_S)

    def _begin(self) -> None:
        if self._is_running or self._is_closed:
            return
        with self._lock:
            if not self._is_running:
                # Where there is no thread to be had, the next one who asks tries again.
                self._is_running = self._start_thread(self._run, "sansio-cache-sentinels")

    # On the thread.

    def _run(self) -> None:
        try:
            while not self._is_closed:
                now_s = monotonic()
                for post in self._posts:
                    if post.redispy is None and now_s >= post.due_s and not self._is_closed:
                        self._listen_to(post)
                        break  # it may have taken its time: the others are heard before the next
                self._hear()
        except BaseException:  # of whoever is told of a failover: the next who asks starts another thread
            with self._lock:
                self._is_running = False
            raise
        finally:
            for post in self._posts:
                self._leave(post)
            if self._is_closed:
                self._has_ended.set()

    def _listen_to(self, post: _Post) -> None:
        """Subscribe to what a sentinel tells, after a question: it may have told already."""
        search = Search(self._settings, self._sentinels)
        redispy: Any = None
        try:
            redispy = self._opening = sentinel_connection(self._settings, post.address)
            connect_unless(redispy, lambda: self._is_closed)
            redispy.send_packed_command(
                [pack([*search.commands, (b"SUBSCRIBE", _CHANNEL)])], check_health=False
            )
            replies: list[Any] = []
            for _ in search.commands:
                try:
                    replies.append(redispy.read_response(disable_decoding=True))
                except redis.ResponseError as error:
                    replies.append(error)
            redispy.read_response(disable_decoding=True)
            search.take(post.address, replies)
        except Exception:  # noqa: BLE001 - whatever it was: it is tried again
            post.redispy = redispy
            self._leave(post)
            return
        finally:
            self._opening = None
        post.redispy, post.heard_s, post.is_asked = redispy, monotonic(), False
        post.began_s = post.heard_s
        if self._is_closed:
            redispy.disconnect()
        if search.leads_elsewhere:
            self.on_switch()

    def _hear(self) -> None:
        """Take in what sentinels tell, for a moment at most."""
        open_posts = [post for post in self._posts if post.redispy is not None]
        try:
            ready = self._ready(open_posts)
        except (OSError, ValueError):  # no descriptor is left, or one was closed meanwhile
            self._has_ended.wait(_LOOK_S)
            ready = open_posts
        now_s = monotonic()
        for post in open_posts:
            try:
                if post in ready:
                    post.heard_s, post.is_asked = now_s, False
                    while post.redispy.can_read(timeout=0):
                        self._take(post)
                elif now_s - post.heard_s > _SILENT_S:
                    self._leave(post)
                elif now_s - post.heard_s > _QUIET_S and not post.is_asked:
                    post.is_asked = True
                    post.redispy.send_command("PING", check_health=False)
            except Exception:  # noqa: BLE001 - whatever it was: it is listened to anew
                self._leave(post)

    def _ready(self, posts: list[_Post]) -> list[_Post]:
        """Those from whom something has come, as soon as there is one."""
        waiting_s = _LOOK_S if all(post.redispy is not None for post in self._posts) else _LOOK_S / 5
        with selectors.DefaultSelector() as selector:
            for post in posts:
                sock = socket_of(post.redispy)
                if sock is None or sock.fileno() < 0:
                    return [post]  # it is closed, or cannot be waited for: to be looked at
                selector.register(sock, selectors.EVENT_READ, post)
            if not posts:
                self._has_ended.wait(waiting_s)
            return [key.data for key, _ in selector.select(waiting_s)] if posts else []

    def _take(self, post: _Post) -> None:
        message = post.redispy.read_response(disable_decoding=True)
        if not (isinstance(message, list) and message[0] == b"message"):
            return
        if self._sentinels.switched(message[2]):
            self.on_switch()

    def _leave(self, post: _Post) -> None:
        """Listen to a sentinel anew: at once, where it was listened to for some time, or after a pause."""
        redispy, post.redispy = post.redispy, None
        now_s = monotonic()
        if post.began_s and now_s - post.began_s > _LONGEST_PAUSE_S:
            post.due_s, post.pause_s = now_s, _FIRST_PAUSE_S
        else:
            post.due_s, post.pause_s = now_s + post.pause_s, min(2 * post.pause_s, _LONGEST_PAUSE_S)
        post.began_s = 0.0
        if redispy is not None:
            with suppress(Exception):
                redispy.disconnect()
