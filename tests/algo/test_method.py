import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import batch_loss, entropy, methods
from tests import tiny
from tests.algo import given

B, T = 6, 5
OWN = "tests.algo.own_stages"
STRENGTHS = (
    *("temperature_strength", "token_group_strength"),
    *("redistribution_strength", "clip_strength"),
)


_make = tiny.method


def _temperature(made, nats, stats, base_temperature):
    base = jnp.full(nats.shape, base_temperature, jnp.float32)
    if made.temperature is None:
        return base
    return made.temperature(nats, {"entropy": stats}, base)


def _batch(seed=0):
    """(tokens, rewards, mask, group_ids) with ratios on both sides of every range."""
    rng = np.random.default_rng(seed)
    mask = np.arange(T)[None, :] < rng.integers(1, T + 1, B)[:, None]
    old = -rng.uniform(0.05, 3, (B, T))
    rewards = jnp.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    group_ids = jnp.array([0, 0, 0, 1, 1, 1], jnp.int32)
    float32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    tokens = given.Tokens(
        logprobs=float32(old + rng.normal(scale=0.4, size=(B, T))),
        entropy=float32(rng.uniform(1e-3, 3, (B, T))),
        old_logprobs=float32(old),
        old_entropy=float32(rng.uniform(1e-3, 3, (B, T))),
        behavior_logprobs=float32(old + rng.normal(scale=0.2, size=(B, T))),
        reference_logprobs=float32(old + rng.normal(scale=0.2, size=(B, T))),
        advantages=jnp.zeros((B, T)),
        mask=jnp.asarray(mask),
    )
    return tokens, rewards, tokens.mask, group_ids


def _run(made, seed=0, jit=True):
    """(advantages, stats, temperature, loss, gradient) of a batch."""
    tokens, rewards, mask, group_ids = _batch(seed)

    def run(tokens):
        adapted = given.advantages(made, rewards, mask, group_ids)
        previous = entropy.initial_stats()
        stats = given.fit(made, tokens.old_entropy, mask, previous)
        tokens = tokens._replace(advantages=adapted)
        value, grad = jax.value_and_grad(_mean(made, tokens, stats))(tokens.logprobs)
        sampled = _temperature(made, tokens.old_entropy, stats, 0.9)
        return adapted, stats, sampled, value, grad

    return (jax.jit(run) if jit else run)(tokens)


def _mean(made, tokens, stats):
    def mean(logprobs):
        numerator, denominator, _ = given.loss(
            made, tokens._replace(logprobs=logprobs), stats
        )
        return numerator / denominator

    return mean


def _assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# --- the methods are one method -------------------------------------------------------


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"entropy_low_sign": "public", "entropy_spread": "quantile_rms"},
        {"entropy_source": "current", "entropy_scope": "micro"},
        {"redistribution_zone": "base", "temperature_score": "scaled"},
    ],
    ids=["paper", "public_sign", "micro", "base_zone"],
)
def test_hapo_with_all_strengths_zero_is_dapo_exactly(variant):
    off = dict.fromkeys(STRENGTHS, 0.0)
    actual, expected = _run(_make("hapo", **off, **variant)), _run(_make("dapo"))
    for i in (0, 2, 3, 4):  # all but the statistics, which nothing then reads
        _assert_equal(actual[i], expected[i])


def test_dapo_parts_off_is_grpo_exactly():
    off = {"clip_high": 0.2, "aggregation": "seq_mean_token_mean"}
    grpo = _run(_make("grpo", kl_strength=0.0))
    _assert_equal(_run(_make("dapo", **off)), grpo)
    off_too = dict.fromkeys(STRENGTHS, 0.0)
    _assert_equal(_run(_make("hapo", **off, **off_too)), grpo)


def test_zero_is_the_limit_of_small_strengths():
    """The stages that a strength of 0 leaves out would have changed nothing.

    1e-6: the compiler may round two programs in their last bits differently.
    """
    tiny = dict.fromkeys(STRENGTHS, 1e-30)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9),
        _run(_make("hapo", **tiny)),
        _run(_make("dapo")),
    )


@pytest.mark.parametrize("strength", STRENGTHS)
def test_every_strength_changes_its_own_stage(strength):
    changed = _run(_make("dapo", **{strength: 1.0}))
    dapo = _run(_make("dapo"))
    same = [np.array_equal(changed[i], dapo[i]) for i in (0, 2, 3)]
    expected = {
        "token_group_strength": [False, True, False],
        "temperature_strength": [True, False, True],
    }
    assert same == expected.get(strength, [True, True, False])


