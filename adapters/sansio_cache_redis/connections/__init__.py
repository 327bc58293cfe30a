"""Connections to one server, each kind in a module of its own; and what redis-py is told about them."""
