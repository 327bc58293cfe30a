"""The `sansio-cache` command, run as a user runs it, in small."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import Pipe

import pytest
from rich.console import Console

import sansio_cache_redis.anyio
import sansio_cache_redis.sync
from sansio_cache_cli import database, output, tables
from sansio_cache_cli.database import SHOPS, Database
from sansio_cache_cli.main import main
from sansio_cache_cli.phases import Settings, plan
from sansio_cache_cli.workers import Worker, WorkerError, work
from sansio_cache_cli.workers import run as run_phase
from sansio_cache_redis import InvalidateResult
from support.nightly import for_programs
from support.servers import Server

RUNTIMES = ["threads", "asyncio", "trio"]
SMALL = ["--rows", "8000", "--readers", "8", "--requests", "24", "--ttl", "0.1"]


@pytest.fixture
def demo(monkeypatch, tmp_path, capsys):
    """Run `sansio-cache demo` in small: gives its exit code, its figures by phase, and what it printed."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    outcomes = []
    show = tables.show_outcome

    def spy(outcome, console):
        outcomes.append(outcome)
        show(outcome, console)

    monkeypatch.setattr(tables, "show_outcome", spy)

    def run(*args):
        code = main(["demo", *SMALL, *args])
        printed = capsys.readouterr()
        assert outcomes, printed.err
        assert list(tmp_path.glob("sansio-cache-demo-*")) == []
        figures = {each.phase.name: each for each in outcomes.pop().phases}
        return code, figures, printed.out

    return run


@pytest.fixture
def silent_writer(monkeypatch):
    """The negative control: a writer whose cache is never told."""

    class Silent:
        def invalidate(self, *keys):
            return InvalidateResult(len(keys), 0)

        @contextmanager
        def mutate(self, *keys):
            yield

    class AsyncSilent:
        async def invalidate(self, *keys):
            return InvalidateResult(len(keys), 0)

        @asynccontextmanager
        async def mutate(self, *keys):
            yield

    for module, kind in ((sansio_cache_redis.sync, Silent), (sansio_cache_redis.anyio, AsyncSilent)):
        monkeypatch.setattr(module.Cache, "invalidate", kind.invalidate)
        monkeypatch.setattr(module.Cache, "mutate", kind.mutate)


def assert_consistent(figures):
    """What must hold of every demo, however slow the machine."""
    assert list(figures) == ["no cache", "stampede", "expiry", "expiry, jitter", "writes"]
    for each in figures.values():
        assert each.requests > 0
        assert each.stale == 0
        assert each.wrong == 0
        assert not each.errors
        assert 0 < each.p50_s <= each.p99_s
    assert figures["no cache"].queries == figures["no cache"].requests
    for each in list(figures.values())[1:]:
        account = each.account
        assert each.is_account_true
        assert account.hits + account.misses == account.requests == each.requests
        assert account.loads == each.queries
        assert each.queries <= each.requests
        # A load whose key is being invalidated is not to be stored, and is given no time to live.
        assert account.stored <= len(each.ttls_ms) <= account.loads
    for name in ("stampede", "expiry", "expiry, jitter"):
        assert len(figures[name].ttls_ms) == figures[name].account.loads
    assert set(figures["expiry"].ttls_ms) == {100}
    assert {110 <= ttl <= 120 for ttl in figures["expiry, jitter"].ttls_ms} == {True}
    assert len(set(figures["expiry, jitter"].ttls_ms)) > 1
    assert figures["stampede"].queries < figures["stampede"].requests / 10
    assert figures["writes"].writes > 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_in_memory_every_entry_is_loaded_once_and_no_read_is_stale(demo, runtime):
    """S1, L2, B1, B3: counted at the database and by the readers."""
    code, figures, text = demo("--runtime", runtime)
    assert_consistent(figures)
    assert figures["stampede"].queries <= SHOPS
    for name in ("stampede", "expiry", "expiry, jitter"):
        assert figures[name].loads == 1.0
        assert figures[name].account.stored == figures[name].queries
    assert len(figures["expiry"].lifetimes_s) > 0
    assert code == 0
    assert "No stale read" in text


@pytest.mark.parametrize("runtime", ["threads", "asyncio"])
def test_two_processes_on_a_server_see_no_stale_read_and_leave_no_key(demo, redis_url, redis_client, runtime):
    """S1 across processes."""
    code, figures, text = demo("--url", redis_url, "--runtime", runtime, "--processes", "2")
    assert_consistent(figures)
    assert figures["stampede"].requests == 8 * 24
    assert code == 0
    assert "No stale read" in text
    assert list(redis_client.scan_iter("demo-*")) == []