def test_token_group_strength_blends():
    base, full = (_run(_make("dapo", token_group_strength=s))[0] for s in (0.0, 1.0))
    half = _run(_make("dapo", token_group_strength=0.5))[0]
    np.testing.assert_allclose(half, (base + full) / 2, rtol=1e-6)


# --- against slow loops ---------------------------------------------------------------


def _slow_hapo(tokens, adapted, strength):
    """Loss and its gradient in log-probs, token by token in float64; HAPO and DAPO."""
    mask = np.asarray(tokens.mask)
    x = np.log(np.maximum(np.asarray(tokens.old_entropy, np.float64), 1e-8))
    valid = np.sort(x[mask])
    pivot = valid[round(0.8 * (len(valid) - 1))]
    ends = valid.max() - pivot, pivot - valid.min()
    loss, grad = 0.0, np.zeros(mask.shape)
    for i, t in zip(*np.nonzero(mask), strict=True):
        deviation = x[i, t] - pivot
        score = strength * deviation / (ends[0] if deviation > 0 else ends[1])
        low, high = 0.2 * (1 - min(score, 0)), 0.28 * (1 + max(score, 0))
        ratio = float(np.exp(tokens.logprobs[i, t] - tokens.old_logprobs[i, t]))
        inside = 1 - low / 2 < ratio < 1 + high / 2
        advantage = float(adapted[i, t])
        if (score > 0) != inside:
            advantage *= 1 + score
        clipped = min(max(ratio, 1 - low), 1 + high)
        loss += max(-advantage * ratio, -advantage * clipped)
        if advantage * ratio <= advantage * clipped:
            grad[i, t] = -advantage * ratio
    return loss / mask.sum(), grad / mask.sum()


@pytest.mark.parametrize(("seed", "jit"), [(0, True), (1, True), (2, True), (0, False)])
@pytest.mark.parametrize(("method", "strength"), [("hapo", 1.0), ("dapo", 0.0)])
def test_slow_loop_agrees(method, strength, seed, jit):
    adapted, _, _, value, grad = _run(_make(method), seed, jit)
    expected, expected_grad = _slow_hapo(_batch(seed)[0], adapted, strength)
    assert np.count_nonzero(expected_grad) < _batch(seed)[2].sum()  # some are clipped
    # float32 against float64 on some thirty tokens.
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-7)


# --- stages ---------------------------------------------------------------------------


def _terms(made, seed=0):
    adapted, stats, *_ = _run(made, seed)
    tokens = _batch(seed)[0]._replace(advantages=adapted)
    return tokens, given.terms(made, tokens, stats), stats


def test_kl_term_is_added_per_token():
    tokens, terms, _ = _terms(_make("grpo", kl_strength=0.25))
    _, plain, _ = _terms(_make("grpo", kl_strength=0.0))
    difference = np.asarray(tokens.reference_logprobs - tokens.logprobs)
    k3 = np.exp(difference) - difference - 1
    expected = np.where(tokens.mask, plain.loss + 0.25 * k3, 0)
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-4, atol=1e-6)


def test_k3r_takes_the_ratio_of_the_method():
    _, plain, _ = _terms(_make("grpo", kl_strength=0.0))
    _, k3, _ = _terms(_make("grpo", kl_strength=0.25))
    _, k3r, _ = _terms(_make("grpo", kl_strength=0.25, kl_estimator="k3r"))
    expected = (k3.loss - plain.loss) * k3.ratio
    np.testing.assert_allclose(k3r.loss - plain.loss, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["token", "icepop", "sequence"])
def test_importance_weights_multiply_the_loss_after_clipping(mode):
    bounds = {"importance_floor": 0.8, "importance_cap": 1.25}
    tokens, terms, _ = _terms(_make("dapo", importance_mode=mode, **bounds))
    _, plain, _ = _terms(_make("dapo"))
    log_ratio = np.where(tokens.mask, tokens.old_logprobs - tokens.behavior_logprobs, 0)
    if mode == "sequence":
        log_ratio = np.broadcast_to(log_ratio.sum(1, keepdims=True), (B, T))
    weights = np.exp(log_ratio)
    outside = (weights < 0.8) | (weights > 1.25)
    assert outside.any() and not outside.all()
    bounded = np.clip(weights, 0.8, 1.25)
    weights = np.where(outside, 0, weights) if mode == "icepop" else bounded
    np.testing.assert_allclose(terms.loss, plain.loss * weights, rtol=1e-5, atol=1e-7)
    _assert_equal(terms.counted, plain.counted)  # denominators do not change


