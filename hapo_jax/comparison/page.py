"""A comparison as a table (text, Markdown, CSV) and as a picture."""

import csv
import io
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from hapo_jax.comparison import compare
from hapo_jax.comparison import runs as runs_lib
from hapo_jax.comparison.compare import Line
from hapo_jax.comparison.intervals import CONFIDENCE, Estimate
from hapo_jax.comparison.runs import Found

# What a line says of the cost: heading, the ledger's total, scale, form.
_COSTS = (
    ("sampled, M", "ledger/total_sampled_tokens", 1e-6, ".2f"),
    ("trained, M", "ledger/total_trained_tokens", 1e-6, ".2f"),
    ("updates", "ledger/total_updates", 1, ".0f"),
    ("minutes", "time/total", 1 / 60, ".1f"),
)
# Okabe and Ito's colours, told apart by colour-blind readers.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def cells(lines: Sequence[Line], found: Found) -> list[list[str]]:
    """The table, its headings first."""
    scale, unit = _unit(found.metric)
    base = lines[0].variant
    head = ["variant", "seeds", f"final{unit}", "best", "area"]
    head += [f"final - {base}", "area - " + base, "p (Holm)", ""]
    shown = [c for c in _COSTS if any(c[1] in line.cost for line in lines)]
    rows = [[*head, *(c[0] for c in shown)]]
    for line in lines:
        gains = [line.gains.get(name) for name in ("final", "area")]
        rows.append(
            [
                line.variant,
                str(line.final.num_seeds),
                *(_value(getattr(line, m), scale) for m in compare.MEASURES),
                *(_value(gain, scale, "+") if gain else "" for gain in gains),
                "" if math.isnan(line.p) else f"{line.p:.3f}",
                line.verdict,
                *(
                    f"{line.cost.get(key, math.nan) * by:{form}}"
                    for _, key, by, form in shown
                ),
            ]
        )
    return rows


def notes(lines: Sequence[Line], found: Found) -> list[str]:
    """What the table leaves open, in sentences."""
    first = lines[0].final
    over = "seeds and problems" if first.num_problems else "seeds"
    told = [
        f"{found.metric}. [ ]: {100 * CONFIDENCE:.0f} % interval over {over}. "
        "Differences are paired by seed"
        + (f" and by {first.num_problems} problems" if first.num_problems else "")
        + f"; area is over {runs_lib.AXES[found.over][1]}."
    ]
    if found.over != "steps":
        ends = [
            f"{variant} {np.mean([r.curve.axis[-1] for r in by_seed.values()]):,.0f}"
            for variant, by_seed in found.groups.items()
        ]
        told.append(
            f"final is at each run's own end, in {runs_lib.AXES[found.over][1]}: "
            f"{', '.join(ends)}; areas are compared up to the end of the shorter run."
        )
    most = max(line.final.num_seeds for line in lines)
    if 1 < most < 5:
        told.append(
            f"{most} seeds: intervals hold from 5 on; with fewer, take them as a hint."
        )
    for line in lines:
        if line.alone:
            seeds = ", ".join(map(str, line.alone))
            told.append(f"{line.variant}: the baseline has no seed {seeds}.")
    started = [line for line in found.left_out if not line.endswith(runs_lib.NOT_BEGUN)]
    if waiting := len(found.left_out) - len(started):
        told.append(f"left out: {waiting} runs of the sweep that are not begun")
    return [*told, *(f"left out: {line}" for line in started)]


def _unit(metric: str) -> tuple[float, str]:
    """The scale of a metric into what is shown, and its unit behind a heading."""
    rate = any(f"/{name}" in metric for name in ("avg@", "pass@", "maj@", "greedy"))
    return (100.0, ", %") if rate else (1.0, "")


def _value(found: Estimate, scale: float, sign: str = "") -> str:
    form = f"{sign}.1f" if scale == 100 else f"{sign}.4g"
    mean = f"{scale * found.mean:{form}}"
    if math.isnan(found.low):
        return mean
    return f"{mean} [{scale * found.low:{form}}, {scale * found.high:{form}}]"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The table in Markdown."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text(rows: Sequence[Sequence[str]]) -> str:
    """The table in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = row
        line = [first.ljust(widths[0])]
        line += [cell.rjust(width) for cell, width in zip(others, widths[1:])]
        lines.append("  ".join(line).rstrip())
    return "\n".join(lines)


def per_seed_csv(found: Found) -> str:
    """A line per run: variant, seed, the measures, costs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = [key for _, key, _, _ in _COSTS]
    writer.writerow(["variant", "seed", *compare.MEASURES, *keys, "folder"])
    for variant, by_seed in found.groups.items():
        for seed, run in sorted(by_seed.items()):
            values = [compare.measure(run.curve, m).mean() for m in compare.MEASURES]
            costs = [run.cost.get(key, "") for key in keys]
            writer.writerow(
                [variant, seed, *(f"{v:.6g}" for v in values), *costs, run.folder.name]
            )
    return out.getvalue()


def draw(lines: Sequence[Line], found: Found, path: pathlib.Path) -> None:
    """Learning curves with bands, and the differences with their intervals."""
    from matplotlib.figure import Figure

    scale, unit = _unit(found.metric)
    height = max(4.0, 0.32 * len(lines) + 1.2)
    figure = Figure(figsize=(11, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for i, line in enumerate(lines):
        colour = _COLOURS[i % len(_COLOURS)]
        style = ("-", "--", ":", "-.")[i // len(_COLOURS) % 4]
        axis, estimates = compare.bands(found.groups[line.variant])
        means = [scale * e.mean for e in estimates]
        left.plot(axis, means, style, color=colour, label=line.variant, lw=1.6)
        if not math.isnan(estimates[0].low):
            low = [scale * e.low for e in estimates]
            high = [scale * e.high for e in estimates]
            left.fill_between(axis, low, high, color=colour, alpha=0.12, lw=0)
    left.set_xlabel(runs_lib.AXES[found.over][1])
    left.set_ylabel(f"{found.metric}{unit}")
    left.legend(fontsize="small", frameon=False)
    others = [line for line in lines if line.gains]
    for y, line in enumerate(reversed(others)):
        gain = line.gains["final"]
        colour = "#888888" if line.verdict == "within noise" else "#0072B2"
        right.plot([scale * gain.mean], [y], "o", color=colour)
        if not math.isnan(gain.low):
            ends = [scale * gain.low, scale * gain.high]
            right.plot(ends, [y, y], "-", color=colour, lw=2)
    right.axvline(0, color="black", lw=0.8)
    right.set_yticks(range(len(others)), [line.variant for line in reversed(others)])
    points = " points" if scale == 100 else ""
    right.set_xlabel(f"final - {lines[0].variant}{',' + points if points else ''}")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
