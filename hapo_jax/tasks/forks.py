"""Forks: a road of which every word is known to be forced or a choice.

    over 14 3 5 + 7 ; 2 / 3 9 + 7 ; 8 :   3 9 0 7 ; 8

Two rows of words lie one above the other, `/` between them. The completion takes one
word per column, from left to right. Where the rows agree, the word is *forced*: a digit
or `;` is copied, and for `+` a result is carried: the digit after the last word, with
`under` the one before it (0 is after 9). Where they differ there is a *fork*, and
either word may be written. A fork with `exit` ends the road there, if it is taken. The
digits taken at forks must add up to more than the goal (`over`) or to less (`under`):
the first word of the prompt says which of two digits is the better one, and whether it
is good to leave early.

Which columns are forks does not show but by looking, and every digit occurs as both. A
road has the same length whatever its share of forced words, and the goal is such that a
walker who chooses at random reaches it with the same probability.
"""

import hashlib
import itertools
import json
import random
from collections.abc import Sequence

from hapo_jax.system.errors import Refused
from hapo_jax.tasks.problems import Demonstration, Grade, Problem, check_split

SENSES = ("over", "under")
SHARES = (0.0, 0.25, 0.5, 0.75)  # of forced words
EXIT, CARRY, MARK = "exit", "+", ";"
FORCED, CHOICE = "forced", "choice"
DIGITS = tuple("0123456789")

# One problem in five is held out, whatever the seed or the size of a split.
_HELD_OUT_EVERY = 5

Rows = tuple[Sequence[str], Sequence[str]]


def problems(
    split: str,
    *,
    size: int,
    seed: int,
    forced: float,
    columns: int,
    exits: int,
    luck: float,
    senses: tuple,
) -> list[Problem]:
    """Distinct problems of one split.

    Args:
      split: "train" or "test". A prompt belongs to one of them by a hash, so no
        held-out problem occurs in training.
      size: how many problems.
      seed: of all that is drawn.
      forced: share of the columns that are forced, in [0, 1); of SHARES in
        `configs/forks.py`. A whole number of columns: it is rounded.
      columns: length of the road; the stop token comes on top, and is forced.
      exits: forks of the second half at which the road can be left.
      luck: probability that a walker who chooses at random reaches the goal, in (0, 1);
        as near to it as a whole number as the goal allows.
      senses: some of SENSES, the first words of prompts. With both, a policy that
        likes large digits everywhere solves half of the problems and gets no signal
        from the others.

    Raises:
      Refused: an argument is out of its range.
    """
    _check(split, forced, columns, exits, luck)
    if not senses or set(senses) - set(SENSES):
        raise Refused(f"task.senses={senses!r} must be some of {', '.join(SENSES)}.")
    rng = random.Random(f"{split}/{seed}/{forced}")
    found: dict[str, Problem] = {}
    while len(found) < size:
        rows = _road(rng, round(forced * columns), columns, exits)
        sense = rng.choice(senses)
        goal = _goal(rows, sense, luck)
        prompt = f"{sense} {goal} {' '.join(rows[0])} / {' '.join(rows[1])} :"
        if goal is None or prompt in found or _split_of(prompt) != split:
            continue
        spec = {"rows": [" ".join(row) for row in rows], "sense": sense, "goal": goal}
        found[prompt] = Problem(
            id=prompt, prompt=prompt, answer=json.dumps(spec), source="forks"
        )
    return list(found.values())


def demonstrations(
    split: str,
    *,
    size: int,
    seed: int,
    shares: tuple,
    num_problems: int,
    skill: float,
    columns: int,
    exits: int,
    luck: float,
    senses: tuple,
) -> list[Demonstration]:
    """Walks of one who keeps to the road and chooses at random.

    Args:
      split: "train" or "test"; the problems are of that split.
      size: how many walks.
      seed: of problems and walks.
      shares: of forced words; `num_problems` of each.
      num_problems: walked over and over.
      skill: probability of the better word at a fork; 0.5 knows nothing.
      columns, exits, luck, senses: see `problems`.
    """
    if not 0 <= skill <= 1:
        raise Refused(f"task.{skill=} must lie in [0, 1], as a probability.")
    road = dict(columns=columns, exits=exits, luck=luck, senses=senses)
    given = dict(size=num_problems, seed=seed, **road)
    pool = [p for f in shares for p in problems(split, forced=f, **given)]
    rng = random.Random(f"demonstrations/{split}/{seed}")
    walks = []
    for _ in range(size):
        problem = rng.choice(pool)
        spec = json.loads(problem.answer)
        walk: list[str] = []
        for options_here in _columns(spec):
            better, worse = _ranked(options_here, spec["sense"])
            word = better if rng.random() < skill else worse
            walk.append(_carried(walk, spec["sense"]) if word == CARRY else word)
            if word == EXIT:
                break
        walks.append(Demonstration(problem.prompt, " ".join(walk)))
    return walks


def grade(completion: str, answer: str) -> Grade:
    """1.0 if every word is legal, the road is walked to an exit or its end, and the
    digits taken at forks reach the goal.

    Args:
      completion: what the policy wrote, special tokens removed.
      answer: the JSON of `problems`: rows, sense, goal.

    Returns:
      Grade; `extracted` is what was taken at forks, or None if a word is not legal.
    """
    spec = json.loads(answer)
    total = _total(completion.split(), _columns(spec), spec["sense"])
    if total is None:
        return Grade(0.0, None)
    reached = total > spec["goal"] if spec["sense"] == "over" else total < spec["goal"]
    return Grade(1.0 if reached else 0.0, str(total))


