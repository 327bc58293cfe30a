"""What came out: rows of figures, and the ratios between rows that took turns."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import attrs

from benchmarks.loads import Sample

OURS, OWN, BASELINE, PEER = "ours", "own", "baseline", "peer"
"""A row is the library's, another operation of the library, redis-py's, or another cache's."""


@attrs.frozen
class Column:
    """A figure: its name in JSON, its heading, how it is printed, and whether it is above nought."""

    name: str
    heading: str
    format: str = ",.0f"
    is_positive: bool = True

    def text(self, figure: float | None) -> str:
        """As people read it."""
        return "" if figure is None else format(figure, self.format)


@attrs.frozen(kw_only=True)
class Row:
    """What one contender did in one group."""

    who: str
    role: str
    figures: dict[str, float]
    note: str = ""
    verdict: str = ""
    """Says so where it is faster than the library."""
    rounds: list[dict[str, float]] = attrs.field(factory=list)


@attrs.frozen(kw_only=True)
class Group:
    """Rows that may be compared: measured in turns, under the same conditions."""

    case: str
    conditions: dict[str, Any]
    columns: tuple[Column, ...]
    rows: list[Row]
    absent: dict[str, str] = attrs.field(factory=dict)
    chart: str = "ratio"
    """The figure that a picture of this group shows."""
    curve: str = ""
    """The condition along which the work grows, if this group is a point of a curve."""
    less_is_better: bool = False

    @property
    def said_conditions(self) -> str:
        """The conditions as people read them."""
        said = []
        for name, value in self.conditions.items():
            if isinstance(value, int):
                said.append(f"{value} {name if value != 1 else name.removesuffix('s')}")
            else:
                said.append(str(value))
        return ", ".join(said)

    def as_json(self) -> dict[str, Any]:
        """Everything but how it is printed."""
        return attrs.asdict(self, filter=attrs.filters.exclude("columns", "chart", "curve", "less_is_better"))


RATES = (
    Column("per_s", "per s"),
    Column("us", "µs each", ",.1f"),
    Column("cpu_us", "CPU µs each", ",.1f"),
    Column("ratio", "throughput, times redis-py", ".2f"),
    Column("least", "least", ".2f"),
    Column("most", "most", ".2f"),
    Column("cpu_ratio", "work per CPU, times redis-py", ".2f"),
    Column("ours", "sansio-cache is times", ".2f"),
    Column("unanswered", "unanswered", ",.0f", is_positive=False),
    Column("errors", "errors", ",.0f", is_positive=False),
)


def rate_rows(
    samples: Mapping[str, Sequence[Sample]], roles: Mapping[str, str], notes: Mapping[str, str]
) -> list[Row]:
    """A row for each contender. Ratios are taken round by round, then the median: noise comes in waves."""
    baseline = next((samples[name] for name in samples if roles[name] == BASELINE), None)
    ours = next((samples[name] for name in samples if roles[name] == OURS), None)
    rows = []
    for name, taken in samples.items():
        figures = {
            "per_s": median(each.per_s for each in taken),
            "us": median(1e6 / each.per_s for each in taken),
            "cpu_us": median(each.cpu_us for each in taken),
            "unanswered": sum(each.unanswered for each in taken),
            "errors": sum(sum(each.errors.values()) for each in taken),
        }
        if baseline is not None:
            ratios = [each.per_s / other.per_s for each, other in zip(taken, baseline, strict=True)]
            cpu = [other.cpu_us / each.cpu_us for each, other in zip(taken, baseline, strict=True)]
            figures |= {"ratio": median(ratios), "least": min(ratios), "most": max(ratios)}
            figures["cpu_ratio"] = median(cpu)
        if ours is not None:
            figures["ours"] = median(
                other.per_s / each.per_s for each, other in zip(taken, ours, strict=True)
            )
        raised = sorted({error for each in taken for error in each.errors})
        parts = [notes.get(name, ""), f"raised {', '.join(raised)}" if raised else ""]
        is_faster = roles[name] in (BASELINE, PEER) and figures.get("ours", 1.0) < 1.0
        rounds = [{"per_s": each.per_s, "cpu_us": each.cpu_us} for each in taken]
        note = "; ".join(part for part in parts if part)
        rows.append(
            Row(
                who=name,
                role=roles[name],
                figures=figures,
                note=note,
                verdict="faster" if is_faster else "",
                rounds=rounds,
            )
        )
    return rows


@attrs.frozen
class Lost:
    """Something at which another is faster than the library."""

    case: str
    conditions: str
    ours: str
    other: str
    times: float


def where_slower(groups: Sequence[Group]) -> list[Lost]:
    """Everything at which redis-py or another cache was faster, in this run."""
    lost = []
    for group in groups:
        for ours in (row for row in group.rows if row.role == OURS and "per_s" in row.figures):
            for other in group.rows:
                if other.role in (BASELINE, PEER) and "per_s" in other.figures:
                    times = other.figures["per_s"] / ours.figures["per_s"]
                    if times > 1:
                        lost.append(Lost(group.case, group.said_conditions, ours.who, other.who, times))
    return lost
