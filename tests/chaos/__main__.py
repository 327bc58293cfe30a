"""The program: see the package."""

from __future__ import annotations

import argparse
import secrets
import sys

from chaos.conductor import RUNTIMES, Run
from chaos.faults import INSIDE, KINDS
from chaos.mistakes import MISTAKES
from support.servers import KNOWN


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument(
        "--runtimes", nargs="*", default=RUNTIMES, choices=RUNTIMES, help="one process for each"
    )
    parser.add_argument("--callers", type=int, default=4, help="in each process")
    parser.add_argument("--round", type=float, default=60.0, help="seconds of faults before each calm")
    parser.add_argument("--faults", nargs="*", help=f"only these: {', '.join(kind.name for kind in KINDS)}")
    parser.add_argument("--without", nargs="*", default=[], choices=["handlers", "finalisers", "cancelled"])
    parser.add_argument(
        "--servers", nargs="*", default=[], help=f"in turns, each time that it is started: {', '.join(KNOWN)}"
    )
    parser.add_argument("--shown", type=int, default=3, help="how many findings of each sort are shown")
    parser.add_argument("--mistake", default="", choices=["", *MISTAKES], help="make the processes make it")
    return parser.parse_args()


def main() -> int:
    chosen = options()
    kinds = [kind for kind in KINDS if chosen.faults is None or kind.name in chosen.faults]
    print(f"seed {chosen.seed}, {chosen.seconds:g} s", flush=True)
    run = Run(
        chosen.seconds,
        chosen.seed,
        runtimes=chosen.runtimes,
        callers=chosen.callers,
        round_s=chosen.round,
        mistakes=[chosen.mistake] * len(chosen.runtimes),
        kinds=kinds,
        without=chosen.without,
        servers=chosen.servers,
    )
    run.perform()
    print(f"{run.history.reads} values read, {run.history.writes} writes, {len(run.members)} processes")
    print("\nwhat happened: " + ", ".join(f"{name} {count}" for name, count in sorted(run.happened.items())))
    print("\nlongest: " + ", ".join(f"{name} {took_s:.2f} s" for name, took_s in sorted(run.longest.items())))
    print("\nfaults: " + ", ".join(f"{name} {count}" for name, count in sorted(run.fired.items())))
    never = [kind.name for kind in kinds if not run.fired[kind.name]]
    never += [name for name in INSIDE if not run.happened[name]]
    if never:
        print(f"\nnever happened: {', '.join(never)}")
    for sort in ("stale", "wrong", "hung", "left", "lifeless"):
        print(f"\n{sort}: {run.findings.counted[sort]}")
        for finding in getattr(run.findings, sort)[: chosen.shown]:
            print(f"  {finding}")
    return int(bool(run.findings) or (bool(never) and chosen.faults is None))


if __name__ == "__main__":
    sys.exit(main())
