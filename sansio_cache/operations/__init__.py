"""The machines: one module for each operation of the cache, and each opens with its rules."""
