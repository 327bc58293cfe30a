"""The run: see the package."""

from __future__ import annotations

import argparse


def main() -> int:
    """Run the mutants; the exit status says whether all that survive are known."""
    parser = argparse.ArgumentParser(prog="mutations", description=__doc__)
    parser.add_argument("of", nargs="?", choices=("lua", "python"), default="lua", help="of which texts")
    parser.add_argument("--every", type=int, default=1, help="take every nth mutant only")
    parser.add_argument("--only", help="of Python: a module's name, as in `operations.loading`")
    options = parser.parse_args()
    if options.of == "lua":
        from mutations import lua_run

        return lua_run.run(options.every)
    from mutations import python_run  # it may not have imported the core, which its mutants do

    return python_run.run(options.every, options.only)


if __name__ == "__main__":
    raise SystemExit(main())
