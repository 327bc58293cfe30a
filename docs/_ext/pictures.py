"""Pictures as SVG, in the colours of the page: machines, timelines of two parties, and queries over time.

They are written into the page, so they follow its light and dark colours. A picture is 430 units wide: on
a phone, where 360 pixels are left, its smallest letters have 9 pixels. Sphinx is not imported here: the tests
use this module too.
"""

import textwrap
from collections.abc import Iterator, Sequence
from html import escape

import attrs

WIDTH = 430
LETTER = 6.4
"""How wide a letter is at most, at 12 units."""


@attrs.define
class Picture:
    """What is drawn, and how high it has become."""

    title: str
    height: float = 0
    parts: list[str] = attrs.field(factory=list)

    def text(
        self, x: float, y: float, said: str, *, style: str = "", size: float = 12, at: str = "start"
    ) -> None:
        """A line of text; `at` says what `x` is of it: its start, middle or end."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{at}" class="{style}">'
            f"{escape(said)}</text>"
        )

    def box(self, x: float, y: float, width: float, height: float, style: str = "box") -> None:
        """A box with round corners."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" class="{style}"/>'
        )

    def bar(self, x: float, y: float, width: float, height: float, style: str = "bar") -> None:
        """A bar of a chart."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{style}"/>'
        )

    def line(self, path: str, *, to: tuple[float, float] | None = None, pointing: str = "left") -> None:
        """A line, with a head where it leads to."""
        self.parts.append(f'<path d="{path}" class="line" stroke-width="1.3"/>')
        if to is not None:
            x, y = to
            shape = {
                "left": f"M{x:g} {y:g}l7 -3.5v7z",
                "right": f"M{x:g} {y:g}l-7 -3.5v7z",
                "down": f"M{x:g} {y:g}l-3.5 -7h7z",
            }[pointing]
            self.parts.append(f'<path d="{shape}" class="head"/>')

    def svg(self) -> str:
        """All of it."""
        inside = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height:g}" role="img">'
            f"<title>{escape(self.title)}</title>\n{inside}\n</svg>"
        )


# A machine: its states one below the other, what may follow beside them.

_BOX_X, _BOX_WIDTH = 100, 230
_LANE = 12
_GAP = 24


def machine(name: str, following: dict[str, list[str]], commands: dict[str, list[str]]) -> str:
    """The states of a machine: which may follow which, what each waits for, and how it may end.

    Args:
        name: The machine's name.
        following: For each state, in the order in which they are met, the names of states and ends
            (`done: Value`) that may follow it.
        commands: For each state, the commands that it waits for.
    """
    picture = Picture(f"the states of {name}")
    y = 8.0
    places: dict[str, tuple[float, float]] = {}
    for state, found in following.items():
        lines = [state, *_wrapped("waits for " + ", ".join(commands[state]))]
        elsewhere = [other for other in found if other not in following and not other.startswith("done: ")]
        if elsewhere:
            lines += _wrapped("goes on in " + ", ".join(elsewhere))
        ends = [end.removeprefix("done: ") for end in found if end.startswith("done: ")]
        if ends:
            lines += _wrapped("ends: " + ", ".join(ends))
        height = 12 + 15 * len(lines)
        picture.box(_BOX_X, y, _BOX_WIDTH, height)
        for at, said in enumerate(lines):
            picture.text(
                _BOX_X + 9,
                y + 18 + 15 * at,
                said,
                style="" if at == 0 else "quiet",
                size=13 if at == 0 else 10.5,
            )
        if state in found:
            picture.text(_BOX_X + _BOX_WIDTH - 9, y + 18, "↻ again", style="quiet", size=10.5, at="end")
        places[state] = (y, height)
        y += height + _GAP
    picture.height = y - _GAP + 8
    _arrows(picture, following, places)
    return picture.svg()


def _wrapped(said: str) -> list[str]:
    return textwrap.wrap(said, 36, break_long_words=False)


def _arrows(
    picture: Picture, following: dict[str, list[str]], places: dict[str, tuple[float, float]]
) -> None:
    """To the state below straight; further down on the right; up on the left; each in a lane of its own."""
    order = list(places)
    down: list[tuple[int, int]] = []
    up: list[tuple[int, int]] = []
    for state, found in following.items():
        here = order.index(state)
        for other in found:
            if other == state or other not in places:
                continue
            there = order.index(other)
            if there == here + 1:
                top, height = places[state]
                x = _BOX_X + _BOX_WIDTH / 2
                picture.line(
                    f"M{x:g} {top + height:g}V{places[other][0] - 6:g}",
                    to=(x, places[other][0]),
                    pointing="down",
                )
            else:
                (down if there > here else up).append((here, there))
    for ways, edge, sign, pointing in ((down, _BOX_X + _BOX_WIDTH, 1, "left"), (up, _BOX_X, -1, "right")):
        lanes = list(_lanes(ways))
        # As wide as there is room, where there are many.
        wide = min(_LANE, (_BOX_X - 8) / (max((lane for lane, _ in lanes), default=0) + 1.2))
        for lane, (here, there) in lanes:
            began, ended = places[order[here]], places[order[there]]
            x = edge + sign * wide * (lane + 1.2)
            # Out of the lower half of a box, and into the upper half of another.
            start = began[0] + began[1] * (0.62 + 0.05 * (lane % 6))
            end = ended[0] + ended[1] * (0.2 + 0.05 * (lane % 6))
            picture.line(
                f"M{edge:g} {start:g}H{x:g}V{end:g}H{edge + sign * 6:g}", to=(edge, end), pointing=pointing
            )


def _lanes(ways: Sequence[tuple[int, int]]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Short ways inside, long ones outside; no two that overlap in one lane."""
    taken: list[list[tuple[int, int]]] = []
    for way in sorted(ways, key=lambda way: (abs(way[0] - way[1]), way)):
        low, high = sorted(way)
        lane = 0
        while lane < len(taken) and any(low <= other[1] and other[0] <= high for other in taken[lane]):
            lane += 1
        if lane == len(taken):
            taken.append([])
        taken[lane].append((low, high))
        yield lane, way


