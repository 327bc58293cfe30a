"""Goes beside dogpile.cache's own tests, as `test_sansio_backend.py`: those that it has for Redis."""

from dogpile.testing.fixtures import (
    _GenericBackendFixture,
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)
from tests.cache import test_redis_backend

import frameworks.dogpile_backend  # noqa: F401 - registers it
from frameworks.suites import place

ARGUMENTS = {"url": place(), "namespace": "dogpile", "foo": "barf"}


class SansioTest(_GenericBackendTestSuite):
    backend = "frameworks.dogpile"
    config_args = {"arguments": ARGUMENTS}  # noqa: RUF012


class SansioSerializerTest(_GenericSerializerTestSuite, SansioTest):
    pass


class SansioDistributedMutexTest(_GenericMutexTestSuite):
    backend = "frameworks.dogpile"
    config_args = {"arguments": {**ARGUMENTS, "distributed_lock": True}}  # noqa: RUF012


class SansioDistributedMutexPrefixTest(_GenericMutexTestSuite):
    backend = "frameworks.dogpile"
    config_args = {"arguments": {**ARGUMENTS, "distributed_lock": True, "lock_prefix": "_lok."}}  # noqa: RUF012


class SansioAsyncCreationTest(_GenericBackendFixture):
    backend = "frameworks.dogpile"
    config_args = {"arguments": {**ARGUMENTS, "distributed_lock": True}}  # noqa: RUF012
    test_distributed_async_locks = test_redis_backend.RedisAsyncCreationTest.test_distributed_async_locks
