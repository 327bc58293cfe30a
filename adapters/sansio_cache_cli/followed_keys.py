"""What the keys of a namespace hold, as far as it is known from the commands that were run. No I/O here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import attrs

from sansio_cache.inspection import CellState, Inspection, inspect
from sansio_cache.tags import NO_VERSION, Versions, tag_key
from sansio_cache_cli.monitored import Monitored, whole_number
from sansio_cache_cli.words import text_of

HEAD_BYTES: Final = 512
"""So much is kept of what a key holds: its header, and mostly all of its tags."""
NO_TTL_MS: Final = -1
REMOVALS: Final = frozenset({"UNLINK", "DEL", "GETDEL"})
LIVES: Final = {"PEXPIRE": 1, "EXPIRE": 1000}
_MOST_KEYS: Final = 100_000


@attrs.frozen
class Held:
    """What a key holds, None where it does not exist, and until when."""

    raw: bytes | None
    until_ms: int | None = None


class FollowedKeys:
    """Takes in the commands that change keys, and says what a key holds. Of too many the oldest go first."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Held] = OrderedDict()

    def get(self, key: str) -> Held | None:
        """What a key holds; None where that is not known."""
        return self._held.get(key)

    def forget(self) -> None:
        """Nothing is known any more."""
        self._held.clear()

    def look(self, key: str, now_ms: int) -> Inspection | None:
        """What a key holds; None where that is not known."""
        held = self._held.get(key)
        if held is None:
            return None
        is_gone = held.until_ms is not None and held.until_ms <= now_ms
        left_ms = NO_TTL_MS if held.until_ms is None else held.until_ms - now_ms
        raw = None if is_gone else held.raw
        name = text_of(key)
        found = inspect(name, raw, left_ms=left_ms, server_ms=now_ms, size_bytes=_size(raw))
        if found.state is not CellState.UNCHECKED or found.contents is None:
            return found
        versions = self._versions(key, [tag for tag, _ in found.contents.versions])
        if versions is None:
            return found
        return inspect(name, raw, left_ms=left_ms, server_ms=now_ms, versions=versions)

    def _versions(self, key: str, tags: Sequence[str]) -> Versions | None:
        held = [(tag, self._held.get(tag_key(key, tag))) for tag in tags if tag]
        if len(held) < len(tags) or any(each is None for _, each in held):
            return None
        return tuple((tag, (each.raw if each else None) or NO_VERSION) for tag, each in held)

    def apply(self, command: Monitored, key: str, args: tuple[bytes, ...]) -> None:
        """Follow a command that changes what a key holds; what is not known how to makes it unknown."""
        held = self._held.get(key)
        match command.name, args:
            case "SET", (value, *options):
                self.hold(key, Held(value[:HEAD_BYTES], _until(options, command.at_ms)))
            case (("UNLINK" | "DEL" | "GETDEL"), _):
                self.hold(key, Held(None))
            case "SETRANGE", (offset, data) if held is not None and whole_number(offset) is not None:
                at, raw = min(whole_number(offset) or 0, HEAD_BYTES), held.raw or b""
                changed = raw[:at].ljust(at, b"\0") + data + raw[at + len(data) :]
                self.hold(key, Held(changed[:HEAD_BYTES], held.until_ms))
            case (("PEXPIRE" | "EXPIRE"), (life, *_)) if held is not None and whole_number(life) is not None:
                until_ms = command.at_ms + (whole_number(life) or 0) * LIVES[command.name]
                self.hold(key, Held(held.raw, until_ms))
            case _:
                self._held.pop(key, None)

    def hold(self, key: str, held: Held) -> None:
        """A key is known to hold this."""
        self._held[key] = held
        self._held.move_to_end(key)
        if len(self._held) > _MOST_KEYS:
            self._held.popitem(last=False)


def _size(raw: bytes | None) -> int:
    """How long a string may be of which this is known: one that was cut is longer."""
    return 0 if raw is None else len(raw) + (len(raw) == HEAD_BYTES)


def _until(options: Sequence[bytes], now_ms: int) -> int | None:
    words = [each.upper() for each in options]
    for name, unit_ms in ((b"PX", 1), (b"EX", 1000)):
        life = whole_number(words[words.index(name) + 1]) if name in words[:-1] else None
        if life is not None:
            return now_ms + life * unit_ms
    return None
