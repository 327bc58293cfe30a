"""Several processes, one page: what each of them has counted is added up, and nothing is counted twice.

`prometheus_client` looks for the directory when it is imported, so each test is a program of its own.
"""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the client's multiprocess mode is for forks")

BEGIN = """
import glob, os, shutil, sys, threading, time, traceback, warnings
warnings.simplefilter("error")
from prometheus_client import CollectorRegistry, Counter, generate_latest, multiprocess
from prometheus_client.parser import text_string_to_metric_families
from sansio_cache_prometheus import export
from sansio_cache_redis.sync import Cache

DIRECTORY = os.environ["PROMETHEUS_MULTIPROC_DIR"]

def page():
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found

def value(name, **labels):
    return page().get((f"sansio_cache_{name}", tuple(sorted({"cache": "n", **labels}.items()))))

def misses():
    return value("misses_total", entity="user", reason="absent") or 0

def until(condition):
    deadline_s = time.monotonic() + 30.0
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError
        time.sleep(0.005)

def child(run):
    number = os.fork()
    if not number:
        status = 1
        try:
            run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return number

def ended(number):
    assert os.waitpid(number, 0)[1] == 0

cache = Cache.from_url("memory://", namespace="n")
"""


def run(program, tmp_path):
    code = BEGIN + textwrap.dedent(program)
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


def test_what_several_processes_have_counted_is_added_up_on_one_page(tmp_path):
    run(
        """
        export(cache, interval_s=0.01)
        assert value("misses_total", entity="", reason="absent") == 0, "from the start"
        assert value("breaker_open", part="") == 0
        cache.get("user:0")
        until(lambda: misses() == 1)
        goes_on, may_go_on = os.pipe()

        def work():
            for number in range(10):
                cache.get(f"user:{number}")
            cache.get_or_load("user:1", lambda: 1)
            os.read(goes_on, 1)

        numbers = [child(work) for _ in range(2)]
        until(lambda: misses() == 1 + 2 * 11)
        until(lambda: value("load_time_seconds_count", entity="user") == 2)
        until(lambda: value("operation_duration_seconds_count", operation="get") == 21)
        found = page().items()
        counts = [one for (name, labels), one in found if ("operation", "get") in labels and "bucket" in name]
        assert counts == sorted(counts) and counts[-1] == 21
        os.write(may_go_on, b"..")
        for number in numbers:
            ended(number)
        assert misses() == 23, "what a process has counted outlives it"
        assert threading.active_count() == 2
        """,
        tmp_path,
    )


def test_what_a_process_counted_last_is_written_as_it_ends(tmp_path):
    run("export(cache, interval_s=1000)\ncache.get('user:1')", tmp_path)
    run("assert misses() == 1", tmp_path)


def test_counters_never_go_down_where_a_process_gets_the_number_of_one_that_has_ended(tmp_path):
    run(
        """
        export(cache, interval_s=0.01)
        for number in range(5):
            cache.get(f"user:{number}")
        until(lambda: misses() == 5)

        def work():
            for kind in ("counter", "histogram"):
                shutil.copy(f"{DIRECTORY}/{kind}_{os.getppid()}.db", f"{DIRECTORY}/{kind}_{os.getpid()}.db")
            another = Cache.from_url("memory://", namespace="n")
            export(another, interval_s=0.01)
            another.get("user:1")
            until(lambda: misses() == 5 + 5 + 1)

        ended(child(work))
        """,
        tmp_path,
    )


def test_gauges_are_those_of_processes_that_live_and_of_caches_that_are_there(tmp_path):
    run(
        """
        import gc
        from sansio_cache.events import FailureKind, StoreFailed
        from sansio_cache_runtime.memory import SharedMemory, SyncMemoryBackend
        from sansio_cache_runtime.sync.cache import Cache as Plain
        from sansio_cache import CacheConfig

        def make_backend(background):
            backend = SyncMemoryBackend(SharedMemory(CacheConfig(namespace="n")))
            backend.perform = lambda command: StoreFailed(0.0, FailureKind.CONNECTION)
            return backend

        down = Plain.from_backend(make_backend, namespace="n")
        export(down, interval_s=0.01)
        export(cache, interval_s=0.01)
        down.get("user:1")
        until(lambda: value("breaker_open", part="") == 1)
        goes_on, may_go_on = os.pipe()

        def work():
            down.get("user:1")
            os.read(goes_on, 1)

        number = child(work)
        until(lambda: value("breaker_open", part="") == 2)
        os.write(may_go_on, b".")
        ended(number)
        multiprocess.mark_process_dead(number)
        until(lambda: value("breaker_open", part="") == 1)
        down.close()
        del down
        gc.collect()
        until(lambda: value("breaker_open", part="") == 0)
        """,
        tmp_path,
    )


def test_a_process_that_forks_has_one_thread(tmp_path):
    """CPython 3.12 warns of others, and warnings are errors in these programs."""
    run(
        """
        export(cache, interval_s=0.001)
        for _ in range(20):
            ended(child(lambda: None))
        assert len(glob.glob(f"{DIRECTORY}/*")) == 3, "who has counted nothing writes nothing"
        assert "sansio-cache-prometheus" in {each.name for each in threading.enumerate()}
        cache.get("user:1")
        until(lambda: misses() == 1)
        """,
        tmp_path,
    )


def test_a_disk_that_is_full_harms_nobody_and_is_said_once(tmp_path):
    run(
        """
        import logging
        from prometheus_client import values
        said = []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.getMessage())
        logging.getLogger("sansio_cache").addHandler(handler)
        export(cache, interval_s=0.001)
        tries = []
        ordinary = values.ValueClass
        class Full(ordinary):
            def __init__(self, *args, **kwargs):
                tries.append(1)
                raise OSError("no space left on device")
        values.ValueClass = Full
        assert cache.get_or_load("new:1", lambda: 1) == 1
        until(lambda: len(tries) > 3)
        assert cache.get("new:1") == 1
        values.ValueClass = ordinary
        until(lambda: value("loads_total", entity="new") == 1)
        assert said == [
            "the statistics of caches cannot be written for Prometheus: OSError; it is tried again"
        ]
        """,
        tmp_path,
    )


def test_a_cache_is_written_down_until_that_is_ended(tmp_path):
    run(
        """
        end = export(cache, interval_s=0.01)
        cache.get("user:1")
        end()
        assert misses() == 1, "once more at the end"
        cache.get("user:2")
        cache.get("user:3")
        other = Cache.from_url("memory://", namespace="other")
        export(other, interval_s=0.01)
        other.get("user:1")
        until(lambda: value("misses_total", cache="other", entity="user", reason="absent") == 1)
        assert misses() == 1
        """,
        tmp_path,
    )
