"""Write-behind among faults: processes write and read, consumers are killed and stopped, the server dies.

`PYTHONPATH=tests python -P -m behind --writes 10000 --keys 500 --seed 1`

Writers of all runtimes (`process`) queue versions of keys, each key in one order, and everybody reads them
all. Consumers of all runtimes write them to a database in SQLite, which has the table and the condition of
the page on write-behind, and a log of what it has taken. Meanwhile consumers are killed with SIGKILL, or
stopped for longer than their leases last, and the server is killed and started again with its append-only
file. `run` does that, and judges what everybody saw:

- no read is older than what was acknowledged before it (`sansio_cache.exploring.history`);
- the database ends with the last acknowledged version of each key;
- versions and tokens of a key never go back in it, and nothing is in it that was said not to be queued.

`backlog` is a program of its own: a million writes are queued, and drained by another process.
"""
