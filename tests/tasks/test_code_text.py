"""Programs in completions: fences of Markdown, and those that models leave open."""

import time

import pytest

from hapo_jax.tasks import code_text


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        # A line with a language opens, and never closes.
        ("```python\nx = 1\n```python\nx = 2\n```", "x = 2\n"),
        ("```\nx = 1\n```python\nx = 2\n```\nbye", "x = 2\n"),
        ("```python\nx = 1\n```python\n", "x = 1\n"),
        ("a\n```python\nx = 1\n```\nb\n```python", "x = 1\n"),
        # Indented, as in a list.
        ("1. So:\n   ```python\n   if x:\n       y()\n   ```", "if x:\n    y()\n"),
        ("\t```python\n\tx = 1\n\t```\n", "x = 1\n"),
        ("  ```\n  a\n\n  b\n  ```", "a\n\nb\n"),
        ("  ```python\nx = 1\n  ```", "x = 1\n"),
        # Tildes, and more than three signs.
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("~~~\nx = '```'\n```\n~~~", "x = '```'\n```\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("```python\nx = 1\n`````\nbye", "x = 1\n"),
        # Around the whole answer.
        ("````markdown\nSo:\n```python\nx = 1\n```\n````", "x = 1\n"),
        ("```markdown\nSo:\n```python\nx = 1\n```\n```", "x = 1\n"),
        # Languages as they are written.
        ("```Python3\nx = 1\n```\n```\n1\n```", "x = 1\n"),
        ("``` py\nx = 1\n```\n```text\n1\n```", "x = 1\n"),
        ("```{.python .numberLines}\nx = 1\n```\n```\n1\n```", "x = 1\n"),
        ("```python title='a.py'\nx = 1\n```\n~~~\n1\n~~~", "x = 1\n"),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1\r\n"),
        # Not fences.
        ("use ```x = 1``` here", "use ```x = 1``` here"),
        ("```python\nprint('a')\n        ```\n```", "print('a')\n        ```\n"),
        # Thoughts do not count, however they leave their fences.
        ("<think>\n```python\nx = 1\n</think>\n```python\nx = 2\n```", "x = 2\n"),
        ("<think>\n```\nx = 1\n</think>\n```\nx = 2\n```", "x = 2\n"),
        ("so ```\n</think>x = 2", "x = 2"),
        ("<think>\n```\nx = 1\n\nso\n```python\nx = 2\n```\n", "x = 2\n"),
        ("<think>\n```python\nx = 1\n```\n</think>\n", "x = 1\n"),
        # The last that says something.
        ("```python\nx = 1\n```\n```python\n\n```", "x = 1\n"),
        ("```python\n```", ""),
        ("", ""),
    ],
)
def test_find(completion, program):
    assert code_text.find(completion) == program


@pytest.mark.parametrize(
    "completion",
    [
        "```python\n" * 100_000,
        "`" * 1_000_000,
        "~~~\n" * 200_000,
        " " * 1_000_000 + "```",
        "```markdown\n" * 50_000,
        "<think>" * 100_000,
    ],
)
def test_finding_is_linear(completion):
    started = time.process_time()
    code_text.find(completion)
    assert time.process_time() - started < 2
