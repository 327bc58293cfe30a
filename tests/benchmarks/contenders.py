"""Who takes part: what a contender can do, where it finds its server, and whether it is installed."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from importlib import util
from importlib.metadata import version
from typing import Any

import attrs

OURS = "sansio-cache"
TTL_S = 3600
POOL = 50
"""Connections of a pool, for whoever has one."""


@attrs.frozen(kw_only=True)
class Address:
    """A database of the server, over TCP or a unix socket; or a cluster, by one of its nodes."""

    transport: str
    port: int
    path: str
    db: int

    @property
    def url(self) -> str:
        """As redis-py reads it."""
        if self.transport == "unix":
            return f"unix://{self.path}?db={self.db}"
        if self.transport == "cluster":
            return f"redis+cluster://127.0.0.1:{self.port}"
        return f"redis://127.0.0.1:{self.port}/{self.db}"


@attrs.frozen(kw_only=True)
class Peer:
    """An open contender. Functions return values, or awaitables of them where it is asynchronous.

    Where a function is what the library's user calls, it stands here itself: nothing is wrapped that need
    not be.
    """

    get: Callable[[str], Any]
    set: Callable[[str, Any], Any]
    get_or_load: Callable[[str, Callable[[], Any]], Any]
    invalidate: Callable[[str], Any]
    guarded: Callable[[str, Callable[[], Any]], Any] | None = None
    """get_or_load with the promise of one load at a time in all processes."""
    get_many: Callable[[list[str]], Any] | None = None
    get_or_load_many: Callable[[list[str], Callable[[list[str]], Any]], Any] | None = None
    delete_pattern: Callable[[str], Any] | None = None


Opened = AbstractContextManager[Peer] | AbstractAsyncContextManager[Peer]


@attrs.frozen(kw_only=True)
class Contender:
    """How to open one. `codec` says what it makes of values, `note` what it leaves out or cannot do."""

    name: str
    runtime: str
    db: int
    open: Callable[[Address], Opened]
    codec: str
    package: str | None = None
    prefix: str = ""
    """What it puts before the keys it is given."""
    has_unix: bool = True
    unguarded: str = ""
    note: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether this is the library whose benchmarks these are."""
        return self.package is None and self.name.startswith(OURS)

    @property
    def is_installed(self) -> bool:
        """Whether its package is here."""
        return self.package is None or _is_installed(self.package)

    def absence(self, transport: str = "tcp") -> str | None:
        """Why it cannot take part, if it cannot."""
        if not self.is_installed:
            return "not installed"
        if transport == "unix" and not self.has_unix:
            return "takes no unix socket"
        return None


def _is_installed(package: str) -> bool:
    try:
        return util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False  # the parent of a dotted name


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except ImportError:
            found[name] = "not installed"
    return found
