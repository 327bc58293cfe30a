"""The core's glob matcher against the server's, which is what it has to agree with.

The texts are members of one set, and SSCAN is asked for those that match: the same matcher as that
of KEYS and SCAN, without touching anyone else's keys.
"""

from __future__ import annotations

import random
import uuid

import pytest
import redis

from sansio_cache.patterns import escape_glob, glob_match

pytestmark = pytest.mark.servers

ALPHABET = [bytes([byte]) for byte in b"abc-]^[\\*?!\x00\n\x7f"]
BEYOND_ASCII = [b"\x80", b"\xff"]
BRACKETS = [b"[", b"[^", b"]", b"a-c", b"c-a", b"a-", b"-", b"\\", b"*", b"a", b"b"]


@pytest.fixture
def server_matches(redis_url):
    """Ask the server which of some texts match a glob, in one trip for many globs."""
    name = f"patterns:{uuid.uuid4()}"
    with redis.Redis.from_url(redis_url) as client:

        def ask(patterns, texts):
            client.delete(name)
            client.sadd(name, *texts)
            asked = client.pipeline(transaction=False)
            for pattern in patterns:
                asked.sscan(name, 0, match=pattern, count=10_000)
            replies = asked.execute()
            assert {cursor for cursor, _ in replies} == {0}
            return [set(members) for _, members in replies]

        yield ask
        client.delete(name)


def compare(server_matches, patterns, texts):
    """Assert that both matchers agree on all pairs; return how many pairs there were."""
    for pattern, expected in zip(patterns, server_matches(patterns, texts), strict=True):
        # SSCAN takes "*" as no pattern at all, so that it passes the empty text too.
        found = {text for text in texts if pattern == b"*" or glob_match(pattern, text)}
        assert found == expected, (pattern, found ^ expected)
    return len(patterns) * len(texts)


def word(rng, letters, longest):
    return b"".join(rng.choices(letters, k=rng.randint(0, longest)))


def loosened(rng, text):
    """Turn a text into a pattern that is likely to match it."""
    made = b""
    for byte in text:
        same = bytes([byte])
        ways = [same] * 6 + [b"*", b"**", b"?", b"\\" + same, b"[" + same + b"b]", b"[^a]"]
        made += rng.choice(ways)
    return made


@pytest.mark.parametrize("seed", range(20))
def test_random_globs_match_as_on_the_server(server_matches, seed):
    rng = random.Random(seed)
    letters = ALPHABET
    if server_matches([b"[\x01-\xff]"], [b"\x00"]) == [{b"\x00"}]:
        # A server with signed chars, as the matcher; on Linux for ARM they are unsigned.
        letters = ALPHABET + BEYOND_ASCII
    texts = sorted({word(rng, letters, 6) for _ in range(100)} | {b""})
    patterns = [word(rng, letters, 9) for _ in range(100)]
    patterns += [word(rng, BRACKETS, 6) for _ in range(50)]
    patterns += [loosened(rng, rng.choice(texts)) for _ in range(50)]

    assert compare(server_matches, patterns, texts) >= 10_000


def test_escaped_text_matches_itself_alone_on_the_server(server_matches):
    rng = random.Random(0)
    texts = sorted({word(rng, ALPHABET, 5) for _ in range(300)} - {b""})
    escaped = [escape_glob(text.decode()).encode() for text in texts]

    assert server_matches(escaped, texts) == [{text} for text in texts]
    prefixed = server_matches([pattern + b"*" for pattern in escaped], texts)
    assert prefixed == [{other for other in texts if other.startswith(text)} for text in texts]


def test_both_give_up_beyond_a_thousand_stars(server_matches):
    patterns = [b"*a" * stars + rest for stars in (999, 1_000, 1_001) for rest in (b"", b"*", b"a")]

    compare(server_matches, patterns, [b"a" * 1_100])
