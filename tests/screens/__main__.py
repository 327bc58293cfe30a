"""Write the screens of the documentation anew: `PYTHONPATH=tests python -P -m screens`, from anywhere."""

from __future__ import annotations

from screens import DIRECTORY, NAMES, capture, shop


def main() -> None:
    """Write all of them."""
    DIRECTORY.mkdir(exist_ok=True)
    with shop() as server:
        for name in NAMES:
            (DIRECTORY / f"{name}.txt").write_text(capture(name, server), encoding="utf-8")


main()
