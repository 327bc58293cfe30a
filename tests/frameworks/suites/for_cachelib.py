"""Goes beside cachelib's own tests, as `test_sansio_cache.py`: those that all of its caches have."""

import pytest
from clear import ClearTests
from common import CommonTests
from delete_many_with_prefix import DeleteManyWithPrefixTests
from has import HasTests
from serializer import SerializerTests

from frameworks.cachelib_cache import SansioCache
from frameworks.suites import place


class SillySerializer:
    def dumps(self, value):
        return repr(value).encode()

    def loads(self, bvalue):
        return None if bvalue is None else eval(bvalue.decode())


class CustomCache(SansioCache):
    serializer = SillySerializer()


@pytest.fixture(autouse=True, params=[SansioCache, CustomCache])
def cache_factory(request, key_prefix):
    made = []

    def _factory(self, *args, **kwargs):
        kwargs.setdefault("key_prefix", key_prefix)
        cache = request.param(place(), *args, **kwargs)
        cache.clear()
        made.append(cache)
        return cache

    request.cls.cache_factory = _factory
    yield
    for each in made:
        each.cache.close()


class TestSansioCache(CommonTests, ClearTests, HasTests, DeleteManyWithPrefixTests, SerializerTests):
    def test_callable_key(self):
        cache = self.cache_factory()
        assert cache.set(lambda: "bacon", "sausages")
        assert cache.get(lambda: "bacon") == "sausages"
