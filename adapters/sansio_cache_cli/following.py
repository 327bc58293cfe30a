"""Following a namespace: what the commands of MONITOR did there, in the words of the protocol. No I/O here.

MONITOR shows commands and no replies: whether a read was a hit does not stand there. It follows from what the
key held. So what each key holds is followed: every write is in the stream, those of scripts as well, with the
server's time, so that expiry is known too. A key that was not seen yet is asked about once, from outside; the
question is in the stream itself, and its answer holds there. What happened to the key before waits for it.

The cells are read by the code that the cache reads them with. A type that a reader cannot decode is a miss to
him, and looks like a hit from here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from hashlib import sha1
from typing import Final

import attrs

from sansio_cache.cell import NO_GRANT, NONCE_BYTES, Cell, parse_cell
from sansio_cache.inspection import CellState, Inspection
from sansio_cache.keys import KeyBuilder
from sansio_cache.tags import is_tag_key
from sansio_cache_cli.followed_keys import HEAD_BYTES, LIVES, NO_TTL_MS, REMOVALS, FollowedKeys, Held
from sansio_cache_cli.happenings import Happening, What
from sansio_cache_cli.monitored import Monitored, whole_number
from sansio_cache_cli.words import exact, size
from sansio_cache_redis.primitive_scripts import PRIMITIVES
from sansio_cache_redis.queue_scripts import QUEUES
from sansio_cache_redis.scripts import ALL

_QUESTION: Final = (b"0", b"%d" % (HEAD_BYTES - 1))
_MOST_WAITING: Final = 2_000
_PATIENCE_MS: Final = 500
_GONE_MS: Final = -2
_SCRIPTS: Final = {script.sha: script.name for script in (*ALL, *PRIMITIVES, *QUEUES)}
_OF_QUEUES: Final = frozenset(script.name for script in QUEUES)
_WORDS_OF_A_WRITE: Final = 4
"""How many arguments the scripts of queues have for each write."""
_OWNED: Final = frozenset({"fill", "renew", "release"})
"""Scripts that change what was granted to who asks for them, and nothing else."""
_QUIET: Final = frozenset(
    {
        "EXISTS",
        "GETRANGE",
        "MEMORY",
        "OBJECT",
        "PTTL",
        "PUBLISH",
        "SCAN",
        "SPUBLISH",
        "SSUBSCRIBE",
        "STRLEN",
        "SUBSCRIBE",
        "TOUCH",
        "TTL",
        "TYPE",
    }
)
"""Commands that change nothing, and are no reads of entries."""


@attrs.define
class _Script:
    """A script that is running: who asked for it, about which keys, and which of them it has changed."""

    name: str
    client: str
    at_ms: int
    keys: tuple[str, ...]
    args: tuple[bytes, ...]
    has_run: bool = False
    """Whether it has called anything: where it has not, the server did not know it, and is sent its text."""
    changed: dict[str, str] = attrs.field(factory=dict)
    """By key, the last command that wrote it."""


class Follower:
    """Follows one namespace. Feed it every command in order; take what has happened out of `happened()`.

    Args:
        namespace: Whose keys.
        asks: Whether keys that were not seen yet are asked about: by `questions()`, which the caller puts to
            the server, as `question()` says, before it feeds more. `know` takes the answers.
        database: The number of the one that the namespace is in. MONITOR shows what is done in all of them.
    """

    def __init__(self, namespace: str, *, asks: bool = True, database: int = 0) -> None:
        self._root = KeyBuilder(namespace).root
        self._database = database
        self._asks = asks
        self._keyspace = FollowedKeys()
        self._script: _Script | None = None
        self._out: deque[Happening] = deque()
        self._open: dict[str, list[Happening]] = {}
        """By key, what waits until it is known what the key held."""
        self._asked: dict[str, None] = {}
        self._answers: dict[str, Held] = {}

    # What goes in.

    def feed(self, command: Monitored) -> None:
        """A command was run."""
        if command.database != self._database and command.name != "FLUSHALL":
            return
        if command.is_of_script:
            if self._script is not None:
                self._in_script(self._script, command)
            return
        self.settle()
        if command.name in ("EVALSHA", "EVAL"):
            self._script = self._begun(command)
        elif command.name == "GETRANGE" and command.args[1:] == _QUESTION:
            self._answered(self._text(command.args[0]))
        elif command.name in ("GET", "MGET"):
            for key in self._keys(command.args):
                self._read(command, key)
        elif command.name in REMOVALS:
            for key in self._keys(command.args):
                self._apply(command, key, ())
                self._say(command.at_ms, command.client, key, What.INVALIDATION, _tag_words(key))
        elif command.name == "SET":
            self._set(command)
        elif command.name.startswith("FLUSH"):
            self.forget()
            self._say(command.at_ms, command.client, self._root, What.OTHER, command.name)
        elif command.name not in _QUIET:
            for key in self._keys(command.args[:1]):
                self._apply(command, key, command.args[1:])
                self._say(command.at_ms, command.client, key, What.OTHER, command.name)

    def settle(self) -> None:
        """The stream has come to a stop, or goes on: a script that has said no more has ended."""
        script, self._script = self._script, None
        if script is not None and script.has_run:
            self._ended(script)

    def forget(self) -> None:
        """What keys hold is not known any more: commands were lost, or everything was removed."""
        self._keyspace.forget()
        self._answers.clear()
        self._asked.clear()
        for key in list(self._open):
            self._resolve(key, None)

    def questions(self) -> list[str]:
        """The keys to ask about now."""
        asked = [key for key in self._asked if key not in self._answers]
        self._asked.clear()
        return asked

    @staticmethod
    def question(key: str) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The two commands that ask about a key: what it holds, and how long it lives."""
        name = key.encode(errors="surrogateescape")
        return (b"GETRANGE", name, *_QUESTION), (b"PTTL", name)

    def know(self, key: str, raw: bytes | None, left_ms: int, now_ms: int) -> None:
        """The answer about a key. It holds where the question is met in the stream.

        Args:
            key: The full name.
            raw: What it holds, as far as was asked; None where it is no string.
            left_ms: How long it lives, as PTTL says it.
            now_ms: The server's clock, as near as it is known.
        """
        if left_ms == _GONE_MS:
            self._answers[key] = Held(None)
        else:
            until_ms = None if left_ms == NO_TTL_MS else now_ms + left_ms
            self._answers[key] = Held(b"" if raw is None else raw, until_ms)

    # What comes out.

    def happened(self, now_ms: int | None = None) -> list[Happening]:
        """What has happened, in order, as far as it is known; what has waited for too long is taken as it is.

        Args:
            now_ms: The server's clock; None to wait for nothing any more.
        """
        for key, waiting in list(self._open.items()):
            if now_ms is None or len(self._out) > _MOST_WAITING or now_ms - waiting[0].at_ms > _PATIENCE_MS:
                self._resolve(key, None)
        known = []
        while self._out and self._out[0].what is not None:
            known.append(self._out.popleft())
        return known

    # Keys.

    def _text(self, key: bytes) -> str:
        return key.decode(errors="surrogateescape")

    def _keys(self, args: Iterable[bytes]) -> list[str]:
        return [key for key in map(self._text, args) if key.startswith(self._root)]

    def _say(self, at_ms: int, client: str, key: str, what: What | None, detail: str = "") -> Happening:
        happening = Happening(at_ms, client, key, what, detail)
        self._out.append(happening)
        return happening

    # Commands of clients.

    def _read(self, command: Monitored, key: str) -> None:
        found = self._keyspace.look(key, command.at_ms)
        if found is None:
            self._ask(key)
        if is_tag_key(key):
            return  # a look at a version: only what it is matters, to those that have the tag
        happening = self._say(command.at_ms, command.client, key, None if found is None else _read_as(found))
        if found is None:
            self._wait(happening)

    def _set(self, command: Monitored) -> None:
        """A value that is stored by comparing; or another program's SET."""
        for key in self._keys(command.args[:1]):
            options = [each.upper() for each in command.args[2:]]
            if b"IFEQ" not in options:
                self._apply(command, key, command.args[1:])
                self._say(command.at_ms, command.client, key, What.OTHER, command.name)
                continue
            at = 2 + options.index(b"IFEQ") + 1
            if not command.args[1] or at >= len(command.args):
                continue  # it only asks whether the server can compare
            self._filled(command, key, command.args[1], command.args[at])

    def _filled(self, command: Monitored, key: str, raw: bytes, left: bytes) -> None:
        cell = parse_cell(raw)
        grant = cell.filled_by if isinstance(cell, Cell) else NO_GRANT
        found = self._keyspace.look(key, command.at_ms)
        held = self._keyspace.get(key)
        self._resolve(key, None, granted=grant[:NONCE_BYTES])
        if found is not None and (found.state is CellState.NONE or (held is not None and held.raw != left)):
            return  # refused: the fill script is asked next, which knows why
        self._apply(command, key, command.args[1:])
        self._say(command.at_ms, command.client, key, What.FILL, self._fill_words(key, command.at_ms, raw))

    def _fill_words(self, key: str, now_ms: int, raw: bytes) -> str:
        held = self._keyspace.get(key)
        life = f", for {exact((held.until_ms - now_ms) / 1000)}" if held and held.until_ms else ""
        return f"{size(len(raw))}{life}"

    # Scripts.

    def _begun(self, command: Monitored) -> _Script | None:
        match command.args:
            case (sha, number, *rest) if (count := whole_number(number)) is not None:
                pass
            case _:
                return None
        if command.name == "EVAL":
            sha = sha1(sha, usedforsecurity=False).hexdigest().encode()
        keys = tuple(self._keys(rest[:count]))
        name = _SCRIPTS.get(sha.lower(), "")
        if not keys:
            return None
        return _Script(name, command.client, command.at_ms, keys, tuple(rest[count:]))

    def _in_script(self, script: _Script, command: Monitored) -> None:
        """What a script calls. Its writes say what it has decided."""
        script.has_run = True
        for key in self._keys(command.args[:1]):
            args = command.args[1:]
            if command.name == "SET" and b"NX" in args:
                self._acquired(script, key, args, command)
            elif command.name in ("SET", "SETRANGE", *REMOVALS, *LIVES):
                if script.name in _OWNED:
                    self._resolve(key, None, granted=script.args[0][:NONCE_BYTES])
                self._apply(command, key, args)
                if command.name not in LIVES or script.name == "touch":
                    script.changed[key] = command.name
            elif command.name == "XACK":
                script.changed[key] = command.name

    def _acquired(self, script: _Script, key: str, args: tuple[bytes, ...], command: Monitored) -> None:
        """The first thing that an acquire does: it has the lease where there is nothing."""
        found = self._keyspace.look(key, command.at_ms)
        if found is not None and found.state is CellState.NONE:
            self._apply(command, key, args)
            script.changed[key] = "SET"
        elif found is None:
            script.changed.setdefault(key, "?")

    def _ended(self, script: _Script) -> None:
        if script.name in _OF_QUEUES:
            self._of_queue(script)
            return
        for key in script.keys:
            change = script.changed.get(key)
            happening = Happening(script.at_ms, script.client, key, None)
            if script.name == "acquire":
                happening.nonce = script.args[0][:NONCE_BYTES]
                if change == "?":
                    self._out.append(happening)
                    self._ask(key)
                    self._wait(happening)
                    continue
                happening.what = What.GRANT if change else self._denied(key, script.at_ms)
                if change:
                    self._resolve(key, None, granted=happening.nonce)
            elif script.name == "inspect":
                self._read(Monitored(script.at_ms, script.client, "GET", ()), key)
                continue
            else:
                happening.what, happening.detail = self._outcome(script, key, change)
                if script.name == "capture" and not change and self._keyspace.get(key) is None:
                    self._ask(key)
            self._out.append(happening)

    def _of_queue(self, script: _Script) -> None:
        """What a script has done to a queue: to each of the keys whose writes it is about."""
        args = script.args
        if script.name == "append":
            for key, hold in zip(args[2::_WORDS_OF_A_WRITE], script.keys[3:], strict=False):
                what = What.QUEUED if hold in script.changed else What.QUEUE_REFUSED
                self._say(script.at_ms, script.client, self._text(key), what)
        elif script.name == "settle" and "XACK" in script.changed.values():
            for key, reason in zip(args[2::_WORDS_OF_A_WRITE], args[3::_WORDS_OF_A_WRITE], strict=False):
                what = What.GIVEN_UP if reason else What.APPLIED
                self._say(script.at_ms, script.client, self._text(key), what, self._text(reason))

    def _denied(self, key: str, now_ms: int) -> What:
        found = self._keyspace.look(key, now_ms)
        waits = found is not None and found.state in (CellState.LEASED, CellState.HELD, CellState.STALE)
        return What.WAIT if waits else What.FOUND

    def _outcome(self, script: _Script, key: str, change: str | None) -> tuple[What, str]:
        """What a script other than an acquire has done to a key, by what it has written there."""
        match script.name:
            case "fill" if change:
                return What.FILL, self._fill_words(key, script.at_ms, script.args[1])
            case "fill":
                self._resolve(key, None, granted=script.args[0][:NONCE_BYTES])
                found = self._keyspace.look(key, script.at_ms)
                again = found is not None and found.stored_by and found.stored_by.id == script.args[0]
                return (What.FILL, "again") if again else (What.FILL_REFUSED, "")
            case "hold" | "claim":
                return (What.HOLD if change else What.FOUND), ""
            case "renew":
                return (What.RENEWAL if change else What.LEASE_LOST), ""
            case "release":
                return What.RELEASE, "" if change else "it had none"
            case "expire":
                return (What.SOFT_EXPIRY if change == "SETRANGE" else What.INVALIDATION), _tag_words(key)
            case "swap":
                return (What.SWAP if change else What.SWAP_REFUSED), ""
            case "touch":
                return What.TOUCH, "" if change else "nothing to be longer"
            case "lock":
                return (What.LOCK if change else What.WAIT), ""
            case "unlock":
                return What.UNLOCK, ""
            case "capture":
                return What.TAG, "issued" if change == "SET" else "read"
            case _:
                return What.OTHER, "a script"

    def _apply(self, command: Monitored, key: str, args: tuple[bytes, ...]) -> None:
        """Follow a command that changes what a key holds."""
        was_unknown = self._keyspace.get(key) is None
        self._keyspace.apply(command, key, args)
        # After a removal, who fills, or gives back what he was granted, may still say what was before.
        is_known = self._keyspace.get(key) is not None
        if key in self._open and was_unknown and is_known and command.name not in REMOVALS:
            self._resolve(key, None)

    # What is not known yet.

    def _ask(self, key: str) -> None:
        if self._asks:
            self._asked[key] = None

    def _wait(self, happening: Happening) -> None:
        if self._asks:
            self._open.setdefault(happening.key, []).append(happening)
        else:
            happening.what = What.ACQUIRE if happening.nonce else What.READ

    def _answered(self, key: str) -> None:
        """The place in the stream where the answer about a key holds."""
        held = self._answers.pop(key, None)
        if held is None:
            return
        if self._keyspace.get(key) is None:
            self._keyspace.hold(key, held)
            self._resolve(key, held)

    def _resolve(self, key: str, held: Held | None, *, granted: bytes = b"") -> None:
        """Say of what has waited what it was.

        Args:
            key: The full name.
            held: What it holds now, and has held since; None where that is not known.
            granted: The nonce of a lease that is known to have been granted.
        """
        waiting = self._open.pop(key, None)
        if waiting is None:
            return
        now_ms = waiting[-1].at_ms
        found = self._keyspace.look(key, now_ms) if held is not None else None
        nonces = {granted} if granted else set()
        if found is not None:
            nonces |= {each.id[:NONCE_BYTES] for each in (found.lease, found.stored_by) if each is not None}
        granted_at = next(
            (at for at, each in enumerate(waiting) if each.nonce and each.nonce in nonces), None
        )
        for at, happening in enumerate(waiting):
            if at == granted_at:
                happening.what = What.GRANT
            elif granted_at is not None:
                # Before it there was nothing, and after it nothing but the lease.
                happening.what = What.WAIT if happening.nonce else What.MISS
            elif found is None:
                happening.what = What.ACQUIRE if happening.nonce else What.READ
            else:
                happening.what = self._denied(key, now_ms) if happening.nonce else _read_as(found)


def _read_as(found: Inspection) -> What:
    match found.state:
        case CellState.FRESH:
            return What.HIT
        case CellState.STALE:
            return What.STALE
        case CellState.NOTHING:
            return What.NOTHING
        case CellState.UNCHECKED | CellState.TAG | CellState.LOCKED | CellState.UNLOCKED | CellState.QUEUED:
            return What.READ
        case _:
            return What.MISS


def _tag_words(key: str) -> str:
    return "of all entries with the tag" if is_tag_key(key) else ""
