"""A verifier of your own: one function, graded in processes that can be killed.

    python examples/own_verifier.py

In a run: `--config.task.name=examples.own_verifier:palindrome`, with a file of problems
in `--config.task.train.path`. This module must not import jax.
"""

import pathlib
import tempfile

from hapo_jax import tasks


def palindrome(completion: str, answer: str) -> tuple[float, str | None]:
    """Right if the last word reads the same both ways and has `answer` letters.

    Returns:
      (score in [0, 1], what was read as the answer, or None if there was none)
    """
    words = completion.split()
    if not words:
        return 0.0, None
    word = words[-1].strip(".!").lower()
    return float(word == word[::-1] and len(word) == int(answer)), word


def main() -> list[float]:
    """Grades three completions of a problem from a file; prints and returns scores."""
    # Here, since graders import this module and shall not load the pool's libraries.
    from hapo_jax.grading import pool as pool_lib

    # Run as a script, this module is `__main__`; graders need the name it has on disk.
    name = f"{pathlib.Path(__file__).stem}:palindrome"
    name = name if __name__ == "__main__" else f"{__name__}:palindrome"
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "words.jsonl"
        file.write_text('{"problem": "A palindrome of 5 letters?", "answer": "5"}\n')
        problem = tasks.get(name).problems("train", path=str(file))[0]
    completions = ["It is level.", "apple", ""]
    with pool_lib.GradingPool(
        num_workers=1, timeout_s=5.0, memory_gib=4.0, start_timeout_s=120.0
    ) as pool:
        items = [(completion, problem.answer) for completion in completions]
        grades = pool.submit(name, items).result()
    for completion, grade in zip(completions, grades, strict=True):
        print(f"{completion!r}: score {grade.score:g}, read {grade.extracted!r}")
    return [grade.score for grade in grades]


if __name__ == "__main__":
    main()
