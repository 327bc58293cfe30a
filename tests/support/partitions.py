"""What is between the nodes of a cluster: their bus and their replication, which can be cut for one of them.

Each node tells the others to reach it through two proxies. On the bus every node has a connection to every
other one, and each packet says who has sent it: so a proxy knows whom it is about to let through.
https://valkey.io/topics/cluster-spec
"""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

from support.relaying import Ending, Proxy, Relay

BUS_OFFSET: Final = 10_000
"""How much higher the port of the bus is than that for clients."""
_SENDER: Final = slice(40, 80)
"""Where a packet says who has sent it, behind what it is and the epochs."""


class _BusRelay(Relay):
    """A connection on the bus from one node to another."""

    def __init__(self, banned: set[bytes]) -> None:
        super().__init__()
        self._banned = banned
        self._first = bytearray()

    def from_client(self, data: bytes) -> None:
        if len(self._first) < _SENDER.stop:
            self._first += data
        if bytes(self._first[_SENDER]) in self._banned:
            self.ending = Ending.RESET
            return
        self.to_upstream += data


class BusProxy(Proxy):
    """The bus of one node, as the others reach it."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.banned: set[bytes] = set()
        """The ids of nodes that are not let through."""

    def _relay(self) -> Relay:
        return _BusRelay(self.banned)


class Ways:
    """How the other nodes reach one node."""

    def __init__(self, port: int, stack: ExitStack) -> None:
        self.bus = stack.enter_context(BusProxy(port + BUS_OFFSET))
        self.data = stack.enter_context(Proxy("127.0.0.1", port))

    @property
    def args(self) -> list[str]:
        """What the node is to tell the others."""
        return [
            *("--cluster-announce-port", str(self.data.port)),
            *("--cluster-announce-bus-port", str(self.bus.port)),
        ]


def isolate(node_id: str, its: Ways, others: Iterable[Ways]) -> None:
    """Cut a node off from all others: what they send is lost, and it reaches nobody."""
    its.bus.vanish()
    its.data.vanish()
    for each in others:
        each.bus.banned.add(node_id.encode())
        each.bus.drop_all()


def reunite(node_id: str, its: Ways, others: Iterable[Ways]) -> None:
    """End that."""
    for each in others:
        each.bus.banned.discard(node_id.encode())
    its.bus.appear()
    its.data.appear()
    its.bus.drop_all()
    its.data.drop_all()
