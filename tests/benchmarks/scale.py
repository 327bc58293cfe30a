"""How much is measured: a full run, a quick one, and the smallest that still runs every line."""

import attrs


@attrs.frozen(kw_only=True)
class Scale:
    """The sizes of everything. Times are seconds."""

    name: str
    rounds: int
    window_s: float
    callers: tuple[int, ...] = (1, 50, 500)
    threads: tuple[int, ...] = (1, 8, 32)
    sizes: tuple[str, ...] = ("2 kB", "200 B", "100 kB")
    keys: int = 200
    many_keys: int = 20_000
    batch: int = 100
    pattern_keys: int = 10_000
    processes: int = 4
    stampede_callers: int = 500
    stampede_threads: int = 32
    load_s: float = 0.1
    handovers: int = 12
    burst: int = 10_000
    cancel_callers: int = 200
    counted: int = 100
    entries: int = 500
    store_s: float = 0.1
    curve_callers: tuple[int, ...] = (1, 5, 20, 50, 100, 200, 500, 1_000)
    curve_batches: tuple[int, ...] = (1, 10, 100, 1_000)
    curve_keys: tuple[int, ...] = (100, 1_000, 10_000, 20_000)
    curve_waiters: tuple[int, ...] = (1, 10, 100, 1_000)


FULL = Scale(name="full", rounds=5, window_s=0.1)
QUICK = Scale(
    name="quick",
    rounds=2,
    window_s=0.03,
    keys=50,
    many_keys=5_000,
    pattern_keys=2_000,
    handovers=6,
    burst=3_000,
    counted=30,
    entries=200,
    store_s=0.03,
    curve_callers=(1, 10, 100, 1_000),
    curve_keys=(100, 1_000, 10_000),
)
SMOKE = Scale(
    name="smoke",
    rounds=1,
    window_s=0.002,
    callers=(1, 3),
    threads=(1, 3),
    keys=4,
    many_keys=20,
    batch=3,
    pattern_keys=20,
    processes=2,
    stampede_callers=4,
    stampede_threads=3,
    load_s=0.05,
    handovers=1,
    burst=20,
    cancel_callers=5,
    counted=3,
    entries=5,
    store_s=0.002,
    curve_callers=(1, 3),
    curve_batches=(1, 3),
    curve_keys=(5, 10),
    curve_waiters=(1, 3),
)
