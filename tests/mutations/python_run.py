"""Mutants of the core's decisions: see the package."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

import attrs  # noqa: F401 - imported once, for all processes
import hypothesis
import msgspec  # noqa: F401
import pytest

from mutations.python import Mutant, mutants
from mutations.reviewed import REVIEWED_OF_THE_CORE

TESTS: Final = Path(__file__).parents[1]
CORE: Final = TESTS / "sansio_cache"
TESTS_OF: Final[dict[str, tuple[str, ...]]] = {
    "store_rules": ("test_memory_store.py", "test_floor.py"),
    "queue_rules": ("operations/test_queue.py",),
    "operations.filling": ("operations/test_loading.py", "operations/test_mutate.py"),
    "operations.loading": ("operations/test_loading.py", "operations/test_refresh.py"),
    "operations.get_or_load": ("operations/test_get_or_load.py", "operations/test_loading.py"),
    "operations.renewal": ("operations/test_renewal.py",),
    "single_flight": ("test_single_flight.py", "test_coordinator.py", "test_tickets.py"),
    "coordinator": ("test_coordinator.py", "test_tickets.py", "test_part.py", "operations/test_recovery.py"),
    "pending_invalidations": ("test_pending_invalidations.py", "test_coordinator.py"),
    "breaker": ("test_breaker.py",),
}
"""The modules that decide, and the tests that say how."""
LONGEST_S: Final = 120
"""What takes longer goes round for ever: a mutant that is killed."""


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another code."""

    def __init__(self, name: str, code: CodeType) -> None:
        self._name = name
        self._code = code

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        assert found is not None
        return importlib.util.spec_from_file_location(name, found.origin, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


def _passes(tests: tuple[str, ...], changed: _Changed | None) -> bool:
    """Whether tests pass in a process of their own, which imports the core anew."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return status == 0
    try:
        signal.alarm(LONGEST_S)
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            if changed is not None:
                sys.meta_path.insert(0, changed)
            # What the core's tests need is little, and each mutant pays for it.
            options = ["-x", "-q", "--assert=plain", "--noconftest", "-p", "_hypothesis_pytestplugin"]
            status = int(pytest.main([*options, *(str(CORE / each) for each in tests)]))
    except BaseException:
        status = 1
    os._exit(min(status, 100))


def run(every: int, only: str | None) -> int:
    """Run every nth mutant; the exit status says whether all that survive are known."""
    # Once, for all processes.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")
    for name in [each for each in sys.modules if each.startswith("sansio_cache")]:
        del sys.modules[name]  # what Hypothesis looks at: each mutant imports it anew
    modules = {name: tests for name, tests in TESTS_OF.items() if only in (None, name)}
    unknown: list[str] = []
    met: set[str] = set()
    for name, tests in modules.items():
        began_s = time.monotonic()
        path = TESTS.parent / "sansio_cache" / f"{name.replace('.', '/')}.py"
        source = path.read_text()
        assert _passes(tests, None), f"the tests of {name} fail without a mutant"
        chosen = list(mutants(name, source))[::every]
        survivors: list[Mutant] = []
        print(f"{name}: {len(chosen)} mutants", flush=True)
        for number, mutant in enumerate(chosen, 1):
            if number % 25 == 0:
                print(f"  {number}, line {mutant.line}", flush=True)
            code = compile(mutant.tree, str(path), "exec")
            if _passes(tests, _Changed(f"sansio_cache.{name}", code)):
                survivors.append(mutant)
                print(f"survived: {mutant}", flush=True)
        took_s = time.monotonic() - began_s
        killed = len(chosen) - len(survivors)
        print(f"{name}: {killed} killed, {len(survivors)} survived, in {took_s:.0f} s", flush=True)
        for each in map(str, survivors):
            known = [known for known in REVIEWED_OF_THE_CORE if re.search(known, each)]
            met.update(known)
            if not known:
                unknown.append(each)
    for each in unknown:
        print(f"not on the reviewed list: {each}")
    if every == 1 and only is None:
        for known in REVIEWED_OF_THE_CORE.keys() - met:
            print(f"on the reviewed list, and killed: {known}")
            unknown.append(known)
    return 1 if unknown else 0
