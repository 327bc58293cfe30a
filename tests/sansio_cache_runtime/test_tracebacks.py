"""Tracebacks for the log: classes and frames, and no texts that are the program's."""

import traceback

import pytest

from sansio_cache_runtime.tracebacks import textless

SECRET = "s3cret"


class RefusedError(Exception):
    """Of the program's own: it takes what no stand-in has, and says it."""

    def __init__(self, row, *, reason):
        super().__init__(row, reason)


def caught(call):
    with pytest.raises(BaseException) as raised:
        call()
    return raised.value


def from_a_cause():
    try:
        raise RefusedError(SECRET, reason=SECRET)
    except RefusedError as error:
        raise ValueError(SECRET) from error


def in_a_handler():
    try:
        raise RefusedError(SECRET, reason=SECRET)
    except RefusedError:
        raise SystemExit(SECRET)  # noqa: B904


def from_nothing():
    try:
        raise RefusedError(SECRET, reason=SECRET)
    except RefusedError:
        raise ValueError(SECRET) from None


def in_a_group():
    raise ExceptionGroup(SECRET, [ValueError(SECRET)])


@pytest.mark.parametrize(
    ("call", "names", "link"),
    [
        (from_a_cause, ["test_tracebacks.RefusedError", "ValueError"], "the direct cause"),
        (in_a_handler, ["test_tracebacks.RefusedError", "SystemExit"], "During handling"),
        (from_nothing, ["ValueError"], ""),
        (in_a_group, ["ExceptionGroup"], ""),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_exception_is_shown_as_python_shows_it_but_for_its_text(call, names, link):
    error = caught(call)
    shown = "".join(traceback.format_exception(textless(error)))
    assert SECRET not in shown
    assert [line for line in shown.splitlines() if line.endswith(tuple(names))] != []
    assert f"in {call.__name__}" in shown
    assert link in shown
    assert ("RefusedError" in shown.replace("raise RefusedError", "")) == (len(names) == 2)


def test_a_chain_without_end_is_cut_off():
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert "".join(traceback.format_exception(textless(first))).count("KeyError") < 10
