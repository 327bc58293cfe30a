"""How the nodes of a cluster are known: by names, over TLS, and by addresses of IPv6."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import attrs
import pytest
import redis
import trustme

from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.clusters import ClusterServers, slot_of
from support.faulty import (
    GIVE_UP_S,
    PATIENT,
    Subject,
    eventually,
    in_thread,
    on_every_runtime,
    opened,
    run_on,
)
from support.servers import Server, wait_until
from support.tls import TlsProxy

pytestmark = [pytest.mark.servers, pytest.mark.topology]

MANY = [f"k{number}" for number in range(60)]


async def works(cache: Subject) -> None:
    """A batch goes over all nodes, and each of its keys is hit after that; who waits would be told."""
    assert await cache.get_or_load_many(MANY, lambda keys: dict.fromkeys(keys, 1)) == dict.fromkeys(MANY, 1)
    assert await cache.get_many(MANY) == dict.fromkeys(MANY, 1)
    for key in MANY[:9]:
        assert await cache.get(key) == 1
    listener: Any = cache._driver._backend.listener
    numbers = {key: listener.watch(f"{cache.namespace}:{key}", lambda: None) for key in MANY[:9]}
    await eventually(lambda: all(listener.hears(f"{cache.namespace}:{key}") for key in numbers))
    for key, number in numbers.items():
        listener.unwatch(f"{cache.namespace}:{key}", number)
    assert (await cache.invalidate(*MANY)).remembered == 0
    assert cache.stats().gave_up == {}


async def follows(cache: Subject, servers: ClusterServers) -> None:
    """A slot that moves is followed, by what MOVED says."""
    source, target, *_ = servers.primaries
    key = servers.key_on(source, cache.namespace, "moves")

    def move() -> None:
        with servers.moving(slot_of(f"{cache.namespace}:{key}"), source, target):
            pass

    assert await cache.set(key, "old")
    await in_thread(move)
    assert await cache.get(key) == "old"
    assert await cache.set(key, "new")
    assert await cache.get(key) == "new"
    assert cache.stats().gave_up == {}


# Behind TLS. Each node is announced with the port of its proxy.


@attrs.frozen
class Secured:
    """A cluster behind TLS. Its certificates are for `localhost`, and for no address."""

    servers: ClusterServers
    proxies: list[TlsProxy]

    @property
    def ca_file(self) -> str:
        return str(self.proxies[0].ca_file)

    def url(self, scheme: str = "rediss+cluster") -> str:
        return f"{scheme}://localhost:{self.proxies[1].port}?ssl_ca_certs={self.ca_file}"

    def announce(self, kind: str) -> None:
        """Have nodes known by their names, or by their addresses."""
        for each in self.servers.primaries:
            each.client().config_set("cluster-preferred-endpoint-type", kind)


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    authority = trustme.CA()
    with ExitStack() as stack:
        servers = stack.enter_context(ClusterServers.start(3))
        proxies = [
            stack.enter_context(TlsProxy(each.port, names=("localhost",), authority=authority))
            for each in servers.primaries
        ]
        for server, proxy in zip(servers.primaries, proxies, strict=True):
            client = server.client()
            client.config_set("cluster-announce-bus-port", server.port + 10_000)
            client.config_set("cluster-announce-port", proxy.port)
            client.config_set("cluster-announce-hostname", "localhost")
        found = Secured(servers, proxies)
        found.announce("hostname")
        ports = {each.port for each in proxies}
        wait_until(
            lambda: all(known(each) == ("localhost", ports) for each in servers.primaries),
            timeout_s=GIVE_UP_S,
        )
        yield found


def known(server: Server) -> tuple[str, set[int]]:
    """How a node calls all that have slots, and the ports of these."""
    with server._raw_connection() as connection:
        connection.sendall(b"CLUSTER NODES\r\n")
        data = b""
        while not data.endswith(b"\n\r\n"):
            data += connection.recv(65536)
    places = re.findall(r" \S+:(\d+)@\d+,([^, ]*)", data.decode())
    names = {name for _, name in places}
    return (names.pop() if len(names) == 1 else ""), {int(port) for port, _ in places}


@on_every_runtime
@pytest.mark.parametrize("scheme", ["rediss+cluster", "rediss"])
def test_a_cluster_is_reached_over_tls_by_the_names_of_its_nodes(
    runtime: str, scheme: str, secured: Secured, namespace: str
) -> None:
    async def main() -> None:
        async with opened(runtime, secured.url(scheme), namespace, **PATIENT) as cache:
            await works(cache)
            await follows(cache, secured.servers)
            health = await cache.health()
            assert health.ok, health.problems
            assert "a cluster of 3 nodes" in health.server

    run_on(runtime, main)


@on_every_runtime
def test_a_certificate_that_is_not_for_the_address_of_a_node_is_refused_until_addresses_are_mapped_to_names(
    runtime: str, secured: Secured, namespace: str
) -> None:
    """The control of the test above: by address, no node is who it says that it is."""

    async def main() -> None:
        async with opened(runtime, secured.url(), namespace, operation_timeout_s=2.0) as cache:
            assert await cache.get_or_load_many(MANY, lambda keys: dict.fromkeys(keys, 1)) == dict.fromkeys(
                MANY, 1
            )
            assert await cache.get_many(MANY) == {}
            health = await cache.health()
            assert not health.ok
            assert any("127.0.0.1" in each and "certificate" in each for each in health.problems)
        mapped = {"address_map": lambda _, port: ("localhost", port)}
        async with opened(runtime, secured.url(), namespace, **mapped, **PATIENT) as cache:
            await works(cache)

    secured.announce("ip")
    try:
        run_on(runtime, main)
    finally:
        secured.announce("hostname")


@on_every_runtime
def test_a_cluster_client_of_a_users_gives_its_settings_of_tls(
    runtime: str, secured: Secured, namespace: str
) -> None:
    async def main() -> None:
        subject = Subject(runtime, "memory://", namespace, {})
        kind: Any = cache_sync.Cache if runtime == "sync" else cache_anyio.Cache
        subject.cache = kind.from_client(client, namespace=namespace, **PATIENT)
        try:
            await works(subject)
        finally:
            await subject.close()

    # It takes the address for `localhost`, for which the certificate is not.
    tls = {"ssl": True, "ssl_ca_certs": secured.ca_file, "ssl_check_hostname": False}
    with closing(redis.RedisCluster(host="localhost", port=secured.proxies[0].port, **tls)) as client:
        run_on(runtime, main)


# By addresses of IPv6.


@pytest.fixture(scope="module")
def by_ipv6() -> Iterator[ClusterServers]:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))  # a machine without it fails here, and not in what it says
    with ClusterServers.start(3, args=("--bind", "::1", "127.0.0.1"), host="::1") as servers:
        yield servers


@on_every_runtime
@pytest.mark.parametrize("is_plain", [False, True])
def test_a_cluster_is_reached_by_addresses_of_ipv6(
    runtime: str, is_plain: bool, by_ipv6: ClusterServers, namespace: str
) -> None:
    async def main() -> None:
        url = f"redis://[::1]:{by_ipv6.primaries[1].port}" if is_plain else by_ipv6.url
        async with opened(runtime, url, namespace, **PATIENT) as cache:
            await works(cache)
            await follows(cache, by_ipv6)
            assert {cache._driver._backend.part_of(f"{namespace}:{key}") for key in MANY} == {
                f"[::1]:{each.port}" for each in by_ipv6.primaries
            }
            assert (await cache.health()).ok

    run_on(runtime, main)
