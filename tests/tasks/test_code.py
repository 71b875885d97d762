"""Finding programs, reading the data sets' rows, and grading them."""

import ast
import collections
import gzip
import json
import sys

import pytest

from hapo_jax.tasks import code, harnesses
from hapo_jax.tasks.sandbox import host
from tests import real_data

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="confines on Linux alone"
)
OPTIONS = dict(
    prompt_template="", subject="", test_s=20.0, total_s=20.0, memory_mib=512
)
PRELUDE = 'from typing import List\n\n\ndef add(a, b):\n    """Adds."""\n'


@pytest.fixture(scope="module")
def box():
    with host.best() as box:
        yield box


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


ROW = {
    "id": "a",
    "problem": "Add two numbers.",
    "entry_point": "add",
    "tests": [
        {"type": "python", "setup": "x = 1", "code": "assert add(x, 2) == 3\nassert 1"}
    ],
}


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\nBetter:\n```py\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nCut off:\n```python\nx = 2", "x = 2"),
        ("```python\nx = 1\n```\nIt prints\n```\n1\n```", "x = 1\n"),
        ("```\nx = 1\n```\nIt prints\n```\n1\n```", "1\n"),
        ("  ```python\n  x = 1\n  ```", "x = 1\n"),
        ("```python\ns = '```'\n```", "s = '```'\n"),
        ("", None),
        ("```python\n```", None),
        ("x" * 300_000, None),
    ],
)
def test_the_program_is_the_last_block_or_everything(completion, program):
    assert code.extract(completion, "", "f") == program


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("    return a + b\n", PRELUDE + "    return a + b\n"),
        (
            "    return a + b\n\n\nprint(add(1, 2))\n",
            PRELUDE + "    return a + b\n\n\n",
        ),
        (
            "```python\ndef add(a, b):\n    return a + b\n```",
            PRELUDE + "\n\ndef add(a, b):\n    return a + b\n",
        ),
        (
            "```python\ndef adding(a):\n    return a\n```",  # not `add`, and no body
            PRELUDE,
        ),
    ],
)
def test_a_completion_goes_on_with_a_function_or_writes_it_anew(completion, program):
    assert code.extract(completion, PRELUDE, "add") == program


@pytest.mark.parametrize(
    ("written", "expected", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("1 2 3", "1\n2\n3\n", True),
        ("0.33333333", "0.333333333", True),
        ("0.3334", "0.333333333", False),
        ("1", "1.0", True),
        ("1.0", "1", False),  # a whole number is expected: digits must agree
        ("1000001", "1000000", False),
        ("YES", "yes", False),
        ("1 2", "1", False),
        ("", "1", False),
        ("nan", "1.0", False),
        ("1.2.3", "1.2.3", True),
        ("x1e5", "1e5", False),
        ("1_0", "10.0", False),
        ("٣", "3.0", False),
    ],
)
def test_outputs_are_compared_word_by_word(written, expected, same):
    assert harnesses.same_output(written, expected) == same


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        (3, 3, True),
        ([1, (2, 3)], [1, [2, 3]], True),
        ((), [], True),
        (0.1 + 0.2, 0.3, True),
        (3, 3.0, True),
        (3.0, 3, False),
        (True, 1, False),
        (1, True, False),
        (True, 1.0, False),
        (None, None, True),
        ("a", "a", True),
        ([1], [1, 1], False),
        ({"a": 1}, {"a": 1}, True),
        (float("nan"), 1.0, False),
    ],
)
def test_values_are_compared_with_their_types(value, expected, same):
    assert harnesses.same_value(value, expected) == same


