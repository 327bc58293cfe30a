"""Run the suites of other projects, on their own backend for Redis and on the adapter for it.

    PYTHONPATH=tests python -P -m frameworks [--only django] [--suites DIRECTORY]

The suites come from the projects' source distributions, or, where these have none, from their repositories:
each as it was for the version that is installed. Nothing of them is kept. What the project's own backend does
not pass does not count. The run fails where the adapters pass less than 96 % of the rest, or fail something
that is not named here with its reason.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import attrs

from support.servers import Server

AT_LEAST: Final = 0.96
_TESTS: Final = Path(__file__).parents[1]
_OWN: Final = Path(__file__).parent / "suites"
_GIVE_UP_S: Final = 900.0

Results = dict[str, bool]
"""Whether each test that was not skipped has passed."""


@attrs.frozen
class Suite:
    """How the suite of one project is prepared and run, and what an adapter cannot pass."""

    name: str
    package: str
    prepare: Callable[[Path], None]
    """Puts our module beside the suite, in its directory."""
    run: Callable[[Path, str, Path], list[str]]
    """The command, for a directory, a backend and where the results go."""
    cwd: str = "."
    beyond: Mapping[str, str] = attrs.field(factory=dict)
    """Tests of the own backend that are not of a cache: by the end of their names, with the reason."""
    native_port: int | None = None
    """Where its own backend looks for a server, where that stands in the suite."""
    pairs: Mapping[str, str] = attrs.field(factory=dict)
    """Parts of names that differ: in those of the own backend, and in those of the adapter."""


def _copy(name: str, to: str) -> Callable[[Path], None]:
    def prepare(root: Path) -> None:
        shutil.copy(_OWN / name, root / to)

    return prepare


def _prepare_django(root: Path) -> None:
    shutil.copy(_OWN / "for_django.py", root / "tests/cache/sansio_tests.py")
    redis = (
        '{"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": os.environ["FRAMEWORKS_URL"]}'
    )
    settings = f"import os\nfrom test_sqlite import *\nCACHES = {{'default': {redis}}}\n"
    (root / "tests/on_redis.py").write_text(settings)


_ON_TOP: Final = (
    *("CacheUtils", "PrefixedCacheUtils", "CacheHEADTest", "CacheI18nTest", "PrefixedCacheI18nTest"),
    *("CacheMiddlewareTest", "TestWithTemplateResponse"),
)


def _run_django(root: Path, backend: str, results: Path) -> list[str]:
    labels = ["cache.sansio_tests"]
    settings = "test_sqlite"
    if backend == "native":
        labels, settings = [f"cache.tests.{each}" for each in ("RedisCacheTests", *_ON_TOP)], "on_redis"
    return ["runtests.py", *labels, f"--settings={settings}", "--parallel=1", "-v2"]


def _pytest(*native: str, own: str) -> Callable[[Path, str, Path], list[str]]:
    def run(root: Path, backend: str, results: Path) -> list[str]:
        what = native if backend == "native" else own.split()
        options = ["-q", "-o", "asyncio_default_fixture_loop_scope=function"]
        return ["-m", "pytest", *options, f"--junitxml={results}", *what]

    return run


def _prepare_aiocache(root: Path) -> None:
    (root / "setup.cfg").write_text(
        "[tool:pytest]\nasyncio_mode = auto\nmarkers =\n memcached: m\n redis: r\n"
    )
    conftest = root / "tests/acceptance/conftest.py"
    conftest.write_text(conftest.read_text() + (_OWN / "for_aiocache.py").read_text())


def _prepare_litestar(root: Path) -> None:
    shutil.copy(_OWN / "for_litestar.py", root / "conftest.py")
    (root / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nmarkers =\n flaky: f\n xdist_group: x\n")


_OF_ITS_CLIENT: Final = "looks into the client that only the project's own backend has"
_AIOCACHE_REDIS: Final = "-k=redis and not Memcached and not memcached and not valkey"

SUITES: Final = (
    Suite(
        "django",
        "Django",
        _prepare_django,
        _run_django,
        cwd="tests",
        beyond=dict.fromkeys(
            (
                "test_incr_write_connection",
                "test_cache_client_class",
                "test_get_backend_timeout_method",
                "test_get_connection_pool_index",
                "test_get_connection_pool",
                "test_get_client",
                "test_serializer_dumps",
                "test_redis_pool_options",
            ),
            _OF_ITS_CLIENT,
        ),
        pairs={"cache.tests.Redis": "cache.sansio_tests.Sansio", "cache.tests.": "cache.sansio_tests.Sansio"},
    ),
    Suite(
        "cachelib",
        "cachelib",
        _copy("for_cachelib.py", "tests/test_sansio_cache.py"),
        _pytest(
            "tests/test_redis_cache.py",
            "-k=TestRedisCache and not Connection",
            own="tests/test_sansio_cache.py",
        ),
        native_port=6360,
        pairs={"test_redis_cache.TestRedis": "test_sansio_cache.TestSansio", "[RedisCache": "[SansioCache"},
    ),
    Suite(
        "dogpile",
        "dogpile.cache",
        _copy("for_dogpile.py", "tests/cache/test_sansio_backend.py"),
        _pytest(
            "tests/cache/test_redis_backend.py", "-k=not Connection", own="tests/cache/test_sansio_backend.py"
        ),
        pairs={"test_redis_backend.Redis": "test_sansio_backend.Sansio"},
    ),
    Suite(
        "litestar",
        "litestar",
        _prepare_litestar,
        _pytest("test_stores.py", "-k=not valkey and not file", own="test_stores.py"),
        beyond={
            "test_redis_delete_all": _OF_ITS_CLIENT,
            "test_redis_namespaced_key": _OF_ITS_CLIENT,
            "test_redis_with_namespace": _OF_ITS_CLIENT,
        },
    ),
    Suite(
        "aiocache",
        "aiocache",
        _prepare_aiocache,
        _pytest("tests/acceptance", _AIOCACHE_REDIS, own="tests/acceptance"),
        beyond={"TestRedisCache.test_raw": "commands of Redis by their names"},
    ),
)


def fetch(suite: Suite, into: Path) -> Path:
    """The suite's directory, as it is for the version that is installed."""
    installed = version(suite.package)
    if suite.name == "litestar":
        root = into / f"litestar-{installed}-suite"
        root.mkdir(exist_ok=True)
        if not (root / "test_stores.py").exists():
            url = f"https://raw.githubusercontent.com/litestar-org/litestar/v{installed}/tests/unit/test_stores.py"
            with urllib.request.urlopen(url, timeout=60) as response:
                (root / "test_stores.py").write_bytes(response.read())
        return root
    if not list(into.glob(f"{_archive(suite.package)}-{installed}.tar.gz")):
        asked = f"{suite.package}=={installed}"
        download = [
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            ":all:",
            "-d",
            str(into),
            asked,
        ]
        subprocess.run([sys.executable, *download], check=True)
    [archive] = into.glob(f"{_archive(suite.package)}-{installed}.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(into / "unpacked", filter="data")
    [root] = (into / "unpacked").glob(f"{_archive(suite.package)}-{installed}")
    return root


def _archive(package: str) -> str:
    return package.lower().replace(".", "_")


def run(suite: Suite, root: Path, backend: str, url: str) -> Results:
    """Run the suite on a backend."""
    results = root / f"results-{backend}.xml"
    results.unlink(missing_ok=True)
    paths = os.pathsep.join((str(_TESTS), str(root)))
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "FRAMEWORKS_URL": url,
        "FRAMEWORKS_BACKEND": backend,
        # What the suites ask for: whether there is a server already, and where.
        "CI": "true",
        "DOGPILE_REDIS_PORT": str(urlsplit(url).port),
    }
    command = [sys.executable, *suite.run(root, backend, results)]
    done = subprocess.run(
        command, cwd=root / suite.cwd, env=environment, capture_output=True, text=True, timeout=_GIVE_UP_S
    )
    said = done.stdout + done.stderr
    (root / f"said-{backend}.txt").write_text(said)
    found = _of_junit(results) if results.exists() else _of_unittest(said)
    if not found:
        raise SystemExit(f"{suite.name} on {backend} has run nothing:\n{said[-4000:]}")
    return found


