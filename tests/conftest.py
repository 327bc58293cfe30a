"""The servers and names that a test may ask for."""

import os
from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pytest
import redis
from hypothesis import settings

from support.clusters import ClusterServers
from support.sentinels import SERVICE, Watched
from support.servers import ExternalServer, Server, ServerNotFoundError, connect, find_server, version_of

pytest_plugins = ["explorations.plugin"]

# No test depends on how quick the machine is.
settings.register_profile("sansio-cache", deadline=None)
settings.load_profile("sansio-cache")


def pytest_report_header() -> str:
    """Say which server is tested; one that is named and not found fails the run before it begins."""
    try:
        found = find_server()
    except ServerNotFoundError as error:
        if "SANSIO_CACHE_TEST_SERVER" in os.environ:
            raise pytest.UsageError(str(error)) from None
        return "server: none, so every test that needs one fails"
    if isinstance(found, ExternalServer):
        return f"server: {found.url}"
    return f"server: {version_of(found.path)} ({found.path})"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """The server that all tests share: leave it running, keep to keys of your `namespace`."""
    with Server.start() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """Where the shared server is; the external one if no other is there."""
    found = find_server()
    if isinstance(found, ExternalServer):
        return found.url
    server: Server = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture(scope="session")
def cluster_servers() -> Iterator[ClusterServers]:
    """The cluster of three nodes that tests share: leave it as it is, keep to keys of your `namespace`."""
    with ClusterServers.start() as servers:
        yield servers


@pytest.fixture(scope="session")
def watched_servers() -> Iterator[Watched]:
    """The primary, its replica and its sentinel that tests share: leave them, keep to your `namespace`."""
    patient = f"sentinel down-after-milliseconds {SERVICE} 600000"  # a machine that is busy is no failure
    with Watched(lines=[patient]) as watched:
        yield watched


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A blocking client of the shared server that hides nothing."""
    with closing(connect(redis_url)) as client:
        yield client


@pytest.fixture
def fresh_server() -> Iterator[Server]:
    """A server of this test alone, to freeze, kill and fill."""
    with Server.start() as server:
        yield server


@pytest.fixture
def namespace() -> str:
    """A prefix for keys that no other test has."""
    return f"t{uuid4().hex[:12]}"