def test_problems_hold_what_grading_needs(tmp_path):
    begun = ROW | {"id": "b", "problem": PRELUDE, "source": "mine", "subject": "train"}
    template = "{problem} For example: {example} {x}"
    path = write(tmp_path, ROW, begun)
    options = OPTIONS | {"prompt_template": template}
    first, second = code.problems("train", path=path, **options)
    assert first.prompt == "Add two numbers. For example: assert add(x, 2) == 3 {x}"
    assert (first.id, first.source, second.source) == ("a", "rows", "mine")
    assert json.loads(first.answer)["prelude"] == ""
    assert json.loads(second.answer)["prelude"] == PRELUDE
    assert code.confinement().startswith("Programs are confined by")
    (only,) = code.problems("train", path=path, **OPTIONS | {"subject": "train"})
    assert only.id == "b"


def test_grade_runs_the_program(tmp_path):
    calls = [{"type": "call", "args": [1, 2], "output": 3}]
    stdin = [{"type": "stdin", "input": "1 2\n", "output": "3\n"}]
    rows = [
        ROW,
        ROW | {"id": "b", "problem": PRELUDE},
        ROW | {"id": "c", "tests": calls},
        ROW | {"id": "d", "tests": stdin},
    ]
    asserts, begun, called, script = (
        problem.answer
        for problem in code.problems("test", path=write(tmp_path, *rows), **OPTIONS)
    )
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return a - b"
    method = "class Solution:\n    def add(self, a, b): return a + b"
    assert code.grade(right, asserts) == (1.0, right)
    assert code.grade(f"```python\n{wrong}\n```", asserts) == (0.0, f"{wrong}\n")
    assert code.grade("    return a + b", begun).score == 1.0
    assert code.grade("    return a", begun).score == 0.0
    assert code.grade(right, called).score == code.grade(method, called).score == 1.0
    assert code.grade(wrong, called).score == 0.0
    assert code.grade("print(sum(map(int, input().split())))", script).score == 1.0
    assert code.grade("print(input())", script).score == 0.0
    assert code.grade("", script) == (0.0, None)


def test_a_prompt_may_show_all_tests(tmp_path):
    more = {"type": "python", "code": "assert add(1, 1) == 2"}
    path = write(tmp_path, ROW | {"tests": [*ROW["tests"], more]})
    options = OPTIONS | {"prompt_template": "{problem}\n{tests}\n{example}"}
    (problem,) = code.problems("test", path=path, **options)
    first = "assert add(x, 2) == 3"
    asserts = f"{first}\nassert 1\nassert add(1, 1) == 2"
    assert problem.prompt == f"Add two numbers.\n{asserts}\n{first}"


STARTER = """class Solution:
    def deep(self, rows: List[int], most: Optional[int]) -> int:
        """


def test_starter_code_runs_with_its_names_whatever_the_set(tmp_path):
    calls = [{"type": "call", "args": [[1, 2], 30_000], "output": 30_000}]
    row = {"id": "a", "problem": "p", "entry_point": "deep", "tests": calls}
    contest = row | {"starter_code": STARTER}
    plain = row | {"starter_code": "", "id": "b"}
    path = write(tmp_path, contest, plain, contest | {"id": "c", "source": "lcb"})
    options = OPTIONS | {"prompt_template": "{problem} {format} {starter_code}"}
    first, second, third = code.problems("test", path=path, **options)
    assert first.prompt.count(STARTER) == 2 and "stdin" in second.prompt
    body = STARTER + "return 1 + self.deep(rows, most - 1) if most else 0"
    assert code.grade(body, first.answer).score == 1.0
    assert code.grade(body, third.answer).score == 1.0
    assert code.grade(body, second.answer).score == 0.0  # no List there
    future = f"from __future__ import annotations\n{body}"
    assert code.grade(future, first.answer).score == 1.0


