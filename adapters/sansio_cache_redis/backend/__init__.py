"""Backends: answer the store commands of a cache, over connections to servers."""
