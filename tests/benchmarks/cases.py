"""All cases, in the order in which they run and are shown."""

from benchmarks import (
    cases_cluster,
    cases_counts,
    cases_curves,
    cases_freshness,
    cases_overtaken,
    cases_queue,
    cases_rates,
    cases_server_cpu,
    cases_stress,
    cases_waiting,
)
from benchmarks.case import Case

CASES: tuple[Case, ...] = (
    *cases_rates.CASES,
    *cases_freshness.CASES,
    *cases_cluster.CASES,
    *cases_stress.CASES,
    *cases_waiting.CASES,
    *cases_overtaken.CASES,
    *cases_queue.CASES,
    *cases_counts.CASES,
    *cases_server_cpu.CASES,
    *cases_curves.CASES,
)
