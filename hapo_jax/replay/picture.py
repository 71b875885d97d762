"""What another setting would have done to a step's tokens, in one picture."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hapo_jax.evaluation import report
from hapo_jax.learner import metrics
from hapo_jax.replay import step as step_lib
from hapo_jax.replay.step import Replayed
from hapo_jax.runs import records as records_lib

_BINS = 10  # of entropy, with as many tokens each
_STRIP = 36  # tokens that are readable side by side
_NAMES = ("as it ran", "instead")
_COLORS = report.COLORS[:2]


def picture(
    workdir: str | pathlib.Path,
    step: int,
    changes: Mapping[str, Any] | None = None,
    *,
    method: str | None = None,
    at: str | int = "updates",
) -> Figure:
    """A step as it was beside the same step under another method or settings.

    Left, the push of every token then and now: on the diagonal nothing has changed.
    Middle, the mean push by entropy, of completions whose advantage is above and below
    0. Below, the tokens where it changes most.

    Args: as of `replay`.
    """
    then = step_lib.replay(workdir, step, at=at)
    now = step_lib.replay(workdir, step, changes, method=method, at=at)
    said = [f"{k.removeprefix('algo.')}={v}" for k, v in (changes or {}).items()]
    instead = ", ".join([now.config.method, *said])
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 2))
    _scatter(figure.add_subplot(grid[0, 0]), then, now)
    _by_entropy(figure.add_subplot(grid[0, 1]), then, now)
    _strip(figure.add_subplot(grid[1, :]), workdir, then, now)
    figure.suptitle(
        f"step {step}: {then.config.method} as it ran; instead: {instead}",
        x=0.01,
        ha="left",
    )
    return figure


def _tokens(replayed: Replayed) -> np.ndarray:
    """[B, T] bool, tokens of the batch."""
    rows = replayed.recorded.rows
    return metrics.own_tokens(rows.mask, rows.beside)


def _scatter(axes: Axes, then: Replayed, now: Replayed) -> None:
    mask = _tokens(then)
    entropy = then.recorded.rows.old_entropy[mask]
    points = axes.scatter(
        1e3 * then.push[mask], 1e3 * now.push[mask], c=entropy, cmap="cividis", s=8
    )
    axes.axline((0, 0), slope=1, color="0.6", lw=0.8, zorder=0)
    axes.figure.colorbar(points, ax=axes, label="entropy (nats)")
    axes.set_xlabel(f"push × 1000, {_NAMES[0]}")
    axes.set_ylabel(f"push × 1000, {_NAMES[1]}")
    _plain(axes, "every token: above 0 it is made more probable")


def _by_entropy(axes: Axes, then: Replayed, now: Replayed) -> None:
    mask = _tokens(then) & (then.terms.base_advantages != 0)
    entropy = then.recorded.rows.old_entropy
    edges = (
        np.quantile(entropy[mask], np.linspace(0, 1, _BINS + 1)) if mask.any() else []
    )
    for replayed, name, colour in zip((then, now), _NAMES, _COLORS, strict=True):
        for sign, style in ((1, "-"), (-1, "--")):
            chosen = mask & (np.sign(then.terms.base_advantages) == sign)
            if not chosen.any():
                continue
            place = np.clip(np.searchsorted(edges, entropy[chosen]) - 1, 0, _BINS - 1)
            count = np.bincount(place, minlength=_BINS)
            there = count > 0
            mean, middle = (
                np.bincount(place, x[chosen], _BINS)[there] / count[there]
                for x in (1e3 * replayed.push, entropy)
            )
            side = "above 0" if sign > 0 else "below 0"
            axes.plot(
                middle,
                mean,
                style,
                marker="o",
                ms=3,
                color=colour,
                label=f"{name}, advantage {side}",
            )
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set_xlabel("entropy (nats), mean of a tenth of the tokens")
    axes.set_ylabel("mean push × 1000")
    axes.legend(fontsize=8, frameon=False)
    _plain(axes, "by entropy")


def _strip(
    axes: Axes,
    workdir: str | pathlib.Path,
    then: Replayed,
    now: Replayed,
) -> None:
    """The stretch of a completion where the two differ most in sum."""
    gap = np.where(_tokens(then), np.abs(now.push - then.push), 0)
    width = min(_STRIP, gap.shape[1])
    sums = np.cumsum(np.pad(gap, ((0, 0), (1, 0))), axis=1)
    row, first = np.unravel_index(
        np.argmax(sums[:, width:] - sums[:, :-width]),
        (len(gap), gap.shape[1] - width + 1),
    )
    stop = min(first + width, int(then.recorded.rows.mask[row].sum()))
    first = max(0, stop - width)
    at = np.arange(stop - first)
    for replayed, name, colour, shift in (
        (then, _NAMES[0], _COLORS[0], -0.2),
        (now, _NAMES[1], _COLORS[1], 0.2),
    ):
        push = 1e3 * replayed.push[row, first:stop]
        axes.bar(at + shift, push, 0.4, color=colour, label=name)
    axes.axhline(0, color="0.6", lw=0.8)
    strings = _strings(workdir, then, row)[first:stop]
    axes.set_xticks(at, strings, rotation=90, fontsize=8, family="monospace")
    axes.set_xlim(-1, max(width, 1))
    axes.set_ylabel("push × 1000")
    score = then.recorded.rows.scores[row]
    _plain(axes, f"where they differ most: a completion with score {score:g}")


def _strings(workdir: str | pathlib.Path, replayed: Replayed, row: int) -> list[str]:
    """The tokens of a row, as `rollouts/` has them: it leaves out what is empty or
    beside the batch."""
    rows = replayed.recorded.rows
    own = rows.prompt_ids >= 0
    if rows.beside is not None:
        own &= ~rows.beside
    step = replayed.recorded.step
    found = records_lib.read_rollouts(workdir, step)
    return [s.replace(" ", "␣") for s in found[own[:row].sum()]["token_strings"]]


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
