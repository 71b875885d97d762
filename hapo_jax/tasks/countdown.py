"""Countdown by trial: find two (or more) numbers that make a target, in the open.

    numbers 3 7 4 target 28 :   3 + 7 = 10 ; 7 - 4 = 3 ; 7 * 4 = 28 ; yes

An attempt combines `operations + 1` of the given numbers, each at most as often as
it is given; attempts end with `;`. The completion closes with `yes` (the last attempt
makes the target) or `no` (giving up). The verifier believes nothing: it recomputes
every equation, and one wrong character anywhere means score 0.

The tokens that choose operands are uncertain, those that carry arithmetic and format
nearly certain, and the same digits occur as both. Demonstrations choose at random
and give up early, so a policy that imitates them has everything left to learn.
"""

import hashlib
import json
import operator
import random
from collections import Counter
from collections.abc import Iterator

from hapo_jax.system.errors import Refused
from hapo_jax.tasks.problems import Demonstration, Grade, Problem, check_split

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
EQUATION_TOKENS = 6  # a op b = c and the mark behind it

# One problem in five is held out, whatever the seed or the size of a split.
_HELD_OUT_EVERY = 5


def problems(
    split: str,
    *,
    size: int,
    seed: int,
    numbers: int,
    max_number: int,
    operators: str,
    operations: int,
) -> list[Problem]:
    """Distinct solvable problems of one split.

    Args:
      split: "train" or "test". A problem (its set of numbers and its target) belongs
        to one of them by a hash, so no held-out problem occurs in training.
      size: how many problems; fewer if there are not that many.
      seed: order of the problems and of the numbers within one.
      numbers: how many numbers are given.
      max_number: numbers are drawn from 1 … max_number.
      operators: some of "+-*".
      operations: equations per attempt; operations + 1 ≤ numbers.

    Raises:
      Refused: an argument is out of its range.
    """
    _check(split, numbers, max_number, operators, operations)
    rng = random.Random(f"{split}/{seed}")
    found: dict[str, Problem] = {}
    misses = 0
    # 2,000 draws in a row without a new problem: the space is as good as exhausted.
    while len(found) < size and misses < 2_000:
        drawn = [rng.randint(1, max_number) for _ in range(numbers)]
        *_, (_, target) = _attempt(rng, drawn, operators, operations)
        key = f"{' '.join(map(str, sorted(drawn)))} target {target}"
        if key in found or _split_of(key) != split:
            misses += 1
            continue
        misses = 0
        spec = {"numbers": drawn, "target": target, "operations": operations}
        prompt = f"numbers {' '.join(map(str, drawn))} target {target} :"
        found[key] = Problem(
            id=key, prompt=prompt, answer=json.dumps(spec), source="countdown"
        )
    return list(found.values())


def demonstrations(
    split: str,
    *,
    size: int,
    seed: int,
    num_problems: int,
    give_up: float,
    max_attempts: int,
    operators: str,
    **options,
) -> list[Demonstration]:
    """Games of a player without a plan.

    It picks numbers and operators at random, notices a hit, and gives up after each
    miss with probability `give_up`, at the latest after `max_attempts`.

    Args:
      split: "train" or "test"; the problems are of that split.
      size: how many games.
      seed: of problems and games.
      num_problems: played over and over.
      give_up: in [0, 1].
      max_attempts: per game.
      operators, **options: see `problems`.
    """
    pool = problems(split, size=num_problems, seed=seed, operators=operators, **options)
    rng = random.Random(f"demonstrations/{split}/{seed}")
    played = []
    for _ in range(size):
        problem = rng.choice(pool)
        spec = json.loads(problem.answer)
        words, end = [], "no"
        for _ in range(max_attempts):
            attempt = list(
                _attempt(rng, spec["numbers"], operators, spec["operations"])
            )
            words += [" , ".join(text for text, _ in attempt), ";"]
            if attempt[-1][1] == spec["target"]:
                end = "yes"
                break
            if rng.random() < give_up:
                break
        played.append(Demonstration(problem.prompt, " ".join([*words, end])))
    return played


def grade(completion: str, answer: str) -> Grade:
    """1.0 if every equation is right and legal, and `yes` follows the target.

    Args:
      completion: what the policy wrote, special tokens removed.
      answer: the JSON of `problems`: numbers, target, operations.

    Returns:
      Grade; `extracted` is the last result that was reached legally, or None.
    """
    spec = json.loads(answer)
    words = completion.split()
    length = EQUATION_TOKENS * spec["operations"]
    attempts, end = words[:-1], words[-1:]
    result = None
    if len(attempts) % length:
        return Grade(0.0, None)
    for start in range(0, len(attempts), length):
        result = _result(attempts[start : start + length], spec["numbers"])
        if result is None:
            return Grade(0.0, None)
    extracted = None if result is None else str(result)
    won = end == ["yes"] and result == spec["target"]
    return Grade(1.0 if won else 0.0, extracted)


def words(*, max_number: int, operations: int) -> list[str]:
    """Every word that problems and completions can need, for a word tokenizer.

    The largest number is max_number^(operations + 1), a product of all.
    """
    top = max_number ** (operations + 1)
    marks = ["numbers", "target", ":", "=", ",", ";", "yes", "no", *OPERATORS]
    return marks + [str(n) for n in range(top + 1)]


def _result(attempt: list[str], numbers: list[int]) -> int | None:
    """The value that a list of equations reaches, or None if one is not legal."""
    left = Counter(map(str, numbers))
    value = None
    for start in range(0, len(attempt), EQUATION_TOKENS):
        a, op, b, equals, c, mark = attempt[start : start + EQUATION_TOKENS]
        last = start + EQUATION_TOKENS == len(attempt)
        if op not in OPERATORS or equals != "=" or mark != (";" if last else ","):
            return None
        if value is not None and a != str(value):
            return None  # a chain goes on from its own result
        for operand in [b] if value is not None else [a, b]:
            if left[operand] == 0:
                return None
            left[operand] -= 1
        value = OPERATORS[op](int(a), int(b))
        if value < 0 or c != str(value):
            return None
    return value


def _attempt(
    rng: random.Random, numbers: list[int], operators: str, operations: int
) -> Iterator[tuple[str, int]]:
    """Random legal equations, as (text, result) one after another."""
    drawn = rng.sample(numbers, operations + 1)
    value = drawn[0]
    for i, b in enumerate(drawn[1:]):
        op = rng.choice(operators)
        if op == "-" and value < b:
            if i == 0:
                value, b = b, value
            else:
                op = "+"  # a chain cannot swap its operands, and results are ≥ 0
        result = OPERATORS[op](value, b)
        yield f"{value} {op} {b} = {result}", result
        value = result


def _split_of(key: str) -> str:
    digest = hashlib.sha256(key.encode()).digest()
    return "train" if int.from_bytes(digest[:8]) % _HELD_OUT_EVERY else "test"


def _check(split, numbers, max_number, operators, operations) -> None:
    check_split(split)
    if not 1 <= operations <= numbers - 1:
        raise Refused(
            f"task.operations={operations} must lie between 1 and numbers - 1 = "
            f"{numbers - 1}, since an attempt uses operations + 1 numbers."
        )
    if max_number < 2:
        raise Refused(f"task.max_number={max_number} must be at least 2.")
    if not operators or set(operators) - set(OPERATORS):
        raise Refused(
            f"task.operators={operators!r} must be some of {''.join(OPERATORS)!r}."
        )
