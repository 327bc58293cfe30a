"""Mutants: a line of code says something else, and the tests must notice.

    PYTHONPATH=tests python -P -m mutations [lua | python] [--every N] [--only MODULE]

Of the *Lua texts* each line is struck out, or one thing in it changed. A mutant is killed where memory and
the server no longer answer the same in some of the sequences by which `test_scripts.py` and
`test_queue_scripts.py` compare them; or where another time is told, or others are told. One that the server
refuses to compile is none. A text that several scripts share is changed in all of them.

In *the core's decisions* a comparison is changed, a condition, a number, a sum, or a statement is struck out.
A mutant is killed where a test fails that says what its module does (`python_run.TESTS_OF`).

What survives and is not on the reviewed list (`reviewed.py`, with the reason) fails the run; and so does what
is on it and is killed.
"""
