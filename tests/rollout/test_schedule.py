"""The completions of `schedule.run` are those of `plain.sample`, token for token."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapo_jax import plain as plain_lib
from hapo_jax.model import policy as policy_lib
from hapo_jax.rollout import programs as programs_lib
from hapo_jax.rollout import sampler, schedule, tuning
from hapo_jax.rollout.batch import NO_CUT, TokenRecord
from hapo_jax.rollout.requests import Request
from tests import tiny
from tests.rollout import test_sampler

P, T = 8, 40


def one_device_mesh():
    return jax.sharding.Mesh(
        np.array(jax.devices()[:1]).reshape(1, 1, 1),
        ("data", "fsdp", "tensor"),
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )


@functools.cache
def make_programs(
    num_slots=8,
    rows_per_lane=1,
    chunk_tokens=4,
    chunks_ahead=0,
    stop_ids=test_sampler.STOPS,
    mesh=None,
):
    mesh = mesh or one_device_mesh()
    policy = policy_lib.make(tiny.MODEL, None, "", "float32", mesh)
    programs = programs_lib.make(
        policy,
        sampler.Sampling(
            stop_ids=stop_ids,
            pad_id=test_sampler.PAD,
            temperature_fn=test_sampler.adaptive,
        ),
        num_slots=num_slots,
        rows_per_lane=rows_per_lane,
        max_prompt_tokens=P,
        max_completion_tokens=T,
        chunk_tokens=chunk_tokens,
        tuning=tuning.Tuning(chunks_ahead, 2, 2, writes_last=chunks_ahead > 0),
    )
    return programs, jax.device_put(tiny.params(), policy.sample_shardings), mesh


def make_requests(num_prompts, group_size, *, limits=(T,), seed=0):
    rng = np.random.default_rng(seed)
    tokens, lengths = tiny.prompts(rng.integers(1, P + 1, num_prompts), P, seed)
    return [
        Request(
            prompt_id=n,
            prompt_tokens=tokens[n, P - lengths[n] :],
            sample_id=g,
            max_tokens=limits[(n * group_size + g) % len(limits)],
        )
        for n in range(num_prompts)
        for g in range(group_size)
    ]


def run(requests, **options):
    programs, params, mesh = make_programs(**options)
    with jax.set_mesh(mesh):
        done = list(
            schedule.run(
                programs,
                params,
                requests,
                seed=0,
                step=3,
                method_state=test_sampler.STATS,
            )
        )
    assert sorted(c.request for c in done) == list(range(len(requests)))
    return {c.request: c for c in done}


def plain(requests, stop_ids=test_sampler.STOPS):
    """The same requests by `plain.py`, every one in a row of its own: a dict of [B, T].

    It knows no greedy rows; a temperature of 1e-6 leaves the likeliest token alone.
    """
    tokens = np.zeros((len(requests), P), np.int32)
    for row, r in zip(tokens, requests):
        row[P - len(r.prompt_tokens) :] = r.prompt_tokens
    lengths = np.array([len(r.prompt_tokens) for r in requests], np.int32)
    keys = sampler.row_keys(
        0,
        3,
        np.array([r.prompt_id for r in requests]),
        np.array([r.sample_id for r in requests]),
    )
    temperature = np.array([r.base_temperature for r in requests], np.float32)
    setup, params = tiny.plain_setup(stop_ids=stop_ids, max_tokens=T), tiny.params()
    settings = test_sampler.SETTINGS._replace(
        base_temperature=np.maximum(temperature, 1e-6)
    )
    samples = plain_lib.sample(
        setup, params, tokens, lengths, keys, test_sampler.STATS, settings
    )
    # Log-probs at the base temperature, at 1 for greedy rows.
    scored_at = np.where(temperature > 0, temperature, 1)[:, None, None]
    logprobs, _ = plain_lib.score_tokens(
        setup,
        params,
        tokens,
        lengths,
        samples.tokens,
        settings._replace(base_temperature=scored_at),
    )
    return jax.device_get(samples._asdict() | {"base_logprobs": logprobs})


def assert_equal_to_plain(requests, done, **options):
    """Tokens are equal; records to 1e-5, as attention adds up in another order."""
    expected = plain(requests, **options)
    lengths = expected["mask"].sum(1)
    for i, request in enumerate(requests):
        n = min(lengths[i], request.max_tokens)
        np.testing.assert_array_equal(done[i].tokens, expected["tokens"][i, :n])
        assert (done[i].record.cut_logit == NO_CUT).all()
        for name in set(TokenRecord._fields) - {"cut_logit"}:
            # rtol: log-probs reach -10, and a split tensor axis sums in halves.
            np.testing.assert_allclose(
                getattr(done[i].record, name),
                expected[name][i, :n],
                rtol=1e-5,
                atol=1e-5,
            )
        stopped = done[i].tokens[-1] in test_sampler.STOPS
        assert done[i].truncated == (not stopped)


# Each compiles several programs; `make test-fast` has two of them, the suite four.
@pytest.mark.parametrize(
    ("rows_per_lane", "chunk_tokens", "chunks_ahead"),
    [
        *((4, 4, 1), (1, 16, 0)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((1, 1, 1), (4, 16, 1))
        ),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in ((1, 1, 0), (4, 4, 0), (1, 16, 1), (4, 16, 0))
        ),
    ],
)
def test_equals_the_page(rows_per_lane, chunk_tokens, chunks_ahead):
    """More requests than slots: rows are refilled, and the batch shrinks at the end."""
    requests = make_requests(7, 4)
    done = run(
        requests,
        num_slots=16,
        rows_per_lane=rows_per_lane,
        chunk_tokens=chunk_tokens,
        chunks_ahead=chunks_ahead,
    )
    assert_equal_to_plain(requests, done)


@pytest.mark.parametrize(
    "num_slots",
    [
        pytest.param(1, marks=pytest.mark.slow),
        3,
        pytest.param(32, marks=pytest.mark.slow),
    ],
)
def test_the_number_of_slots_changes_nothing(num_slots):
    requests = make_requests(5, 3)
    done = run(requests, num_slots=num_slots)
    assert_equal_to_plain(requests, done)


def test_requests_have_their_own_limit_and_temperature():
    requests = make_requests(4, 3, limits=(1, 2, 7, 40, 33))
    requests = [
        r._replace(base_temperature=(1.0, 0.0, 0.7)[i % 3])
        for i, r in enumerate(requests)
    ]
    assert_equal_to_plain(requests, run(requests))


def test_completions_come_as_they_finish():
    requests = make_requests(6, 2, limits=(40, 1, 2))
    programs, params, mesh = make_programs(num_slots=8)
    with jax.set_mesh(mesh):
        order = [
            c.request
            for c in schedule.run(
                programs,
                params,
                requests,
                seed=0,
                step=3,
                method_state=test_sampler.STATS,
            )
        ]
    assert order != sorted(order)
    assert order.index(1) < order.index(0) or len(run(requests)[0].tokens) < 4


@pytest.mark.parametrize(
    "shape", [pytest.param((8, 1, 1), marks=pytest.mark.long), (2, 2, 2)]
)
def test_sharded_over_the_mesh(mesh8, shape):
    requests = make_requests(6, 4)
    done = run(requests, num_slots=16, rows_per_lane=2, mesh=mesh8(shape))
    assert_equal_to_plain(requests, done)


def test_programs_are_few_and_compiled_once():
    make_programs.cache_clear()
    run(make_requests(9, 4), num_slots=16, rows_per_lane=4)
    programs, *_ = make_programs(num_slots=16, rows_per_lane=4)
    compiled = programs.decode._cache_size()
    bound = len(programs.row_sizes) * len(programs.column_sizes) * 2
    assert 1 <= compiled <= bound
    run(make_requests(9, 4), num_slots=16, rows_per_lane=4)
    assert programs.decode._cache_size() == compiled


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    limits=st.lists(st.integers(1, T), min_size=1, max_size=5),
    rows_per_lane=st.sampled_from([1, 4]),
    stop_ids=st.sampled_from([test_sampler.STOPS, (1, 5, 9, 17, 20)]),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_requests(sizes, limits, rows_per_lane, stop_ids, seed):
    """Random groups, lengths, limits and stop tokens."""
    requests = [
        r
        for n, size in enumerate(sizes)
        for r in make_requests(n + 1, size, limits=limits, seed=seed % 1000)[-size:]
    ]
    padded = requests + requests[:1] * (36 - len(requests))  # one shape for the scan
    done = run(requests, num_slots=8, rows_per_lane=rows_per_lane, stop_ids=stop_ids)
    expected = plain(padded, stop_ids=stop_ids)
    for i, request in enumerate(requests):
        n = min(expected["mask"][i].sum(), request.max_tokens)
        np.testing.assert_array_equal(done[i].tokens, expected["tokens"][i, :n])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt_tokens": np.zeros(P + 1, np.int32)}, "max_prompt_tokens=8"),
        ({"prompt_tokens": np.zeros(0, np.int32)}, "0 prompt tokens"),
        ({"max_tokens": T + 1}, "max_completion_tokens=40"),
        ({"max_tokens": 0}, "max_tokens=0"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(change, words):
    requests = make_requests(1, 2)
    with pytest.raises(ValueError, match=f"request 1.*{words}"):
        run([requests[0], requests[1]._replace(**change)])


def test_slots_that_do_not_fit_the_mesh_are_refused(mesh8):
    with pytest.raises(ValueError, match="num_slots=12"):
        make_programs(num_slots=12, rows_per_lane=1, mesh=mesh8((8, 1, 1)))
