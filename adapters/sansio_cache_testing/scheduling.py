"""The scheduler's half that threads and event loops share: time, choices, and the record of what happened."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from sansio_cache.exploring.refusing import check_whole
from sansio_cache.exploring.schedules import Chooser
from sansio_cache_testing.steps import Step, place_of_caller

_BEGINNING_S: Final = 1_000.0
MOST_STEPS: Final = 5_000
"""So many steps of one run are the most: a program that takes more does not end."""


class WorldError(Exception):
    """The program did what a world cannot own, or does not end. The message says what to do."""


class ScenarioError(WorldError):
    """The scenario is no program that a world can run. The message says what to do."""


class DeadlockError(WorldError):
    """All participants wait, and nothing will ever wake them."""


def check_chooser(whose: str, given: object) -> None:
    """Take what decides between options only.

    Args:
        whose: To whom it is given.
        given: A schedule, or another chooser.

    Raises:
        ScenarioError: It is none.
    """
    if isinstance(given, type) or not callable(getattr(given, "choose", None)):
        raise ScenarioError(
            f"{whose} takes a schedule, as Schedule() or what schedules() draws; got {given!r:.80}. The text "
            "that a failure has printed is for replay(scenario, '…')"
        )


@attrs.define
class VirtualClock:
    """Seconds that pass only when the world says so. Calling it gives the time."""

    now_s: float = _BEGINNING_S

    def __call__(self) -> float:
        """The time."""
        return self.now_s

    def advance_to(self, then_s: float) -> None:
        """Let time pass until then; it never goes back."""
        self.now_s = max(self.now_s, then_s)


class Recording:
    """What one run of a world did.

    Args:
        chooser: Decides between those who could go on.
        seed: Where nonces and jitter of the caches come from.

    Raises:
        ScenarioError: It cannot choose, or the seed is no whole number.
    """

    def __init__(self, chooser: Chooser, seed: int) -> None:
        check_chooser("a world", chooser)
        check_whole("seed", seed, error=ScenarioError)
        self.chooser = chooser
        self.clock = VirtualClock()
        self.entropy = random.Random(seed)  # noqa: S311 - a world is to be repeated
        self.steps: list[Step] = []
        self.is_resting = True
        """Whether no participant runs: the world is being set up, or looked at."""
        self.is_mute = False
        """Whether what happens is not to be recorded: somebody looks what the database alone would give."""
        self.stopped_by: BaseException | None = None
        """What the chooser raised: it is not asked again, as what is left of the run is only to end."""
        self._count = 0

    @property
    def who(self) -> str:
        """Who runs."""
        raise NotImplementedError

    @property
    def is_participant(self) -> bool:
        """Whether a function of the program is what runs, and not the world around it."""
        raise NotImplementedError

    def start(self, name: str, job: Callable[[], Any]) -> object:
        """Add a participant."""
        raise NotImplementedError

    def pick(self, count: int, *, is_free: bool = False) -> int:
        """Have one of several options chosen; the first where nobody schedules."""
        if count < 2 or self.is_resting or self.stopped_by is not None:
            return 0
        return self._choose(count, is_free=is_free)

    def _choose(self, count: int, *, is_free: bool) -> int:
        try:
            return self.chooser.choose(count, is_free=is_free)
        except BaseException as error:
            self.stopped_by = error
            raise

    def note(self, what: str, whom: str = "", *, who: str = "") -> None:
        """Record a step of who runs, or of somebody else."""
        self.add(Step(who or self.who, what, whom, place_of_caller()))

    def add(self, step: Step) -> None:
        """Record a step that is made already."""
        if not self.is_mute:
            self.steps.append(step)

    def count_step(self) -> None:
        """Count what could go on for ever.

        Raises:
            WorldError: It does.
        """
        self._count += 1
        if self._count > MOST_STEPS:
            raise WorldError(
                f"the program has taken {MOST_STEPS} steps and does not end: does it wait for something in a "
                "loop? Wait for a bounded number of times, or for an event"
            )


def told(waiting: Sequence[tuple[str, str]]) -> str:
    """Who waits for what, in a sentence."""
    return "; ".join(f"{who} {what}" for who, what in waiting)
