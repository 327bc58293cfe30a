"""Drives the machines of the core on threads, asyncio and trio. It knows no Redis."""