def test_zone_may_follow_the_base_range():
    """A ratio between the edges of the two zones is treated differently."""
    adapted, base = (
        _make("hapo", redistribution_zone=zone) for zone in ("adapted", "base")
    )
    tokens, terms, stats = _terms(adapted)
    between = 1 + terms.clip_high / 2 * 0.99  # the base zone ends at 1.14
    wide = tokens.mask & (terms.score > 0.5)
    assert wide.any()
    logprobs = jnp.where(wide, tokens.old_logprobs + jnp.log(between), tokens.logprobs)
    tokens = tokens._replace(logprobs=logprobs)
    inside = given.terms(adapted, tokens, stats).advantages
    outside = given.terms(base, tokens, stats).advantages
    np.testing.assert_array_equal(inside[wide], tokens.advantages[wide])
    grown = tokens.advantages * (1 + terms.score)
    np.testing.assert_allclose(outside[wide], grown[wide], rtol=1e-6)


def test_entropy_source_and_scope():
    """Current entropies, and statistics of the tokens at hand, where asked for."""
    tokens, terms, stats = _terms(_make("hapo", entropy_source="current"))
    expected = entropy.score(tokens.entropy, stats, floor=1e-8)
    _assert_equal(terms.score, jnp.where(tokens.mask, expected, 0))
    made = _make("hapo", entropy_scope="micro")
    micro = jax.tree.map(lambda x: x[:2], tokens)
    own = given.fit(made, micro.old_entropy, micro.mask, stats)
    expected = entropy.score(micro.old_entropy, own, floor=1e-8)
    actual = given.terms(made, micro, stats).score
    _assert_equal(actual, jnp.where(micro.mask, expected, 0))
    np.testing.assert_allclose((jnp.min(actual), jnp.max(actual)), (-1, 1), rtol=1e-6)


def _controlled(control, name="hapo", draws=0):
    """(tokens, constants, statistics) under a control."""
    made = _make(name, entropy_control=control)
    tokens, _, stats = _terms(_make(name))
    state = given.state(made, stats)
    if "draws" in state:
        state["draws"] = jnp.int32(draws)
    return tokens, made.constants(given.rows(tokens), state), stats


def test_shuffled_entropies_are_other_tokens_of_the_row():
    tokens, constants, stats = _controlled("shuffled")
    real = entropy.score(tokens.old_entropy, stats, floor=1e-8)
    moved = np.asarray(constants["score"]) != np.where(tokens.mask, real, 0)
    assert moved.any()
    for score, row, mask in zip(constants["score"], real, tokens.mask, strict=True):
        _assert_equal(np.sort(score[mask]), np.sort(row[mask]))
        assert not np.any(score[~mask])
    # Drawn by the run's seed and anew at every step.
    _assert_equal(constants["score"], _controlled("shuffled")[1]["score"])
    assert (constants["score"] != _controlled("shuffled", draws=1)[1]["score"]).any()


def test_a_constant_entropy_tells_no_token_from_another():
    tokens, constants, stats = _controlled("constant")
    scores = np.asarray(constants["score"])[tokens.mask]
    raw = entropy.raw_score(tokens.old_entropy, stats, floor=1e-8)[tokens.mask]
    expected = raw.mean() / (stats.max_score if raw.mean() > 0 else -stats.min_score)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.parametrize("control", ["shuffled", "constant"])
def test_a_control_keeps_statistics_and_draws_at_the_base_temperature(control):
    made, plain = _make("hapo", entropy_control=control), _make("hapo")
    assert made.temperature is None and plain.temperature is not None
    tokens, *_ = _terms(plain)
    states = [m.update_state(given.rows(tokens), m.init_state()) for m in (made, plain)]
    _assert_equal(states[0]["entropy"], states[1]["entropy"])


def test_forking_under_a_control_keeps_other_tokens():
    tokens, constants, _ = _controlled("shuffled", "forking")
    plain = _make("forking")
    kept = plain.constants(given.rows(tokens), plain.init_state())["kept"]
    assert constants["kept"].sum() == kept.sum()
    assert (constants["kept"] != kept).any()