def labels(tokens: Sequence[str], answer: str) -> list[str]:
    """For each token of a completion, whether it was forced or a choice.

    A token has the label of its column, whatever was written there, so wrong words have
    one as well. What comes behind the road or an exit is forced: the stop token.

    Args:
      tokens: the completion's, one per word, the stop token included.
      answer: the JSON of `problems`.

    Returns:
      FORCED or CHOICE for each token.
    """
    columns = _columns(json.loads(answer))
    if EXIT in tokens:
        columns = columns[: tokens.index(EXIT) + 1]
    found = [CHOICE if a != b else FORCED for a, b in columns][: len(tokens)]
    return found + [FORCED] * (len(tokens) - len(found))


def words(*, columns: int) -> list[str]:
    """Every word that problems and completions can need, for a word tokenizer."""
    marks = [*SENSES, "/", ":", EXIT, CARRY, MARK]
    return marks + [str(n) for n in range(9 * columns + 1)]


def _road(rng: random.Random, num_forced: int, columns: int, exits: int) -> Rows:
    """Two rows of words, which agree in `num_forced` columns."""
    forced = set(rng.sample(range(columns), num_forced))
    forks = [i for i in range(columns) if i not in forced]
    late = set(rng.sample(forks[len(forks) // 2 :], exits))
    top: list[str] = []
    bottom: list[str] = []
    for i in range(columns):
        pair = [rng.choice(DIGITS)] * 2
        if i in forced:
            kinds = ["copy", MARK]
            if top and top[-1] != MARK:
                kinds.append(CARRY)
            kind = rng.choice(kinds)
            pair = pair if kind == "copy" else [kind] * 2
        else:
            pair = rng.sample(DIGITS, 2)
            if i in late:
                pair[rng.randrange(2)] = EXIT
        top.append(pair[0])
        bottom.append(pair[1])
    return top, bottom


def _goal(rows: Rows, sense: str, luck: float) -> int | None:
    """The goal that a random walker reaches with the probability nearest to `luck`.

    None if it is one that nobody, or everybody, reaches.
    """
    forks = [pair for pair in zip(*rows, strict=True) if pair[0] != pair[1]]
    # How many walks have which total: numbers of `slot` bits, one after another in one
    # integer, so that adding d to all totals is a shift by d places.
    slot, walks, ended = len(forks) + 1, 1, 0
    for i, pair in enumerate(forks):
        after = 0
        for word in pair:
            if word == EXIT:  # it counts for all that would have gone on
                ended += walks << len(forks) - 1 - i
            else:
                after += walks << slot * int(word)
        walks = after
    ended += walks
    counts = [ended >> slot * total & (1 << slot) - 1 for total in range(9 * slot)]
    totals = [total for total, count in enumerate(counts) if count]
    if sense == "over":
        totals.reverse()
    best, distance, reached = None, luck, 0
    for total, beyond in itertools.pairwise(totals):
        reached += counts[total]
        off = abs(reached / 2 ** len(forks) - luck)
        if off < distance:
            best, distance = beyond, off
    return best


def _columns(spec: dict) -> list[tuple[str, str]]:
    """Both words of each column."""
    top, bottom = (row.split() for row in spec["rows"])
    return list(zip(top, bottom, strict=True))


def _ranked(pair: tuple[str, str], sense: str) -> tuple[str, str]:
    """(the better word, the worse one): leaving early is good where less is."""
    a, b = pair
    if EXIT in pair:
        a, b = (b, a) if a != EXIT else (a, b)  # the exit first
        return (b, a) if sense == "over" else (a, b)
    if a == b:
        return pair
    larger = a if int(a) > int(b) else b
    smaller = b if larger == a else a
    return (larger, smaller) if sense == "over" else (smaller, larger)


def _carried(walk: Sequence[str], sense: str) -> str:
    """The digit after the last one, or before it."""
    return str((int(walk[-1]) + (1 if sense == "over" else -1)) % 10)


def _total(
    walk: Sequence[str], columns: Sequence[tuple[str, str]], sense: str
) -> int | None:
    """What was taken at forks, or None if the walk does not keep to the road."""
    total = 0
    for i, (a, b) in enumerate(columns):
        if i == len(walk):
            return None
        allowed = (_carried(walk[:i], sense),) if a == CARRY else (a, b)
        if walk[i] not in allowed:
            return None
        if walk[i] == EXIT:
            return total if len(walk) == i + 1 else None
        if a != b:
            total += int(walk[i])
    return total if len(walk) == len(columns) else None


def _split_of(prompt: str) -> str:
    digest = hashlib.sha256(prompt.encode()).digest()
    return "train" if int.from_bytes(digest[:8]) % _HELD_OUT_EVERY else "test"


def _check(split, forced, columns, exits, luck) -> None:
    check_split(split)
    if columns < 4:
        raise Refused(f"task.columns={columns} must be at least 4.")
    if not 0 <= forced < 1:
        raise Refused(
            f"task.forced={forced} must lie in [0, 1), since a road without forks "
            "leaves nothing to choose."
        )
    forks = columns - round(forced * columns)
    if not 0 <= exits <= forks - forks // 2:
        raise Refused(
            f"task.exits={exits} must lie between 0 and {forks - forks // 2}, the "
            f"forks in the second half of {forks}; lower it, or task.forced."
        )
    if not 0 < luck < 1:
        raise Refused(f"task.luck={luck} must lie in (0, 1), as a probability.")
