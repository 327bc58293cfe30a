"""Real clusters for the tests: primaries, each with a replica if wanted, on loopback; and how slots move."""

import random
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Self

import redis
from redis.crc import key_slot

from support.partitions import Ways, isolate, reunite
from support.servers import Server, ServerDiedError, wait_until

SLOTS: Final = 16_384
_PORTS: Final = range(20_000, 30_000)
"""Below those that the system gives out, and so are those of the bus, which are 10,000 higher: mostly."""
NODE_TIMEOUT_MS: Final = 15_000
"""After which silence the others take a node for failed: long, as machines have other things to do."""
SHORT_NODE_TIMEOUT_MS: Final = 1_000
"""The same where it is tested what becomes of that."""


def slot_of(key: str) -> int:
    return key_slot(key.encode())


class ClusterServers:
    """A cluster of our own; a context manager that stops it. Start one with `ClusterServers.start()`."""

    def __init__(
        self, stack: ExitStack, primaries: Sequence[Server], replicas: Sequence[Server], host: str
    ) -> None:
        self._stack = stack
        self._host = host
        self.primaries = list(primaries)
        self.replicas = list(replicas)
        self._ways: dict[Server, Ways] = {}
        self._moved: set[int] = set()
        """The slots that have moved since the cluster was made."""

    @classmethod
    def start(
        cls,
        primaries: int = 3,
        *,
        replicas: bool = False,
        args: Sequence[str] = (),
        is_divisible: bool = False,
        node_timeout_ms: int = NODE_TIMEOUT_MS,
        host: str = "127.0.0.1",
    ) -> Self:
        """Start a cluster, and wait until every node takes it for whole.

        Args:
            primaries: How many.
            replicas: Whether each has one.
            args: More options of each node.
            is_divisible: Whether a node can be cut off from the others (`isolate`). Then nodes name each
                other by the ports of proxies; `direct` gives those of the nodes.
            node_timeout_ms: After which silence the others take a node for failed.
            host: The address of loopback under which nodes know each other.
        """
        with ExitStack() as stack:
            count = primaries * (2 if replicas else 1)
            own = ("--cluster-node-timeout", str(node_timeout_ms), *args)
            started = [_start_node(own, stack, is_divisible) for _ in range(count)]
            nodes = [server for server, _ in started]
            servers = cls(stack, nodes[:primaries], nodes[primaries:], host)
            servers._ways = {server: ways for server, ways in started if ways is not None}
            servers._join()
            servers._stack = stack.pop_all()
            return servers
        raise AssertionError

    def _join(self) -> None:
        nodes = [*self.primaries, *self.replicas]
        width = SLOTS // len(self.primaries)
        for place, server in enumerate(nodes):
            client = server.client()
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            if place < len(self.primaries):
                last = SLOTS - 1 if place == len(self.primaries) - 1 else (place + 1) * width - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", place * width, last)
            for other in nodes[:place]:
                client.execute_command("CLUSTER", "MEET", self._host, *self.announced(other))
        wait_until(lambda: all(self._knows(each, len(nodes)) for each in nodes), timeout_s=90.0)
        for primary, replica in zip(self.primaries, self.replicas, strict=False):
            replica.client().execute_command("CLUSTER", "REPLICATE", self.id_of(primary))
        wait_until(lambda: all(self._is_whole(each, len(nodes)) for each in nodes), timeout_s=90.0)

    def announced(self, server: Server) -> list[int]:
        """The ports under which others reach a node: of clients, and of the bus where it is not usual."""
        ways = self._ways.get(server)
        return [server.port] if ways is None else [ways.data.port, ways.bus.port]

    def _knows(self, server: Server, count: int) -> bool:
        info: Any = server.client().execute_command("CLUSTER INFO")
        return int(info["cluster_known_nodes"]) == count and "handshake" not in self._nodes_text(server)

    def _nodes_text(self, server: Server) -> str:
        with server._raw_connection() as connection:
            connection.sendall(b"CLUSTER NODES\r\n")
            data = b""
            while not data.endswith(b"\n\r\n"):
                data += connection.recv(65536)
        return data.decode()

    def _is_whole(self, server: Server, count: int) -> bool:
        info: Any = server.client().execute_command("CLUSTER INFO")
        if is_down(server) or int(info["cluster_size"]) != len(self.primaries):
            return False
        if server in self.replicas:
            found: Any = server.client().info("replication")
            return found["role"] == "slave" and found["master_link_status"] == "up"
        return self._nodes_text(server).count("slave") == len(self.replicas)

    # Who is who.

    @property
    def url(self) -> str:
        """A URL of the cluster, which names all nodes."""
        nodes = [*self.primaries, *self.replicas]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return "redis+cluster://" + ",".join(f"{host}:{each.port}" for each in nodes)

    @property
    def announced_url(self) -> str:
        """The same, with the ports under which nodes know each other."""
        nodes = [*self.primaries, *self.replicas]
        return "redis+cluster://" + ",".join(f"127.0.0.1:{self.announced(each)[0]}" for each in nodes)

    def direct(self, host: str, port: int) -> tuple[str, int]:
        """The address of a node itself, by the one under which the others know it: for `address_map`."""
        for server, ways in self._ways.items():
            if ways.data.port == port:
                return host, server.port
        return host, port

    def id_of(self, server: Server) -> str:
        return str(server.client().execute_command("CLUSTER", "MYID").decode())

    def owner_of(self, key: str) -> Server:
        """The primary that has a key, as the cluster was made."""
        return self.primaries[min(slot_of(key) // (SLOTS // len(self.primaries)), len(self.primaries) - 1)]

    def key_on(self, server: Server, namespace: str, prefix: str = "k") -> str:
        """A key, without the namespace, that a primary has as the cluster was made, and since."""
        return next(self.keys_on(server, namespace, prefix))

    def keys_on(self, server: Server, namespace: str, prefix: str = "k") -> Iterator[str]:
        for number in range(100_000):
            key = f"{prefix}{number}"
            full = f"{namespace}:{key}"
            if self.owner_of(full) is server and slot_of(full) not in self._moved:
                yield key

    def client(self) -> redis.RedisCluster:
        """A client of redis-py's; to be closed."""
        return redis.RedisCluster(host="127.0.0.1", port=self.primaries[0].port)

    def join_spare(self) -> Server:
        """Another primary, which has no slots."""
        spare, _ = _start_node((), self._stack, is_divisible=False)
        spare.client().execute_command("CLUSTER", "MEET", "127.0.0.1", *self.announced(self.primaries[0]))
        count = len(self.primaries) + len(self.replicas) + 1
        wait_until(lambda: self._knows(spare, count) and not is_down(spare), timeout_s=90.0)
        return spare

    # What happens to it.

    @contextmanager
    def moving(
        self, slot: int, source: Server, target: Server, others: Sequence[Server] | None = None
    ) -> Iterator[None]:
        """A slot is moving while the block runs; it has moved at its end. Keys move with `move_keys`.

        Who owns it then is said to the other primaries, too, or to those that are named.
        """
        source_id, target_id = self.id_of(source), self.id_of(target)
        self._moved.add(slot)
        target.client().execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.client().execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        yield
        self.move_keys(slot, source, target)
        if others is None:
            others = [each for each in self.primaries if each not in (source, target)]
        for node in (target, source, *others):
            node.client().execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def move_keys(self, slot: int, source: Server, target: Server) -> None:
        """Move the keys of a slot that moves."""
        client = source.client()
        while keys := client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def has_all_slots(self) -> bool:
        """Whether each primary has heard of an owner of every slot."""
        return all(
            int(each.client().execute_command("CLUSTER INFO")["cluster_slots_assigned"]) == SLOTS
            for each in self.primaries
        )

    def isolate(self, server: Server) -> None:
        """Cut a node off from all others; clients reach it as before by its own port."""
        others = [ways for other, ways in self._ways.items() if other is not server]
        isolate(self.id_of(server), self._ways[server], others)

    def reunite(self, server: Server) -> None:
        """End that."""
        others = [ways for other, ways in self._ways.items() if other is not server]
        reunite(self.id_of(server), self._ways[server], others)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


def is_down(server: Server) -> bool:
    """Whether a node takes the cluster for down."""
    info: Any = server.client().execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] != "ok")


def _start_node(args: Sequence[str], stack: ExitStack, is_divisible: bool) -> tuple[Server, Ways | None]:
    options = ["--cluster-enabled", "yes", *args]
    for _ in range(20):
        port = random.choice(_PORTS)
        try:
            with ExitStack() as own:
                ways = Ways(port, own) if is_divisible else None
                server = Server.start(port=port, args=[*options, *(() if ways is None else ways.args)])
                own.callback(server.stop)
                stack.push(own.pop_all())
                return server, ways
        except (OSError, ServerDiedError, subprocess.SubprocessError):
            continue
    raise ServerDiedError("no port was free for a node of a cluster")
