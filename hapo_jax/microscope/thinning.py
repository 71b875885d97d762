"""Which steps and groups of a run are kept, where all of them are too many."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hapo_jax.system.errors import Refused

TOKENS = 600_000  # of a page, about 10 MB
GROUPS = 4  # of each step that are kept before steps are left out
LINES = 4_000  # of the metrics


class Kept(NamedTuple):
    """What is kept.

    Attributes:
      groups: step → groups, in the order of the records.
      words: the rule and what it has left out; empty if nothing.
    """

    groups: dict[int, list[int]]
    words: str


def keep(sizes: Mapping[int, Sequence[tuple[int, int]]], limit: int) -> Kept:
    """Thins the records of a run to a number of tokens.

    As many steps as there is room for, evenly spaced, the first and the last among
    them, each with its first `GROUPS` groups; then further groups in the order of the
    records, as long as they fit. Groups are whole. One group of the first and one of
    the last step stay, however long they are.

    Args:
      sizes: step → (group, tokens) of each completion, see `records.rollout_sizes`.
      limit: of tokens.
    """
    tokens = {step: _by_group(rows) for step, rows in sizes.items()}
    total = sum(sum(groups.values()) for groups in tokens.values())
    if total <= limit:
        return Kept({step: [*groups] for step, groups in tokens.items()}, "")
    chosen: dict[int, int] = {}  # step → how many of its groups
    for wanted in (GROUPS, 1):
        for count in range(len(tokens), 0, -1):
            steps = _evenly([*tokens], count)
            chosen = {step: min(wanted, len(tokens[step])) for step in steps}
            if _sum(tokens, chosen) <= limit:
                break
        if _sum(tokens, chosen) <= limit:
            break
    else:
        chosen = dict.fromkeys({min(tokens), max(tokens)}, 1)
    for number in range(1, max(map(len, tokens.values()))):
        for step in chosen:
            more = chosen | {step: chosen[step] + 1}
            fits = len(tokens[step]) > chosen[step] == number
            if fits and _sum(tokens, more) <= limit:
                chosen = more
    kept = {s: [*tokens[s]][: chosen[s]] for s in sorted(chosen)}
    return Kept(kept, _words(tokens, chosen, total, limit))


def named(sizes: Mapping[int, Sequence[tuple[int, int]]], steps: Sequence[int]):
    """The part of `sizes` that `--steps` asks for.

    Raises:
      Refused: a step was not recorded.
    """
    unknown = [step for step in steps if step not in sizes]
    if unknown:
        raise Refused(
            f"--steps={','.join(map(str, unknown))}: not recorded; recorded are "
            f"{', '.join(map(str, sizes)) or 'none'} (log.record_every_steps)."
        )
    return {step: sizes[step] for step in sorted({*steps})}


def lines(steps: Sequence[int], marked: set[int]) -> tuple[list[int], str]:
    """Which steps of the metrics are kept: places in `steps`, and the rule in words.

    Args:
      steps: of the metrics, ascending.
      marked: steps that are kept whatever happens: evaluations and findings.
    """
    every = -(-len(steps) // LINES)
    if every <= 1:
        return [*range(len(steps))], ""
    last = len(steps) - 1
    places = [
        i for i, s in enumerate(steps) if i % every == 0 or i == last or s in marked
    ]
    return places, (
        f"Curves show every {every}th of {len(steps):,} steps, and those with an "
        "evaluation or a finding."
    )


def _by_group(rows: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Group → tokens, in the order of the records."""
    found: dict[int, int] = {}
    for group, tokens in rows:
        found[group] = found.get(group, 0) + tokens
    return found


def _evenly(steps: Sequence[int], count: int) -> list[int]:
    places = np.linspace(0, len(steps) - 1, count).round().astype(int)
    return [steps[i] for i in places] if count > 1 else [steps[-1]]


def _sum(tokens: Mapping[int, Mapping[int, int]], chosen: Mapping[int, int]) -> int:
    return sum(sum([*tokens[s].values()][:n]) for s, n in chosen.items())


def _words(tokens, chosen, total: int, limit: int) -> str:
    counts = sorted(set(chosen.values()))
    groups = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    most = max(map(len, tokens.values()))
    text = (
        f"Thinned: {len(chosen)} of {len(tokens)} recorded steps, evenly spaced, the "
        f"first {groups} of up to {most} recorded groups of each; "
        f"{_sum(tokens, chosen):,} of {total:,} tokens. --tokens={limit} is the limit, "
        "and --steps names the steps."
    )
    if _sum(tokens, chosen) > limit:
        text += " A group is never cut, so the limit is exceeded."
    return text
