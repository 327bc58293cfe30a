"""The pure core of sansio-cache: it does no I/O, and imports nothing that does.

The caches that drive it are `sansio_cache_redis.sync.Cache`, for threads, and
`sansio_cache_redis.anyio.Cache`, for asyncio and trio.

What every cache is made with is imported at once. What only some programs name, as statistics and strategies,
is imported when it is first named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from sansio_cache.config import CacheConfig, CacheOptions, RedisConfig
from sansio_cache.errors import (
    CacheClosedError,
    CacheConnectionError,
    CacheError,
    CacheTimeoutError,
    ConfigurationError,
    InvalidKeyError,
    InvalidTtlError,
    LockLostError,
    NoEntryError,
    NotStoredError,
    ProtocolError,
    RecursiveLoadError,
    SerializationError,
    UnknownOutcomeError,
)
from sansio_cache.keys import Key, KeyBuilder, Pattern
from sansio_cache.loader import Absent, Fresh, LoadContext
from sansio_cache.patterns import escape_glob
from sansio_cache.policy import Policy
from sansio_cache.ttl import COLD, HOT, MEDIUM, NO_JITTER, STATIC, Exact, Jitter, Tier

if TYPE_CHECKING:
    from sansio_cache.distributions import Histogram, Sizes
    from sansio_cache.lookup import EntryState, Lookup
    from sansio_cache.stats import CacheStats, EntityStats
    from sansio_cache.strategies import CacheAside, RefreshAhead, WriteBehind, WriteThrough

__version__ = "0.1.0"

_HOMES: Final = {
    "sansio_cache.distributions": ("Histogram", "Sizes"),
    "sansio_cache.lookup": ("EntryState", "Lookup"),
    "sansio_cache.stats": ("CacheStats", "EntityStats"),
    "sansio_cache.strategies": ("CacheAside", "RefreshAhead", "WriteBehind", "WriteThrough"),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "COLD",
    "HOT",
    "MEDIUM",
    "NO_JITTER",
    "STATIC",
    "Absent",
    "CacheAside",
    "CacheClosedError",
    "CacheConfig",
    "CacheConnectionError",
    "CacheError",
    "CacheOptions",
    "CacheStats",
    "CacheTimeoutError",
    "ConfigurationError",
    "EntityStats",
    "EntryState",
    "Exact",
    "Fresh",
    "Histogram",
    "InvalidKeyError",
    "InvalidTtlError",
    "Jitter",
    "Key",
    "KeyBuilder",
    "LoadContext",
    "LockLostError",
    "Lookup",
    "NoEntryError",
    "NotStoredError",
    "Pattern",
    "Policy",
    "ProtocolError",
    "RecursiveLoadError",
    "RedisConfig",
    "RefreshAhead",
    "SerializationError",
    "Sizes",
    "Tier",
    "UnknownOutcomeError",
    "WriteBehind",
    "WriteThrough",
    "escape_glob",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
