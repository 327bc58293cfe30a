"""`sansio-cache inspect`, `keys` and `ttl`: what is in a namespace, and how long it lives."""

from __future__ import annotations

import json

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from sansio_cache import Absent, Policy
from sansio_cache.cell import Cell, Kind, format_cell, make_grant
from sansio_cache_cli.lives import histogram, lives_of
from sansio_cache_cli.server import Server as Connection
from sansio_cache_redis.sync import Cache

GRANT = make_grant(b"nonce---", 1_000_000_000)


@pytest.fixture
def cache(redis_url, namespace):
    with Cache.from_url(redis_url, namespace=namespace, operation_timeout_s=5) as made:
        yield made
        made.clear()


@pytest.fixture
def look(run, redis_url, namespace):
    """Inspect a key of the namespace; gives what is said in JSON."""

    def inspect(key, *more):
        return run("inspect", key, "--url", redis_url, "--namespace", namespace, *more)

    return inspect


def test_a_value_is_decoded_with_its_age_its_tags_and_its_payload(look, cache):
    cache.get_or_load("user:1", lambda: {"name": "Ada"}, ttl=60, tags=["users"])
    found = look("user:1", "--json").json()
    assert (found["state"], found["kind"], found["payload"]) == ("fresh", "JSON", {"name": "Ada"})
    assert found["tags"] == [{"tag": "t:users", "name": "users", "holds": True}]
    assert 0 <= found["age_s"] < 30 < found["expires_in_s"] <= 72
    text = look("user:1").out
    assert "state     fresh: a value, served to whoever reads it" in text
    assert "tag       users: holds" in text
    assert '"name": "Ada"' in text


def test_a_value_whose_tag_was_invalidated_is_refused(look, cache):
    cache.get_or_load("user:1", lambda: 1, tags=["users", "others"])
    cache.invalidate(tags=["users"])
    found = look("user:1", "--json").json()
    assert (found["state"], found["reason"]) == ("refused", "tag")
    assert found["tags"] == [
        {"tag": "t:users", "name": "users", "holds": False},
        {"tag": "t:others", "name": "others", "holds": True},
    ]
    assert "tag       users: was invalidated" in look("user:1").out


def test_a_tag_that_may_not_be_read_is_not_looked_up(look, cache, monkeypatch):
    cache.get_or_load("user:1", lambda: 1, tags=["users"])
    ask = Connection.ask

    def failing(self, *commands):
        replies = ask(self, *commands)
        return [NoPermissionError("no")] * len(replies) if commands[0][0] == b"GET" else replies

    monkeypatch.setattr(Connection, "ask", failing)
    found = look("user:1", "--json").json()
    assert (found["state"], found["reason"]) == ("unchecked", None)
    assert found["tags"] == [{"tag": "t:users", "name": "users", "holds": None}]
    assert "tag       users: not looked up" in look("user:1").out


def test_a_key_that_is_loaded_shows_its_grant_and_a_lock_and_a_tag_are_told(
    look, cache, redis_client, namespace
):
    shown = []
    cache.get_or_load("slow", lambda: shown.append(look("slow", "--json").json()) or 1, tags=["t"])
    [found] = shown
    assert found["state"] == "leased"
    assert found["grant"]["left_s"] > 0
    assert look("%t:t", "--json").json()["state"] == "tag"
    with cache.lock("job", 30):
        assert look("%l:job", "--json").json()["state"] == "locked"
    assert look("%l:job", "--json").json()["state"] == "unlocked"
    with cache.mutate("held"):
        assert "a writer holds the key" in look("held").out


def test_nothing_stale_values_and_variants_are_told(look, cache, redis_client, namespace, redis_url):
    cache.get_or_load("none", Absent)
    assert look("none", "--json").json()["state"] == "nothing"
    cache.get_or_load("old", lambda: 1, policy=Policy(stale_for_s=60))
    cache.expire("old")
    assert look("old", "--json").json()["state"] == "stale"
    cache.get_or_load("typed", lambda: 1, type=int)
    cache.get_or_load("typed", lambda: "text", type=str)
    [variant] = redis_client.scan_iter(f"{namespace}:%s:*")
    found = look(variant.decode(), "--json").json()
    assert (found["state"], found["tags"]) == (
        "fresh",
        [{"tag": "", "name": "variant of what another program version stored", "holds": True}],
    )
    cache.invalidate("typed")
    assert look(variant.decode(), "--json").json()["state"] == "refused"