def test_the_oracle_keeps_what_the_task_calls_a_choice():
    """Where these are the most uncertain tokens it is the mask by entropy."""
    made = _make("dapo", mask="forks")
    assert made.reads_forks and not made.by_rows
    tokens, terms, stats = _terms(made)
    forks = np.asarray(given.rows(tokens).forks & tokens.mask)
    assert 0 < forks.sum() < np.asarray(tokens.mask).sum()
    _assert_equal(terms.counted, forks)
    _, plain, _ = _terms(_make("dapo"))
    _assert_equal(terms.loss, np.where(forks, plain.loss, 0))
    everywhere = _make("dapo", mask={"name": "forks", "denominator": "all"})
    _assert_equal(_terms(everywhere)[1].counted, tokens.mask)
    share = round(float(forks.sum() / tokens.mask.sum()) - 5e-5, 4)
    by_entropy = _make("dapo", mask=dict(name="forking", rule="top_ceil", share=share))
    sure = tokens._replace(old_entropy=jnp.where(forks, 1 + tokens.old_entropy, 1e-4))
    _assert_equal(given.terms(by_entropy, sure, stats).counted, forks)


def test_a_current_entropy_that_is_missing_is_a_bug():
    tokens, _, stats = _terms(_make("hapo"))
    made = _make("hapo", entropy_source="current")
    assert made.outputs == {"entropy"}
    with pytest.raises(AssertionError, match="reads the entropy"):
        given.loss(made, tokens._replace(entropy=None), stats)


def test_gradient_flows_through_logprobs_only():
    made = _make(
        "hapo", entropy_source="current", kl_strength=0.1, importance_mode="token"
    )
    tokens, _, stats = _terms(made)

    def mean(floats, stats):
        numerator, denominator, _ = given.loss(made, tokens._replace(**floats), stats)
        return numerator / denominator

    floats = {
        name: value
        for name, value in tokens._asdict().items()
        if value.dtype == jnp.float32
    }
    grads, of_stats = jax.grad(mean, argnums=(0, 1))(floats, stats)
    assert np.any(grads.pop("logprobs") != 0)
    for name, grad in {**grads, **of_stats._asdict()}.items():
        np.testing.assert_array_equal(grad, np.zeros_like(grad), err_msg=name)


# --- what the learner relies on -------------------------------------------------------


# Of the others only the stages differ.
FAST = ("hapo", "dapo", "grpo", "gspo", "cispo")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in methods.METHODS
    ],
)
def test_a_token_wise_loss_takes_tokens_in_any_order(method):
    """Each token as a row of its own, shuffled: same loss, gradient and sums."""
    made = _make(method, importance_mode="sequence")
    if made.by_rows:
        pytest.skip("needs whole rows, and the learner gives it those")
    tokens, _, stats = _terms(made)
    order = np.random.default_rng(1).permutation(B * T)
    constants = given.constants(made, tokens, stats)
    weights, _ = made.aggregate(tokens.mask)
    loose, constants, weights = jax.tree.map(
        lambda x: x.reshape(-1, 1)[order], (tokens, constants, weights)
    )

    def numerator(logprobs):
        current = loose._replace(logprobs=logprobs).current()
        return batch_loss.token_loss(
            made, current, constants, weights, given.state(made, stats)
        )

    def expected(logprobs):
        value, _, sums = given.loss(made, tokens._replace(logprobs=logprobs), stats)
        return value, sums

    actual, grad = jax.value_and_grad(numerator, has_aux=True)(loose.logprobs)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    whole, whole_grad = jax.value_and_grad(expected, has_aux=True)(tokens.logprobs)
    jax.tree.map(same, actual, whole)
    same(grad, whole_grad.reshape(-1, 1)[order])


def test_a_method_with_micro_batch_statistics_is_not_token_wise():
    assert _make("hapo_public").by_rows
    assert _make("hapo", entropy_scope="micro").by_rows
    assert _make("dapo", aggregation="token_mean_micro").by_rows
    assert not _make("hapo").by_rows


