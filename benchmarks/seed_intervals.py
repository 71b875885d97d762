"""How often the interval of a comparison covers the true difference, by simulation.

    python -m benchmarks.seed_intervals              # the table, in minutes
    python -m benchmarks.seed_intervals --sweeps=400 # quicker, coarser

Differences of two methods' avg@8 on the same problems and seeds are drawn from models
with known mean: seeds that differ much, little or not at all, problems likewise, and
scores that are means of eight right or wrong completions. A second table says how often
an effect of nothing is called an effect, and one of two standard deviations (of what a
single seed measures) is found, after Holm over five methods.
"""

import argparse
import itertools

import numpy as np

from hapo_jax.comparison import intervals

SEEDS = (3, 5, 8, 16)
PROBLEMS = (32, 128, 256)
# Standard deviation over seeds, and over problems, of the difference of accuracies.
SPREADS = ((0.0, 0.0), (0.02, 0.0), (0.02, 0.1), (0.1, 0.1), (0.0, 0.2))
K = 8


def scores(rng, S, P, seeds, problems, gain=0.0):
    """[S, P] differences of avg@K, whose mean over all worlds is `gain`."""
    # A base rate of each problem, away from the bounds, so that the mean is exact.
    base = rng.beta(2, 2, size=P) * 0.4 + 0.3
    shift = np.clip(rng.normal(0, seeds, (S, 1)), -0.15, 0.15)
    own = np.clip(rng.normal(0, problems, (1, P)), -0.15, 0.15)
    a = rng.binomial(K, np.broadcast_to(base, (S, P))) / K
    b = rng.binomial(K, np.clip(base + gain + shift + own, 0, 1)) / K
    return b - a


def coverage(S, P, seeds, problems, sweeps, draws):
    """The share of sweeps whose interval holds the mean, here 0."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(sweeps):
        found = intervals.two_way(scores(rng, S, P, seeds, problems), draws=draws)
        held += found.low <= 0 <= found.high
    return held / sweeps


def verdicts(S, P, sweeps, draws, methods=5):
    """Shares of sweeps in which none of so many null effects is called one, and in
    which a planted one of 2 standard deviations of a single seed's is found."""
    rng = np.random.default_rng(1)
    sd = np.std([scores(rng, 1, P, 0.02, 0.1).mean() for _ in range(400)])
    quiet = found = 0
    for _ in range(sweeps):
        p = {
            str(i): intervals.two_way(scores(rng, S, P, 0.02, 0.1), draws=draws).p
            for i in range(methods)
        }
        quiet += min(intervals.holm(p).values()) >= 0.05
        planted = scores(rng, S, P, 0.02, 0.1, gain=2 * sd)
        p["0"] = intervals.two_way(planted, draws=draws).p
        found += intervals.holm(p)["0"] < 0.05
    return quiet / sweeps, found / sweeps


def main():
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=500)
    options = parser.parse_args()
    print("| seeds | problems | sd over seeds | sd over problems | covered |")
    print("|---|---|---|---|---|")
    for S, P, (seeds, problems) in itertools.product(SEEDS, PROBLEMS, SPREADS):
        share = coverage(S, P, seeds, problems, options.sweeps, options.draws)
        print(f"| {S} | {P} | {seeds} | {problems} | {100 * share:.1f} % |", flush=True)
    print("\n| seeds | problems | no effect of five called one | 2 sd found |")
    print("|---|---|---|---|")
    for S, P in itertools.product(SEEDS, PROBLEMS):
        quiet, found = verdicts(S, P, options.sweeps // 4, options.draws)
        print(f"| {S} | {P} | {100 * quiet:.1f} % | {100 * found:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
