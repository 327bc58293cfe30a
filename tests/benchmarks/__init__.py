"""How fast the library is beside redis-py and other caches: `nox -s bench`, or `python -P -m benchmarks`.

Nothing here is a test, and no absolute figure means anything on another machine. Contenders take turns in
one run, several rounds of it, and what is shown is the median of each round's ratios.

- `cases`: what is measured. Each case yields groups of rows, one row a contender.
- `contenders`, `blocking`, `asynchronous`: who takes part, each in the fastest sensible configuration.
- `loads`: callers on threads, asyncio and trio, and the clocks around them.
- `worker`, `processes`: other processes, for what only happens between processes.
- `results`, `report`, `charts`: ratios, tables, JSON and pictures.
"""