def test_sharded_loss_and_gradient_equal_one_device(mesh8):
    made = _make("hapo")
    tokens, _, stats = _terms(made)
    tokens = jax.tree.map(lambda x: jnp.concatenate([x, x[:2]]), tokens)
    rows = jax.sharding.PartitionSpec(("data", "fsdp"))
    placed = jax.device_put(tokens, jax.sharding.NamedSharding(mesh8((4, 2, 1)), rows))

    @jax.jit
    def run(tokens):
        fitted = given.fit(made, tokens.old_entropy, tokens.mask, stats)
        mean = _mean(made, tokens, fitted)
        return fitted, jax.value_and_grad(mean)(tokens.logprobs)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        run(placed),
        run(tokens),
    )


def test_sums_by_hand():
    """Ratios 0.5, 1 and 2 with A = -1, 1, 1: one bound below, one above."""
    made = _make("dapo")
    ratio = jnp.array([[0.5, 1.0, 2.0, 1.0]])
    mask = jnp.array([[True, True, True, False]])
    zeros, ones = jnp.zeros((1, 4)), jnp.ones((1, 4))
    tokens = given.Tokens(
        logprobs=jnp.log(ratio),
        entropy=None,
        old_logprobs=zeros,
        old_entropy=ones,
        behavior_logprobs=zeros,
        reference_logprobs=None,
        advantages=jnp.array([[-1.0, 1.0, 1.0, 1.0]]),
        mask=mask,
    )
    numerator, denominator, sums = given.loss(made, tokens, entropy.initial_stats())
    np.testing.assert_allclose(numerator, 0.8 - 1.0 - 1.28, rtol=1e-6)
    assert denominator == 3
    expected = {
        "clip/frac_low": 1,
        "clip/frac_high": 1,
        "clip/frac_dual": 0,
        "clip/width_low": 0.6,
        "clip/width_high": 0.84,
        "ratio/mean": 3.5,
        "ratio/deviation": 1.5,
        "ratio/frac_off_5pct": 2,
        "ratio/frac_off_10pct": 2,
        "kl/old_policy": 0,  # log 2 - log 2
        "kl/old_policy_k3": 0.5,  # (0.5 + log 2 - 1) + (2 - log 2 - 1)
        "kl/behavior_policy_k3": 0,
        "advantages/mean": 1,
        "advantages/abs": 3,
        "advantages/frac_reshaped": 0,
        "loss/token": 0.8 - 1.0 - 1.28,
        "loss/frac_counted": 3,
    }
    assert sums.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            sums[name], [value, 3], rtol=1e-6, atol=1e-6, err_msg=name
        )


def test_metrics_leave_out_completions_without_an_advantage():
    """A second row whose advantages are 0 changes no sum and no count but the KL's."""
    made = _make("grpo")  # has a KL term, so that such rows are trained on
    mask = jnp.array([[True, True, False], [True, True, True]])
    ratio = jnp.array([[2.0, 0.5, 1.0], [3.0, 3.0, 3.0]])
    tokens = given.Tokens(
        logprobs=jnp.log(ratio),
        entropy=None,
        old_logprobs=jnp.zeros((2, 3)),
        old_entropy=jnp.ones((2, 3)),
        behavior_logprobs=jnp.zeros((2, 3)),
        reference_logprobs=jnp.zeros((2, 3)),
        advantages=jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        mask=mask,
    )
    *_, sums = given.loss(made, tokens, entropy.initial_stats())
    for name, (_, count) in sums.items():
        assert count == (5 if name == "kl/reference_k3" else 2), name
    np.testing.assert_allclose(sums["ratio/mean"], [2.5, 2], rtol=1e-6)


# --- room for other methods -----------------------------------------------------------


def test_a_token_mask_is_one_function():
    """Only tokens of high entropy are kept, and only those counted."""
    made = _make("dapo", mask=f"{OWN}:uncertain")
    tokens, terms, stats = _terms(made)
    _, plain, _ = _terms(_make("dapo"))
    selected = np.asarray(terms.counted)
    assert 0 < selected.sum() < np.asarray(tokens.mask).sum()
    _, denominator, _ = given.loss(made, tokens, stats)
    assert denominator == selected.sum()
    _assert_equal(terms.loss, np.where(selected, plain.loss, 0))
    # It reads nothing of the current policy, so that it runs once, before it.
    assert not made.by_rows


