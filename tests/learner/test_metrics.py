"""Metrics are sums over sums: how a step is cut into updates does not dilute them."""

import numpy as np
import pytest

from hapo_jax.learner import metrics
from hapo_jax.learner.train_step import Tally


def of_tokens(ratio, width):
    """Sums, and how many tokens they are of."""
    names = ("deviation", "frac_off_5pct", "frac_off_10pct")
    off = {f"ratio/{name}": ratio for name in names}
    sums = {"ratio/mean": ratio, "clip/width_low": width, **off}
    return {name: np.array(pair, float) for name, pair in sums.items()}


def tally(**fields):
    """An update of 10 tokens, of which 4 have signal with a mean ratio of 1.5."""
    values = dict(
        numerator=2.0,
        denominator=10.0,
        sums=of_tokens((6, 4), (1, 4)),
        grad_norm=3.0,
        finite=True,
        trained_tokens=10,
        learning_rate=1e-3,
    )
    return Tally(**values | fields)


IDLE = tally(
    numerator=0.0,
    denominator=0.0,
    sums=of_tokens((0, 0), (0, 0)),
    grad_norm=0.0,
    trained_tokens=0,
)
LARGE = tally(
    numerator=1.0,
    denominator=90.0,
    sums=of_tokens((36, 36), (18, 36)),
    grad_norm=1.0,
    trained_tokens=90,
)
SKIPPED = tally(
    numerator=np.nan,
    sums=of_tokens((np.nan, 4), (np.inf, 4)),
    grad_norm=np.inf,
    finite=False,
)


@pytest.mark.parametrize(
    ("updates", "ratio", "width", "loss", "norm"),
    [
        ([tally()], 1.5, 0.25, 0.2, 3.0),
        ([tally(), IDLE], 1.5, 0.25, 0.2, 3.0),  # not half of it
        ([IDLE, tally(), SKIPPED], 1.5, 0.25, 0.2, 3.0),
        # Tokens weigh alike, not updates: 42 / 40 and not (1.5 + 1) / 2.
        ([tally(), LARGE], 1.05, 0.475, 0.03, 2.0),
    ],
)
def test_unequal_idle_and_skipped_updates(updates, ratio, width, loss, norm):
    found = metrics.of_updates(updates)
    assert found["ratio/mean"] == pytest.approx(ratio)
    assert found["clip/width_low"] == pytest.approx(width)
    assert found["loss/policy"] == pytest.approx(loss)
    assert found["grad/norm"] == pytest.approx(norm)
    assert found["grad/skipped"] == updates.count(SKIPPED)
    assert found["learner/updates_idle"] == updates.count(IDLE)
    # Of the first update that trained, alone.
    assert found["ratio/first_deviation"] == pytest.approx(1.5)


@pytest.mark.parametrize("updates", [[IDLE], [SKIPPED], [IDLE, SKIPPED]])
def test_where_nothing_was_trained_means_are_absent(updates):
    assert metrics.of_updates(updates).keys() == {
        "learner/learning_rate",
        "learner/updates",
        "learner/updates_idle",
        "grad/skipped",
    }


def test_a_loss_that_is_a_sum_is_given_per_update():
    updates = [tally(denominator=0.0, numerator=x) for x in (1.0, 3.0)]
    assert metrics.of_updates([*updates, IDLE])["loss/policy"] == pytest.approx(2.0)
