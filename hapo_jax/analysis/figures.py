"""What the paper observed, as pictures: `figures.NAME` draws what a table NAME gives.

The tables are those of `tables` and `words`; each docstring has the statement of arXiv
2509.16591 (HAPO) that is tested. All take the frames of `frames` and return a
`matplotlib.figure.Figure` of their own, which notebooks show and `savefig` writes; no
global state of pyplot is touched. Intervals are at 95 %.
"""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hapo_jax.analysis import drawing, frames, tables, words
from hapo_jax.evaluation import report

CONFIDENT, UNCERTAIN = report.COLORS[:2]
KIND_COLORS = dict(zip(tables.KINDS, (CONFIDENT, UNCERTAIN)))


def entropy_quantiles(
    tokens: pd.DataFrame, quantiles: tuple[float, ...] = tables.QUANTILES
) -> Figure:
    """Quantiles of the entropy over the steps, a panel per run.

    Paper: few tokens are uncertain; most are all but certain, throughout training.
    """
    table = tables.entropy_quantiles(tokens, quantiles)
    figure, axes = drawing.panels(table["run"].nunique(), sharey=True)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(quantiles)))
    for axis, (run, part) in zip(axes, table.groupby("run", sort=False)):
        for quantile, shade in reversed([*zip(quantiles, shades)]):
            label = f"{100 * quantile:g} %"
            axis.plot(part["step"], part[quantile], ".-", color=shade, label=label)
        axis.set_yscale("log")
        drawing.tidy(axis, f"{run}: entropy quantiles", "step", "entropy, nats")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawing.legend_beside(figure, axes[-1], "of tokens below")
    return figure


def entropy_distribution(tokens: pd.DataFrame, bins: int = 50) -> Figure:
    """Tokens by entropy, stacked by kind, with the pivots of the steps in grey.

    Paper: the distribution is far from even; high entropy is the exception.
    """
    table = tables.entropy_distribution(tokens, bins)
    figure, (axis,) = drawing.panels(1, wide=1.3)
    bottom = np.zeros(len(table))
    for kind, color in KIND_COLORS.items():
        label = f"{kind}, {100 * table[kind].sum() / len(tokens):.0f} % of tokens"
        axis.bar(
            table["left"],
            table[kind],
            table["right"] - table["left"],
            bottom,
            align="edge",
            color=color,
            label=label,
        )
        bottom += table[kind].to_numpy()
    drawing.shade_pivots(axis, tokens)
    axis.set_xscale("log")
    drawing.tidy(axis, "all tokens", "entropy, nats", "tokens")
    axis.legend(**drawing.LEGEND)
    return figure


def by_string(
    tokens: pd.DataFrame, *, by: str = "string", least: int = 10, most: int = 200
) -> Figure:
    """Frequency against mean entropy, a point per string or stem; some are named.

    Paper: frequent tokens are mostly certain; dual ones are on both sides of the pivot.
    """
    table = words.by_string(tokens, by=by, least=least, most=most)
    figure, (axis,) = drawing.panels(1, wide=1.6, high=1.3)
    shown = {"on one side of the pivot": ~table["dual"], "on both sides": table["dual"]}
    for (label, hit), color, mark in zip(shown.items(), report.COLORS, "os"):
        some = table[hit.astype(bool)]
        axis.plot(
            some["entropy"], some["frequency"], mark, color=color, ms=5, label=label
        )
    axis.set(xscale="log", yscale="log")
    drawing.shade_pivots(axis, tokens)
    drawing.tidy(axis, f"by {by}", "mean entropy, nats", "share of tokens")
    axis.legend(**drawing.LEGEND)
    drawing.name_points(axis, table)
    return figure


def dual_entropy(
    tokens: pd.DataFrame, *, by: str = "string", least: int = 10, most: int = 18
) -> Figure:
    """The entropies of every dual string or stem, a point per token, jittered.

    Paper, dual entropy: the same word is certain in one place and a choice in another.
    """
    table = words.dual_entropy(tokens, by=by, least=least, most=most)
    table = table.sort_values("entropy")
    figure, (axis,) = drawing.panels(1, wide=1.6, high=max(0.7, 0.08 * len(table)))
    key = tokens["string"].map(words.stem) if by == "stem" else tokens["string"]
    rng = np.random.default_rng(0)
    for y, name in enumerate(table.index):
        some = drawing.thinned(tokens[key == name], 500)
        for kind, color in KIND_COLORS.items():
            x = some["entropy"][some["uncertain"] == (kind == "uncertain")]
            jitter = y + rng.uniform(-0.3, 0.3, len(x))
            axis.plot(x, jitter, ".", color=color, ms=4, alpha=0.4, mew=0)
    axis.set_xscale("log")
    drawing.shade_pivots(axis, tokens)
    labels = [
        f"{name!r} {100 * share:.0f} %"
        for name, share in table["share_uncertain"].items()
    ]
    axis.set_yticks(
        range(len(table)), labels, family="monospace", fontsize=8, parse_math=False
    )
    title = f"dual {by}s, with the share that is uncertain"
    drawing.tidy(axis, title, "entropy, nats", "", grid="y")
    return figure