def test_a_mask_that_reads_advantages_runs_once_for_the_whole_batch():
    """Shaping runs before it then; with current log-probs both run with the policy."""
    made = _make("dapo", mask=f"{OWN}:scarce", shaping=f"{OWN}:over_groups")
    assert not made.by_rows
    tokens, terms, _ = _terms(made)
    mask, base = np.asarray(tokens.mask), np.asarray(tokens.advantages)
    # Every row is a group here, so that the shaping multiplies by 1.
    _assert_equal(terms.advantages, np.where(mask, base, 0))
    eligible = np.asarray(tokens.old_logprobs)[mask & (base != 0)]
    threshold = np.sort(eligible)[round(0.5 * (len(eligible) - 1))]
    expected = mask & (base != 0) & (np.asarray(tokens.old_logprobs) <= threshold)
    _assert_equal(terms.counted, expected)
    current = _make("dapo", mask=f"{OWN}:scarce", entropy_source="current")
    assert current.across_rows
    counted = _terms(current)[1].counted
    assert counted.sum() == expected.sum() and not np.array_equal(counted, expected)


def test_shaping_may_look_at_groups():
    """It runs before the policy then, and what it was given stays known."""
    made = _make("dapo", shaping=f"{OWN}:over_groups")
    tokens, rewards, mask, group_ids = _batch()
    state = made.init_state()
    constants = made.constants(given.rows(tokens, rewards, group_ids), state)
    terms = made.terms(tokens.current(), constants, state)
    factor = np.where(np.asarray(tokens.old_entropy) > 1, 3, 1)
    base = given.advantages(_make("dapo"), rewards, mask, group_ids)
    _assert_equal(terms.base_advantages, base)
    _assert_equal(terms.advantages, base * factor)


def test_a_surrogate_is_one_function():
    """A detached, bounded weight on the log-prob: all tokens keep a gradient."""
    made = _make("dapo", surrogate=f"{OWN}:weighted")
    adapted, _, _, _, grad = _run(made)
    mask = np.asarray(_batch()[2])
    assert np.all((np.asarray(grad) != 0) == (mask & (np.asarray(adapted) != 0)))
    assert made.silent_at_zero and not made.by_rows


def test_an_undeclared_function_is_taken_to_need_everything():
    made = _make("dapo", surrogate=f"{OWN}:undeclared")
    assert made.by_rows and not made.silent_at_zero


def test_a_stage_may_keep_a_state():
    """Here a running mean of the rewards, which its advantages are measured by."""
    made = _make("dapo", advantage={"name": f"{OWN}:above_mean", "decay": 0.5})
    tokens, rewards, mask, group_ids = _batch()
    rows = given.rows(tokens, rewards, group_ids)
    state = made.init_state()
    assert state["advantage"] == 0
    for expected in (0.25, 0.375):  # the mean reward is 0.5
        state = made.update_state(rows, state)
        assert float(state["advantage"]) == expected
    found = made.constants(rows, state)["advantages"]
    _assert_equal(found, jnp.where(mask, rewards[:, None] - 0.375, 0))
    empty = rows._replace(mask=jnp.zeros_like(mask))
    _assert_equal(made.update_state(empty, state), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surrogate": "ppp"}, "algo.surrogate.name='ppp' must be one of .*mean 'ppo'"),
        ({"surrogate": "no_such:f"}, "there is no module 'no_such'"),
        ({"surrogate": f"{OWN}:absent"}, "has no function 'absent'"),
        ({"surrogate": f"{OWN}:reads_nonsense"}, "reads 'entropies', and a stage can"),
        ({"surrogate": f"{OWN}:reads_rewards"}, "algo.surrogate reads rewards, one"),
        ({"selection": "top_covariance"}, "must be another than .* and none does"),
        ({"surrogate": "kl_cov"}, "must be another than 'none' .* and one does"),
        (
            {"surrogate": {"name": "ppo", "dual": 3.0}},
            "algo.surrogate.dual is no option of algo.surrogate.name='ppo'",
        ),
        (
            {"advantage": {"name": "reinforce_pp", "gamma": 1.5}},
            r"algo.advantage.gamma=1.5 must be a number in \(0, 1\]; change",
        ),
        (
            {"aggregation": "seq_mean_token_sum_norm"},
            "algo.aggregation.scale_tokens is missing",
        ),
        (
            {"aggregation": {"name": "seq_mean_token_sum_norm", "scale_tokens": 0}},
            "algo.aggregation.scale_tokens=0 must be a number in",
        ),
    ],
)
def test_a_stage_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _make("dapo", **{"token_group_strength": 0.0, **changes})
