"""Adapters of the tests' own for what frameworks cache with, on public names of this library only.

Each is as thin as its framework allows, and passes that project's own suite: `python -m frameworks` fetches
the suites and runs them, on the project's own backend for Redis and on the adapter. So whatever a framework
asks of a cache can be had of the public interface.

They store what their framework serializes, as bytes. They are examples, and no part of the package.
"""
