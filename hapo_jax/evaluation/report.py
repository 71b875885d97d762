"""What a run has learnt, for people: one picture of its curves, one table of figures.

The figures themselves are those of `figures.py`. Needs no JAX; `train.py`,
`evaluate.py` and notebooks call this.
"""

import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hapo_jax.evaluation import figures as figures_lib
from hapo_jax.runs import records as records_lib
from hapo_jax.system.errors import Refused

if TYPE_CHECKING:  # imported where it is drawn, so that a run starts sooner
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stay apart in grey and for colour-blind readers (Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_PANEL_INCHES = (4.0, 2.6)
_COLUMNS = 3
_DPI = 150
_SMOOTH_FRACTION = 1 / 20  # of the run, width of the running mean
_SMOOTH_MIN_STEPS = 40  # below this the raw values are readable
_PEAK_FACTOR = 3.0  # times the median, where a robust panel ends


# Metrics of an evaluation: rates in [0, 1] as patterns of whole keys; others with their
# unit and decimals.
ACCURACIES = (r"eval/greedy", r"eval/avg@\d+", r"eval/pass@\d+")
ALL_RATES = (*ACCURACIES[:2], r"eval/maj@\d+", ACCURACIES[2], r"eval/truncated")
OTHERS = {"eval/length": ("tokens", 1), "eval/entropy": ("nats/token", 3)}


class Panel(NamedTuple):
    """One picture: the metrics that it shows, and how they are named.

    Attributes:
      title: above the picture, with the unit.
      keys: regular expressions that match whole keys; one line per key found.
      band: keys of a lower and an upper bound, shaded; or None.
      limits: of the vertical axis; None follows the data.
      robust: show the usual values and only name the peak, such as the first step's
        time, which is spent compiling.
    """

    title: str
    keys: tuple[str, ...]
    band: tuple[str, str] | None = None
    limits: tuple[float | None, float | None] = (None, None)
    robust: bool = False


PANELS = (
    Panel("mean reward of sampled completions", (r"rollout/reward",)),
    Panel(
        f"held-out accuracy, {100 * figures_lib.CONFIDENCE:.0f} % intervals",
        ACCURACIES,
        limits=(0, 1),
    ),
    Panel("token entropy, nats", (r"entropy/mean",), limits=(0, None)),
    Panel("completion length, tokens", (r"length/mean",), limits=(0, None)),
    Panel(
        "sampling temperature, mean and range",
        (r"temperature/mean",),
        band=("temperature/min", "temperature/max"),
    ),
    Panel("time per step, seconds", (r"time/step",), limits=(0, None), robust=True),
)


def table(
    rows: Mapping[str, Mapping[str, float]],
    *,
    rates: Sequence[str] = ACCURACIES,
    change: bool = True,
) -> str:
    """A text table of evaluations, one line each, and the last minus the first.

    Of pass@j only the largest j is shown.

    Args:
      rows: the policy in words → metrics of its evaluation: `eval/greedy`,
        `eval/avg@k`, `eval/pass@k` in [0, 1], with their intervals under the same names
        and `_low`, `_high`; `eval/length` in tokens; `eval/entropy` in nats per token.
        A metric that some policy lacks is left out.

      rates: patterns of metrics that are shown in per cent, in this order.
      change: whether the rows are policies on equal problems, to be subtracted.

    Raises:
      Refused: there is no policy, or no metric that all of them have.
    """
    shared = set.intersection(*map(set, rows.values())) if rows else set()
    rates = _matching(rates, _largest_pass(shared))
    others = [key for key in OTHERS if key in shared]
    if not rates + others:
        raise Refused(
            f"no metric of an evaluation is common to {list(rows) or 'no policy'}."
        )
    lines = [["", *map(_name, rates), *map(_name, others)]]
    lines.append(["", *["%"] * len(rates), *(OTHERS[key][0] for key in others)])
    for label, metrics in rows.items():
        cells = [_percent(metrics, key) for key in rates]
        cells += [f"{metrics[key]:.{OTHERS[key][1]}f}" for key in others]
        lines.append([label, *cells])
    if change and len(rows) > 1:
        first, *_, last = rows.values()
        cells = [f"{100 * (last[key] - first[key]):+.1f}" for key in rates]
        cells += [f"{last[key] - first[key]:+.{OTHERS[key][1]}f}" for key in others]
        lines.append(["change", *cells])
    note = f"[ ] {100 * figures_lib.CONFIDENCE:.0f} % interval over problems"
    return "\n".join([*in_columns(lines, heads=2), note])


def in_columns(lines: Sequence[Sequence[str]], *, heads: int) -> list[str]:
    """A table as lines of text: its first column to the left, the others to the right.

    Args:
      lines: cells, as many in each line.
      heads: lines above the upper rule.
    """
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    rule = "-" * len(text[0])
    return [*text[:heads], rule, *text[heads:], rule]


def of_last_protocol(
    figures: Mapping[int, Mapping[str, float]], steps: Sequence[int]
) -> list[int]:
    """The evaluated steps whose figures can be compared with those of the last.

    Args:
      figures: step → metrics, with `eval/protocol` unless an older version made them.
      steps: those that were evaluated, ascending, at least one.
    """
    protocols = {step: figures[step].get(figures_lib.PROTOCOL) for step in steps}
    return [step for step in steps if protocols[step] == protocols[steps[-1]]]


def _name(key: str) -> str:
    return key.split("/", 1)[1]


def _percent(metrics: Mapping[str, float], key: str) -> str:
    """A rate with its interval, where there is one."""
    text = f"{100 * metrics[key]:.1f}"
    if f"{key}_low" not in metrics:
        return text
    low, high = 100 * metrics[f"{key}_low"], 100 * metrics[f"{key}_high"]
    return f"{text} [{low:.1f}, {high:.1f}]"


def plot_curves(workdir: str | pathlib.Path) -> pathlib.Path:
    """Draws `curves` into the run's `curves.png`; returns the path of the picture.

    Raises:
      Refused: the run has none of the metrics.
    """
    path = pathlib.Path(workdir) / "curves.png"
    curves(workdir).savefig(path, dpi=_DPI)
    return path


def curves(workdir: str | pathlib.Path) -> "Figure":
    """The panels of `PANELS` over the steps of a run, for a file or a notebook.

    Metrics that the run does not have leave their panel out.

    Args:
      workdir: the run's folder.

    Raises:
      Refused: the run has none of the metrics.
    """
    from matplotlib.figure import Figure

    rows = records_lib.read_metrics(workdir)
    known = _largest_pass({key for row in rows for key in row})
    panels = [
        (panel, keys) for panel in PANELS if (keys := _matching(panel.keys, known))
    ]
    if not panels:
        raise Refused(f"workdir={str(workdir)!r} holds no metrics to draw.")

    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (panel, keys) in zip(axes, panels):
        _draw(axis, panel, keys, rows)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[: len(panels)][-columns:]:
        axis.set_xlabel("step")
    return figure


def _matching(patterns: Sequence[str], known: set[str]) -> list[str]:
    """The known keys that match whole, in the order of the patterns."""
    return [
        key
        for pattern in patterns
        for key in sorted(known)
        if re.fullmatch(pattern, key)
    ]


def _largest_pass(known: set[str]) -> set[str]:
    """The keys without pass@j but for the largest j."""
    passes = [key for key in known if re.fullmatch(r"eval/pass@\d+", key)]
    passes.sort(key=lambda key: int(key.partition("@")[2]))
    return known - {*passes[:-1]}


def _draw(axis: "Axes", panel: Panel, keys: list[str], rows: list[dict]) -> None:
    """Draws one panel: raw values pale, their running mean on top, bounds shaded.

    A line of an evaluation breaks off where another protocol begins.
    """
    axis.set_title(panel.title, fontsize=10, loc="left")
    for key, color in zip(keys, COLORS):
        band = panel.band or (f"{key}_low", f"{key}_high")
        label = _name(key) if len(keys) > 1 else None
        for piece in _pieces(rows, key):
            _shade(axis, piece, *band, color)
            _line(axis, *_series(piece, key), color, label, robust=panel.robust)
            label = None  # the legend names a metric once
    axis.set_ylim(*panel.limits)  # after the data, which sets the open ends
    if panel.robust:
        _cut_peak(axis, np.concatenate([_series(rows, key)[1] for key in keys]))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.tick_params(labelsize=8)
    axis.grid(color="0.9", lw=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if len(keys) > 1:
        axis.legend(fontsize=8, frameon=False, loc="best")


def _pieces(rows: list[dict], key: str) -> list[list[dict]]:
    """The rows of a metric, cut where evaluations began to follow another protocol."""
    if not key.startswith("eval/"):
        return [rows]
    known = [row for row in rows if key in row]
    groups = itertools.groupby(known, key=lambda row: row.get(figures_lib.PROTOCOL))
    return [list(piece) for _, piece in groups]


def _line(axis: "Axes", steps, values, color: str, label, *, robust: bool) -> None:
    """Draws one line, with its running mean or median if it is long."""
    if len(values) < _SMOOTH_MIN_STEPS:
        axis.plot(steps, values, color=color, lw=1.6, marker=".", label=label)
        return
    smooth = _running(np.median if robust else np.mean, values)
    axis.plot(steps, values, color=color, lw=0.7, alpha=0.35)
    axis.plot(steps, smooth, color=color, lw=1.8, label=label)


def _shade(axis: "Axes", rows: list[dict], low: str, high: str, color: str) -> None:
    """Shades between two metrics over the steps that have both."""
    both = [row for row in rows if low in row and high in row]
    steps, lows = _series(both, low)
    _, highs = _series(both, high)
    if len(lows) == len(highs):
        axis.fill_between(steps, lows, highs, color=color, alpha=0.15, lw=0)


def _cut_peak(axis: "Axes", values: np.ndarray) -> None:
    top = _PEAK_FACTOR * np.median(values)
    if values.max() > top:
        axis.set_ylim(top=top)
        text = f"peak {values.max():.3g}"
        axis.annotate(
            text, (0.98, 0.92), xycoords="axes fraction", ha="right", fontsize=8
        )


def _series(rows: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, where there is a finite one."""
    pairs = [(r["step"], r[key]) for r in rows if np.isfinite(r.get(key, np.nan))]
    steps, values = np.array(pairs).reshape(-1, 2).T
    return steps, values


def _running(reduce, values: np.ndarray) -> np.ndarray:
    """Mean or median of a centred window; at the ends of the part that there is."""
    half = max(1, round(len(values) * _SMOOTH_FRACTION / 2))
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return np.array([reduce(window) for window in windows])
