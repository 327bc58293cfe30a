"""Topologies: which connections a key goes to, and what can fail alone."""
