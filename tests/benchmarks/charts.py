"""The pictures, and the pages of the documentation that show them: one for each case."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.case import Case
from benchmarks.machine import ONLY_RATIOS, in_one_line
from benchmarks.results import OWN, Group, where_slower

HEADLINE = "headline.json"
"""What the first page shows: hits of many callers at once, times redis-py."""
_HEADLINE_CASE, _HEADLINE_CONDITIONS = "get hit", ("tcp, 2 kB, 50 callers", "tcp, 2 kB, 8 threads")
_INCHES = 9.0
_COLOURS = {
    "sansio-cache": "#1f5fbf",
    "sansio-cache, asyncio": "#1f5fbf",
    "sansio-cache, trio": "#69a5f0",
    "redis-py": "#5a5a5a",
    "redis.asyncio": "#5a5a5a",
    "dict": "#5a5a5a",
    "cashews": "#c77c2b",
    "aiocache": "#4f9a5d",
    "dogpile.cache": "#a04fa0",
    "dogpile.cache memory": "#a04fa0",
    "Django": "#b8a12a",
    "Django locmem": "#b8a12a",
    "functools.lru_cache": "#4f9a5d",
    "dict of JSON": "#c77c2b",
}
_OTHER = "#a8a8a8"


def draw(
    cases: Sequence[Case], groups: Sequence[Group], machine: dict[str, Any], directory: Path
) -> list[Path]:
    """A picture and a page of each case that was run; says what was written.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    day = datetime.now(UTC).date().isoformat()
    foot = f"{day}. {in_one_line(machine)}\n{ONLY_RATIOS}"
    written = []
    for case in cases:
        found = [group for group in groups if group.case == case.name]
        if found:
            path = directory / f"{case.name.replace(' ', '-')}.png"
            draw_one = _draw_curve if found[0].curve else _draw_bars
            draw_one(case, found, foot, path)
            page = path.with_suffix(".md")
            page.write_text(_page(case, found, foot, path.name))
            written += [path, page]
    headline = _headline(groups)
    if headline:
        written.append(directory / HEADLINE)
        written[-1].write_text(json.dumps({"day": day, "charts": headline}, indent=1) + "\n")
    return written


def _headline(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Throughput in hits, times redis-py, of those who took part."""
    return {
        group.said_conditions: {
            row.who: round(row.figures["ratio"], 2) for row in group.rows if row.role != OWN
        }
        for group in groups
        if group.case == _HEADLINE_CASE and group.said_conditions in _HEADLINE_CONDITIONS
    }


def _save(figure: Any, foot: str, path: Path) -> None:
    import textwrap

    from matplotlib import pyplot as plt

    figure.text(0.01, 0.0, textwrap.fill(foot, 150), fontsize=6, color="#666666", va="top")
    # Without the metadata, whose only content would be who drew it.
    figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def _draw_bars(case: Case, groups: list[Group], foot: str, path: Path) -> None:
    """One panel a group, one bar a contender."""
    from matplotlib import pyplot as plt

    across = 3 if len(groups) > 4 else 2 if len(groups) > 1 else 1
    down = -(-len(groups) // across)
    height = 0.6 + 0.26 * max(len(group.rows) for group in groups)
    figure, axes = plt.subplots(down, across, figsize=(_INCHES, height * down + 0.6), squeeze=False)
    panels = [axis for row in axes for axis in row]
    for axis in panels[len(groups) :]:
        axis.set_visible(False)
    for axis, group in zip(panels, groups, strict=False):
        column = next(each for each in group.columns if each.name == group.chart)
        rows = [row for row in group.rows if group.chart in row.figures][::-1]
        figures = [row.figures[group.chart] for row in rows]
        names = [row.who for row in rows]
        colours = ["#b9cdea" if row.role == OWN else _COLOURS.get(row.who, _OTHER) for row in rows]
        bars = axis.barh(names, figures, color=colours)
        axis.bar_label(bars, [column.text(each) for each in figures], fontsize=6, padding=2)
        axis.margins(x=0.2)
        if min(figures) > 0 and max(figures) / min(figures) > 50:
            axis.set_xscale("log")
        if group.chart == "ratio":
            axis.axvline(1, color="#999999", linewidth=0.8, zorder=0)
        better = "less is better" if group.less_is_better else "more is better"
        axis.set_title(group.said_conditions, fontsize=7)
        axis.set_xlabel(f"{column.heading} ({better})", fontsize=6)
        axis.tick_params(labelsize=6)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.suptitle(case.name, fontsize=10, fontweight="bold")
    figure.tight_layout()
    _save(figure, foot, path)


def _draw_curve(case: Case, groups: list[Group], foot: str, path: Path) -> None:
    """Time and CPU time of one more, against how many there are."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(_INCHES, 3.4))
    names = list(dict.fromkeys(row.who for group in groups for row in group.rows))
    for axis, what, label in zip(axes, ("us", "cpu_us"), ("µs each", "CPU µs each"), strict=True):
        for name in names:
            points = [
                (group.conditions[group.curve], row.figures[what])
                for group in groups
                for row in group.rows
                if row.who == name
            ]
            at, cost = zip(*points, strict=True)
            axis.plot(at, cost, marker="o", markersize=3, color=_COLOURS.get(name, _OTHER), label=name)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel(groups[0].curve, fontsize=7)
        axis.set_ylabel(f"{label} (less is better)", fontsize=7)
        axis.tick_params(which="both", labelsize=6)
        axis.grid(visible=True, which="major", linewidth=0.3)
    axes[0].legend(fontsize=6, frameon=False)
    figure.suptitle(case.name, fontsize=10, fontweight="bold")
    figure.tight_layout()
    _save(figure, foot, path)


def _page(case: Case, groups: Sequence[Group], foot: str, picture: str) -> str:
    lines = [f"# {case.name}", "", case.about, "", f"![{case.name}]({picture})", ""]
    lost = where_slower(groups)
    if lost:
        lines += ["## Where another is faster", ""]
        lines += ["| case | under | who | times sansio-cache |", "| --- | --- | --- | ---: |"]
        for each in lost:
            lines.append(
                f"| {each.case} | {each.conditions} | {each.other} | {each.times:.2f} ({each.ours}) |"
            )
        lines += [""]
    lines += ["## Figures", "", *_markdown(groups), "", f"*{foot.replace(chr(10), ' ')}*"]
    return "\n".join(lines) + "\n"


def _markdown(groups: Sequence[Group]) -> list[str]:
    columns = groups[0].columns
    lines = ["| under | who | " + " | ".join(column.heading for column in columns) + " | | |"]
    lines.append("| --- | --- |" + " ---: |" * len(columns) + " --- | --- |")
    for group in groups:
        for row in group.rows:
            texts = [column.text(row.figures.get(column.name)) for column in columns]
            lines.append(
                f"| {group.said_conditions} | {row.who} | "
                + " | ".join(texts)
                + f" | {row.verdict} | {row.note} |"
            )
        for who, why in group.absent.items():
            lines.append(f"| {group.said_conditions} | {who} | " + " | " * (len(columns) + 1) + f"{why} |")
    return lines