@pytest.mark.usefixtures("silent_writer")
def test_a_writer_that_does_not_tell_the_cache_is_seen_and_fails_the_demo(demo):
    """The negative control of S1."""
    code, figures, text = demo("--runtime", "asyncio", "--requests", "40")
    assert figures["writes"].stale > 0
    assert figures["stampede"].stale == 0
    assert code == 1
    assert "answers were stale" in text
    assert "No stale read" not in text


@pytest.mark.usefixtures("silent_writer")
def test_other_processes_see_the_write_that_the_cache_was_not_told_of(demo, redis_url):
    """The negative control of S1 across processes."""
    code, figures, _ = demo("--url", redis_url, "--runtime", "trio", "--requests", "40")
    assert figures["writes"].stale > 0
    assert {name for name, each in figures.items() if each.stale or each.wrong or each.errors} == {"writes"}
    assert code == 1


def test_a_report_that_does_not_add_up_fails_the_demo(demo, monkeypatch):
    wrong = database._REPORT.replace("sum(cents), count", "sum(cents) + 1, count")
    monkeypatch.setattr(database, "_REPORT", wrong)
    code, figures, text = demo("--requests", "1")
    assert figures["no cache"].wrong > 0
    assert code == 1
    assert "do not add up" in text


def test_an_error_of_the_database_is_shown_and_fails_the_demo(demo, monkeypatch):
    report = Database.report

    def fail(self, shop):
        if shop == 0:
            raise sqlite3.OperationalError("disk I/O error")
        return report(self, shop)

    monkeypatch.setattr(Database, "report", fail)
    code, figures, text = demo("--readers", "40", "--requests", "2")
    assert sum(figures["stampede"].errors.values()) > 0
    assert code == 1
    assert "OperationalError: disk I/O error" in text


def test_an_error_of_the_writer_is_shown_and_fails_the_demo(demo, monkeypatch):
    def fail(self, shop, number, cents):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(Database, "add_cents", fail)
    code, figures, text = demo("--requests", "2")
    assert code == 1
    assert "the writer: OperationalError: database is locked" in text
    assert figures["writes"].writes == 0


def test_readers_that_cannot_run_at_all_end_the_demo(monkeypatch, capsys):
    def fail(job, phase, board):
        raise WorkerError("no room")

    monkeypatch.setattr("sansio_cache_cli.readers_threads.read", fail)
    assert main(["demo", *SMALL]) == 1
    assert "no room" in capsys.readouterr().err


def test_a_terminal_gets_bars(demo, monkeypatch):
    monkeypatch.setattr(output, "Output", lambda: Console(force_terminal=True, width=80))
    code, _, text = demo("--requests", "2")
    assert code == 0
    assert "━" in text


def test_ctrl_c_ends_all_processes_and_leaves_neither_files_nor_keys(redis_url, redis_client, tmp_path):
    command = [sys.executable, "-m", "sansio_cache_cli"]
    # Where these tests run in the background of a shell, Ctrl-C is ignored, and a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    demo = subprocess.Popen(
        [*command, "demo", "--url", redis_url, "--rows", "8000", "--readers", "8", "--requests", "900"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    with demo:
        while "no jitter" not in (line := demo.stdout.readline()):
            assert line, demo.stderr.read()
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        # The pipes end when the last process that holds them has ended.
        out, err = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "Traceback" not in out + err
    assert "interrupted" in err
    assert list(tmp_path.glob("sansio-cache-demo-*")) == []
    assert list(redis_client.scan_iter("demo-*")) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "required: COMMAND"),
        (["demo", "--processes", "2"], "memory:// is the memory of one process"),
        (["demo", "--url", "MEMORY://x", "--processes", "2"], "memory:// is the memory of one process"),
        (["demo", "--readers", "0"], "a whole number from 1 to 200"),
        (["demo", "--readers", "many"], "a whole number from 1 to 200"),
        (["demo", "--url", "redis://h", "--readers", "2", "--processes", "3"], "more than --readers 2"),
        (["demo", "--runtime", "twisted"], "invalid choice"),
        (["demo", "--ttl", "0"], "seconds from 0.05"),
        (["demo", "--ttl", "short"], "seconds from 0.05"),
        (["demo", "--url", "http://h"], "must begin with redis://"),
        (["health"], "required: --url (or SANSIO_CACHE_REDIS_URL in the environment)"),
        (
            ["keys", "*", "--url", "redis://h"],
            "required: --namespace (or SANSIO_CACHE_NAMESPACE in the environment)",
        ),
        (["inspect", "k"], "required: --url (or SANSIO_CACHE_REDIS_URL in the environment)\n"),
        (["load"], "--url --http is required: SANSIO_CACHE_REDIS_URL is not read here"),
        (["health", "--url", "http://h"], "must begin with redis://"),
        (["health", "--url", "memory://", "--namespace", "a:b"], "namespace"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_with_a_reason(capsys, args, message):
    assert main(args) == 2
    assert message in capsys.readouterr().err


def test_a_variable_that_nobody_reads_is_refused_as_from_env_does(monkeypatch, capsys):
    monkeypatch.setenv("SANSIO_CACHE_URL", "redis://admin:secret@prod")
    assert main(["health"]) == 2
    printed = capsys.readouterr().err
    assert printed == (
        "sansio-cache: SANSIO_CACHE_URL: there is no such variable (is SANSIO_CACHE_REDIS_URL meant?)\n"
    )
    assert main(["export-dashboard"]) == 0, "which reads none"


def test_the_demo_refuses_trio_where_it_is_not_installed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trio", None)
    assert main(["demo", "--runtime", "trio"]) == 2
    assert "pip install trio" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["demo"], ["health", "--url", "memory://"]])
