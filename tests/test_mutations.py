"""The mutators find what can be changed in a text. The runs are for the night: `tests/mutations`."""

import ast

from mutations import python
from mutations.lua import mutants
from mutations.reviewed import REVIEWED

TEXT = """
local a = 1
-- a comment
if a == 2 and not b then
  return {a <= 3}
end
"""


def test_every_line_is_struck_out_and_everything_in_it_changed():
    found = {(mutant.line, mutant.after.strip()) for mutant in mutants("s", TEXT)}
    assert found == {
        (2, ""),
        (4, ""),
        (4, "if a ~= 2 and not b then"),
        (4, "if a == 2 or not b then"),
        (4, "if a == 2 and b then"),
        (5, ""),
        (5, "return {a < 3}"),
    }


def test_a_mutant_differs_in_its_line_only():
    for mutant in mutants("s", TEXT):
        before, after = TEXT.split("\n"), mutant.text.split("\n")
        assert [place for place, line in enumerate(before, 1) if line != after[place - 1]] == [mutant.line]
    assert str(next(mutants("s", TEXT))) == "s:2: 'local a = 1' -> ''"


def test_few_mutants_may_live_and_each_has_a_reason():
    assert 0 < len(REVIEWED) <= 20
    assert all(len(reason) > 10 for reason in REVIEWED.values())


DECIDES = '''
LIMIT = 3


def decide(it, most=1):
    """Say."""
    if it.size < most and not it.late:
        it.taken = most + 1
        it.tell()
    return max(most, 2) if it else "none"
'''


def test_what_a_function_decides_is_changed_and_nothing_else():
    found = [(mutant.line, mutant.before, mutant.after) for mutant in python.mutants("m", DECIDES)]
    assert found == [
        (7, "it.size < most and (not it.late)", "it.size < most or not it.late"),
        (7, "it.size < most", "it.size <= most"),
        (7, "not it.late", "it.late"),
        (8, "it.taken = most + 1", "pass"),
        (8, "most + 1", "most - 1"),
        (8, "1", "2"),
        (9, "it.tell()", "pass"),
        (10, "max(most, 2) if it else 'none'", "'none' if it else max(most, 2)"),
        (10, "max(most, 2)", "min(most, 2)"),
        (10, "2", "3"),
    ]


def test_a_mutant_of_a_module_is_what_it_says():
    changed = {mutant.line: mutant for mutant in python.mutants("m", DECIDES)}[10]
    assert ast.unparse(changed.tree) == ast.unparse(ast.parse(DECIDES)).replace(
        "max(most, 2)", "max(most, 3)"
    )
    assert str(changed) == "m:10: '2' -> '3'"
