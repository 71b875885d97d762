"""Knights and knaves: who always tells the truth, and who always lies?

Puzzles are drawn here, or read from files of the K&K kind (rows with `names` and an
answer like "(1) Ada is a knight"). A drawn puzzle has exactly one solution: all
assignments are tried.

The answer is what stands in the last `<answer>...</answer>`, else behind the last
`Answer:`, else in the last lines, one per person. It must call each person a knight or
a knave, once, and nobody both.
"""

import hashlib
import itertools
import json
import operator
import pathlib
import random
import re
from collections.abc import Sequence
from typing import Any

from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import files
from hapo_jax.tasks.problems import Grade, Problem, check_split, fill, read_structured

MIN_PEOPLE, MAX_PEOPLE = 2, 8
MAX_ANSWER_CHARACTERS = 2_000
NAMES = (
    "Ada Boris Chen Dora Emil Fatou Goran Hana Igor Juno Kofi Lena Marco Nadia Otto "
    "Petra Quinn Rosa Sven Tara Umar Vera Wen Yuki"
).split()
_SAYS = (
    '{name} says: "{claim}."',
    '{name} claims: "{claim}."',
    '"{claim}," says {name}.',
    'When asked, {name} answers: "{claim}."',
)
_RULES = (
    "On an island every person is either a knight or a knave. Knights always tell the "
    "truth, knaves always lie."
)
_QUESTION = "Who is a knight and who is a knave?"
# One puzzle in five is held out, whatever the seed or the size of a split.
_HELD_OUT_EVERY = 5
# kind -> (its truth from that of its parts, its words)
_CONNECTIVES = {
    "and": (operator.and_, "{0} and {1}"),
    "or": (operator.or_, "{0} or {1}"),
    "implies": (lambda a, b: b or not a, "if {0}, then {1}"),
    "iff": (operator.eq, "{0} if and only if {1}"),
}
_VERDICT = r"(?<!\w){name}(?!\w)\s+is\s+(?:a|the)\s+(knight|knave)\b"

# A claim: (person, True for knight), or (connective, claim, claim)
Claim = tuple


def problems(
    split: str,
    *,
    path: str | pathlib.Path,
    prompt_template: str,
    size: int,
    seed: int,
    min_people: int,
    max_people: int,
    columns: str = "",
    on_error: str = "stop",
) -> list[Problem]:
    """The puzzles of a file, or distinct new ones.

    Args:
      split: "train" or "test". A new puzzle (its statements, names aside) belongs to
        one of them by a hash, so none that is held out occurs in training.
      path: data files, see `files.py`; "" to draw puzzles, which
        the arguments behind the next describe.
      prompt_template: text around `{problem}`, or "".
      size: how many; fewer if there are not that many.
      seed: of the draw.
      min_people, max_people: in a puzzle, within 2 … 8.
      columns: `problem=text` and the like where fields have other names, see
        `schemas.py`.
      on_error: "stop" at a broken row of the file, or "skip" and count it.

    Raises:
      Refused: an argument is out of its range, or a row of the file is broken.
    """
    if path:
        return _read(files.find(path, split), prompt_template, columns, on_error)
    if columns:
        raise Refused(f"{columns=} is about files, and task.path is empty; drop it.")
    check_split(split)
    if not MIN_PEOPLE <= min_people <= max_people <= MAX_PEOPLE:
        raise Refused(
            f"task.min_people={min_people} and task.max_people={max_people} must lie "
            f"within {MIN_PEOPLE} and {MAX_PEOPLE}, in this order."
        )
    rng = random.Random(f"{split}/{seed}")
    found: dict[str, Problem] = {}
    misses = 0
    # 2,000 draws in a row without a new one: the space is as good as exhausted.
    while len(found) < size and misses < 2_000:
        claims = draw(rng, rng.randint(min_people, max_people))
        key = hashlib.sha256(repr(claims).encode()).hexdigest()[:16]
        held_out = int(key, 16) % _HELD_OUT_EVERY == 0
        if key in found or held_out != (split == "test"):
            misses += 1
            continue
        misses = 0
        names = rng.sample(NAMES, len(claims))
        (truth,) = solutions(claims)
        text = tell(rng, names, claims)
        found[key] = Problem(
            id=f"logic-{key}",
            prompt=fill(prompt_template, problem=text),
            answer=json.dumps(dict(zip(names, truth))),
            source=f"logic_{len(names)}",
            statement=text,
        )
    return list(found.values())


def draw(rng: random.Random, people: int) -> list[Claim]:
    """One claim per person, drawn until exactly one assignment fits them all."""
    while True:
        claims = [_claim(rng, person, people) for person in range(people)]
        if len(solutions(claims)) == 1:
            return claims