def test_programs_of_livecodebench_run_as_in_its_harness(tmp_path):
    tests = [{"type": "stdin", "input": "", "output": "3010\n1 4\n"}]
    row = {"id": "a", "problem": "p", "tests": tests, "source": "livecodebench_v6"}
    other = row | {"id": "b", "source": "mine"}
    ours, general = code.problems("test", path=write(tmp_path, row, other), **OPTIONS)
    program = "print(len(str(10 ** 3_009)))\nprint(gcd(3, 2), sqrt(16))"
    assert code.grade(program, ours.answer).score == 1.0
    assert code.grade(program, general.answer).score == 0.0
    long = "print(len(str(10 ** 20_000)) - 16_991)\nprint(1, 4)"
    assert code.grade(long, ours.answer).score == 1.0


def test_outputs_of_code_contests_are_compared_as_in_its_tester(tmp_path):
    tests = [{"type": "stdin", "input": "", "output": "YES\n0.333333\n"}]
    row = {"id": "a", "problem": "p", "tests": tests, "source": "code_contests"}
    other = row | {"id": "b", "source": "mine"}
    ours, general = code.problems("test", path=write(tmp_path, row, other), **OPTIONS)
    for program, score in (
        ("print('Yes', 1 / 3)", 1.0),
        ("print('Yes', 0.3334)", 0.0),
        ("print('Yes')", 0.0),
    ):
        assert code.grade(program, ours.answer).score == score
    assert code.grade("print('Yes', 1 / 3)", general.answer).score == 0.0


def test_each_call_has_the_time_of_a_run(tmp_path):
    calls = [{"type": "call", "args": [0.2, 0], "output": 0.2}] * 4
    path = write(tmp_path, ROW | {"tests": calls})
    sleep = "import time\ndef add(a, b):\n    time.sleep(a)\n    return a"
    for total_s, passes in ((20.0, True), (0.6, False)):
        options = OPTIONS | {"test_s": 0.5, "total_s": total_s}
        (problem,) = code.problems("test", path=path, **options)
        if passes:
            assert code.grade(sleep, problem.answer).score == 1.0
        else:
            with pytest.raises(TimeoutError):
                code.grade(sleep, problem.answer)


def test_what_takes_too_long_is_a_timeout(tmp_path):
    path = write(tmp_path, ROW)
    options = OPTIONS | {"test_s": 0.3, "total_s": 0.5}
    (problem,) = code.problems("test", path=path, **options)
    with pytest.raises(TimeoutError, match=r"0\.3 s"):
        code.grade("while True: pass", problem.answer)


