"""The sampler's records against a teacher-forced pass, and what its keys promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax import plain
from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.algo import temperature as temperature_lib
from hapo_jax.learner import packing
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import sharding
from hapo_jax.rollout import programs as programs_lib
from hapo_jax.rollout import sampler, schedule, slots
from hapo_jax.rollout.batch import TokenRecord
from hapo_jax.rollout.requests import Request
from hapo_jax.rollout.sampler import Truncation
from tests import tiny

V = tiny.MODEL.vocab_size
STOPS = (1, 2)
PAD = 0
ALL = Truncation()
COLUMNS = 8  # of a prompt
STATS = entropy_lib.EntropyStats(*map(jnp.float32, (0.4, 0.7, 1.5, -3.0)))
SETTINGS = plain.Settings(tau=0.3)  # what `adaptive` does


def adaptive(entropy, stats, base_temperature, strength=0.3):
    return temperature_lib.adaptive(
        entropy,
        stats,
        base_temperature=base_temperature,
        strength=strength,
        min_factor=0.5,
        max_factor=1.5,
        floor=1e-8,
    )


@functools.cache
def make_programs(truncation, max_tokens, chunk_tokens, group_size, num_prompts):
    """Programs with a slot for every completion, and what it needs to run."""
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    policy = policy_lib.make(tiny.MODEL, None, "", "float32", mesh)
    programs = programs_lib.make(
        policy,
        sampler.Sampling(
            stop_ids=STOPS, pad_id=PAD, truncation=truncation, temperature_fn=adaptive
        ),
        num_slots=group_size * num_prompts,
        rows_per_lane=group_size,
        max_prompt_tokens=COLUMNS,
        max_completion_tokens=max_tokens,
        chunk_tokens=chunk_tokens,
    )
    return programs, jax.device_put(tiny.params(), policy.sample_shardings), mesh


def draw_samples(
    lengths=(5, 2, 7),
    group_size=4,
    *,
    seed=0,
    truncation=ALL,
    base_temperature=1.0,
    max_tokens=13,
    chunk_tokens=4,
    prompt_ids=None,
    tokens=None,
):
    """Samples [B, T] that were drawn; prompt tokens [N, P] and lengths [N]."""
    prompt_tokens, prompt_lengths = tiny.prompts(lengths, COLUMNS)
    if tokens is not None:
        prompt_tokens = tokens
    ids = range(len(lengths)) if prompt_ids is None else prompt_ids
    requests = [
        Request(
            prompt_id=i,
            prompt_tokens=row[COLUMNS - n :],
            sample_id=g,
            max_tokens=max_tokens,
            base_temperature=base_temperature,
        )
        for i, row, n in zip(ids, prompt_tokens, prompt_lengths)
        for g in range(group_size)
    ]
    programs, params, mesh = make_programs(
        truncation, max_tokens, chunk_tokens, group_size, len(lengths)
    )
    shape = len(requests), max_tokens
    samples = slots.Samples(
        tokens=np.full(shape, PAD, np.int32),
        mask=np.zeros(shape, bool),
        record=TokenRecord.zeros(shape),
    )
    with jax.set_mesh(mesh):
        for done in schedule.run(
            programs,
            params,
            requests,
            seed=seed,
            step=3,
            method_state=STATS,
        ):
            n = len(done.tokens)
            samples.tokens[done.request, :n] = done.tokens
            samples.mask[done.request, :n] = True
            for field, values in zip(samples.record, done.record):
                field[done.request, :n] = values
    return samples, prompt_tokens, prompt_lengths


def teacher_forced_logits(samples, prompt_tokens, prompt_lengths, group_size):
    """Untempered logits [B, T, V] of the sampled completions, in one full pass."""
    logits = plain.policy_logits(
        tiny.plain_setup(),
        tiny.params(),
        np.repeat(prompt_tokens, group_size, 0),
        np.repeat(prompt_lengths, group_size),
        samples.tokens,
    )
    return np.asarray(logits)


@pytest.mark.parametrize("base_temperature", [1.0, 0.8])
@pytest.mark.parametrize(
    "truncation",
    [
        Truncation(),
        pytest.param(Truncation(top_k=5), marks=pytest.mark.slow),
        pytest.param(Truncation(top_p=0.7), marks=pytest.mark.slow),
        pytest.param(Truncation(min_p=0.1), marks=pytest.mark.slow),
        Truncation(top_k=12, top_p=0.9, min_p=0.02),
    ],
    ids=["none", "top_k", "top_p", "min_p", "all"],
)
def test_records_equal_a_teacher_forced_pass(truncation, base_temperature):
    samples, *prompt = draw_samples(
        truncation=truncation, base_temperature=base_temperature
    )
    logits = teacher_forced_logits(samples, *prompt, group_size=4)
    mask = samples.mask
    assert mask.sum() > 40

    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    # 1e-5: the same float32 graph but for cached against full attention.
    np.testing.assert_allclose(samples.record.entropy[mask], entropy[mask], atol=1e-5)

    h = (np.log(np.maximum(entropy, 1e-8)) - 0.4) / 0.7
    temperature = base_temperature * np.clip(1 + 0.3 * h, 0.5, 1.5)
    np.testing.assert_allclose(
        samples.record.temperature[mask], temperature[mask], atol=1e-5
    )

    behavior = np.vectorize(
        lambda row, t: reference_distribution(row / t, truncation),
        signature="(v),()->(v)",
    )(logits[mask], samples.record.temperature[mask])
    chosen = np.take_along_axis(behavior, samples.tokens[mask][:, None], 1)[:, 0]
    np.testing.assert_allclose(
        samples.record.behavior_logprobs[mask], chosen, atol=1e-5
    )

    base = logits[mask] / base_temperature
    base = base - np.logaddexp.reduce(base, axis=-1, keepdims=True)
    chosen = np.take_along_axis(base, samples.tokens[mask][:, None], 1)[:, 0]
    np.testing.assert_allclose(samples.record.base_logprobs[mask], chosen, atol=1e-5)


def reference_distribution(logits, truncation):
    """Log-probs [V] after truncation, by sorting lists: slow and obvious."""
    kept = sorted(range(V), key=lambda i: -logits[i])
    if truncation.top_k:
        kept = kept[: truncation.top_k]
    if truncation.top_p < 1:
        p = np.exp(logits[kept] - logits[kept].max())
        p = p / p.sum()
        n = int((np.cumsum(p) - p < truncation.top_p).sum())
        kept = kept[:n]
    if truncation.min_p:
        best = logits[kept[0]]
        kept = [i for i in kept if logits[i] >= best + np.log(truncation.min_p)]
    out = np.full(V, -np.inf)
    out[kept] = logits[kept] - np.logaddexp.reduce(logits[kept])
    return out


def test_the_learner_scores_what_the_sampler_recorded():
    samples, prompt_tokens, prompt_lengths = draw_samples()
    mask = samples.mask
    batch = tiny.batch(len(prompt_lengths), 4, T=mask.shape[1])._replace(
        prompt_tokens=np.repeat(prompt_tokens, 4, axis=0),
        prompt_lengths=np.repeat(prompt_lengths, 4),
        completion_tokens=samples.tokens,
        completion_mask=mask,
    )
    layout = packing.Layout(
        width=3 * sum(batch.prompt_tokens.shape[1:] + mask.shape[1:]),
        micro_rows=2,
        shards=1,
        packing=True,
        share_prompts=True,
    )
    logprobs, entropy = tiny.packed_scores(tiny.model(), batch, layout)
    np.testing.assert_allclose(
        logprobs[mask], samples.record.base_logprobs[mask], atol=1e-5
    )
    np.testing.assert_allclose(entropy[mask], samples.record.entropy[mask], atol=1e-5)


def test_stop_token_is_kept_and_ends_the_completion():
    found = [draw_samples(seed=seed)[0] for seed in range(8)]
    tokens, mask = (np.concatenate([s[i] for s in found]) for i in range(2))
    stopped = 0
    for row, kept in zip(tokens, mask):
        length = kept.sum()
        assert kept[:length].all() and not kept[length:].any()
        assert not np.isin(row[: length - 1], STOPS).any()
        assert (row[length:] == PAD).all()
        if length < len(row):
            assert row[length - 1] in STOPS
            stopped += 1
    assert stopped > 10
    assert {int(t) for t in tokens[np.isin(tokens, STOPS)]} == {1, 2}


@pytest.mark.parametrize(
    "chunk_tokens",
    [
        pytest.param(1, marks=pytest.mark.slow),
        5,
        pytest.param(64, marks=pytest.mark.slow),
    ],
)
def test_chunk_size_changes_nothing(chunk_tokens):
    expected, *_ = draw_samples()
    samples, *_ = draw_samples(chunk_tokens=chunk_tokens)
    np.testing.assert_array_equal(samples.tokens, expected.tokens)
    np.testing.assert_array_equal(samples.mask, expected.mask)


def test_a_completion_does_not_depend_on_its_neighbours():
    prompt_tokens, _ = tiny.prompts((5, 2, 7), 8)
    one, *_ = draw_samples(tokens=prompt_tokens, prompt_ids=[10, 11, 12])
    # The same prompt 11 in another place, between other prompts of other lengths.
    others, _ = tiny.prompts((3, 8, 2), 8, seed=9)
    others[2] = prompt_tokens[1]
    two, *_ = draw_samples((3, 8, 2), tokens=others, prompt_ids=[4, 5, 11])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[4:8], b[8:12]), one, two)


def test_keys_separate_seeds_prompts_and_samples():
    base, *_ = draw_samples()
    other_seed, *_ = draw_samples(seed=1)
    assert (base.tokens != other_seed.tokens).any()
    assert len({tuple(row) for row in base.tokens[:4]}) == 4
    again, *_ = draw_samples()
    np.testing.assert_array_equal(base.tokens, again.tokens)


def test_greedy_takes_the_likeliest_token():
    samples, *prompt = draw_samples(base_temperature=0.0)
    logits = teacher_forced_logits(samples, *prompt, group_size=4)
    mask = samples.mask
    np.testing.assert_array_equal(samples.tokens[mask], logits.argmax(-1)[mask])
    assert (samples.record.behavior_logprobs == 0).all() and (
        samples.record.temperature == 0
    ).all()


@pytest.mark.parametrize(
    "truncation", [Truncation(), Truncation(top_k=7, top_p=0.9)], ids=["all", "cut"]
)
def test_frequencies_match_the_stated_probabilities(truncation):
    """Chi-square of 20,000 draws, at the recorded probabilities."""
    n, size = 20_000, 300  # more than two blocks of the vocabulary
    logits = jax.random.normal(jax.random.key(5), (1, size)) * 1.5
    uniforms = jax.random.uniform(jax.random.key(6), (n,))
    tokens, record = sampler.draw(
        jnp.broadcast_to(logits, (n, size)),
        uniforms,
        STATS,
        jnp.ones(n),
        truncation=truncation,
        temperature_fn=adaptive,
    )
    tokens, logprobs = np.asarray(tokens), np.asarray(record.behavior_logprobs)
    stated = np.zeros(size)
    stated[tokens] = np.exp(logprobs)
    # Tokens that never occurred hold the rest of the mass; together they must be rare.
    rest = 1 - stated.sum()
    assert -1e-5 < rest < 20 / n
    expected = stated * n
    counts = np.bincount(tokens, minlength=size)
    enough = expected >= 5
    chi2 = ((counts - expected)[enough] ** 2 / expected[enough]).sum()
    freedom = enough.sum() - 1
    # Five standard deviations above the mean of the chi-square distribution.
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)
    if truncation.top_k:
        assert len(set(tokens)) <= truncation.top_k


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (7, 1.0), (0, 0.9), (9, 0.5)])
def test_truncation_keeps_what_a_sort_keeps(top_k, top_p, ties):
    logits = np.random.default_rng(0).normal(0, 3, (5, 300)).astype(np.float32)
    if ties:
        logits = np.round(logits)
    found = sampler.truncate(jnp.asarray(logits), Truncation(top_k, top_p))
    for row, kept in zip(logits, np.asarray(found) > -np.inf):
        ordered = np.sort(row.astype(np.float64))[::-1]
        least = ordered[top_k - 1] if top_k else -np.inf
        probs = np.exp(ordered) * (ordered >= least)
        mass = np.cumsum(probs / probs.sum())
        least = max(least, ordered[np.argmax(mass >= top_p - 1e-12)])
        np.testing.assert_array_equal(kept, row >= least)


def test_a_weight_of_zero_is_never_chosen():
    weights = jnp.zeros((4, 200)).at[:, 150].set(1e-20).at[1, 3].set(1.0)
    uniforms = jnp.array([0.0, 0.0, 1 - 2**-24, 0.5])
    chosen = sampler.inverse_cdf(weights, uniforms)
    np.testing.assert_array_equal(chosen, [150, 3, 150, 150])