def temperature_by_entropy(
    tokens: pd.DataFrame, *, base_temperature: float = 1.0
) -> Figure:
    """The temperature of every token against its entropy, by step.

    Paper, Eq. (8): T_t = T (1 + tau h_t). A line per step, since a step samples with
    the statistics of the one before.
    """
    figure, (axis,) = drawing.panels(1, wide=1.5)
    some = drawing.thinned(tokens)
    points = axis.scatter(
        some["entropy"], some["temperature"], 6, some["step"], cmap="viridis", lw=0
    )
    label = f"base temperature {base_temperature:g}"
    axis.axhline(base_temperature, color=drawing.GREY, lw=1, ls="--", label=label)
    axis.set_xscale("log")
    drawing.shade_pivots(axis, tokens)
    drawing.tidy(axis, "a point per token", "entropy, nats", "sampling temperature")
    axis.legend(**drawing.LEGEND)
    bar = figure.colorbar(points, ax=axis, label="step")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def temperatures(runs: frames.Runs, critical: float | None = None) -> Figure:
    """Accuracy and share of critical tokens at fixed temperatures and adaptively.

    Paper, the temperature dilemma: a higher fixed temperature has more critical tokens
    and less accuracy; the adaptive one more of both.
    """
    table = tables.temperatures(runs, critical)
    figure, axes = drawing.panels(2)
    above = f"tokens above {table['threshold'].iloc[0]:.3g} nats, %"
    titles = {"accuracy": "accuracy, %", "critical": above}
    adaptive = table["temperature_sd"] > 0
    looks = ((~adaptive, "fixed", "o-"), (adaptive, "adaptive, at its mean", "D"))
    for axis, (name, title) in zip(axes, titles.items()):
        for (hit, label, mark), color in zip(looks, report.COLORS):
            if not hit.any():
                continue
            some = table[hit].sort_values("temperature")
            drawing.with_bars(axis, some["temperature"], some, name, color, mark, label)
        drawing.tidy(axis, title, "temperature", "")
    drawing.legend_beside(figure, axes[0])
    return figure


