"""Redis globs, without a server; test_patterns_real_server.py compares them with one."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_cache.patterns import escape_glob, glob_match

nasty_bytes = st.lists(
    st.sampled_from([bytes([byte]) for byte in b"ab-]^[\\*?\x00\n\x7f\x80\xff"]), max_size=12
).map(b"".join)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        pytest.param(b"", [b""], [b"a"], id="the empty pattern is the empty text"),
        pytest.param(b"*", [b"a", b"\n\x00\xff"], [b""], id="a star is any run of bytes"),
        pytest.param(b"a*", [b"a", b"ab"], [b"", b"ba"], id="a trailing star may be nothing"),
        pytest.param(b"a***b", [b"ab", b"axb"], [b"a", b"axbc"], id="stars in a row are one"),
        pytest.param(b"*ab*ab", [b"abab", b"xababab"], [b"ab", b"aba"], id="parts do not overlap"),
        pytest.param(b"a?c", [b"abc", b"a\nc"], [b"ac", b"abbc"], id="a mark is one byte"),
        pytest.param(b"a.c", [b"a.c"], [b"abc"], id="regular expressions mean nothing"),
        pytest.param(b"A", [b"A"], [b"a"], id="case matters"),
        pytest.param(rb"\*\?\[", [b"*?["], [b"aaa"], id="a backslash quotes"),
        pytest.param(b"a\\", [b"a\\"], [b"a"], id="a backslash at the end is itself"),
        pytest.param(b"[abc]", [b"a", b"c"], [b"d", b"", b"ab"], id="a bracket is one of a set"),
        pytest.param(b"[^a]", [b"b", b"^"], [b"a"], id="a caret negates"),
        pytest.param(b"[a^]", [b"a", b"^"], [b"b"], id="a caret further on is itself"),
        pytest.param(b"[!a]", [b"!", b"a"], [b"b"], id="an exclamation mark is itself"),
        pytest.param(b"[a-c]", [b"a", b"b", b"c"], [b"d", b"-"], id="a range includes its ends"),
        pytest.param(b"[c-a]", [b"a", b"b", b"c"], [b"d", b"-"], id="a range may run backwards"),
        pytest.param(b"[a-]", [b"a", b"]", b"^"], [b"-", b"b"], id="a range may end in ]"),
        pytest.param(b"[-a]", [b"-", b"a"], [b"b"], id="a leading dash is itself"),
        pytest.param(b"[a-", [b"a", b"-"], [b"b"], id="a dash at the end is itself"),
        pytest.param(rb"[\]\\]", [b"]", b"\\"], [b"a"], id="a backslash quotes in brackets"),
        pytest.param(rb"[\a-c]", [b"a", b"-", b"c"], [b"b"], id="a quoted byte begins no range"),
        pytest.param(b"[a\\", [b"a", b"\\"], [b"b"], id="a last backslash in brackets is itself"),
        pytest.param(b"[ab", [b"a", b"b"], [b"c", b"[ab"], id="an open bracket runs to the end"),
        pytest.param(b"[]a", [], [b"]", b"a", b"]a"], id="a closed empty bracket is no byte"),
        pytest.param(b"[", [], [b"[", b"a", b""], id="an open empty bracket is no byte"),
        pytest.param(b"[^]a", [b"]a", b"xa"], [b"a"], id="a negated empty bracket is any byte"),
        pytest.param(b"[^", [b"a", b"^"], [b"", b"ab"], id="so is an open negated one"),
        pytest.param(b"[\x7f-\x80]", [b"\x00", b"\xff"], [], id="range ends are signed: all"),
        pytest.param(b"[\x01-\xff]", [b"\x00", b"\x01", b"\xff"], [b"\x02", b"\x80"], id="signed"),
    ],
)
def test_globs_mean_what_the_server_means(pattern, matching, others):
    assert [text for text in matching if not glob_match(pattern, text)] == []
    assert [text for text in others if glob_match(pattern, text)] == []


@pytest.mark.parametrize("rest", [b"", b"*"])
def test_more_than_a_thousand_stars_match_nothing_as_on_the_server(rest):
    text = b"a" * 1_100
    assert glob_match(b"*a" * 1_000 + rest, text)
    assert not glob_match(b"*a" * 1_001 + rest, text)


def test_a_pattern_made_to_hang_a_server_is_answered_at_once():
    started_s = time.process_time()
    assert not glob_match(b"*a" * 500 + b"*b", b"a" * 2_000)
    assert time.process_time() - started_s < 2  # thousandths of a second; backtracking takes ages


def test_escaping_puts_a_backslash_before_each_special_character_only():
    assert escape_glob(r"a*b?[c]^d-e\f:{g}%") == r"a\*b\?\[c\]\^d\-e\\f:{g}%"


@given(nasty_bytes, nasty_bytes)
def test_escaped_text_matches_itself_and_nothing_else(text, other):
    """S11: the escape of a text matches that text alone, and with a star what begins with it."""
    escaped = escape_glob(text.decode("latin-1")).encode("latin-1")
    assert glob_match(escaped, text)
    assert glob_match(escaped, other) == (other == text)
    assert not text or glob_match(escaped + b"*", text + other)
    assert not other or glob_match(escaped + b"*", other) == other.startswith(text)


@given(st.lists(st.sampled_from("ab*?"), max_size=8), st.text("abc", min_size=1, max_size=8))
def test_without_brackets_and_backslashes_a_glob_is_the_obvious_regular_expression(pattern, text):
    expression = "".join(pattern).replace("*", ".*").replace("?", ".")
    expected = re.fullmatch(expression, text) is not None
    assert glob_match("".join(pattern).encode(), text.encode()) == expected
