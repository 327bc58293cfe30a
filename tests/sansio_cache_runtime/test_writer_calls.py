"""What is made of what a writer returns: see `test_queues.py` for what comes of it."""

import pytest

from sansio_cache.queues import QueuedWrite
from sansio_cache_runtime.writer_calls import Ahead, ReturnedNoTokenError, WriterCalls

CALLS = WriterCalls(lambda value, token: None, None, False, str)


class Database:
    """One row, which has a token; and a consumer's memory of what it was told."""

    def __init__(self, token):
        self.token = token
        self.ahead = Ahead()

    def told(self, *tokens, key="k"):
        """Give the writer writes of a key, each in a batch of its own."""
        found = []
        for token in tokens:
            self.token = max(self.token, token)
            turn = CALLS.turn([QueuedWrite(key, "value", token)])
            found.append(self.ahead.found(turn, [self.token])[key])
        return found


def test_two_writes_of_a_key_below_the_same_token_are_both_told_of_it():
    """The older one is not queued again, as the newer one is there; that is, and comes after it."""
    database = Database(1_000)
    assert database.told(10, 20) == [1_000, 1_000]
    assert database.told(1_001) == [1_001]


def test_a_write_that_is_delivered_once_more_under_its_old_token_is_told_again():
    """As a lost lease does it: who took it over has queued it again since, or not."""
    database = Database(1_000)
    assert database.told(10, 10, 10) == [1_000] * 3
    assert database.told(1_001, 10) == [1_001, 1_001]


def test_what_is_above_what_was_returned_and_told_a_higher_one_is_refused():
    """It would be queued again for ever."""
    ahead = Ahead()

    def told(token, returned):
        return ahead.found(CALLS.turn([QueuedWrite("k", "value", token)]), [returned])

    assert told(10, 20) == {"k": 20}
    for _ in range(3):
        with pytest.raises(ReturnedNoTokenError, match="above what it had returned before"):
            told(21, 31)
    assert told(21, 21) == {"k": 21}
    assert told(30, 40) == {"k": 40}, "it has worked since"


def test_old_writes_do_not_let_one_go_round():
    """What is returned for them takes the place of what was returned before, whatever it is."""
    ahead, queued_again = Ahead(), 0
    token = 100
    for _ in range(50):
        for old in (1, 2):
            ahead.found(CALLS.turn([QueuedWrite("k", "value", old)]), [old + 10])
        try:
            ahead.found(CALLS.turn([QueuedWrite("k", "value", token)]), [token + 10])
        except ReturnedNoTokenError:
            continue
        queued_again += 1
        token += 11
    assert queued_again <= 1


def test_a_batch_that_is_refused_leaves_nothing_behind_of_the_others():
    ahead = Ahead()
    first = CALLS.turn([QueuedWrite("a", "value", 10), QueuedWrite("b", "value", 10)])
    with pytest.raises(ReturnedNoTokenError, match="more than an hour ahead"):
        ahead.found(first, [20, 7200 * 10**6])
    second = CALLS.turn([QueuedWrite("a", "value", 21)])
    assert ahead.found(second, [31]) == {"a": 31}
