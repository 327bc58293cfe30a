"""Facts: what a server says of itself as a connection to it is opened. No I/O here.

They are asked for in the first write on every connection, so that they cost no round trip: who answers at an
address may be another server by then, or the same one with another role, or with the data of some time ago.
What a server does not say (by its access rules, or as a service hides it) is empty, and nothing follows from
it.

*The floor.* A server that is started with a snapshot has the values and the leases that it had when the
snapshot was taken, and those that were invalidated since are among them. All ids in it, of grants, fills and
versions of tags, hold the moment in which they were issued: what is older than the start of the run is not to
be trusted, and counts as gone. That is so where keys were loaded from a snapshot, with no log of all writes
behind it (`appendonly`), and nothing has come in by replication. A replica loads a snapshot too, whenever it
follows its primary anew, and is up to date all the same: to it, once promoted, that says nothing.
https://redis.io/docs/latest/commands/info
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct
from redis.exceptions import ReadOnlyError

from sansio_cache_redis.calls import TIME, Args
from sansio_cache_redis.errors import NotADataServerError

NEEDED: Final = ("evalsha", "eval", "unlink", "scan", "publish", "subscribe", "spublish", "ssubscribe")
"""Commands that services leave out: the rest of what is needed everybody has."""
INFO: Final[Args] = (b"INFO", b"server", b"replication", b"persistence", b"stats")
GREETING: Final[tuple[Args, ...]] = (
    TIME,
    (b"HELLO",),
    INFO,
    (b"COMMAND", b"INFO", *(name.encode() for name in NEEDED)),
)
"""What the first write on a connection asks for. Sections of INFO by name: from Redis 7.0 on."""
PRIMARY: Final = "primary"
REPLICA: Final = "replica"
SENTINEL: Final = "sentinel"
CLUSTER: Final = "cluster"
_ROLES: Final = {"master": PRIMARY, "slave": REPLICA}
_US: Final = 1_000_000


class Facts(Struct, frozen=True, kw_only=True):
    """What a server has said of itself.

    Attributes:
        name: `Redis` or `Valkey`, as far as it can be told.
        version: Its version, such as `9.1.2`.
        mode: `standalone`, `cluster` or `sentinel`.
        role: `primary` or `replica`.
        run_id: Another one for every start of a server.
        started_s: When it was started, in whole seconds of its own clock, rounded down; None where unknown.
        is_loading: Whether it is still loading its data.
        loaded_keys: How many keys it has loaded from a snapshot.
        has_log: Whether it keeps a log of all writes, and reads that when it is started (`appendonly`).
        replicated_bytes: How much has come in by replication in this run.
        replicas: How many replicas follow it.
        heeds_replicas: Whether it refuses writes while too few replicas follow (`min-replicas-to-write`).
        missing: Commands of `NEEDED` that it does not know.
    """

    name: str = ""
    version: str = ""
    mode: str = ""
    role: str = ""
    run_id: str = ""
    started_s: int | None = None
    is_loading: bool = False
    loaded_keys: int = 0
    has_log: bool = False
    replicated_bytes: int = 0
    replicas: int = 0
    heeds_replicas: bool = False
    missing: tuple[str, ...] = ()

    @property
    def began_empty(self) -> bool:
        """Whether it was started without data, and has got none from another server: all is of this run."""
        is_told = bool(self.run_id) and self.started_s is not None
        return is_told and not (self.loaded_keys or self.has_log or self.replicated_bytes)

    def floor_us(self, skew_s: float) -> int:
        """Ids that were issued before this are not to be trusted, in microseconds of its clock; 0: all are.

        Args:
            skew_s: How far apart the clocks may be of servers that have issued ids, in seconds.
        """
        is_restored = self.loaded_keys > 0 and not (self.has_log or self.replicated_bytes)
        if self.started_s is None or not is_restored or self.role == REPLICA:
            return 0
        return (self.started_s + 1) * _US + int(skew_s * _US)


def facts_from(hello: Any, info: Any, commands: Any = None) -> Facts:
    """The facts in replies to HELLO, `INFO` and COMMAND INFO. Never raises: what is refused is unknown."""
    greeted, told = _pairs(hello), info_fields(info)
    # Valkey gives a redis_version for compatibility's sake; its own tells the truth.
    name = "Valkey" if "valkey_version" in told or greeted.get("server") == "valkey" else "Redis"
    version = told.get("valkey_version") or greeted.get("version") or told.get("redis_version") or ""
    role = told.get("role") or greeted.get("role") or ""
    return Facts(
        name=name if version else "",
        version=version,
        mode=told.get("redis_mode") or told.get("server_mode") or greeted.get("mode") or "",
        role=_ROLES.get(role, role),
        run_id=told.get("run_id", ""),
        started_s=_started_s(told),
        is_loading=told.get("loading", "0") != "0",
        loaded_keys=_number(told, "rdb_last_load_keys_loaded"),
        has_log=_number(told, "aof_enabled") > 0,
        replicated_bytes=_number(told, "total_net_repl_input_bytes"),
        replicas=_number(told, "connected_slaves"),
        heeds_replicas="min_slaves_good_slaves" in told,
        missing=_missing(commands),
    )


def refuse_unfit(facts: Facts) -> None:
    """Refuse a server on which nothing is to be asked.

    Raises:
        NotADataServerError: It is a sentinel.
        ReadOnlyError: It is a replica: an invalidation is complete once the primary has it, and a replica may
            be behind by any time, so nothing is read there.
    """
    if facts.mode == SENTINEL:
        raise NotADataServerError("a sentinel keeps no data")
    if facts.role == REPLICA:
        raise ReadOnlyError("READONLY it is a replica")


def _pairs(reply: Any) -> Mapping[str, str]:
    if isinstance(reply, Mapping):
        return {text(name): text(value) for name, value in reply.items()}
    if isinstance(reply, list | tuple) and not len(reply) % 2:
        return {text(name): text(value) for name, value in zip(reply[::2], reply[1::2], strict=True)}
    return {}


def info_fields(reply: Any) -> Mapping[str, str]:
    """The fields in a reply to INFO, by name; none where it is refused. Never raises."""
    if isinstance(reply, bytes):
        lines = reply.decode(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)
    if isinstance(reply, Mapping):  # a client of the user's has parsed it
        return {str(name): str(value) for name, value in reply.items()}
    return {}


def text(value: Any) -> str:
    """A text in a reply, whether or not a client of the user's has decoded it."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _number(told: Mapping[str, str], name: str) -> int:
    said = told.get(name, "")
    return int(said) if said.isascii() and said.isdecimal() else 0


def _started_s(told: Mapping[str, str]) -> int | None:
    """Both numbers are of one moment, and so their difference is the same in all of a run."""
    if "server_time_usec" not in told or "uptime_in_seconds" not in told:
        return None
    return _number(told, "server_time_usec") // _US - _number(told, "uptime_in_seconds")


def _missing(reply: Any) -> tuple[str, ...]:
    if not isinstance(reply, list | tuple) or len(reply) != len(NEEDED):
        return ()
    return tuple(name for name, known in zip(NEEDED, reply, strict=True) if known is None)
