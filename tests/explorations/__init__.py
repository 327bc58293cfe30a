"""What is explored: the named configurations, the wrong protocols, and the tables of a run."""
