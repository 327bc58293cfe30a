"""`sansio-cache consume`: a process of its own that writes behind, and ends with a signal."""

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from sansio_cache_cli.main import main
from support.faulty import PATIENT
from support.servers import Server, wait_until

PROGRAM = """
import sqlite3
from dataclasses import dataclass

from sansio_cache import WriteBehind
from {package} import Cache


@dataclass
class User:
    id: int
    name: str


def save(users, *, tokens):
    with sqlite3.connect({database!r}) as db:
        db.executemany(
            "INSERT OR REPLACE INTO users VALUES (?, ?, ?)", [(u.id, u.name, tokens[u.id]) for u in users]
        )


cache = Cache.from_url({url!r}, namespace="consume", **{patient})
users = cache.entity("user", User, id="id", write_many=save, strategy=WriteBehind(delay_s=0.01))
"""
GIVE_UP_S = 60.0


@pytest.fixture(params=["sync", "anyio"])
def program(request, tmp_path):
    """A server, a module of a program, and its database."""
    database = str(tmp_path / "users.db")
    with closing(sqlite3.connect(database)) as db, Server.start() as server:
        db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, token INTEGER)")
        names = {"package": f"sansio_cache_redis.{request.param}", "database": database, "url": server.url}
        names["patient"] = PATIENT
        (tmp_path / "entities.py").write_text(PROGRAM.format(**names), encoding="utf-8")
        names["package"] = "sansio_cache_redis.sync"
        (tmp_path / "writing.py").write_text(
            PROGRAM.format(**names)
            + "\nusers.write_many([User(n, 'new') for n in range(50)])\ncache.close()\n",
            encoding="utf-8",
        )
        yield tmp_path, db


def rows(db):
    return db.execute("SELECT count(*) FROM users").fetchone()[0]


def handles(pid, number):
    """Whether a process has a handler for a signal, as the system says."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    [caught] = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
    return bool(caught >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_writes_what_is_queued_and_ends_with_a_signal(program, number):
    where, db = program
    command = [sys.executable, "-P", "-m", "sansio_cache_cli", "consume", "entities:users"]
    subprocess.run([sys.executable, "writing.py"], cwd=where, check=True, timeout=GIVE_UP_S)
    with subprocess.Popen(command, cwd=where, stdout=subprocess.PIPE, text=True) as consumer:
        try:
            assert consumer.stdout.readline().startswith("consuming <queue 'user'")
            until_s = time.monotonic() + GIVE_UP_S
            while rows(db) < 50 and time.monotonic() < until_s:
                time.sleep(0.01)
            assert rows(db) == 50
            consumer.send_signal(number)
            assert consumer.wait(GIVE_UP_S) == 0
            assert consumer.stdout.read() == "nothing is left\n"
        finally:
            consumer.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_though_something_is_left(program, number):
    where, db = program
    db.execute("DROP TABLE users")  # so that nothing can be written
    command = [sys.executable, "-P", "-m", "sansio_cache_cli", "consume", "entities:users", "--drain", "3600"]
    subprocess.run([sys.executable, "writing.py"], cwd=where, check=True, timeout=GIVE_UP_S)
    with subprocess.Popen(
        command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as consumer:
        try:
            assert consumer.stdout.readline().startswith("consuming <queue 'user'")
            assert handles(consumer.pid, number)
            consumer.send_signal(number)
            wait_until(lambda: not handles(consumer.pid, number), timeout_s=GIVE_UP_S)
            consumer.send_signal(number)
            assert consumer.wait(GIVE_UP_S) == -number
        finally:
            consumer.kill()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("entities", "name the entity as MODULE:ENTITY"),
        ("no_such_module_here:users", "there is no module 'no_such_module_here'"),
        ("os:path", "os:path is no entity"),
    ],
)
def test_what_is_no_entity_is_refused(capsys, place, said):
    assert main(["consume", place]) == 2
    assert said in capsys.readouterr().err
