"""Programs as the documentation shows them, and a suite: checked and run as their users would.

    python -P -m consumers DIRECTORY

In a project that has installed the wheel, and nothing of this tree but its pages: each page's blocks are
written into a module, checked by mypy and pyright, and run against a server.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import sansio_cache
from support.pages import blocks_of
from support.servers import Server

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    "script": DOCS / "howto" / "use-in-a-script.md",
    "application": DOCS / "howto" / "use-with-fastapi.md",
    "nursery": DOCS / "howto" / "use-with-trio.md",
    "views": DOCS / "howto" / "use-with-flask.md",
    "tasks": DOCS / "howto" / "use-with-celery.md",
}
"""The pages that open with a program, by what it is called here. No package may have that name."""
TESTS = Path(__file__).parents[1]
SUITE = (TESTS / "consumers" / "bugs.py", TESTS / "support" / "cached_programs.py")
"""Finds the mistakes of programs, and what these are."""
SERVER_URL = "redis://localhost:6379"


def program_of(page: Path) -> str:
    """What a page opens with."""
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    return next(block.code for block in blocks if block.language == "python")


def write(directory: Path, url: str) -> list[str]:
    """Write each page's program, and all of the page, into a module; gives the names of the files."""
    names = []
    for name, page in PAGES.items():
        blocks = blocks_of(page.read_text(encoding="utf-8"))
        code = "\n\n".join(block.code for block in blocks if block.language == "python")
        (directory / f"{name}.py").write_text(code.replace(SERVER_URL, url))
        names.append(f"{name}.py")
    return names


def main() -> None:
    """Write, check and run."""
    directory = Path(sys.argv[1])
    assert "site-packages" in str(sansio_cache.__file__), "the wheel is to be tested, and not the tree"
    with Server.start() as server:
        names = write(directory, server.url)
        checks = [
            [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", *names],
            [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *names],
        ]
        programs = [[sys.executable, "-W", "error", name] for name in names]
        for command in (*checks, *programs):
            print("$", *command[1:], flush=True)
            subprocess.run(command, cwd=directory, check=True)
    for file in SUITE:
        shutil.copy(file, directory)
    suite = [sys.executable, "-W", "error", SUITE[0].name]
    found = subprocess.run(suite, cwd=directory, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert found.count("to see it again: replay(") == 6, found


if __name__ == "__main__":
    main()
