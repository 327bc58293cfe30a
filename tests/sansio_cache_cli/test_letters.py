"""`sansio-cache letters`: dead letters of an entity on threads, and of one of event loops."""

import json
import sys

import pytest

from sansio_cache import WriteBehind
from sansio_cache_cli.main import main
from sansio_cache_redis.sync import Cache
from support.faulty import PATIENT
from support.queues import User

PROGRAM = """
from sansio_cache import WriteBehind
from support.queues import User
from {package} import Cache


def never(users):
    raise AssertionError("nobody consumes here")


cache = Cache.from_url({url!r}, namespace={namespace!r}, **{patient})
users = cache.entity("user", User, id="id", write_many=never, strategy=WriteBehind())
other = cache.entity("other", User, id="id")
"""
GIVE_UP_S = 60.0


@pytest.fixture(params=["sync", "anyio"])
def queue(request, tmp_path, monkeypatch, redis_url, namespace):
    """A queue with dead letters of users 1, 2 and 3, and a module with the entity, named `letters_of`."""
    names = {"package": f"sansio_cache_redis.{request.param}", "url": redis_url, "namespace": namespace}
    names["patient"] = PATIENT
    (tmp_path / "letters_of.py").write_text(PROGRAM.format(**names), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def refuse(users):
        raise ValueError(f"user {users[0].id} is not wanted")

    with Cache.from_url(redis_url, namespace=namespace, **PATIENT) as cache:
        users = cache.entity(
            "user", User, id="id", write_many=refuse, strategy=WriteBehind(delay_s=0.01, deliveries=1)
        )
        users.write_many([User(number, "new") for number in (1, 2, 3)])
        with users.queue.consumer(drain_s=0.0):
            assert users.queue.drain(GIVE_UP_S).dead == 3
        yield users
    module = sys.modules.pop("letters_of", None)
    if module is not None and request.param == "sync":
        module.cache.close()


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_they_are_listed_with_keys_tokens_and_reasons_and_values_where_they_are_asked_for(
    queue, namespace, capsys
):
    assert main(["letters", "letters_of:users"]) == 1
    *found, last = lines(capsys)
    assert last == "3 dead letters"
    assert len(found) == 3
    assert all("ValueError" in each and "new" not in each for each in found)
    assert {each.split()[0] for each in found} == {f"{namespace}:user:{number}" for number in (1, 2, 3)}
    for key in (f"{namespace}:user:2", "user:2"):
        assert main(["letters", "letters_of:users", "--values", "--key", key]) == 1
        line, last = lines(capsys)
        assert "User(id=2, name='new')" in line
        assert last == "1 dead letter"
    assert main(["letters", "letters_of:users", "--key", "user:9"]) == 1
    assert "no dead letter of <queue 'user'" in capsys.readouterr().err


def test_as_json_each_is_an_object(queue, namespace, capsys):
    assert main(["letters", "letters_of:users", "--json", "--values"]) == 1
    found = {each["key"]: each for each in map(json.loads, lines(capsys))}
    one = found[f"{namespace}:user:1"]
    assert one["value"] == {"id": 1, "name": "new"}
    assert set(one) == {"key", "token", "reason", "is_superseded", "value"}


def test_they_are_queued_anew_but_for_those_after_which_a_later_write_came(queue, namespace, capsys):
    queue.write(User(2, "later"))
    assert main(["letters", "letters_of:users", "--replay"]) == 1
    *each, last = lines(capsys)
    assert last == "replayed 2 dead letters"
    assert {line.partition("  ")[2].partition(":")[0] for line in each} == {"replayed", "is not replayed"}
    [refused] = [line for line in each if "not replayed" in line]
    assert refused.startswith(f"{namespace}:user:2  is not replayed: a later write")
    assert queue.queue.backlog().queued == 3
    assert main(["letters", "letters_of:users", "--json"]) == 1
    assert [json.loads(each)["is_superseded"] for each in lines(capsys)] == [True]


def test_they_are_dropped_once_somebody_has_said_so(queue, namespace, capsys, monkeypatch):
    assert main(["letters", "letters_of:users", "--drop"]) == 2
    assert "Nothing is dropped: there is no terminal to ask at" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: "n\n", raising=False)
    assert main(["letters", "letters_of:users", "--drop"]) == 2
    assert queue.queue.backlog().dead == 3
    assert main(["letters", "letters_of:users", "--drop", "--key", f"{namespace}:user:3", "--yes"]) == 0
    assert lines(capsys)[-1] == "dropped 1 dead letter"
    monkeypatch.setattr("sys.stdin.readline", lambda: "y\n", raising=False)
    assert main(["letters", "letters_of:users", "--drop", "--json"]) == 0
    assert [json.loads(each)["dropped"] for each in lines(capsys)] == [True, True]
    assert main(["letters", "letters_of:users"]) == 0
    assert lines(capsys) == ["0 dead letters"]
    assert main(["letters", "letters_of:users", "--drop"]) == 0, "there is nothing to ask about"


def test_an_entity_that_queues_nothing_is_refused(queue, capsys):
    assert main(["letters", "letters_of:other"]) == 2
    assert "WriteBehind" in capsys.readouterr().err
