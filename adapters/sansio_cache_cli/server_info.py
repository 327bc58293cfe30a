"""What a server says of itself by INFO, as far as it is of interest. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sansio_cache_redis.facts import info_fields


@attrs.frozen
class ServerInfo:
    """The fields of INFO. One that is not there, or is no number, is None: servers differ.

    Args:
        fields: By name, as the server gave them.
    """

    fields: Mapping[str, str]

    @classmethod
    def parse(cls, reply: Any) -> ServerInfo | None:
        """Read a reply; None where it is none, as where the user may not ask."""
        if not isinstance(reply, bytes):
            return None
        return cls(info_fields(reply))

    def text(self, name: str) -> str:
        """A field, empty where it is not there."""
        return self.fields.get(name, "")

    def number(self, name: str) -> float | None:
        """A field that is a number."""
        try:
            return float(self.fields[name])
        except (KeyError, ValueError):
            return None

    def count(self, name: str) -> int:
        """A field that counts, 0 where it is not there."""
        return int(self.number(name) or 0)

    def persistent_keys(self, database: int) -> int:
        """How many keys of a database have no time to live."""
        pairs = (each.partition("=") for each in self.text(f"db{database}").split(","))
        counts = {name: int(count) for name, _, count in pairs if count.isdecimal()}
        return counts.get("keys", 0) - counts.get("expires", 0)

    @property
    def hit_rate(self) -> float | None:
        """The share of reads that found their key, in percent, of all programs since the server started."""
        return share(self.count("keyspace_hits"), self.count("keyspace_misses"))


def share(hits: int, misses: int) -> float | None:
    """The share of hits in percent; None where there was nothing."""
    return 100.0 * hits / (hits + misses) if hits + misses else None
