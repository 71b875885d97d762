"""Comparisons of the official harnesses, by what their code says of such cases."""

import builtins
import datetime
import decimal

import pytest

from hapo_jax.tasks import harnesses


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("livecodebench_2408_2501", "livecodebench"),
        ("livecodebench", "livecodebench"),
        ("code_contests_rllm", "code_contests"),
        ("humaneval", ""),
        ("my_livecodebench", ""),
    ],
)
def test_the_source_names_the_harness(source, name):
    assert harnesses.name(source) == name


@pytest.mark.parametrize(
    ("written", "expected", "lines", "words", "general"),
    [
        ("1 2\n3\n", "1 2\n3", True, True, True),
        ("  1 2  \n3\n\n", "1 2\n3", True, True, True),
        ("1 2\r\n3\r\n", "1 2\n3", True, True, True),
        ("1\n2", "1 2", False, True, True),  # lines count in LiveCodeBench alone
        ("1\n\n2", "1\n2", False, True, True),
        ("1  2", "1 2", True, True, True),
        ("a  b", "a b", False, True, True),  # blanks within text
        ("Yes", "YES", False, True, False),
        ("1.0", "1", True, True, False),
        ("1.50", "1.5", True, True, True),
        ("1e3", "1000.0", True, True, True),
        ("0.33333333", "0.333333333", False, True, True),
        ("0.33334", "0.333333333", False, True, False),  # absolute 1e-5
        ("0.3334", "0.333333333", False, False, False),
        ("10000000.1", "10000000.0", False, False, True),  # relative, by itself
        ("6.443174758686337", "6.44317475868633722080", False, True, True),
        ("100000000000000001", "100000000000000000", False, False, False),
        ("1_0", "10.0", True, False, False),
        ("٣", "3.0", True, False, False),
        ("nan", "nan", True, True, True),
        ("nan", "1.0", False, False, False),
        ("sNaN", "1.0", False, False, False),
        ("1e999999999", "1.0", False, False, False),
        ("inf", "Infinity", True, False, False),
        ("1", "", False, False, False),
        ("", "", True, True, True),
    ],
)
def test_outputs(written, expected, lines, words, general):
    assert harnesses.same_lines(written, expected) == lines
    assert harnesses.same_words(written, expected) == words
    assert harnesses.same_output(written, expected) == general


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        ((1, 2), [1, 2], True),
        ([(1, 2)], [[1, 2]], False),  # no tuple within
        (True, 1, True),
        (2.0, 2, True),
        (0.1 + 0.2, 0.3, False),
        ("a", "a", True),
        (None, 0, False),
        ({1, 2}, [1, 2], False),
        (decimal.Decimal("sNaN"), 1, False),
        (10**400, 1.5, False),
    ],
)
def test_values_are_equal_as_in_python(value, expected, same):
    assert harnesses.equal(value, expected) is same


def test_imports_hide_each_other_in_the_official_order():
    names = {}
    # The limits are set in a program's own process; here they would stay.
    exec(harnesses.IMPORTS.rpartition("import json\n")[0] + "import json", names)
    assert names["pow"] is builtins.pow and names["open"] is builtins.open
    assert names["datetime"] is datetime and names["List"] and names["inf"]
    assert names["Counter"]("aab")["a"] == 2


def test_what_is_asked():
    starter = "class Solution:\n    def f(self): "
    assert f"```python\n{starter}\n```" in harnesses.ask(starter)
    assert "write the answer to stdout" in harnesses.ask("")
