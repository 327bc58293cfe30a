"""Processes of their own for tests with several of them: they run `worker.py`, and are told what to do."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from support import worker as worker_script


class Worker:
    """A process that runs `support/worker.py`."""

    def __init__(self) -> None:
        assert worker_script.__file__ is not None
        self._process = subprocess.Popen(
            [sys.executable, str(Path(worker_script.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: Queue[Any] = Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def tell(self, order: Any) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def answer(self, within_s: float = 60.0) -> Any:
        """The next line that it has said."""
        try:
            return self._answers.get(timeout=within_s)
        except Empty:
            raise TimeoutError("the worker says nothing") from None

    def freeze(self) -> None:
        """Fault 11: as a machine that swaps, or a long collection of garbage."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End `freeze`."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Fault 10: no clean-up of any kind."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it, however it is."""
        self.kill()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))


@contextmanager
def started(count: int) -> Iterator[list[Worker]]:
    """So many workers, ready to be told."""
    with ExitStack() as stack:
        workers = []
        for _ in range(count):
            workers.append(Worker())
            stack.callback(workers[-1].stop)
        for worker in workers:
            assert worker.answer() == "ready"
        yield workers
