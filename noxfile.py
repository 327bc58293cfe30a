"""The tasks of the project. `nox` alone runs what the continuous integration runs.

That is everything on one Python and one server, and what the server decides on the other servers that come as
wheels. `nox -s servers` takes those of the machine, too; `nox -s tests-3.12 tests-3.13` takes other Pythons.
"""

import shutil
from pathlib import Path

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
PACKAGES = (
    "sansio_cache",
    "sansio_cache_runtime",
    "sansio_cache_redis",
    "sansio_cache_cli",
    "sansio_cache_pydantic",
    "sansio_cache_opentelemetry",
    "sansio_cache_prometheus",
    "sansio_cache_testing",
)

# The servers beside the default one, by their names in tests/support/servers.py.
SERVERS_OF_WHEELS = ("valkey-8.1", "redis-8.2")
OTHER_PYTHONS = ("3.12", "3.13")

# Per cent of lines and branches, by package.
COVERED = {"sansio_cache": 100, "sansio_cache_runtime": 95}

# Two processes, as tests wait more than they compute. The ids of tests must be the same in both.
PARALLEL = ("-n", "2")

nox.needs_version = ">=2025.2"
# The last summary line is the one that tells the run: that of the tests.
nox.options.sessions = ["lint", "types", "docs", "consumers", "wheels", "tests"]
nox.options.error_on_external_run = True


def _group(name: str) -> list[str]:
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the rule that the core imports no I/O."""
    session.install("-e", ".[cli]", *_group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """The packages as their authors see them, and as a project sees them that installed the wheel."""
    session.install(".[cli]", "trio", *_group("types"))
    packages = [argument for package in PACKAGES for argument in ("-p", package)]
    session.run("mypy", "--cache-dir", session.create_tmp(), *packages)
    session.run("pyright")
    # Elsewhere, so that nothing but the installed wheel can be found.
    elsewhere = Path(session.create_tmp())
    consumer = shutil.copy("tests/typing/consumer.py", elsewhere)
    with session.chdir(elsewhere):
        session.run("mypy", "--strict", "--cache-dir", "cache", str(Path(consumer).name))
        session.run("pyright", str(Path(consumer).name))


@nox.session
def consumers(session: nox.Session) -> None:
    """Programs of each kind, from the pages that open with them, on the wheel: checked, and run."""
    session.install(".[pydantic]", *_group("consumers"), *_group("types"))
    directory = session.create_tmp()
    session.run("python", "-P", "-m", "consumers", directory, env={"PYTHONPATH": "tests"})


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, with warnings as errors: links, names in code, words. The tests run its examples."""
    session.install(".", *_group("docs"))
    session.run(
        "codespell", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "sansio_cache", "adapters"
    )
    session.run("sphinx-build", "-n", "-W", "-q", "-b", "html", "docs", "docs/_build/html")


@nox.session
def wheels(session: nox.Session) -> None:
    """What the server decides, on each server that comes as a wheel: one that is missing is a failure.

    Each is one server here: Sentinel and clusters have Valkey 9.1 in every run, in `tests`.
    """
    _install_tests(session)
    for server in SERVERS_OF_WHEELS:
        _on_server(session, server, "servers and not without_server and not topology")


@nox.session
def servers(session: nox.Session) -> None:
    """What the server decides, on every server, each by itself, behind Sentinel and as a cluster.

    Those of wheels must be there, those of the machine are taken if found. Some twenty minutes for each.
    """
    _install_tests(session)
    found = session.run("python", "-P", "-m", "support.servers", env={"PYTHONPATH": "tests"}, silent=True)
    names = [line.split()[1] for line in str(found).splitlines() if line.startswith("found ")]
    session.log(str(found))
    for server in dict.fromkeys((*SERVERS_OF_WHEELS, *names)):
        _on_server(session, server, "servers and not without_server", SANSIO_CACHE_TOPOLOGIES="all")


@nox.session
def tests(session: nox.Session) -> None:
    """Everything, against a real server that the run starts itself; then how much of it is covered.

    The exploration hides from what measures coverage (see tests/test_exploration.py), which would trace every
    line of every move. The explorer, a package of the core, is covered by tests of its own on small worlds.

    With arguments: only what they ask of pytest, in one process and without coverage.
    """
    _install_tests(session)
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    session.run("pytest", *PARALLEL, "--cov", "--cov-report=")
    for package, percent in COVERED.items():
        session.run("coverage", "report", f"--include=*/{package}/*", f"--fail-under={percent}")


def _tests_on_another_python(session: nox.Session) -> None:
    """Everything, without coverage."""
    _install_tests(session)
    session.run("pytest", *PARALLEL, *session.posargs)


