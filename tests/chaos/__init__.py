"""Chaos: processes of all runtimes, faults of all kinds, and a checker of what they saw.

`PYTHONPATH=tests python -P -m chaos --seconds 3600 --seed 1`

Some processes (`worker`) read and write a few keys through one proxy and one server, while a plan that is
drawn from a seed (`faults`) lets happen what can happen to network, server and processes. A second server,
which nothing happens to, is their database: it has a version of each key. What callers wrote and were given
goes to a file for each process; `conductor` reads along and has `sansio_cache.exploring.history` judge it.
Every so often the faults stop: then values must be found again without a restart, and, once nobody calls
any more, nothing may be left.

What a process was not given does not count: that it stood still, or waited for a processor. On a machine that
has more to do it is still better to have a good part of it: `nice`, or /proc/self/autogroup, where a session
shares what it gets.

It fails where a read was stale or wrong, a call hung, something was left behind, a process did not come
back to hits, or a fault of the plan never happened. `mistakes` are workers that do something wrong, to show
that it is found.
"""
