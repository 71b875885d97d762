"""Two evaluations side by side: paired differences, problem by problem.

Both drew the same problems with the same random keys, so the difference of a problem
varies far less than its two figures: its interval is that of the differences.
"""

import pathlib
from typing import Any

import numpy as np

from hapo_jax.evaluation import figures as figures_lib
from hapo_jax.evaluation import report
from hapo_jax.runs import changes, evaluations
from hapo_jax.system.errors import Refused

# What may differ between two evaluations that are compared: the policy …
_MAY_DIFFER = ("checkpoint", "model", "tokenizer", evaluations.FILES)
# … and with another tokenizer what is in its ids.
_OF_TOKENIZER = ("prompts", "stop_ids")
# Of a figure: its unit, the scale into it, decimals.
_RATE = ("%", 100, 1)
_UNITS = {"length": ("tokens", 1, 1), "entropy": ("nats", 1, 3)}
_HEADER = ("", "problems", "A", "B", "B - A", "B > A", "B < A")


def compare(a: str | pathlib.Path, b: str | pathlib.Path) -> str:
    """A table of B minus A for each figure of each set that both have.

    Args:
      a, b: folders of results, as `hapo-eval --out` wrote them.

    Raises:
      Refused: a folder holds none, they have no set in common, or a set was
        evaluated with other settings; names the differences.
    """
    folders = pathlib.Path(a), pathlib.Path(b)
    names_a, names_b = (evaluations.read_results(folder) for folder in folders)
    shared = [name for name in names_a if name in names_b]
    if not shared:
        raise Refused(
            f"--compare: {a} holds {', '.join(names_a)} and {b} {', '.join(names_b)}; "
            "evaluate one set in both."
        )
    lines, notes = [_HEADER], []
    for name in shared:
        found = [evaluations.read_set(folder, name) for folder in folders]
        unlike = _not_compared(*(settings for settings, _ in found))
        lines += _set(name, *found, folders, unlike)
        if unlike:
            notes.append(f"{name}: {', '.join(unlike)} could not be compared")
    left_out = sorted({*names_a, *names_b} - {*shared})
    note = f"[ ] {100 * figures_lib.CONFIDENCE:.0f} % interval over problems, paired"
    if left_out:
        notes.append(f"only in one: {', '.join(left_out)}")
    head = [f"A: {folders[0]}", f"B: {folders[1]}", ""]
    return "\n".join([*head, *report.in_columns(lines, heads=1), note, *notes])


def paired(
    a: np.ndarray, b: np.ndarray, most: float = 1.0, *, draws: int = 0
) -> tuple[float, float, float]:
    """Mean of b - a over problems, and its interval.

    Args:
      a, b: [n] the figure of each problem, in one order.
      most: what it cannot exceed; the difference lies within ± this.
      draws: completions per problem of a rate, see `figures.interval`.
    """
    difference = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    ends = figures_lib.interval(difference, -most, most, draws=draws)
    return float(difference.mean()), *ends


def _not_compared(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What of the prompts only one of two evaluations knows, or knows in other ids.

    Texts and gold answers are compared in any case.
    """
    # Versions that did not note the tokenizer did not note these either.
    if a.get("tokenizer") == b.get("tokenizer"):
        return []
    return [key for key in _OF_TOKENIZER if key in a or key in b]


def _set(
    name: str,
    a: tuple[dict[str, Any], dict[str, Any]],
    b: tuple[dict[str, Any], dict[str, Any]],
    folders: tuple[pathlib.Path, pathlib.Path],
    unlike: list[str],
) -> list[tuple[str, ...]]:
    """The lines of one set; `unlike` are settings that are not compared."""
    (settings_a, records_a), (settings_b, records_b) = a, b
    ignore = (*_MAY_DIFFER, *unlike)
    differing = [
        f"{key}: {of_a!r} and {of_b!r}"
        for key, of_a, of_b in changes.between(settings_a, settings_b, ignore=ignore)
    ]
    if records_a.keys() != records_b.keys():
        only = sorted(records_a.keys() ^ records_b.keys())
        differing.append(f"problems in one of them alone: {', '.join(only[:5])}")
    if differing:
        listing = "\n".join(f"  {line}" for line in differing)
        raise Refused(
            f"--compare: {folders[0]} and {folders[1]} evaluated {name} with other "
            f"settings:\n{listing}\nEvaluate both alike; their differences would "
            "compare settings."
        )
    k, ids = settings_a["k"], list(records_a)
    figures_a, figures_b = (
        figures_lib.per_problem([records[i] for i in ids], sorted({1, k} - {1}))
        for records in (records_a, records_b)
    )
    limit = settings_a.get("max_completion_tokens")
    return [
        _line(name, key, values, figures_b[key], k, limit)
        for key, values in figures_a.items()
    ]


def _line(
    name: str, key: str, a: np.ndarray, b: np.ndarray, k: int, limit: int | None
) -> tuple[str, ...]:
    """The line of one figure; without a bound on it the interval is left out."""
    unit, scale, digits = _UNITS.get(key, _RATE)
    difference = f"{scale * (b.mean() - a.mean()):+.{digits}f}"
    if (most := figures_lib.ceiling(key, limit)) is not None:
        _, low, high = paired(a, b, most, draws=figures_lib.draws(key, k))
        difference += f" [{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"
    return (
        f"{name} {key}, {unit}",
        str(len(a)),
        f"{scale * a.mean():.{digits}f}",
        f"{scale * b.mean():.{digits}f}",
        difference,
        str(int((b > a).sum())),
        str(int((b < a).sum())),
    )