def test_without_rich_the_command_says_what_to_install(monkeypatch, capsys, args):
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(args) == 2
    assert "pip install 'sansio-cache[cli]'" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_an_error_without_the_password(monkeypatch, capsys):
    monkeypatch.setattr("sansio_cache_cli.demo.READY_S", 0.2)
    with_nobody = "redis://user:secret@127.0.0.1:1/0"
    assert main(["demo", "--url", with_nobody]) == 1
    printed = capsys.readouterr()
    assert "refuses connections: no server listens there" in printed.err
    assert "secret" not in printed.out + printed.err


@pytest.mark.parametrize(
    "command",
    [("keys", "*"), ("keys", "*", "--json"), ("ttl",), ("check",), ("demo", *SMALL)],
    ids=" ".join,
)
def test_who_reads_no_further_is_no_failure(full_server, command):
    """As in `sansio-cache keys '*' | head -1`; here nobody reads at all."""
    reading, writing = os.pipe()
    os.close(reading)
    place = () if command[0] == "demo" else ("--url", full_server.url, "--namespace", "shop")
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "sansio_cache_cli", *command, *place],
            env=for_programs(os.environ),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("pattern", [":x", "*"])
def test_an_empty_namespace_is_refused(redis_url, capsys, pattern):
    assert main(["keys", pattern, "--url", redis_url, "--namespace", ""]) == 2
    printed = capsys.readouterr()
    assert "namespace" in printed.err
    assert len(printed.err.splitlines()) == 1


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sansio-cache 0.")


def test_health_names_the_server_and_its_latency(redis_url, capsys):
    assert main(["health", "--url", redis_url]) == 0
    text = capsys.readouterr().out
    assert "health: ok" in text
    assert "server: " in text
    assert "latency: " in text


def test_health_is_an_object_for_programs(redis_url, capsys):
    assert main(["health", "--url", redis_url, "--json"]) == 0
    health = json.loads(capsys.readouterr().out)
    assert health["ok"] is True
    assert health["latency_s"] > 0
    assert main(["health", "--url", "redis://127.0.0.1:1", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"]


def test_the_demo_is_an_object_for_programs_and_nothing_else(capsys):
    assert main(["demo", *SMALL, "--requests", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == []
    assert [each["phase"] for each in told["phases"]][:2] == ["no cache", "stampede"]


def test_health_shows_the_memory_limit_and_what_will_hurt(capsys):
    with Server.start(args=["--maxmemory", "1gb", "--maxmemory-policy", "volatile-ttl"]) as server:
        assert main(["health", "--url", server.url]) == 0
    text = capsys.readouterr().out
    assert "memory: 1,073,741,824 bytes, volatile-ttl" in text
    assert "warning: the eviction policy is volatile-ttl" in text


def test_health_shows_that_there_is_no_memory_limit(redis_url, capsys):
    assert main(["health", "--url", redis_url]) == 0
    text = capsys.readouterr().out
    assert "memory: no limit, noeviction" in text
    assert "warning: the server has no memory limit" in text


def test_health_fails_where_the_server_cannot_be_asked(capsys):
    assert main(["health", "--url", "redis://127.0.0.1:1"]) == 1
    text = capsys.readouterr().out
    assert "health: not ok" in text
    assert "problem: the server cannot be asked" in text


@pytest.mark.parametrize("dies_when", ["before the phase", "in the phase"])
def test_a_process_that_dies_ends_the_demo(dies_when):
    ours, theirs = Pipe()
    phase = plan(Settings(url="", runtime="", readers=1, processes=1, rows=8, requests=1, ttl_s=1))[0]

    def die():
        theirs.recv()
        theirs.close()

    thread = threading.Thread(target=die)
    if dies_when == "in the phase":
        thread.start()
    else:
        theirs.close()
    with ours, pytest.raises(WorkerError, match="died"):
        run_phase([Worker(ours, thread)], phase, lambda: None)
    if dies_when == "in the phase":
        thread.join()


def test_a_worker_ends_when_its_pipe_is_closed():
    ours, theirs = Pipe()
    ours.close()
    work(None, None, theirs)
    assert theirs.closed
