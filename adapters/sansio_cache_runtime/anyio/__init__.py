"""What drives the machines under asyncio and trio."""
