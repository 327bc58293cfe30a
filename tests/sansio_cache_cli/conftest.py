"""What the tests of the command share: a server with 50,000 keys, and a command run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import attrs
import pytest

from sansio_cache import variables
from sansio_cache.variables import refuse_unknown
from sansio_cache_cli.main import main
from screens import shop
from support.nightly import for_programs
from support.servers import Server


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is told by the environment where a server is."""
    for name in ("SANSIO_CACHE_REDIS_URL", "SANSIO_CACHE_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    # The variables of these tests stay, as servers are started by them.
    monkeypatch.setattr(
        variables, "refuse_unknown", lambda environ, *more: refuse_unknown(for_programs(environ), *more)
    )


@pytest.fixture(scope="session")
def full_server() -> Iterator[Server]:
    """A server with 50,000 entries of the namespace `shop`, for tests that leave them there."""
    with shop() as server:
        yield server


@attrs.frozen
class Ran:
    """What a command has done: its exit status, and what it printed."""

    status: int
    out: str
    err: str

    def json(self) -> dict[str, object]:
        """The one object that was printed."""
        return json.loads(self.out)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command in this process."""

    def run_command(*arguments: str) -> Ran:
        capfd.readouterr()
        status = main(list(arguments))
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return Ran(status, printed.out, printed.err)

    return run_command
