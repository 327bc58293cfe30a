"""Purity: the core imports nothing that does I/O, and does none (B4, B6)."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import sansio_cache

PACKAGE = Path(sansio_cache.__file__).parent
FORBIDDEN = {
    "anyio",
    "asyncio",
    "concurrent",
    "hiredis",
    "hypothesis",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "queue",
    "random",
    "redis",
    "secrets",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "trio",
}

IMPORT_EVERYTHING = """
import json, sys
import attrs, msgspec, msgspec.inspect, msgspec.json, msgspec.structs
before = set(sys.modules)
import importlib, pkgutil
import sansio_cache
names = [found.name for found in pkgutil.walk_packages(sansio_cache.__path__, "sansio_cache.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted(set(sys.modules) - before)]))
"""


def run(source):
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_all_of_it_imports_nothing_that_does_io():
    names, imported = run(IMPORT_EVERYTHING)
    files = {path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"}
    assert len(names) == len(files)
    heads = {name.partition(".")[0] for name in imported}
    assert heads & (FORBIDDEN - {"io", "os", "threading"}) == set()


def imports_of(path):
    """The modules that a file imports anywhere, with the line of each."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0], node


def test_no_file_of_it_imports_a_clock_randomness_threads_or_files():
    offences = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for name, _ in imports_of(path)
        if name in FORBIDDEN
    }
    # `CacheConfig.from_env` reads the environment, where it is asked to; see the next test.
    assert offences == {("config.py", "os")}


def modules_imported_by(path):
    """The modules of the core that a file imports anywhere, for type checking included."""
    known = {".".join(each.relative_to(PACKAGE.parent).with_suffix("").parts): each for each in FILES}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from {known[name] for name in (node.module, *names) if name in known}


FILES = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


def test_no_imports_of_it_make_a_circle():
    below = {path: set(modules_imported_by(path)) for path in FILES}
    while free := {path for path, others in below.items() if not others}:
        below = {path: others - free for path, others in below.items() if path not in free}
    assert below == {}


def test_the_environment_is_read_in_from_env_alone():
    tree = ast.parse((PACKAGE / "config.py").read_text())
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "os" not in {alias.name for node in at_import for alias in node.names}
    readers = [
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and any(isinstance(node, ast.Attribute) and node.attr == "environ" for node in ast.walk(function))
    ]
    assert readers == ["from_env"]


def test_it_never_calls_open_print_or_input():
    calls = {
        (path.name, node.func.id)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert {
        call for call in calls if call[1] in {"open", "print", "input", "exec", "eval", "__import__"}
    } == set()


# Runs every kind of operation against a memory store while nothing of the outside may be touched.
OPERATE = """
import json, os, random, sys, time
sys.path[:0] = {paths!r}
from support.machines import KEY, TIMEOUTS, Clock, Process, load_request
from sansio_cache.cell import NO_GRANT
from sansio_cache.commands import AcquireLease
from sansio_cache.events import Interrupted, Ponged, Woke
from sansio_cache.keys import KeyBuilder
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import OperationName
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.mutate import EndRequest, MutateRequest, begin, end
from sansio_cache.operations.readiness import wait_ready
from sansio_cache.operations.recovery import RecoveryRequest, recover
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.codec import codec_for
from sansio_cache.stats import StatsFold

touched = []
harmless = {harmless!r}

def hook(event, args):
    if watching and event not in harmless:
        touched.append([event, repr(args)[:200]])

watching = False
sys.addaudithook(hook)

def refuse(name):
    def refused(*args, **kwargs):
        touched.append(["call", name])
        raise AssertionError(name)
    return refused

for module, names in (
    (time, ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep")),
    (random, ("random", "randint", "getrandbits", "randbytes", "choice")),
    (os, ("urandom", "getenv", "getpid")),
):
    for name in names:
        setattr(module, name, refuse(f"{{module.__name__}}.{{name}}"))

watching = True
{provoke}
clock = Clock()
process = Process(MemoryStore(clock), clock)
codec = codec_for(dict[str, list[int]], 1_000)
value = {{"a": [1, 2]}}
request = dict(codec=codec, started_s=clock(), ttl=1, stale_for_s=60, tags=("t:a",))
runs = [process.run(get_or_load(load_request(**request)), lambda: value)]
clock.advance(2.0)
runs.append(process.run(get_or_load(load_request(**request, nonce=b"another1")), lambda: value))
runs.append(process.spawned[0])
process.finish(runs[-1])
item = Item(KEY, codec, codec.encode(value).payload, 60_000, 0)
setting = SetRequest(OperationName.SET, (item,), b"setting1", 5_000, 500, TIMEOUTS, clock(), ("t:a",))
runs.append(process.run(set_many(setting)))
runs.append(process.run(get(ReadRequest(KEY, codec, TIMEOUTS, clock()))))
runs.append(process.run(get_many(ReadManyRequest((KEY,), codec, 500, TIMEOUTS, clock()))))
each = load_request(codec=codec, started_s=clock(), nonce=b"batch--1")
batch = LoadManyRequest((KEY, KEY + "0"), ("a", "b"), 500, each)
runs.append(process.run(load_many(batch), lambda names: {{name: value for name in names}}))
softly = InvalidateRequest(OperationName.EXPIRE, (KEY,), 500, TIMEOUTS, clock(), soft=True)
runs.append(process.run(invalidate(softly)))
runs.append(process.run(begin(MutateRequest((KEY,), b"mutate-1", 5_000, 60.0, TIMEOUTS, clock()))))
grants = runs[-1].step.outcome.grants
runs.append(process.run(end(EndRequest((KEY,), grants, (item,), TIMEOUTS, clock()))))
removal = InvalidateRequest(OperationName.INVALIDATE, (KEY,), 500, TIMEOUTS, clock())
runs.append(process.run(invalidate(removal)))
pattern = PatternRequest(KeyBuilder("shop"), "shop:*", 500, TIMEOUTS, clock())
runs.append(process.run(delete_pattern(pattern)))
runs.append(process.run(recover(RecoveryRequest("", (KEY,), TIMEOUTS), 0.05)))
runs.append(process.run(wait_ready(5.0, 0.0)))
fold = StatsFold()
for each in runs:
    fold.record(each.notices)
stats = fold.snapshot()
watching = False
print(json.dumps([touched, [type(each.step.outcome).__name__ for each in runs], stats.total_requests]))
"""

TESTS = str(Path(__file__).parent.parent)
# What the interpreter itself says of looking up attributes and of compiling.
HARMLESS = (
    "object.__getattr__",
    "object.__setattr__",
    "object.__delattr__",
    "code.__new__",
    "sys._getframe",
    "builtins.id",
)


def operate(provoke="pass"):
    # PACKAGE's parent, so that the subprocess runs the very code that is tested here.
    source = OPERATE.format(paths=[TESTS, str(PACKAGE.parent)], harmless=HARMLESS, provoke=provoke)
    return run(source)


def test_whole_operations_touch_neither_clock_nor_randomness_nor_the_outside():
    touched, outcomes, requests = operate()
    assert touched == []
    assert outcomes == [
        "Loaded",
        "Value",
        "Loaded",
        "ManyStored",
        "Value",
        "ManyRead",
        "ManyLoaded",
        "ManyInvalidated",
        "ManyHeld",
        "ManyInvalidated",
        "ManyInvalidated",
        "PatternRemoved",
        "Recovered",
        "Completed",
    ]
    assert requests == 6


def test_the_audit_sees_a_file_a_socket_and_a_clock():
    # The control: an audit that sees nothing proves nothing.
    provoke = """
import socket
open(os.devnull).close()
socket.socket().close()
try:
    time.time()
except AssertionError:
    pass
"""
    touched, _, _ = operate(provoke.strip())
    seen = {name for name, _ in touched}
    assert {"import", "open", "socket.__new__", "call"} <= seen
