"""Mutants of the Lua texts that survive, each with the reason why that is right. At most twenty."""

from typing import Final

REVIEWED: Final[dict[str, str]] = {
    r"clock\[2\]' -> '.* - clock\[2\]": "a clock a second wrong is within what two clocks may differ by",
    r"'local now = math.floor.* -> ''$": "a shared text, whose line this script does not use",
    r"touch:\d+: .(local zero|return string.char)": "a shared text, whose line this script does not use",
    r"unlock:\d+: .local function u64": "a shared text, whose line this script does not use",
    r"PUBLISH": "a courtesy to waiters, which `test_listening.py` sees",
    r"<= 86400000.* -> .*< 86400000": "a lease that ends in a day to the millisecond",
    r"WRONGTYPE": "a read of a key gives no other error while the server serves",
    r"fill:\d+: .* and #v < 50": "a cell that is cut off does not hold the grant either",
    r"(swap|touch):\d+: .*byte\(2\) < 2": "a hold is no value, which is looked at next",
    r"(swap|touch):\d+: .*#v > 50": "a cell that ends with its header is no value, which is looked at next",
    r"(swap|touch):\d+: .*soft <= now.* -> .*soft < now": "the one millisecond in which it becomes stale",
    r"touch:\d+: .*'string' or": "what is no string is foreign, and an error that counts as not touched",
    r"at = at \+ 18 - length": "of tags whose names take 256 bytes and more, which the sequences do not have",
    r"#tags < at - 72.* -> ..$": "an entry that is cut off among its tags, which readers take for corrupt",
    r"hard_ttl < 1.* -> ..$": "an entry with less than a millisecond to live",
}
"""What a mutant's text matches, and why it may live."""
