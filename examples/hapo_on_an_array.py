"""HAPO's four components on a toy array, from `hapo_jax.algo` alone.

    python examples/hapo_on_an_array.py

Two prompts, two completions each, four tokens at most. No model, no files.
"""

import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import advantages, clipping, entropy, shaping, temperature

FLOOR = 1e-8  # nats; an entropy counts as at least this


def main() -> dict[str, np.ndarray]:
    """Prints what each component makes of the tokens; returns it, [4, 4] each."""
    lengths = jnp.array([4, 2, 3, 4])
    mask = jnp.arange(4)[None] < lengths[:, None]
    rewards = jnp.array([1.0, 0.0, 0.0, 1.0])
    group_ids = jnp.array([0, 0, 1, 1])  # which prompt a completion belongs to
    nats = jnp.array(
        [[2.0, 0.1, 0.01, 1.0], [1.5, 0.2, 0, 0], [0.5, 0.05, 3.0, 0], [1, 0.3, 2, 0.1]]
    )

    # The entropy score: negative where the policy is confident.
    start = entropy.initial_stats()
    stats = entropy.fit(nats, mask, quantile=0.8, floor=FLOOR, previous=start)
    score = jnp.where(mask, entropy.score(nats, stats, floor=FLOOR), 0)
    # A: the temperature at which the next rollout draws such tokens.
    warmth = temperature.adaptive(
        nats,
        stats,
        base_temperature=1.0,
        strength=0.1,
        min_factor=0.5,
        max_factor=1.5,
        floor=FLOOR,
    )
    # B: advantages over all tokens of a group.
    advantage = advantages.hapo_token_group(rewards, mask, group_ids)
    # D: the clip range of each token. C reads it, so it comes first.
    low, high = clipping.by_score(score, low=0.2, high=0.28, strength=1.0)
    # C: advantages redistributed, for tokens whose ratio has moved to 1.3.
    ratio = jnp.full(mask.shape, 1.3)
    shaped = shaping.redistribute(advantage, score, ratio, low, high, strength=1.0)

    found = dict(score=score, temperature=jnp.where(mask, warmth, 0))
    found |= dict(advantage=advantage, redistributed=shaped, low=low, high=high)
    for name, values in found.items():
        print(f"{name}\n{np.array2string(np.asarray(values), precision=2)}")
    return {name: np.asarray(values) for name, values in found.items()}


if __name__ == "__main__":
    main()
