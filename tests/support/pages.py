"""The pages of the documentation, as far as programs are in them."""

import re

import attrs

_FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,}|:{3,})(?P<info>[^`]*)")
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>\S.*?) -->")


@attrs.frozen
class Block:
    """A fenced block: its language, its code, where it begins, and why it is not run, if it is not."""

    language: str
    code: str
    line: int
    not_run: str | None


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text, in order."""
    blocks: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        opened = _FENCE.fullmatch(lines[at])
        at += 1
        if opened is None:
            continue
        begin, indent = at, len(opened["indent"])
        while at < len(lines) and lines[at].strip() != opened["fence"]:
            at += 1
        assert at < len(lines), f"line {begin}: a block that is not closed"
        above = next((line for line in reversed(lines[: begin - 1]) if line.strip()), "")
        marked = _NOT_RUN.fullmatch(above.strip())
        code = "".join(f"{line[indent:]}\n" for line in lines[begin:at])
        blocks.append(Block(opened["info"].strip(), code, begin, marked and marked["reason"]))
        at += 1
    return blocks
