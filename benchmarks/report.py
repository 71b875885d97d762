"""The lines that `compare.py` prints; benchmarks/README.md explains their fields."""

import datetime
import math
import pathlib
import platform
import statistics
from collections.abc import Iterable, Sequence

from benchmarks import turns

# Relative; engines add the same float32 numbers in different orders.
_SAME = 1e-3
# What an update may say about its result.
FOUND = ("loss", "grad_norm")
# Variants whose loss is another one by design.
_OTHER_LOSS = ("hapo", "dapo/sampled", "hapo/sampled", "hapo/base")


def check_same_work(contenders: Sequence[turns.Contender]) -> None:
    """Compares what the engines found in their first update, from the same weights.

    Raises:
      RuntimeError: losses or gradient norms of two engines differ.
    """
    for key in FOUND:
        found = {
            c.label: c.first[key]
            for c in contenders
            if key in c.first and c.variant not in _OTHER_LOSS
        }
        if not all(
            math.isclose(a, b, rel_tol=_SAME)
            for a in found.values()
            for b in found.values()
        ):
            raise RuntimeError(
                f"engines disagree on the {key} of the first update, so they did not "
                f"do the same: {found}."
            )


def engine_line(
    contender: turns.Contender,
    contenders: Sequence[turns.Contender],
    results: dict[str, list[dict]],
    best_gflop_s: float,
) -> dict:
    """What is printed for one engine; README.md explains the fields."""
    job, runs = contender.worker.job, results[contender.label]
    wall, cpu = ([run[key] for run in runs] for key in ("wall_s", "cpu_s"))
    typical_s = statistics.median(wall)
    gflop_s = job.needed_flops() / typical_s / 1e9
    warm_up = contender.worker.warm_up[contender.variant]
    speeds = {c.label: tokens_per_second(c, results[c.label]) for c in contenders}
    return {
        "engine": contender.label,
        "task": job.task,
        "method": contender.variant or None,
        "model": job.model,
        "work": job.work,
        "requests": len(job.load()[1].lengths),
        "tokens": job.tokens(),
        "tok_s": spread(speeds[contender.label]),
        "speed_over": {
            label: spread(a / b for a, b in zip(speeds[contender.label], others))
            for label, others in speeds.items()
            if label != contender.label
        },
        "wall_s": spread(wall),
        "cpu_s": spread(cpu),
        "cpu_over_wall": rounded(sum(cpu) / sum(wall)),
        "n": len(runs),
        "compile_s": rounded(sum(run["wall_s"] - typical_s for run in warm_up)),
        "peak_rss_mib": round(max(run["peak_rss_mib"] for run in runs)),
        "gflop_s": rounded(gflop_s),
        "of_ceiling": rounded(gflop_s / best_gflop_s),
        **{k: rounded(contender.first[k]) for k in FOUND if k in contender.first},
        "versions": contender.worker.versions,
    }


def comparison_line(
    what: str, contenders: Sequence[turns.Contender], results: dict[str, list[dict]]
) -> dict:
    """What the first of two variants costs: its time over that of the second."""
    runs = [results[contender.label] for contender in contenders]
    names = [contender.variant.rpartition("/")[2] for contender in contenders]
    ratios = [a["wall_s"] / b["wall_s"] for a, b in zip(*runs)]
    return {"compare": what, "_over_".join(names): spread(ratios)}


def tokens_per_second(contender: turns.Contender, runs: Sequence[dict]) -> list[float]:
    """Tokens that count over wall time, run by run."""
    return [contender.worker.job.tokens() / run["wall_s"] for run in runs]


def ceiling_line(
    probes: Sequence[turns.Contender], results: dict[str, list[dict]], cores: int
) -> dict:
    """The best that each library reached in these minutes, and on which machine."""
    best = {}
    for probe in probes:
        runs = results[probe.label]
        products = runs[0]["gflop_s"]
        best[probe.variant] = {
            "gflop_s": {
                name: rounded(max(run["gflop_s"][name] for run in runs))
                for name in products
            },
            "copy_gb_s": rounded(max(run["copy_gb_s"] for run in runs)),
        }
    return {
        "ceiling": best,
        "best_gflop_s": max(max(b["gflop_s"].values()) for b in best.values()),
        "cores": cores,
        "processor": processor(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "versions": {k: v for p in probes for k, v in p.worker.versions.items()},
    }


def processor() -> str:
    """The processor's name, as Linux knows it."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and greatest."""
    values = sorted(values)
    return {
        "median": rounded(statistics.median(values)),
        "min": rounded(values[0]),
        "max": rounded(values[-1]),
    }


def rounded(value: float) -> float:
    """Five significant digits, more than any timing deserves."""
    return float(f"{value:.5g}")
