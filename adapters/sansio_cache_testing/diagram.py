"""A run as a sequence diagram: as text, a column for each participant, and for Mermaid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sansio_cache_testing.steps import CACHE, DATABASE, Step

_NARROWEST: Final = 24
_GAP: Final = "  "


def text_diagram(steps: Sequence[Step]) -> str:
    """One line a step, in the column of who did it; to the right, the line of the program."""
    names = list(dict.fromkeys(step.who for step in steps))
    cells = [f"{step.whom}: {step.what}" if step.whom else step.what for step in steps]
    widths = {
        name: max(
            len(name),
            _NARROWEST,
            *(len(cell) for cell, step in zip(cells, steps, strict=True) if step.who == name),
        )
        for name in names
    }
    digits = len(str(len(steps)))
    head = _GAP.join(name.ljust(widths[name]) for name in names)
    rule = _GAP.join(("-" * len(name)).ljust(widths[name]) for name in names)
    lines = [f"{'':{digits}}{_GAP}{head.rstrip()}", f"{'':{digits}}{_GAP}{rule.rstrip()}"]
    for number, (step, cell) in enumerate(zip(steps, cells, strict=True), 1):
        columns = _GAP.join((cell if name == step.who else "").ljust(widths[name]) for name in names)
        place = f"{_GAP}{step.place}" if step.place is not None else ""
        lines.append(f"{number:{digits}}{_GAP}{columns}{place}".rstrip())
    return "\n".join(lines)


def mermaid_diagram(steps: Sequence[Step]) -> str:
    """The same for Mermaid, which GitHub and many editors show as a picture."""
    names = list(dict.fromkeys([step.who for step in steps]))
    numbers = {name: f"p{number}" for number, name in enumerate([*names, CACHE, DATABASE])}
    lines = ["sequenceDiagram"]
    lines += [f"    participant {numbers[name]} as {_safe(name)}" for name in [*names, CACHE, DATABASE]]
    for step in steps:
        place = f" ({step.place})" if step.place is not None else ""
        who = numbers[step.who]
        if step.whom:
            lines.append(f"    {who}->>{numbers[step.whom]}: {_safe(step.what + place)}")
        else:
            lines.append(f"    Note over {who}: {_safe(step.what + place)}")
    return "\n".join(lines)


def _safe(text: str) -> str:
    """What Mermaid would take for its own is written by its number."""
    return text.replace("#", "#35;").replace(";", "#59;").replace("#35#59;", "#35;").replace("\n", " ")
