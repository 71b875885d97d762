import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import rewards


def test_overlong_penalty_by_hand():
    lengths = jnp.array([1, 6144, 8192, 10240, 20000])
    penalty = rewards.overlong_penalty(
        lengths, max_tokens=10240, buffer_tokens=4096, factor=1.0
    )
    np.testing.assert_array_equal(penalty, [0.0, 0.0, -0.5, -1.0, -1.0])


def test_factor_scales_and_zero_turns_off():
    def penalty(factor):
        return rewards.overlong_penalty(
            jnp.array([8, 9, 10]), max_tokens=10, buffer_tokens=2, factor=factor
        )

    np.testing.assert_array_equal(penalty(2.0), [0.0, -1.0, -2.0])
    np.testing.assert_array_equal(penalty(0.0), [0.0, 0.0, 0.0])


@pytest.mark.parametrize("buffer_tokens", [0, 11])
def test_buffer_must_fit(buffer_tokens):
    with pytest.raises(ValueError, match=f"buffer_tokens={buffer_tokens} must be"):
        rewards.overlong_penalty(
            jnp.array([1]), max_tokens=10, buffer_tokens=buffer_tokens, factor=1.0
        )
