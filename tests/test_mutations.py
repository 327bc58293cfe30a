"""The mutator finds what can be changed in a Lua text. The run itself is for the night: `tests/mutations`."""

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
