"""What is wrong with the store while it is measured."""

from __future__ import annotations

import threading
from collections.abc import Callable

import attrs

from support.proxy import SILENCE, Delay, Drip, FaultProxy, Refuse
from support.servers import Server

FLAP_S = 0.1
BUSY_S = 0.005  # so that one connection is not enough
SLOW_LINK_BYTES_PER_S = 2e6


class Lab:
    """A server, the proxy before it, and what is wrong now."""

    def __init__(self, server: Server, proxy: FaultProxy) -> None:
        self.server = server
        self.proxy = proxy
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def flap(self) -> None:
        """Refuse and serve in turns, until `steady`."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._flap)
        self._thread.start()

    def steady(self) -> None:
        """End `flap`."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def gone(self) -> None:
        """Nobody listens, and open connections are reset."""
        self.proxy.refuse_connections()
        self.proxy.drop_all()

    def killed(self) -> None:
        """kill -9: nobody listens until it is started again, without its data."""
        self.gone()
        self.server.kill()

    def restarted(self) -> None:
        """End `killed`."""
        self.server.restart()
        self.proxy.accept_connections()

    def _flap(self) -> None:
        while not self._stop.is_set():
            self.gone()
            self._stop.wait(FLAP_S)
            self.proxy.accept_connections()
            self._stop.wait(FLAP_S)


@attrs.frozen
class Case:
    """One thing that is wrong, from `begin` to `end`."""

    name: str
    begin: Callable[[Lab], object]
    end: Callable[[Lab], object]
    is_warm: bool = True
    """Whether the cache has a connection before it begins: one, of one caller."""
    pause_s: float = 0.05
    """How long a caller rests between two calls, about."""
    has_large_value: bool = False
    """Whether one more caller reads a value of 4 MB all the while."""


def _slow(seconds: float) -> Callable[[Lab], object]:
    return lambda lab: lab.proxy.on(lambda words: True, Delay(seconds), times=None)


def _well(lab: Lab) -> None:
    lab.proxy.clear()


CASES = (
    Case("nothing", lambda lab: None, _well),
    Case("frozen", lambda lab: lab.server.freeze(), lambda lab: lab.server.thaw()),
    Case("refused", Lab.gone, lambda lab: lab.proxy.accept_connections(), is_warm=False),
    Case("killed", Lab.killed, Lab.restarted),
    Case("blackholed", lambda lab: lab.proxy.vanish(), lambda lab: lab.proxy.appear()),
    Case("replies swallowed", lambda lab: lab.proxy.on(lambda words: True, SILENCE, times=None), _well),
    Case("flapping", Lab.flap, Lab.steady),
    Case("5 ms a command", _slow(0.005), _well),
    Case("20 ms a command", _slow(0.02), _well),
    Case("100 ms a command", _slow(0.1), _well),
    Case(
        "slow link, large value",
        lambda lab: lab.proxy.limit(to_client_bytes_per_s=SLOW_LINK_BYTES_PER_S),
        lambda lab: lab.proxy.limit(),
        has_large_value=True,
    ),
    Case(
        "dripping",
        lambda lab: lab.proxy.on(lambda words: True, Drip(count=1, every_s=0.02), times=None),
        _well,
    ),
    Case(
        "maxclients",
        lambda lab: lab.proxy.on_connect(Refuse("ERR max number of clients reached"), times=None),
        _well,
        pause_s=BUSY_S,
    ),
    Case(
        "slow handshake",
        lambda lab: lab.proxy.on_connect(Delay(1.0), times=None),
        _well,
        pause_s=BUSY_S,
    ),
)