def advantage_balance(completions: pd.DataFrame) -> Figure:
    """Positive and negative advantage per token under two normalisations, by run.

    Paper: normalised per sequence, long wrong completions dominate a token mean;
    normalised over tokens, both signs weigh alike.
    """
    table = tables.advantage_balance(completions)
    figure, axes = drawing.panels(table["run"].nunique(), sharey=True)
    for axis, (run, part) in zip(axes, table.groupby("run", sort=False)):
        at = np.arange(len(part))
        axis.bar(at, part["positive"], 0.6, color=CONFIDENT, label="positive")
        axis.bar(at, -part["negative"], 0.6, color=UNCERTAIN, label="negative")
        for x, line in zip(at, part.itertuples()):
            text = f"+/- = {line.balance:.2f}"
            if line.high - line.low > 1e-3:
                text += f" [{line.low:.2f}, {line.high:.2f}]"
            axis.annotate(
                text,
                (x, line.positive),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axis.axhline(0, color=drawing.GREY, lw=0.8)
        axis.set_xticks(at, [f"per {name}" for name in part["normalisation"]])
        axis.margins(x=0.25, y=0.15)
        drawing.tidy(axis, run, "normalised", "advantage per token", grid="y")
    drawing.legend_beside(figure, axes[-1])
    return figure


def ratios(tokens: pd.DataFrame, bins: int = 10) -> Figure:
    """The spread of the ratio by entropy, a panel per sign of the advantage.

    Paper: uncertain tokens have the wider ratios; those outside the neutral zone (grey)
    are the ones that still move.
    """
    table = tables.ratios(tokens, bins)
    figure, axes = drawing.panels(2, sharey=True, wide=1.2)
    q = tables.RATIO_QUANTILES
    for axis, sign, color in zip(axes, (1, -1), (CONFIDENT, UNCERTAIN)):
        part = table[table["sign"] == sign]
        x = part["entropy"]
        for low, high, alpha in ((q[0], q[-1], 0.2), (q[1], q[-2], 0.4)):
            label = f"{100 * low:g} to {100 * high:g} % of tokens"
            kwargs = {"color": color, "alpha": alpha, "lw": 0, "label": label}
            axis.fill_between(x, part[low], part[high], **kwargs)
        axis.plot(x, part[0.5], ".-", color=color, label="median")
        zone = part["zone_low"], part["zone_high"]
        axis.fill_between(x, *zone, color="0.5", alpha=0.15, lw=0, label="neutral zone")
        outside = 100 * np.average(part["outside"], weights=part["tokens"])
        title = f"advantage {'> 0' if sign > 0 else '< 0'}: {outside:.1f} % outside"
        axis.set_xscale("log")
        drawing.tidy(axis, title, "entropy, nats", "ratio")
        axis.legend(**drawing.LEGEND)
    return figure


def clips(tokens: pd.DataFrame) -> Figure:
    """The share of confident and uncertain tokens that each clip holds back.

    Paper: the left clip fires mostly at certain tokens, the right one at uncertain
    ones.
    """
    table = tables.clips(tokens)
    fired = table[(table["kind"] == "all") & (table["clipped"] > 0)]["side"]
    sides = [s for s in tables.CLIPS if s in {"low", "high", *fired}]
    figure, (axis,) = drawing.panels(1, wide=1.2)
    for place, (kind, color) in zip((-0.2, 0.2), KIND_COLORS.items()):
        part = table[table["kind"] == kind].set_index("side").loc[sides]
        at, share = np.arange(len(sides)) + place, 100 * part["share"]
        ends = 100 * part["low"], 100 * part["high"]
        bars = np.nan_to_num([share - ends[0], ends[1] - share]).clip(0)
        tokens_of = f"{kind}, {part['tokens'].iloc[0]:,} tokens"
        axis.bar(at, share, 0.38, color=color, label=tokens_of)
        axis.errorbar(at, share, bars, fmt="none", color="0.2", capsize=3, lw=1)
        for x, y, up, n in zip(at, share, bars[1], part["clipped"]):
            where = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
            axis.annotate(f"{n:,}", (x, y + up), (0, 2), **where)
    names = {"low": "left", "high": "right", "dual": "dual"}
    axis.set_xticks(range(len(sides)), [names[s] for s in sides])
    axis.margins(y=0.12)
    drawing.tidy(
        axis, "clipped tokens, with their number", "", "% of the kind", grid="y"
    )
    drawing.legend_beside(figure, axis)
    return figure


def clip_ranges(tokens: pd.DataFrame) -> Figure:
    """Every token's ratio and clip range against its entropy; which clips fired.

    Paper, asymmetric clipping: low (1 - h) below for confident tokens, high (1 + h)
    above for uncertain ones. `tables.clipped_tokens` lists the clipped.
    """
    figure, (axis,) = drawing.panels(1, wide=1.6, high=1.2)
    some = drawing.thinned(tokens)
    for n, side in enumerate((1 - some["clip_low"], 1 + some["clip_high"])):
        label = None if n else "ends of the clip range"
        axis.plot(some["entropy"], side, ".", color="0.7", ms=2, label=label)
    for kind, color in KIND_COLORS.items():
        part = some[some["uncertain"] == (kind == "uncertain")]
        axis.plot(part["entropy"], part["ratio"], ".", color=color, ms=3, alpha=0.5)
    for (side, column), mark in zip(tables.CLIPS.items(), "v^s"):
        hit = tokens[tokens[column]]
        if len(hit):
            label = f"clip fired, {side}: {len(hit):,}"
            kwargs = {"color": "k", "mfc": "none", "ms": 5, "mew": 0.7, "label": label}
            axis.plot(hit["entropy"], hit["ratio"], mark, **kwargs)
    axis.set(xscale="log", yscale="log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    drawing.tidy(axis, "a point per token", "entropy, nats", "ratio, log scale")
    axis.legend(**drawing.LEGEND)
    return figure


def lengths(completions: pd.DataFrame) -> Figure:
    """Length of right and wrong completions over the steps, a panel per run.

    Paper: wrong completions are the longer ones.
    """
    table = tables.lengths(completions)
    figure, axes = drawing.panels(table["run"].nunique(), sharey=True)
    for axis, (run, part) in zip(axes, table.groupby("run", sort=False)):
        for correct, color in ((True, CONFIDENT), (False, UNCERTAIN)):
            some = part[part["correct"] == correct]
            axis.fill_between(
                some["step"], some["low"], some["high"], color=color, alpha=0.15, lw=0
            )
            label = "right" if correct else "wrong"
            axis.plot(some["step"], some["mean"], ".-", color=color, label=label)
        drawing.tidy(axis, run, "step", "length, tokens")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylim(0, 1.05 * np.nanmax(table[["mean", "high"]]))  # of all panels
    drawing.legend_beside(figure, axes[-1])
    return figure


def compared(
    steps: pd.DataFrame,
    *,
    metrics: tuple[str, ...] = tables.COMPARED,
    by: str = "method",
) -> Figure:
    """Metrics of several runs over the steps: a thin line per run, means in bold.

    Shaded is Student's interval over seeds, from three seeds on.

    Paper: HAPO keeps completions longer and entropy higher while accuracy rises.
    """
    table = tables.compared(steps, metrics=metrics, by=by)
    figure, axes = drawing.panels(len(metrics))
    variants = [*dict.fromkeys(steps[by])]
    shades = drawing.colors(len(variants))
    for axis, metric in zip(axes, metrics):
        for variant, color in zip(variants, shades):
            for _, run in steps[steps[by] == variant].groupby("run"):
                there = run[run[metric].notna()]
                axis.plot(there["step"], there[metric], color=color, lw=0.7, alpha=0.5)
            part = table[(table["metric"] == metric) & (table[by] == variant)]
            if part["seeds"].min() > 2:
                ends = part["low"], part["high"]
                axis.fill_between(part["step"], *ends, color=color, alpha=0.15, lw=0)
            axis.plot(part["step"], part["mean"], color=color, lw=2, label=str(variant))
        drawing.tidy(axis, drawing.metric_label(metric), "step", "")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(**drawing.LEGEND)
    return figure
