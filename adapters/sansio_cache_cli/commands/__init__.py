"""The subcommands: a module each, which says what options it has and what it does.

A module has `DESCRIPTION`, `EXAMPLES`, `add_arguments(parser)` and `run(options)`, which returns the exit
status. It imports nothing at the top that takes long: `--help` needs none of it.
"""

from typing import Final

COMMANDS: Final = {
    "demo": "run many readers and a writer on a real database, and count",
    "health": "check whether a server has what the cache needs",
    "check": "verify a server and a namespace: a verdict a line",
    "ttl": "show how long the entries of a namespace live, and whether they expire together",
    "keys": "list the keys of a namespace",
    "top": "show a server, and the programs on it, as they do",
    "monitor": "show what is done in a namespace, decoded, as it is done",
    "inspect": "decode one key: state, age, tags, grant, payload",
    "purge": "remove the keys of a namespace that match a pattern",
    "consume": "write behind: give what an entity has queued to its writer",
    "letters": "list, replay or drop the queued writes of an entity that were given up",
    "load": "ask a server, or a web page of yours, by many callers at once, and measure",
    "export-dashboard": "print a dashboard for Grafana, or rules for alerts",
}
"""What each does, by name, in the order of the help text. The module has the name with `_` for `-`."""
