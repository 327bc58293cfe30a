"""Drives the machines under asyncio and trio."""