def _of_junit(results: Path) -> Results:
    found: Results = {}
    for case in ET.parse(results).iter("testcase"):
        kinds = {child.tag for child in case}
        if "skipped" not in kinds:
            found[f"{case.get('classname')}.{case.get('name')}"] = not kinds & {"failure", "error"}
    return found


def _of_unittest(said: str) -> Results:
    lines = re.findall(
        r"^(?:\w+) \(([\w.]+)\)(?:\n.*)? \.\.\. (ok|FAIL|ERROR|skipped.*)$", said, re.MULTILINE
    )
    found = {name: how == "ok" for name, how in lines if not how.startswith("skipped")}
    failed = re.findall(r"^(?:FAIL|ERROR): \w+ \(([\w.]+)\)", said, re.MULTILINE)
    return found | dict.fromkeys(failed, False)


def compare(suite: Suite, native: Results, own: Results) -> tuple[int, int, list[str], list[str]]:
    """How many tests both passed, of how many that the own backend passes; what is beyond; what failed."""
    passed, beyond, failed = 0, [], []
    expected = [name for name, is_passed in native.items() if is_passed]
    for name in expected:
        ours = name
        for theirs, replacement in suite.pairs.items():
            ours = ours.replace(theirs, replacement)
        reason = next(
            (why for end, why in suite.beyond.items() if name.partition("[")[0].endswith(end)), None
        )
        if own.get(ours):
            passed += 1
        elif reason is not None:
            beyond.append(f"{name}: {reason}")
        else:
            failed.append(f"{name}{'' if ours in own else f' (there is no {ours})'}")
    return passed, len(expected), beyond, failed


def main() -> int:
    """Run them, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=[suite.name for suite in SUITES], help="one project's")
    parser.add_argument("--suites", type=Path, help="where suites are that were fetched before, and are kept")
    chosen = parser.parse_args()
    is_good, passed_in_all, expected_in_all = True, 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        into = chosen.suites or Path(temporary)
        for suite in SUITES:
            if chosen.only not in (None, suite.name):
                continue
            root = fetch(suite, into)
            suite.prepare(root)
            found = {}
            for backend in ("native", "adapter"):
                port = suite.native_port if backend == "native" else None
                with Server.start(port=port) as server:
                    found[backend] = run(suite, root, backend, server.url)
            passed, expected, beyond, failed = compare(suite, found["native"], found["adapter"])
            passed_in_all, expected_in_all = passed_in_all + passed, expected_in_all + expected
            is_good = is_good and not failed
            print(f"{suite.package} {version(suite.package)}: {passed} of {expected}", flush=True)
            for line in beyond:
                print(f"  not of a cache: {line}")
            for line in failed:
                print(f"  FAILED: {line}")
    share = passed_in_all / expected_in_all
    print(f"in all {passed_in_all} of {expected_in_all}, {share:.1%}")
    return 0 if is_good and share >= AT_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
