"""A method of your own: one function, and the settings that name it.

    python examples/own_method.py

In a run the same function is `--config.algo.surrogate.name=examples.own_method:cubic`.
"""

import jax
import jax.numpy as jnp

from hapo_jax.algo import method as method_lib
from hapo_jax.algo import settings, stages
from hapo_jax.algo.losses import Surrogate
from hapo_jax.algo.ranges import Range
from hapo_jax.algo.terms import Rows
from hapo_jax.config import defaults, presets


@stages.declare(options={"pull": Range(0, 10)})
def cubic(ratio, advantages, *, pull=0.5):
    """Instead of a clip, a smooth penalty: L = -A r + |A| pull |r - 1|^3."""
    loss = -advantages * ratio + jnp.abs(advantages) * pull * jnp.abs(ratio - 1) ** 3
    never = jnp.zeros(ratio.shape, bool)  # no bound ever acts
    return Surrogate(loss, never, never, never)


def main() -> tuple[float, float]:
    """Prints the gradient at a token with ratio e^0.5, without and with the pull."""
    config = presets.apply_method(defaults.default(), "dapo")
    section = config.algo.to_dict()
    rows = Rows(
        mask=jnp.ones((2, 1), bool),
        old_logprobs=jnp.full((2, 1), -1.0),
        old_entropy=jnp.full((2, 1), 0.5),
        behavior_logprobs=jnp.full((2, 1), -1.0),
        reference_logprobs=None,
        rewards=jnp.array([1.0, 0.0]),
        scores=jnp.array([1.0, 0.0]),
        group_ids=jnp.zeros(2, jnp.int32),
        prompt_ids=jnp.zeros(2, jnp.int32),
    )
    found = []
    for pull in (0.0, 2.0):
        section["surrogate"] = {"name": f"{__name__}:cubic", "pull": pull}
        method = method_lib.make(settings.of(section))
        state = method.init_state()
        constants = method.constants(rows, state)

        def loss(logprobs, method=method, constants=constants, state=state):
            return method.terms({"logprobs": logprobs}, constants, state).loss.sum()

        gradient = jax.grad(loss)(jnp.full((2, 1), -0.5))
        found.append(float(gradient[0, 0]))
        print(f"pull {pull}: gradient of the right completion {found[-1]:+.3f}")
    return found[0], found[1]


if __name__ == "__main__":
    main()
