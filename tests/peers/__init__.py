"""Known failures of other caches, as programs: ours passes, and the checker of logs catches theirs.

A *subject* is a cache as a program uses it (`subjects`); a *scenario* is that program, with the one order of
events in which the failure shows (`scenarios`). What a scenario saw is a log of reads and writes, judged by
`find_stale_reads`, which knows nothing of any cache. So what it says of a peer shows that it would have said
it of ours.

The peers that the tests have adapters for take part in every run. `nox -s peers` installs the others, and
runs what is seen in them, `others`.
"""
