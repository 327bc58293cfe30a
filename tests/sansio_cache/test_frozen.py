"""The mapping that nobody can change, and that can be pickled."""

import copy
import pickle

import pytest

from sansio_cache.frozen import FrozenMapping


def test_it_is_a_copy_that_is_read_like_any_mapping():
    given = {"a": 1, "b": 2}
    frozen = FrozenMapping(given)
    given["c"] = 3
    assert frozen == {"a": 1, "b": 2}
    assert list(frozen) == ["a", "b"]
    assert len(frozen) == 2
    assert frozen["a"] == 1
    assert frozen.get("c") is None
    assert repr(frozen) == "{'a': 1, 'b': 2}"


def test_nobody_can_change_it():
    with pytest.raises(TypeError):
        FrozenMapping({})["a"] = 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_it_can_be_copied_and_pickled(copied):
    frozen = FrozenMapping({"a": [1]})
    assert copied(frozen) == frozen
    assert type(copied(frozen)) is FrozenMapping
