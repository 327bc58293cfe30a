"""How long calls take while something is wrong with the store: `python -P -m latency`.

Nothing here is a test: it prints a table, and says where a call has taken more than 1.2 times its budget.
A proxy, or the server itself, does what `cases` says; a process of its own (`worker`) has the callers, so
that they share no interpreter with the proxy. Each caller makes a call every 50 ms or so.

What the machine adds is measured beside it: how long a redis-py that does nothing else waits for its slowest
command. On a loaded machine, `chrt -f 5` before it comes near to an idle one, where that is allowed.

All of it takes ten minutes. `--cases`, `--runtimes`, `--callers` and `--operations` choose from it.
"""