# A timeline: parties side by side, one thing after the other.


def timeline(parties: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Who does what, in turn. A text that begins with `!` is what goes wrong.

    Args:
        parties: Their names.
        rows: For each moment, what each party does, or nothing.
    """
    picture = Picture(" and ".join(parties))
    wide = WIDTH / len(parties)
    letters = int((wide - 18) / LETTER)
    for at, party in enumerate(parties):
        picture.text(at * wide + 10, 18, party, size=13)
    y = 30.0
    for row in rows:
        texts = [textwrap.wrap(said.lstrip("! "), letters) if said.strip() else [] for said in row]
        height = 8 + 15 * max(map(len, texts))
        for at, lines in enumerate(texts):
            if lines:
                picture.box(at * wide + 6, y, wide - 12, 8 + 15 * len(lines))
            for number, said in enumerate(lines):
                style = "bad" if row[at].startswith("!") else ""
                picture.text(at * wide + 12, y + 16 + 15 * number, said, style=style)
        y += height + 6
    picture.height = y + 2
    lives = [
        f'<path d="M{at * wide + 6:g} 24V{y - 4:g}" class="line" stroke-width="1"/>'
        for at in range(len(parties))
    ]
    picture.parts[:0] = lives
    return picture.svg()


# Queries over time.

_CHART = 74


def queries(title: str, counts: Sequence[int], bucket_s: float) -> str:
    """How many queries the database ran in each tenth of a second, and in all."""
    total, most = sum(counts), max([*counts, 1])
    seconds = len(counts) * bucket_s
    picture = Picture(f"{title}: {total:,} queries in {seconds:g} s", height=_CHART + 48)
    picture.text(6, 17, title, size=13)
    picture.text(WIDTH - 6, 17, f"{total:,} queries", size=13, at="end")
    base = 28 + _CHART
    wide = (WIDTH - 12) / len(counts)
    for at, count in enumerate(counts):
        if count:
            high = max(_CHART * count / most, 1.5)
            picture.bar(6 + at * wide, base - high, max(wide - 1, 1), high)
    picture.line(f"M6 {base}H{WIDTH - 6}")
    picture.text(6, base + 15, "0", style="quiet", size=10.5)
    picture.text(
        WIDTH / 2,
        base + 15,
        f"the highest bar: {most:,} in {bucket_s:g} s",
        style="quiet",
        size=10.5,
        at="middle",
    )
    picture.text(WIDTH - 6, base + 15, f"{seconds:g} s", style="quiet", size=10.5, at="end")
    return picture.svg()


# One bar for each of several.


def bars(title: str, figures: Sequence[tuple[str, float, bool]]) -> str:
    """A chart of names and figures; what is ours is in colour.

    Args:
        title: What is compared, and in what.
        figures: A name, its figure, and whether it is ours.
    """
    picture = Picture(f"{title}: " + ", ".join(f"{name} {figure:,.3g}" for name, figure, _ in figures))
    picture.text(6, 17, title, size=13)
    most = max(figure for _, figure, _ in figures)
    y = 28.0
    for name, figure, is_ours in figures:
        picture.text(6, y + 12, name, size=11.5)
        long = max((WIDTH - 215) * figure / most, 1)
        picture.bar(150, y, long, 16, "bar" if is_ours else "other")
        picture.text(156 + long, y + 12.5, f"{figure:,.3g}", size=11.5)
        y += 22
    picture.height = y + 4
    return picture.svg()