def solutions(claims: Sequence[Claim]) -> list[tuple[bool, ...]]:
    """All assignments (True: knight) in which knights say the truth and knaves lie."""
    return [
        knights
        for knights in itertools.product((True, False), repeat=len(claims))
        if all(knights[i] == _holds(claim, knights) for i, claim in enumerate(claims))
    ]


def tell(rng: random.Random, names: Sequence[str], claims: Sequence[Claim]) -> str:
    """A puzzle in words."""
    sentences = []
    for name, claim in zip(names, claims):
        words = _words(claim, names)
        said = rng.choice(_SAYS).format(name=name, claim=words[0].upper() + words[1:])
        sentences.append(said)
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{_RULES} You meet {listed}. {' '.join(sentences)} {_QUESTION}"


def grade(completion: str, answer: str) -> Grade:
    """1.0 if everybody is called what they are.

    Args:
      completion: what the policy wrote, special tokens removed.
      answer: the JSON of `problems`: name to true for a knight.

    Returns:
      Grade; `extracted` lists the verdicts in the puzzle's order, or is None unless
      there is one for each person.
    """
    truth = json.loads(answer)
    verdicts = _verdicts(_answer(completion, len(truth)), list(truth))
    if verdicts is None:
        return Grade(0.0, None)
    said = [f"{name}: {'knight' if verdicts[name] else 'knave'}" for name in truth]
    return Grade(float(verdicts == truth), ", ".join(said))


def _claim(rng: random.Random, speaker: int, people: int) -> Claim:
    """A random claim about the others; in one case of ten the speaker is among them."""
    pool = [p for p in range(people) if p != speaker]
    if rng.random() < 0.1:
        pool.append(speaker)
    kind = rng.choice(["one", *_CONNECTIVES])
    if kind == "one" or len(pool) < 2:
        return rng.choice(pool), rng.random() < 0.5
    first, second = rng.sample(pool, 2)
    return kind, (first, rng.random() < 0.5), (second, rng.random() < 0.5)


def _holds(claim: Claim, knights: Sequence[bool]) -> bool:
    if len(claim) == 2:
        person, knight = claim
        return knights[person] == knight
    kind, first, second = claim
    return _CONNECTIVES[kind][0](_holds(first, knights), _holds(second, knights))


def _words(claim: Claim, names: Sequence[str]) -> str:
    if len(claim) == 2:
        person, knight = claim
        return f"{names[person]} is a {'knight' if knight else 'knave'}"
    kind, first, second = claim
    return _CONNECTIVES[kind][1].format(_words(first, names), _words(second, names))


def _answer(completion: str, people: int) -> str:
    """The part of a completion that is its answer; see the module's docstring."""
    start = completion.rfind("<answer>")
    if start >= 0:
        inside = completion[start + len("<answer>") :]
        return inside.partition("</answer>")[0]
    start = completion.lower().rfind("answer:")
    if start >= 0:
        return completion[start + len("answer:") :]
    lines = [line for line in completion.splitlines() if line.strip()]
    return "\n".join(lines[-people:])


def _verdicts(text: str, names: Sequence[str]) -> dict[str, bool] | None:
    """Who is called a knight (True) or a knave; None unless everybody is, once."""
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    verdicts = {}
    for name in names:
        pattern = _VERDICT.replace("{name}", re.escape(name))
        said = re.findall(pattern, text, re.IGNORECASE)
        if len(said) != 1:
            return None
        verdicts[name] = said[0].lower() == "knight"
    return verdicts


def _read(
    paths: Sequence[pathlib.Path], template: str, columns: str, on_error: str
) -> list[Problem]:
    def make(row: dict[str, Any], where: str) -> Problem:
        names, answer = row.get("names"), row.get("answer")
        known = isinstance(names, list) and all(isinstance(n, str) for n in names)
        if not known or not names:
            raise Refused(
                f"{where}: field 'names' must list the people, got "
                f"{user_files.short(names)}; add it."
            )
        truth = _verdicts(answer, names) if isinstance(answer, str) else None
        if truth is None:
            raise Refused(
                f"{where}: field 'answer' must call each of {user_files.short(names)} "
                f"a knight or a knave, as in '(1) {names[0][:40]} is a knight', got "
                f"{user_files.short(answer)}."
            )
        prompt = fill(template, problem=row["problem"])
        return Problem(
            row["id"], prompt, json.dumps(truth), row["source"], row["problem"]
        )

    fields = ("answer", "names")
    return read_structured(
        paths, fields=fields, make=make, on_error=on_error, columns=columns
    )
