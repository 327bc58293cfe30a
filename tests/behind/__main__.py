"""The program: see the package."""

from __future__ import annotations

import argparse
import secrets
import sys

from behind.run import KILLED, RESTARTED, STOPPED, Run


def main() -> int:
    parser = argparse.ArgumentParser(prog="behind", description=__doc__)
    parser.add_argument("--writes", type=int, default=10_000)
    parser.add_argument("--keys", type=int, default=500)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--every", type=int, default=100, help="writes from one fault to the next")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    run = Run(chosen.seed, chosen.writes, chosen.keys, every=chosen.every)
    run.perform()
    print(", ".join(f"{name} {count:,}" for name, count in run.counted.items()))
    print(f"{len(run.findings)} findings")
    for finding in run.findings[:20]:
        print(f"  {finding}")
    never = [name for name in (KILLED, STOPPED, RESTARTED) if not run.counted[name]]
    if never:
        print(f"never happened: {', '.join(never)}")
    return int(bool(run.findings or never))


if __name__ == "__main__":
    sys.exit(main())
