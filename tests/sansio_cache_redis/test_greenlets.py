"""Among greenlets: a wait is theirs, ends when its time is over, and lets the others have their turns."""

import json
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from sansio_cache.config import RedisConfig
from sansio_cache_redis.connections import wires
from sansio_cache_redis.connections.settings import blocking_factory
from sansio_cache_redis.connections.wires import blocking_wire
from support.wires import exchange

PROGRAM = Path(__file__).parents[1] / "support" / "greenlets.py"


@pytest.mark.timing
def test_a_frozen_server_holds_no_greenlet_up_and_others_go_on(fresh_server, namespace):
    """Fault 4, L5: a time-out that is given to the kernel would stop them all, for ever."""
    arguments = [str(PROGRAM), fresh_server.url, namespace, str(fresh_server.pid)]
    program = [sys.executable, "-m", "gevent.monkey", *arguments]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found.pop("turns") > 5, "the others stood still"
    assert found == {
        "patched": "gevent.select",
        "set": True,
        "read": 40,
        "loaded": 40,
        "loads": 1,
        "errors": 0,
        "frozen": ["none"],
        "thawed": "v",
    }


def test_where_there_is_no_poll_a_wire_waits_by_select(monkeypatch):
    """Eventlet takes it away, and Windows has none."""
    monkeypatch.delattr(select, "poll")
    ours, theirs = socket.socketpair()
    connection = blocking_factory(RedisConfig())()
    connection._sock = ours
    with closing(ours), closing(theirs):
        wire = blocking_wire(connection, 2**20)
        assert wire.read(time.monotonic() + 0.01) == []
        theirs.sendall(b"+PONG\r\n")
        assert exchange(wire, [(b"PING",)]) == [b"PONG"]
        wire.write(bytes(2**22))
        assert wire.is_writing
        taking = threading.Thread(target=take, args=(theirs, 2**22), daemon=True)
        taking.start()
        while wire.is_writing:
            assert wire.read(time.monotonic() + 10.0) == []
        taking.join(10.0)


def take(sock, count):
    while count:
        count -= min(len(sock.recv(2**20)), count)


def test_greenlets_are_known_by_their_select(monkeypatch):
    """When a connection opens: that is after whatever patches sockets."""
    assert not wires.is_patched()

    def patched(*_):
        return [], [], []

    monkeypatch.setattr(select, "select", patched)
    assert wires.is_patched()
