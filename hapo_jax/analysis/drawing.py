"""How the figures of this folder look: panels, colours, axes, labels, bars."""

import re
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hapo_jax.evaluation import report

GREY = "0.4"
_INCHES = (4.4, 3.2)  # of a panel
_COLUMNS = 3
_MOST_POINTS = 5_000  # of a cloud; more are thinned out
# Of a picture's width and height, which labels keep from each other.
_APART = (0.07, 0.06)
_METRIC_LABELS = {
    "entropy/mean": "token entropy, nats",
    "length/mean": "completion length, tokens",
    "rollout/accuracy": "accuracy of sampled completions",
    "eval/length": "held-out completion length, tokens",
    "eval/entropy": "held-out token entropy, nats",
}
LEGEND = {"fontsize": 8, "title_fontsize": 8, "frameon": False}


def panels(
    count: int, *, wide: float = 1.0, high: float = 1.0, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, in rows of `_COLUMNS`."""
    columns = 2 if count == 4 else min(count, _COLUMNS)
    rows = -(-count // columns)
    size = wide * _INCHES[0] * columns, high * _INCHES[1] * rows
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel()
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, [*axes[:count]]


def tidy(axis: Axes, title: str, x: str, y: str, *, grid: str = "both") -> None:
    """Names the axis and its sides, and takes away what distracts."""
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(axis=grid, color="0.9", lw=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def legend_beside(figure: Figure, axis: Axes, title: str = "") -> None:
    """The legend of one panel that holds for all, to their right."""
    shown = axis.get_legend_handles_labels()
    figure.legend(*shown, title=title, loc="outside right upper", **LEGEND)


def colors(count: int) -> Sequence:
    """So many that stay apart in grey and for colour-blind readers."""
    if count <= len(report.COLORS):
        return report.COLORS[:count]
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.9, count))


def shade_pivots(axis: Axes, tokens: pd.DataFrame) -> None:
    """Where the line between confident and uncertain lay; entropy is across."""
    low, high = tokens["pivot"].min(), tokens["pivot"].max()
    if low < high:
        axis.axvspan(
            low, high, color="0.5", alpha=0.25, lw=0, label="pivots, all steps"
        )
    else:
        axis.axvline(low, color="0.5", lw=1, label="pivot")


def name_points(axis: Axes, table: pd.DataFrame) -> None:
    """Names the points, the most frequent first, where there is room."""
    taken: list[np.ndarray] = []
    to_axes = axis.transData + axis.transAxes.inverted()
    for name, line in table.iterrows():
        at = to_axes.transform((line["entropy"], line["frequency"]))
        if all((abs(at - other) > _APART).any() for other in taken):
            taken.append(at)
            axis.annotate(
                repr(name)[1:-1],
                (line["entropy"], line["frequency"]),
                (4, 3),
                textcoords="offset points",
                fontsize=8,
                family="monospace",
                parse_math=False,
            )


def with_bars(
    axis: Axes, x, table: pd.DataFrame, name: str, color, mark, label
) -> None:
    """Shares in per cent with their intervals."""
    value, low, high = (100 * table[n] for n in (name, f"{name}_low", f"{name}_high"))
    bars = np.nan_to_num([value - low, high - value]).clip(0)
    axis.errorbar(
        x, value, bars, fmt=mark, color=color, lw=1.4, ms=5, capsize=3, label=label
    )


def thinned(tokens: pd.DataFrame, most: int = _MOST_POINTS) -> pd.DataFrame:
    """At most so many of the tokens, evenly over the frame."""
    return tokens.iloc[:: max(1, -(-len(tokens) // most))]


def metric_label(metric: str) -> str:
    """A metric in words with its unit, or its key."""
    if re.fullmatch(r"eval/(avg|pass|maj)@\d+", metric):
        return f"held-out accuracy, {metric.removeprefix('eval/')}"
    return _METRIC_LABELS.get(metric, metric)