for _version in OTHER_PYTHONS:
    nox.session(_tests_on_another_python, name=f"tests-{_version}", python=_version)


def _install_tests(session: nox.Session) -> None:
    session.install("-e", ".[cli,testing]", *_group("test"), *_group("types"))


def _on_server(session: nox.Session, server: str, marked: str, **env: str) -> None:
    session.log(f"on {server}")
    session.run(
        *("pytest", *PARALLEL, "-m", marked),
        *session.posargs,
        env={"SANSIO_CACHE_TEST_SERVER": server} | env,
    )


# At full size: so many simulated operations, sequences of commands a server, cancellations a backend.
NIGHT = {
    "SANSIO_CACHE_NIGHTLY": "1",
    "SANSIO_CACHE_SIMULATE": "10000000",
    "SANSIO_CACHE_EXAMPLES": "20000",
    "SANSIO_CACHE_CANCELLATIONS": "100000",
}
# Of these modules of the core each mutant is killed, or is on the list. Others can be run alone.
MUTATED = ("breaker",)


@nox.session
def nightly(session: nox.Session) -> None:
    """What the tests explore, simulate, compare and cancel, at full size. Some hours on two cores.

    `nox -s nightly -- 0.01` runs a hundredth of what is counted, to try it. Seeds are printed.
    """
    _install_tests(session)
    share = float(session.posargs[0]) if session.posargs else 1.0
    night = {name: str(max(int(int(count) * share), 1)) for name, count in NIGHT.items()}
    # Without the dump of tests that hang: some take longer than that here, and the look at the frames of a
    # thread that runs has ended the process.
    patient = ("-o", "faulthandler_timeout=0")
    shown = (*PARALLEL, *patient, "-rA", "--no-header")
    for explorer in ("test_exploration", "test_lock_exploration", "test_queue_exploration"):
        session.run("pytest", *shown, f"tests/{explorer}.py", env=night)
    session.run("pytest", *shown, "tests/sansio_cache/exploring/test_simulating.py", env=night)
    cancelling = ("tests/sansio_cache_redis/test_cancellation.py", "-k", "at_random")
    session.run("pytest", *shown, *cancelling, env=night)
    # In one process: a minute of each fault, with callers of three runtimes, leaves little of two cores.
    session.run("pytest", *patient, "-rA", "tests/sansio_cache_redis/test_cluster_histories.py", env=night)
    writes = ("--writes", str(max(int(10_000 * share), 400)), "--keys", str(max(int(500 * share), 20)))
    session.run("python", "-P", "-m", "behind", *writes, env={"PYTHONPATH": "tests"})
    session.run("python", "-P", "-m", "mutations", "lua", env={"PYTHONPATH": "tests"})
    for module in MUTATED:
        options = ("python", "--only", module)
        session.run("python", "-P", "-m", "mutations", *options, env={"PYTHONPATH": "tests"})
    found = session.run("python", "-P", "-m", "support.servers", env={"PYTHONPATH": "tests"}, silent=True)
    servers = [line.split()[1] for line in str(found).splitlines() if line.startswith("found ")]
    for server in dict.fromkeys((*SERVERS_OF_WHEELS, *servers)):
        session.log(f"memory and {server}, with the same commands")
        compared = [f"tests/sansio_cache_redis/{name}.py" for name in ("test_scripts", "test_queue_scripts")]
        session.run(
            "pytest",
            *patient,
            "-rA",
            *compared,
            "-k",
            "same_answers or branch",
            env=night | {"SANSIO_CACHE_TEST_SERVER": server},
        )
        _on_server(session, server, "servers and not without_server", SANSIO_CACHE_TOPOLOGIES="all")


@nox.session
def peers(session: nox.Session) -> None:
    """The known failures of other caches, seen in them: ours goes through the same in every run of the tests.

    Their newest releases are taken: where one fails here, its author may have mended it.
    """
    session.install("-e", ".", *_group("test"), *_group("peers"))
    session.run("pytest", "tests/test_peers.py", "tests/peers/others.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Ratios against redis-py and other caches, in one run. Not a test: nothing depends on it."""
    session.install("-e", ".[cli]", *_group("test"), *_group("bench"))
    session.run("python", "-P", "-m", "benchmarks", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def frameworks(session: nox.Session) -> None:
    """The suites of other projects, on their own backend and on the adapters of the tests.

    It fetches them from the registry, and Litestar's from its repository. They take some six minutes.
    """
    session.install("-e", ".", *_group("suites"))
    session.run("python", "-P", "-m", "frameworks", *session.posargs, env={"PYTHONPATH": "tests"})
