"""EGSPO's entropy gate; demonstrations are in tests/algo/test_imitation.py."""

import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import methods
from hapo_jax.algo.rivals import egspo
from hapo_jax.config import arguments, check
from tests import tiny
from tests.algo import test_method
from tests.config.test_check import load

A = jnp.array([[1.0, -2.0, 3.0], [-1.0, 2.0, -3.0]])
H = jnp.array([[0.5, 0.1, 2.0], [1.0, 0.2, 3.0]])
P = jnp.array([[0.5, 0.9, 0.1], [0.25, 0.5, 0.2]])
MASK = jnp.array([[True, True, True], [True, True, False]])


def test_by_hand():
    """A fifth of five tokens is one, the third, whose entropy is the highest of the
    mask; the others are multiplied by 1/4, 9/100, 3/16 and 1/4."""
    options = dict(share=0.2, attenuation="p(1-p)")
    found = egspo.entropy_gate(A, H, jnp.log(P), MASK, **options)
    expected = [[0.25, -0.18, 3.0], [-0.1875, 0.5]]
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1, :2], expected[1], rtol=1e-5)


@pytest.mark.parametrize("attenuation", egspo.ATTENUATIONS)
@pytest.mark.parametrize("nats", [0.0, 0.5, 1.5, 9.0])
def test_slow_loop_agrees(nats, attenuation):
    found = egspo.entropy_gate_nats(
        A, H, jnp.log(P), nats=nats, attenuation=attenuation
    )
    for i, t in np.ndindex(A.shape):
        p = float(P[i, t])
        phi = p * (1 - p) * (4 if attenuation == "4p(1-p)" else 1)
        factor = 1 if float(H[i, t]) >= nats else phi
        np.testing.assert_allclose(found[i, t], factor * A[i, t], rtol=1e-5)


def test_all_uncertain_is_chord():
    """A gate that lets every token through leaves the loss of the rollout as it is."""
    options = {"name": "entropy_gate_nats", "nats": 0.0, "attenuation": "p(1-p)"}
    gated = tiny.method("egspo", shaping=options, demonstrations_share=0.2)
    ungated = tiny.method("chord")
    actual, expected = test_method._run(gated), test_method._run(ungated)
    for i in (0, 3, 4):
        np.testing.assert_array_equal(actual[i], expected[i])


def test_without_its_open_choices_it_is_refused_with_all_of_them():
    config = load("countdown", "method=egspo")
    with pytest.raises(ValueError) as error:
        check.check(config, num_devices=1)
    given = methods.METHODS["egspo"].given
    assert len(given) == 5
    for key in given:
        assert key in str(error.value)
    assert "its source does not fix" in str(error.value)
    assert "what attenuates the others" in str(error.value)
    with config.unlocked():
        for key, value in given.items():
            arguments.override(config, key, str(value))
    resolved, _ = check.check(config, num_devices=1)
    assert resolved.algo.demonstrations.share == 0.2
