"""The ledger: sums over a run, and none where an earlier part of it is not known."""

from hapo_jax.rollout import collect
from hapo_jax.rollout.ledger import Ledger

STEP = {
    "ledger/sampled_tokens": 50,
    "ledger/sampled_completions": 10,
    "ledger/trained_tokens": 30,
    "ledger/updates": 2,
    "time/step": 0.5,
    "entropy/mean": 0.25,
}


def test_totals_are_sums_over_steps_and_go_on_behind_a_checkpoint():
    state, totals = collect.StreamState().pay(STEP)
    assert totals["ledger/total_sampled_tokens"] == 50
    state = collect.StreamState.from_plain(state.to_plain())
    state, totals = state.pay({**STEP, "ledger/updates": 0})
    assert totals == {
        "ledger/total_sampled_tokens": 100,
        "ledger/total_sampled_completions": 20,
        "ledger/total_trained_tokens": 60,
        "ledger/total_updates": 2,
        "time/total": 1.0,
    }
    assert state.spent == Ledger(100, 20, 60, 2, 1.0)
    assert state.entropy == 0.25


def test_a_step_that_draws_nothing_has_no_entropy():
    state = collect.StreamState(entropy=0.5)
    nothing = {k: v for k, v in STEP.items() if k != "entropy/mean"}
    assert state.pay(nothing)[0].entropy == 0.5


def test_a_run_of_an_earlier_version_has_no_totals():
    state = collect.StreamState.from_plain({"cursor": 5, "carried": None})
    assert state.pay(STEP) == (state._replace(entropy=0.25), {})
    assert collect.StreamState.from_plain(state.to_plain()) == state
