"""What drives the machines on threads."""
