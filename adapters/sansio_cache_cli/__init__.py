"""The `sansio-cache` command: a demonstration on a real database, and a look at a server's health."""