def test_the_payload_comes_byte_for_byte_and_alone(look, cache):
    cache.set("a", "é")
    assert look("a", "--payload").out.encode() == '"é"'.encode()
    ran = look("nothing", "--payload")
    assert (ran.status, "has no payload: it is none" in ran.err) == (1, True)


def test_a_key_that_is_not_there_is_said_and_fails(look):
    ran = look("nothing")
    assert (ran.status, "there is no such key" in ran.out) == (1, True)


def test_a_key_is_given_whole_or_inside_a_namespace(run, cache, redis_url, namespace):
    cache.set("a", 1)
    assert run("inspect", f"{namespace}:a", "--url", redis_url).status == 0
    assert run("inspect", f"{namespace}:a", "--url", redis_url, "--namespace", namespace).status == 0
    ran = run("inspect", "a", "--url", redis_url)
    assert (ran.status, "no whole key" in ran.err) == (2, True)


@pytest.mark.parametrize("what", ["list", "text", "bytes"])
def test_what_others_have_written_is_foreign(look, redis_client, namespace, what):
    key = f"{namespace}:alien"
    if what == "list":
        redis_client.rpush(key, "x")
    else:
        redis_client.set(key, "text" if what == "text" else b"\xc5\x01\x00")
    ran = look("alien")
    redis_client.unlink(key)
    assert (ran.status, "foreign" in ran.out, "no time to live" in ran.out) == (0, True, True)


@pytest.mark.parametrize("what", ["NOPERM", "LOADING"])
def test_what_cannot_be_read_is_not_taken_for_anothers(look, cache, monkeypatch, what):
    cache.set("a", 1)
    ask = Connection.ask

    def failing(self, *commands):
        failure = NoPermissionError("no") if what == "NOPERM" else ResponseError(f"{what} the dataset")
        return [
            failure if command[0] == b"GETRANGE" else reply
            for command, reply in zip(commands, ask(self, *commands), strict=True)
        ]

    monkeypatch.setattr(Connection, "ask", failing)
    ran = look("a")
    assert (ran.status, ran.out, "GETRANGE, which inspect needs" in ran.err) == (1, "", True)


@pytest.mark.parametrize("raw", [b"text", format_cell(Cell(Kind.VALUE, filled_by=GRANT, body=bytes(22)))])
def test_a_name_that_is_no_text_is_shown_with_its_bytes(look, redis_client, namespace, raw):
    key = f"{namespace}:".encode() + b"\xff\xc3\xa9"
    redis_client.set(key, raw, ex=60)
    given = "\udcffé"  # as the arguments of a program have it
    found = look(given, "--json").json()
    assert found["key"] == f"{namespace}:\\xffé"
    assert found["state"] in ("foreign", "refused")
    assert f"key       {namespace}:\\xffé" in look(given).out
    redis_client.unlink(key)


def test_a_value_that_is_not_read_whole_says_so_and_hostile_bytes_are_printable(look, cache):
    cache.set("large", "x" * 5_000)
    assert "unchecked" in look("large", "--most-bytes", "128").out or "JSON" in look("large").out
    cache.set("evil", "\x1b[2J\x07 é")
    assert "\x1b" not in look("evil").out


def test_keys_lists_what_matches_with_what_it_holds(run, cache, redis_url, namespace):
    cache.set_many({cache.key.build("user", number): number for number in range(3)}, tags=["t"])
    cache.set("order:1", 1)
    arguments = ("--url", redis_url, "--namespace", namespace)
    listed = run("keys", "user:*", *arguments, "--json")
    found = [json.loads(line) for line in listed.out.splitlines()]
    assert {each["key"] for each in found} == {f"{namespace}:user:{number}" for number in range(3)}
    assert {each["state"] for each in found} == {"unchecked"}
    assert f"{namespace}:order:1" in run("keys", "*", *arguments).out
    assert "%t:" not in run("keys", "*", *arguments).out
    assert f"{namespace}:%t:t" in run("keys", "*", *arguments, "--internal").out
    assert "and more" in run("keys", "*", *arguments, "--most", "1").out


