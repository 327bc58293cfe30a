"""Mutants of the Lua texts: each line is struck out, or says something else, and the tests must notice.

    PYTHONPATH=tests python -P -m mutations [--every N]

A mutant is killed where memory and the server no longer answer the same in some of the sequences by which
`test_scripts.py` compares them. One that the server refuses to compile is none. What survives and is not on
the reviewed list (`reviewed.py`, with the reason) fails the run.
"""
