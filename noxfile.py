"""The tasks of the project. `nox` alone runs what the continuous integration runs."""

import shutil
from pathlib import Path

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
PACKAGES = ("sansio_cache", "sansio_cache_runtime", "sansio_cache_redis", "sansio_cache_cli")

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "types", "docs", "tests"]
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
def docs(session: nox.Session) -> None:
    """The documentation, with warnings as errors; its examples are run by the tests."""
    session.install(".", *_group("docs"))
    session.run("sphinx-build", "-W", "-q", "-b", "html", "docs", "docs/_build/html")


@nox.session
def tests(session: nox.Session) -> None:
    """Everything, against a real server that the run starts itself."""
    session.install("-e", ".[cli,testing]", *_group("test"))
    session.run("pytest", "--cov", "--cov-report=term", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Ratios against redis-py and other caches, in one run. Not a test: nothing depends on it."""
    session.install("-e", ".[cli]", *_group("test"), *_group("bench"))
    session.run("python", "-P", "-m", "benchmarks", *session.posargs, env={"PYTHONPATH": "tests"})
