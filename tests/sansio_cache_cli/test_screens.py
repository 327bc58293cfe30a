"""The screens that the documentation shows are what the command shows today, but for figures."""

from __future__ import annotations

import re

import pytest

from screens import DIRECTORY, NAMES, capture, shape


@pytest.mark.parametrize("name", NAMES)
def test_a_screen_of_the_documentation_is_what_the_command_shows(name, full_server):
    kept = (DIRECTORY / f"{name}.txt").read_text(encoding="utf-8")
    captured = capture(name, full_server)
    assert "Traceback" not in captured
    assert shape(captured) == shape(kept), "PYTHONPATH=tests python -P -m screens writes them anew"


def test_no_screen_is_kept_that_is_not_captured():
    assert sorted(path.stem for path in DIRECTORY.iterdir()) == sorted(NAMES)


def test_a_word_that_has_changed_is_noticed_and_a_figure_is_not():
    kept = (DIRECTORY / "check.txt").read_text(encoding="utf-8")
    assert shape(kept) == shape(kept.replace("50,001", "7").replace("µs", "ms"))
    assert shape(kept) == shape(re.sub(r"up for [^;]+? s\n", "up for 1 h 2 min 3 s\n", kept)), "for hours"
    assert shape(kept) != shape(kept.replace("eviction", "evictions"))
