"""Words: figures and foreign texts as people read them. No I/O here."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""A text with `\x1b` and the like written out, so that it is nothing but text to a terminal."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode()
        for each in text
    )


def text_of(name: str) -> str:
    r"""A name as the command line and MONITOR give it, in text: `\xff` stands for a byte that is none."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def span(seconds: float) -> str:
    """A time, as short as it may be read: `1.5 ms`, `12 s`, `1 h 05 min`, `3 d 02 h`."""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if 0 < seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    for unit, name, smaller, smaller_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= unit:
            whole, rest = divmod(int(seconds), unit)
            return f"{whole:,} {name} {rest // smaller:02} {smaller_name}"
    whole, rest = divmod(int(seconds), 60)
    return f"{whole} min {rest:02} s"


def exact(seconds: float) -> str:
    """A time to live, so that two of them can be told apart: `1.25 s`, `3,960 s`, `7.35 d`."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds:,.0f} s" if seconds < 172_800 else f"{seconds / 86_400:,.2f} d"


def size(count: float) -> str:
    """A number of bytes: `1.5 MiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    if unit == "bytes" and count == 1:
        return "1 byte"
    return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