def test_all_tests_together_have_a_limit(box):
    test = {"type": "stdin", "input": "", "output": ""}
    spec = {
        "prelude": "",
        "entry_point": "",
        "tests": [test] * 50,
        "test_s": 0.4,
        "total_s": 0.5,
        "memory_mib": 256,
    }
    _, trial = code.judge(box, "import time; time.sleep(0.1)", json.dumps(spec))
    assert trial.timed_out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": []}, "line 1: field 'tests' must be a list with at least one"),
        ({"tests": "assert"}, "field 'tests' must be a list"),
        ({"tests": [{"type": "perl", "code": ""}]}, r"tests\[0\] must have a type of"),
        ({"tests": [{"type": "stdin", "input": ""}]}, r"missing: \['output'\]"),
        ({"entry_point": ""}, "field 'entry_point' must name the function"),
        ({"problem": ""}, "field 'problem' must be a non-empty text"),
        ({"id": [3]}, "field 'id' must be a text or a whole number"),
    ],
)
def test_broken_rows_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        code.problems("train", path=write(tmp_path, ROW | change), **OPTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_s": 0.0}, "test_s=0.0 must lie above 0"),
        ({"test_s": 30.0}, "not above total_s=20.0"),
        ({"memory_mib": 10}, "memory_mib=10 must be at least 64"),
        ({"subject": "none"}, "holds no problems"),
        ({"prompt_template": "Hello."}, "must contain {problem}"),
    ],
)
def test_options_are_checked(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        code.problems("train", path=write(tmp_path, ROW), **OPTIONS | change)


def test_an_id_must_be_unique(tmp_path):
    with pytest.raises(ValueError, match="line 2: id 'a' was used before"):
        code.problems("train", path=write(tmp_path, ROW, ROW), **OPTIONS)


def references(name):
    """(problem, reference solution) of each row of a file of the data folder."""
    path = real_data.FOLDER / name
    if not path.is_file():
        pytest.skip(f"{path} is not there; set HAPO_DATA_DIR")
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        solutions = {
            row["id"]: row.get("solution", "") for row in map(json.loads, file)
        }
    problems = code.problems("test", path=path, **OPTIONS)
    return [(problem, solutions[problem.id]) for problem in problems]


class Broken(ast.NodeTransformer):
    """Replaces what one function returns by a value that nobody expects."""

    def __init__(self, name):
        self.name = name
        self.inside = False

    def visit_FunctionDef(self, node):
        if node.name == self.name:
            self.inside = True
            self.generic_visit(node)
            self.inside = False
            node.body.append(ast.parse("return '@wrong@'").body[0])
        return node

    def visit_Return(self, node):
        return ast.parse("return '@wrong@'").body[0] if self.inside else node


def mutated(problem, solution):
    spec = json.loads(problem.answer)
    tree = ast.parse(spec["prelude"] + solution)
    return ast.unparse(Broken(spec["entry_point"]).visit(tree))


@pytest.mark.parametrize("name", ["humaneval.jsonl", "mbpp.jsonl"])
@pytest.mark.parametrize(
    "every", [40, pytest.param(1, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_references_pass_and_broken_ones_fail(box, name, every):
    failed = []
    for problem, solution in references(name)[::every]:
        _, trial = code.judge(box, solution, problem.answer)
        if not trial.passed:
            failed.append((problem.id, trial.detail))
        _, trial = code.judge(box, mutated(problem, solution), problem.answer)
        if trial.passed:
            failed.append((problem.id, "the broken one passed"))
    assert not failed


@pytest.mark.parametrize(
    "name", ["code_contests.jsonl.gz", "livecodebench_279_public.jsonl"]
)
def test_rows_of_contests_are_understood(name):
    problems = [problem for problem, _ in references(name)]
    assert len(problems) == {"code": 165, "live": 279}[name[:4]]
    kinds = {test["type"] for p in problems for test in json.loads(p.answer)["tests"]}
    assert kinds <= {"stdin", "call"}


def test_starter_code_of_every_problem_can_be_loaded(box):
    """A class whose methods do nothing is wrong, and no NameError."""
    path = real_data.FOLDER / "livecodebench_279_public.jsonl"
    problems = [problem for problem, _ in references(path.name)]
    with open(path, encoding="utf-8") as file:
        rows = {row["id"]: row for row in map(json.loads, file)}
    details = collections.Counter()
    for problem in problems:
        _, trial = code.judge(
            box, f"{rows[problem.id]['starter_code'] or ''}pass", problem.answer
        )
        details[trial.detail] += 1
    assert details == {"call 0: wrong value": 104, "wrong output": 175}


def test_expected_outputs_of_contests_agree_with_themselves(box):
    """A program that prints what is expected passes, and one that does not fails."""
    for problem, _ in references("livecodebench_279_public.jsonl")[::20]:
        spec = json.loads(problem.answer)
        first = spec["tests"][0]["type"]
        table = [(t.get("args", t.get("input")), t["output"]) for t in spec["tests"]]
        program = f"table = {table!r}\n"
        if first == "stdin":
            program += "import sys\ntext = sys.stdin.read()\n"
            program += "print(next(y for x, y in table if x == text))"
        else:
            program += "class Solution:\n"
            program += f"    def {spec['entry_point']}(self, *args):\n"
            program += "        return next(y for x, y in table if x == list(args))"
        assert code.judge(box, program, problem.answer)[1].passed, problem.id
        wrong = program.replace("x == ", "x != ")
        if len({str(y) for _, y in table}) == len(table) > 1:
            assert not code.judge(box, wrong, problem.answer)[1].passed, problem.id