def test_a_namespace_that_does_not_exist_is_one_line_with_those_that_there_are(run, full_server):
    for command in (("keys", "*"), ("keys", "user:*"), ("ttl",)):
        ran = run(*command, "--url", full_server.url, "--namespace", "shopp")
        assert ran.status == 1
        assert "no key of the namespace 'shopp'" in ran.err
        assert "there are keys of shop (" in ran.err
    ran = run("keys", "nothing*", "--url", full_server.url, "--namespace", "shop")
    assert (ran.status, "matches 'nothing*'" in ran.err) == (1, True)


def test_a_namespace_of_which_only_records_of_the_cache_are_left_has_no_entries(
    run, cache, redis_url, namespace
):
    cache.set("user:1", 1, tags=["users"])
    cache.invalidate("user:1")
    for command in (("keys", "*"), ("ttl",)):
        ran = run(*command, "--url", redis_url, "--namespace", namespace)
        assert ran.status == 1
        assert f"no entry of the namespace '{namespace}'" in ran.err


def test_a_pattern_that_matches_nothing_is_told_from_a_namespace_without_entries(
    run, cache, redis_url, namespace
):
    cache.set("user:1", 1)
    ran = run("ttl", "order:*", "--url", redis_url, "--namespace", namespace)
    assert (ran.status, f"no key of the namespace '{namespace}' matches" in ran.err) == (1, True)


def test_a_pattern_that_is_given_with_its_namespace_is_refused_with_what_to_write(run, redis_url):
    for command in ("keys", "ttl", "monitor"):
        ran = run(command, "shop:user:*", "--url", redis_url, "--namespace", "shop")
        assert ran.status == 2
        assert "write 'user:*' in place of 'shop:user:*'" in ran.err


def test_ttl_shows_the_jitter_of_50_000_keys_and_no_time_to_live_at_all(run, full_server):
    to = ("--url", full_server.url, "--namespace", "shop", "--seconds", "120")
    found = run("ttl", *to, "--json").json()
    assert (found["keys"], found["is_whole"], found["without_ttl"]) == (50_000, True, [])
    lives = found["lives"]
    assert 3_950 < lives[0]["from_s"] < 3_970
    assert 4_310 < lives[-1]["to_s"] < 4_330
    assert min(each["count"] for each in lives) > 500, "they are spread evenly"
    assert {each["entity"] for each in found["entities"]} == {"user", "order"}
    ran = run("ttl", "order:*", "--url", full_server.url, "--namespace", "shop")
    assert "10,000 keys; looked at 10,000, of which 10,000 hold a value" in ran.out
    client = full_server.client()
    client.set("shop:planted", 1)
    ran = run("ttl", "--url", full_server.url, "--namespace", "shop", "--sample", "10")
    client.unlink("shop:planted")
    assert (ran.status, "no time to live (1): shop:planted" in ran.out) == (1, True)


@pytest.mark.parametrize("command", [("check",), ("ttl",), ("keys", "*"), ("inspect", "a")])
def test_memory_is_no_server(run, command):
    ran = run(*command, "--url", "memory://", "--namespace", "shop")
    assert (ran.status, "give the URL of a server" in ran.err) == (2, True)


def test_url_and_namespace_may_come_from_the_environment(run, full_server, monkeypatch):
    monkeypatch.setenv("SANSIO_CACHE_REDIS_URL", full_server.url)
    monkeypatch.setenv("SANSIO_CACHE_NAMESPACE", "shop")
    assert run("keys", "user:1", "--json").out.count("\n") == 1


# Without a server.


@pytest.mark.parametrize(
    ("numbers", "count"), [([], 0), ([5.0] * 9, 1), ([3960.0, 4320.0], 12), ([0.0, 0.0, 86_400.0], 12)]
)
def test_every_number_has_its_place_in_a_histogram(numbers, count):
    buckets = histogram(numbers)
    assert len(buckets) == count
    assert sum(each.count for each in buckets) == len(numbers)
    assert all(each.from_s <= each.to_s for each in buckets)


def test_nothing_has_no_lives():
    assert lives_of([]).values == lives_of([]).together == 0
