"""Moves in words."""

from __future__ import annotations

import pytest

from explorations.configurations import STALE, any_number
from sansio_cache.exploring import Act, Configuration, Deed, Fault, Start
from sansio_cache.exploring.describing import describe
from sansio_cache.exploring.moves import Moves

READER, BATCH = (Act(Deed.LOAD),), (Act(Deed.LOAD_MANY, (0, 1)),)
WRITER, SETTER, MUTATOR = (Act(Deed.INVALIDATE),), (Act(Deed.SET),), (Act(Deed.MUTATE_AND_SET),)


def told(configuration):
    """Every move from every world, in words."""
    moves = Moves(configuration)
    frontier = [moves.canonical(root) for _, root in moves.roots()]
    seen, texts = set(frontier), []
    while frontier:
        world = frontier.pop()
        for move, after, _ in moves.of(world):
            texts.append(describe(moves, move, world, after))
            canonical = moves.canonical(after)
            if canonical not in seen:
                seen.add(canonical)
                frontier.append(canonical)
    return texts


@pytest.mark.parametrize(
    ("processes", "more", "phrases"),
    [
        (
            ((READER,), (WRITER,)),
            {"faults": any_number(Fault.GONE, Fault.CRASH) | {Fault.DUPLICATE: 1}},
            [
                "reader 0 begins get_or_load, reads -> will ask AcquireLease",
                "writer 1 commits version 1",
                "* 3 delayed duplicate: FillCells(",
                "* 10 crash of process 0",
                "* 6, 12 a key is gone: restart, eviction, DEL (n:a)",
            ],
        ),
        (
            ((READER, READER),),
            {"faults": {Fault.INTERRUPTION: 1}},
            [
                "follows load 1 (PREPARING)",
                "reader 1 joins * 28 interruption -> done",
                "* 28 interruption (performed) -> ",
                "ReleaseLeases(",
            ],
        ),
        (
            ((BATCH,), (SETTER,)),
            {},
            [
                "begins get_or_load_many, reads",
                "AcquireLeases(worker01)",
                "; ",
                "HoldCells(n:a)",
                "held by worker11/1",
            ],
        ),
        (
            ((READER,), (MUTATOR,)),
            {"renewals": True},
            ["writer 1 renews -> ", "leaves its block", "in the block of mutate"],
        ),
        (
            ((READER * 2,),),
            {**STALE, "faults": {Fault.RAISING: 1}},
            ["refresh of process 0 looks at the database", "has let a load rest for long enough"],
        ),
        (
            ((READER, WRITER),),
            {"starts": (Start.FRESH,), "faults": {Fault.REQUEST_LOST: 2}},
            ["recovery of process 0 asks Ping", "waiting until the store is told what it missed"],
        ),
        (
            ((READER, READER),),
            {"faults": {Fault.SHARING_TIMEOUT: 1}},
            ["does not wait for the load any longer * sharing times out"],
        ),
        (((READER,),), {"is_eager": False}, ["gives up its ticket -> done", "giving up its ticket  ["]),
    ],
)
def test_a_move_says_who_does_what_and_what_the_store_holds_then(processes, more, phrases):
    texts = told(Configuration(name="", processes=processes, **more))
    missing = [phrase for phrase in phrases if not any(phrase in text for text in texts)]
    assert missing == [], "\n".join(texts[:200])
