"""The parent's side of `worker`: other processes that take orders."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import attrs

from benchmarks.contenders import Address


class WorkerError(RuntimeError):
    """A worker ended, or raised; the message ends with what it wrote."""


class Worker:
    """A process that benchmarks in step with this one; a context manager that ends it."""

    def __init__(self) -> None:
        tests = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(tests)},
            text=True,
        )

    def tell(self, **order: Any) -> None:
        """Send an order, or the next word of one."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """What it says next.

        Raises:
            WorkerError: It ended instead; what it raised stands on its stderr, which is ours.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"a worker ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()  # the end of its orders
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def address_as_order(address: Address) -> dict[str, Any]:
    """An address that fits into an order."""
    return attrs.asdict(address)
