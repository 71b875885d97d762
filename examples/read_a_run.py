"""A run's records: its metrics, and what happened to each token.

    python examples/read_a_run.py runs/demo

Needs no JAX. docs/metrics.md lists the metrics, `records.PER_TOKEN` the columns.
"""

import sys

import numpy as np

from hapo_jax.runs import records as records_lib


def main(workdir: str) -> dict[str, float]:
    """Prints a curve and a completion's tokens; returns means over the last record."""
    config = records_lib.read_config(workdir)
    print(f"method {config['method']}, {config['num_steps']} steps")
    for line in records_lib.read_metrics(workdir):
        if "rollout/reward" in line:  # a step; evaluations have lines of their own keys
            print(f"step {line['step']:4d}  reward {line['rollout/reward']:.3f}")

    step = records_lib.rollout_steps(workdir)[-1]
    completions = records_lib.read_rollouts(workdir, step)
    first = completions[0]
    print(f"step {step}, a completion with reward {first['reward']:g}:")
    print("token        entropy  temperature  advantage  clip range")
    for t, word in enumerate(first["token_strings"]):
        low, high = 1 - first["clip_low"][t], 1 + first["clip_high"][t]
        print(
            f"{word!r:12s} {first['entropy'][t]:7.3f}  {first['temperature'][t]:11.3f}"
            f"  {first['advantages'][t]:+9.3f}  {low:.2f} - {high:.2f}"
        )
    columns = ("entropy", "temperature", "ratio")
    means = {c: np.concatenate([r[c] for r in completions]).mean() for c in columns}
    print(", ".join(f"mean {c} {mean:.3f}" for c, mean in means.items()))
    return means


if __name__ == "__main__":
    main(sys.argv[1])
