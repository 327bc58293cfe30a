"""Drives the machines on threads."""
