import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import entropy, temperature

# log-entropies 2 sigma below, at, and 1 sigma above the quantile.
STATS = entropy.EntropyStats(*(jnp.float32(x) for x in (0.0, 1.0, 1.0, -2.0)))
NATS = jnp.exp(jnp.array([-2.0, 0.0, 1.0]))
OPTIONS = {
    "base_temperature": 1.0,
    "strength": 0.1,
    "min_factor": 0.5,
    "max_factor": 1.5,
    "floor": 1e-8,
}


def _adaptive(nats=NATS, stats=STATS, **options):
    return temperature.adaptive(nats, stats, **{**OPTIONS, **options})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.8, 1.0, 1.1]),
        ({"base_temperature": 0.5}, [0.4, 0.5, 0.55]),
        ({"strength": 1.0}, [0.5, 1.0, 1.5]),  # the bounds act
        ({"score": "scaled"}, [0.9, 1.0, 1.1]),
        ({"score": "scaled", "low_sign": "public"}, [1.1, 1.0, 1.1]),
        ({"strength": 0.0}, [1.0, 1.0, 1.0]),
    ],
)
def test_by_hand(options, expected):
    np.testing.assert_allclose(_adaptive(**options), expected, rtol=1e-6)
    jitted = jax.jit(lambda nats, stats: _adaptive(nats, stats, **options))
    np.testing.assert_allclose(jitted(NATS, STATS), expected, rtol=1e-6)


def test_strength_zero_and_first_step_are_exactly_the_base_temperature():
    base = jnp.float32(0.7)
    off = _adaptive(strength=0.0, base_temperature=base)
    first = _adaptive(stats=entropy.initial_stats(), base_temperature=base)
    np.testing.assert_array_equal(off, jnp.full(3, base))
    np.testing.assert_array_equal(first, jnp.full(3, base))


def test_base_temperature_is_traced():
    bases = jnp.array([0.5, 1.0, 2.0])
    adaptive = jax.jit(lambda base: _adaptive(base_temperature=base))
    np.testing.assert_allclose(adaptive(bases), bases * _adaptive(), rtol=1e-6)


def test_unknown_score_is_refused():
    with pytest.raises(ValueError, match="score='h'"):
        _adaptive(score="h")
