"""Mutants that survive, each with the reason why that is right. At most twenty of the Lua texts."""

from typing import Final

REVIEWED: Final[dict[str, str]] = {
    r"<= 86400000.* -> .*< 86400000": "a lease that ends in a day to the millisecond",
    r"(swap|touch):\d+: .*soft <= now.* -> .*soft < now": "the one millisecond in which it becomes stale",
    r"append to:\d+: .*'table' and.*'table' or": "an answer that is a text has no field of this name",
    r"append to:\d+: .*'equal or smaller'.* -> ''$": "what is refused for another reason is so once more",
    r"append:\d+: .*us \+ n - 1.* -> .*us - n - 1": "tokens microseconds lower, which go up all the same",
}
"""What the text of a mutant of Lua matches, and why it may live."""

REVIEWED_OF_THE_CORE: Final[dict[str, str]] = {}
"""The same of mutants of the core."""
