"""What type checkers see of mistakes is what `typing/mistakes.py` and the documentation say."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[1]
MISTAKES = ROOT / "tests" / "typing" / "mistakes.py"
PAGE = ROOT / "docs" / "howto" / "check-types.md"
BIN = Path(sys.executable).parent
GIVE_UP_S = 600

_TITLE = re.compile(r" {4}# ([A-Z`].*)")
_SAID = re.compile(r" {4}\S.*  # (both|mypy|pyright|neither)")


@attrs.frozen
class Mistake:
    """A line that is wrong: what kind of mistake, in which form of the call, and who is said to see it."""

    line: int
    title: str
    form: str
    seen_by: str


def form_of(line: str) -> str:
    """Whether the type is bound by a view, given by `type=`, or not given."""
    if "users." in line:
        return "view"
    return "type=" if "type=" in line else "plain"


def mistakes_in(text: str) -> Iterator[Mistake]:
    """The mistakes of a source, each under its title."""
    title = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _TITLE.fullmatch(line):
            title = found.group(1)
        elif found := _SAID.fullmatch(line):
            assert title, line
            yield Mistake(number, title, form_of(line), found.group(1))


def table_of(mistakes: list[Mistake]) -> list[str]:
    """The rows of the table in the documentation."""
    said: dict[str, dict[str, str]] = {}
    for each in mistakes:
        assert said.setdefault(each.title, {}).setdefault(each.form, each.seen_by) == each.seen_by, each
    return [
        f"| {title} | {' | '.join(forms.get(form, '-') for form in ('view', 'type=', 'plain'))} |"
        for title, forms in said.items()
    ]


def run(*command: str) -> str:
    """What a checker prints; it ends with 1, as there are mistakes."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=GIVE_UP_S, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def lines_of_mypy(cache: Path) -> set[int]:
    """The lines in which mypy sees an error."""
    text = run(str(BIN / "mypy"), "--strict", "--cache-dir", str(cache), str(MISTAKES))
    return {
        int(found.group(1)) for found in re.finditer(r"^\S*mistakes\.py:(\d+): error:", text, re.MULTILINE)
    }


def lines_of_pyright() -> set[int]:
    """The lines in which pyright sees an error."""
    text = run(str(BIN / "pyright"), "--pythonpath", sys.executable, "--outputjson", str(MISTAKES))
    found = json.loads(text)["generalDiagnostics"]
    assert {Path(each["file"]) for each in found} == {MISTAKES}
    return {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}


MADE = list(mistakes_in(MISTAKES.read_text(encoding="utf-8")))


def test_what_checkers_see_of_each_mistake_is_what_is_said(tmp_path):
    by_mypy, by_pyright = lines_of_mypy(tmp_path), lines_of_pyright()
    names = {(True, True): "both", (True, False): "mypy", (False, True): "pyright", (False, False): "neither"}

    assert {each.line: each.seen_by for each in MADE} == {
        each.line: names[each.line in by_mypy, each.line in by_pyright] for each in MADE
    }
    assert by_mypy | by_pyright <= {each.line for each in MADE}, "nothing else is an error"


def test_on_a_view_both_see_all_but_what_python_itself_takes():
    missed = [each.title for each in MADE if each.form == "view" and each.seen_by != "both"]

    assert missed == ["One tag in place of a list of tags"]
    assert len({each.title for each in MADE if each.form == "view"}) >= 20


def test_the_documentation_says_the_same():
    page = PAGE.read_text(encoding="utf-8").splitlines()
    rows = table_of(MADE)

    start = page.index(rows[0])
    assert page[start : start + len(rows)] == rows
    assert not page[start + len(rows)].startswith("|"), "a mistake that is not tried"


def test_a_line_under_no_title_and_one_that_is_said_twice_are_refused():
    with pytest.raises(AssertionError):
        list(mistakes_in("    users.set(5)  # both"))
    with pytest.raises(AssertionError):
        table_of([Mistake(1, "A", "view", "both"), Mistake(2, "A", "view", "mypy")])
