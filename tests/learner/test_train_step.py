"""One update is the same however the work is cut, and survives bad numbers."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from hapo_jax import plain, sft
from hapo_jax.algo import batch_loss
from hapo_jax.config import check, defaults, presets
from hapo_jax.learner import head, packing, shapes, train_step
from hapo_jax.learner import learn as learn_lib
from hapo_jax.learner import optimizer as optimizer_lib
from hapo_jax.learner import state as state_lib
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import sharding
from hapo_jax.rollout import batch as batch_lib
from hapo_jax.system.errors import Refused
from tests import tiny

NUM_PROMPTS, GROUP = 8, 4
MINIBATCH_ROWS = 16
ROWS = NUM_PROMPTS * GROUP


# Made once, so that a learner of equal parts is found in the cache of `learner_of`.
method_of = functools.cache(tiny.method)


@functools.cache
def adamw(peak=1e-2, warmup=2, weight_decay=0.1):
    rate = optimizer_lib.schedule(
        peak, warmup_updates=warmup, decay="constant", decay_updates=0, final_share=0.0
    )
    return optimizer_lib.make_optimizer(
        rate,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=weight_decay,
        max_grad_norm=1.0,
    )


@functools.cache
def sgd():
    return optimizer_lib.Optimizer(*optax.sgd(1.0), lambda state: 1.0)


@functools.cache
def rollout():
    return tiny.batch(NUM_PROMPTS, GROUP)


# Longest prompt and completion of `rollout`.
LONGEST = 6 + 12
CUTS = {
    "padded": dict(packing=False, share_prompts=False, width=LONGEST),
    "packed": dict(packing=True, share_prompts=False, width=LONGEST),
    "wide": dict(packing=True, share_prompts=False, width=3 * LONGEST + 1),
    "shared": dict(packing=True, share_prompts=True, width=2 * LONGEST),
}


@functools.cache
def learner_of(
    mesh,
    method,
    *,
    optimizer,
    cut="padded",
    micro_rows=8,
    base_temperature=1.0,
    recompute_old_logprobs=True,
    chunk_tokens=64,
    remat="none",
    beside_rows=0,
):
    """A learner, whose programs serve every test that asks for the same, and the
    shapes of its state."""
    shards = math.prod(mesh.shape[axis] for axis in sharding.BATCH)
    policy = policy_lib.make(tiny.MODEL, None, "", "float32", mesh)
    abstract = state_lib.abstract(policy, optimizer, method)
    learner = train_step.make_learner(
        policy.graphdef,
        method,
        optimizer,
        mesh,
        jax.tree.map(lambda x: x.sharding, abstract),
        base_temperature=base_temperature,
        minibatch_rows=MINIBATCH_ROWS,
        recompute_old_logprobs=recompute_old_logprobs,
        layout=packing.Layout(micro_rows=micro_rows, shards=shards, **CUTS[cut]),
        chunk_tokens=chunk_tokens,
        remat=remat,
        beside_rows=beside_rows,
    )
    return learner, policy, abstract


def make(mesh, method, *, optimizer=None, **options):
    """A learner and a fresh state on a mesh."""
    optimizer = optimizer or adamw()
    learner, policy, abstract = learner_of(mesh, method, optimizer=optimizer, **options)
    params = jax.device_put(tiny.params(), policy.train_shardings)
    return learner, state_lib.place(params, optimizer, method, abstract)


def step(mesh, method, batch=None, passes=1, reference_params=None, **options):
    """State, what the updates saw and metrics after one step, on the host."""
    with jax.set_mesh(mesh):
        learner, state = make(mesh, method, **options)
        state, learnt, metrics = learn_lib.learn(
            learner,
            state,
            batch or rollout(),
            passes=passes,
            reference_params=reference_params,
        )
        return (jax.device_get(state), learnt), metrics


def one_device(devices):
    return jax.sharding.Mesh(
        np.array(devices[:1]).reshape(1, 1, 1),
        ("data", "fsdp", "tensor"),
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )


@pytest.fixture(scope="module")
def expected(devices):
    return step(one_device(devices), method_of("hapo"))


def assert_same(result, expected, *, atol=1e-5):
    """1e-5: float32 sums in another order."""
    (state, _), metrics = result
    (expected_state, _), expected_metrics = expected
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=atol),
        state._replace(opt_state=()),
        expected_state._replace(opt_state=()),
    )
    for key in expected_metrics:
        np.testing.assert_allclose(
            metrics[key], expected_metrics[key], rtol=1e-4, atol=atol, err_msg=key
        )


MESHES = [
    ((1, 1, 1), 1),
    ((1, 1, 1), 3),
    ((1, 1, 1), 8),
    ((8, 1, 1), 8),
    ((2, 2, 2), 8),
]
# Each is a compilation of seconds. `make test-fast` has the first, and the suite these:
# every cut on one device and on several, every mesh with two cuts or more.
QUICK = [((1, 1, 1), 3, "packed"), ((8, 1, 1), 8, "wide"), ((2, 2, 2), 8, "shared")]
SUITE = [
    ((1, 1, 1), 1, "shared"),
    ((1, 1, 1), 3, "padded"),
    ((1, 1, 1), 8, "wide"),
    ((8, 1, 1), 8, "packed"),
    ((2, 2, 2), 8, "padded"),
]


def unless(quick, *values, suite=True):
    """Parameters of a test: slow if not `quick`, and long if not of the `suite`."""
    mark = pytest.mark.slow if suite else pytest.mark.long
    return pytest.param(*values, marks=() if quick else mark)


@pytest.mark.parametrize(
    ("shape", "micro_rows", "cut"),
    [
        unless((*mesh, cut) in QUICK, *mesh, cut, suite=(*mesh, cut) in SUITE)
        for mesh in MESHES
        for cut in CUTS
    ],
    ids=str,
)
def test_how_the_work_is_cut_changes_nothing(
    mesh8, devices, expected, shape, micro_rows, cut
):
    """Micro-batches × packing × sharing of prompts × mesh: parameters after two
    updates, metrics and statistics."""
    mesh = mesh8(shape) if math.prod(shape) == 8 else one_device(devices)
    result = step(mesh, method_of("hapo"), cut=cut, micro_rows=micro_rows)
    assert_same(result, expected)


@pytest.fixture(scope="module")
def descended(devices):
    """The state after a step of plain descent, with one padded micro-batch."""
    options = dict(cut="padded", micro_rows=MINIBATCH_ROWS, optimizer=sgd())
    (state, _), _ = step(one_device(devices), method_of("dapo"), **options)
    return state


@pytest.mark.parametrize(
    ("shape", "cut"),
    [
        unless(
            shape == (2, 2, 2) and cut == "shared",
            shape,
            cut,
            suite=shape == (1, 1, 1) and cut == "padded",
        )
        for shape in ((1, 1, 1), (2, 2, 2))
        for cut in ("padded", "shared")
    ],
    ids=str,
)
def test_gradients_agree_to_1e_5(mesh8, devices, descended, shape, cut):
    """Against one padded micro-batch; a step of plain descent is the gradient."""
    mesh = mesh8(shape) if math.prod(shape) == 8 else one_device(devices)
    options = dict(cut=cut, micro_rows=4, optimizer=sgd())
    (other, _), _ = step(mesh, method_of("dapo"), **options)
    start = jax.device_get(tiny.params())
    largest = max(
        np.abs(a - b).max()
        for a, b in zip(jax.tree.leaves(descended.params), jax.tree.leaves(start))
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5 * largest),
        other.params,
        descended.params,
    )


def test_sums_in_the_same_order_are_the_same_bits(devices, expected):
    """Room for more micro-batches, and chunks of the same tokens, move no bit."""
    again = step(one_device(devices), method_of("hapo"), chunk_tokens=64)
    jax.tree.map(
        np.testing.assert_array_equal, again[0][0].params, expected[0][0].params
    )


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_tokens": 1},
        {"remat": "full"},
        pytest.param({"remat": "dots"}, marks=pytest.mark.long),
    ],
)
def test_chunks_and_remat_change_nothing(devices, expected, options):
    assert_same(step(one_device(devices), method_of("hapo"), **options), expected)


@pytest.mark.long
def test_statistics_of_micro_batches_are_the_declared_exception(devices):
    """`hapo_public` scores a token within its micro-batch, so the cut matters."""
    mesh, method = one_device(devices), method_of("hapo_public")
    (whole, _), _ = step(mesh, method, passes=2)
    (cut, _), _ = step(mesh, method, passes=2, micro_rows=2)
    gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole.params, cut.params)
    assert max(jax.tree.leaves(gap)) > 1e-4


def test_the_gradient_is_that_of_the_plain_formula(devices):
    """Token-mean over the global mini-batch, against autodiff of `plain.loss`."""
    mesh = one_device(devices)
    # The update is the gradient.
    options = dict(optimizer=sgd(), base_temperature=0.7, cut="shared")
    (_, learnt), _ = step(mesh, method_of("dapo"), **options)
    with jax.set_mesh(mesh):
        learner, start = make(mesh, method_of("dapo"), **options)
        minibatch, plan = learn_lib.make_minibatch(learner, learnt, 0)
        after, _ = learner.update(start, minibatch)
    assert (plan.row[:GROUP] < 0).all()  # equal rewards: no pass, but counted below
    _, params = tiny.model()
    batch, rows, advantages = jax.tree.map(
        lambda x: x[:MINIBATCH_ROWS],
        (learnt.batch, learnt.rows, learnt.prepared.constants["advantages"]),
    )

    zeros = np.zeros_like(advantages)  # no score: without it HAPO is DAPO
    plain_batch = plain.Batch(
        batch.prompt_tokens,
        batch.prompt_lengths,
        batch.completion_tokens,
        batch.completion_mask,
        rows.old_logprobs,
        zeros,
        advantages,
    )
    grads, _ = jax.grad(plain.loss, has_aux=True)(
        params, tiny.plain_setup(), plain_batch, plain.Settings(base_temperature=0.7)
    )
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(old - new, g, atol=2e-6),
        jax.device_get(after.params),
        jax.device_get(params),
        jax.device_get(grads),
    )


@pytest.mark.parametrize("by_rows", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_gradient_through_the_entropy_is_that_of_the_plain_formula(devices, by_rows):
    """Mean of -A r - c H over the tokens of a mini-batch, in one micro-batch."""
    mesh, c = one_device(devices), 3.0
    changes = {"regulariser": {"name": "entropy_bonus", "coefficient": c}}
    if by_rows:  # with one micro-batch the same mean
        changes["aggregation"] = "token_mean_micro"
    method = tiny.method("dapo", **changes)
    assert method.by_rows == by_rows
    options = dict(optimizer=sgd(), cut="packed", micro_rows=MINIBATCH_ROWS)
    batch = batch_lib.rows(rollout(), slice(-MINIBATCH_ROWS, None))
    batch = batch_lib.number_groups(batch, GROUP)
    (state, learnt), _ = step(mesh, method, batch, **options)
    mask, advantages = batch.completion_mask, learnt.prepared.constants["advantages"]

    def mean(params):
        rows = batch.prompt_tokens, batch.prompt_lengths, batch.completion_tokens
        logprobs, entropy = plain.score_tokens(
            tiny.plain_setup(), params, *rows, plain.Settings()
        )
        ratio = jnp.exp(logprobs - learnt.rows.old_logprobs)
        return jnp.where(mask, -advantages * ratio - c * entropy, 0).sum() / mask.sum()

    _, params = tiny.model()
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(old - new, g, atol=5e-6),
        state.params,
        jax.device_get(params),
        jax.device_get(jax.grad(mean)(params)),
    )


def test_one_program_for_every_batch(devices):
    """Lengths, skipped completions and statistics change; nothing compiles again."""
    mesh = one_device(devices)
    with jax.set_mesh(mesh):
        learner, state = make(mesh, method_of("hapo"), cut="shared", micro_rows=2)
        state, *_ = learn_lib.learn(learner, state, rollout(), passes=1)
        programs = learner.num_programs()
        assert programs == 3
        for seed in (1, 2):
            batch = tiny.batch(NUM_PROMPTS, GROUP, seed=seed)
            batch.completion_mask[:, 3 * seed :] = False
            state, *_ = learn_lib.learn(learner, state, batch, passes=2)
    assert learner.num_programs() == programs


@pytest.mark.slow
def test_recorded_old_logprobs_spare_the_scoring(devices):
    """With what scoring would have found, everything but the pass is the same."""
    mesh, method = one_device(devices), method_of("hapo")
    with jax.set_mesh(mesh):
        learner, state = make(mesh, method)
        (old,) = learn_lib.score(learner, [state.params], rollout())
    record = rollout().record._replace(base_logprobs=old.logprobs, entropy=old.entropy)
    batch = rollout()._replace(record=record)
    expected = step(mesh, method, batch)
    found = step(mesh, method, batch, recompute_old_logprobs=False)
    (_, learnt), metrics = expected
    assert len(learnt.scorings) == 1 and metrics.pop("mismatch/logprob_abs_max") == 0
    del metrics["mismatch/logprob_abs_mean"], metrics["mismatch/frac_off_10pct"]
    assert not found[0][1].scorings and found[1].keys() == metrics.keys()
    assert_same(found, expected, atol=0)


@pytest.mark.parametrize(("recompute", "times"), [(True, 1), (False, 0)])
def test_without_an_update_nothing_is_scored_again(
    devices, monkeypatch, recompute, times
):
    """The policy is the one that the completions were scored by, or drawn from."""
    scored, mesh = [], one_device(devices)
    score = learn_lib.score
    monkeypatch.setattr(
        learn_lib, "score", lambda *args: scored.append(1) or score(*args)
    )
    with jax.set_mesh(mesh):
        method = tiny.method("hapo")
        learner, state = make(mesh, method, recompute_old_logprobs=recompute)
        state, learnt, _ = learn_lib.learn(learner, state, rollout(), passes=0)
        terms, now = learn_lib.look_back(learner, state, learnt)
    assert len(scored) == times
    np.testing.assert_array_equal(now.logprobs, learnt.rows.old_logprobs)
    np.testing.assert_array_equal(terms.ratio[rollout().completion_mask], 1)


@pytest.mark.slow
def test_a_method_gets_what_it_reads_of_old_and_current_policy(devices):
    """Against whole softmaxes; and compiled ahead for the same arguments."""
    mesh, T = one_device(devices), 0.7
    stages = dict(advantage="otb", surrogate="tests.algo.own_stages:by_rank")
    method = tiny.method("lp_reg", **stages)
    assert method.outputs == {"rank"}
    assert method.old_outputs == {"square_sum", "cut_logprobs"}
    with jax.set_mesh(mesh):
        learner, state = make(mesh, method, base_temperature=T, cut="shared")
        old_params = jax.device_get(state.params)
        state, learnt, _ = learn_lib.learn(learner, state, rollout(), passes=1)
        terms, now = learn_lib.look_back(learner, state, learnt)
    tokens, mask = rollout().completion_tokens, rollout().completion_mask

    def logits(params):
        rows = rollout().prompt_tokens, rollout().prompt_lengths, tokens
        return np.asarray(plain.policy_logits(tiny.plain_setup(), params, *rows))

    def of_tokens(x):
        return np.take_along_axis(x, tokens[..., None], -1)[..., 0]

    p = np.asarray(jax.nn.softmax(logits(old_params) / T))
    kept = np.where(p >= 0.02 * p.max(-1, keepdims=True), p, 0)
    with np.errstate(divide="ignore"):
        cut = of_tokens(np.log(kept / kept.sum(-1, keepdims=True)))
    found = learnt.rows
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(found.old_square_sum[mask], (p**2).sum(-1)[mask])
    close(found.old_cut_logprobs[mask], cut[mask])
    assert np.isneginf(cut[mask]).any()
    sorted_places = np.argsort(np.argsort(-logits(jax.device_get(state.params))))
    close(now.rank[mask], 1 + of_tokens(sorted_places)[mask])
    close(terms.ratio, np.exp(now.logprobs - found.old_logprobs))

    shapes_of_rows = shapes.rows(learner, *mask.shape, with_reference=False)
    assert jax.tree.map(np.shape, shapes_of_rows) == jax.tree.map(np.shape, found)
    assert learner.num_programs() == 3
    config = presets.apply_method(defaults.default(), "lp_reg")
    config.learner.recompute_old_logprobs = False
    with pytest.raises(Refused, match="reads old_cut_logprobs, old_square_sum"):
        check.check_method(config, method)


def lopti(**options):
    return tiny.method("dapo", phases={"name": "low_probability_first", **options})


@pytest.mark.slow
def test_two_phases_are_two_updates_with_the_others_advantages_at_zero(devices):
    """Lopti in its paper's words; the mini-batches of a phase come one after another.
    1e-5: float32 sums in another order."""
    mesh, options = one_device(devices), dict(optimizer=sgd(), cut="packed")
    (found, learnt), metrics = step(mesh, lopti(below=0.1), **options)
    likely = np.exp(learnt.rows.old_logprobs) >= 0.1
    with jax.set_mesh(mesh):
        learner, state = make(mesh, tiny.method("dapo"), **options)
        scores = learn_lib.given_scores(learner, state, None, rollout())
        whole, method_state = learn_lib.prepare(
            learner, rollout(), state.method_state, *scores
        )
        state = state._replace(method_state=method_state)
        constants = whole.prepared.constants
        for phase in (~likely, likely):
            own = np.where(phase, constants["advantages"], 0)
            prepared = whole.prepared._replace(
                constants={**constants, "advantages": own}
            )
            for first in range(0, ROWS, MINIBATCH_ROWS):
                minibatch, _ = learn_lib.make_minibatch(
                    learner, whole._replace(prepared=prepared), first
                )
                state, _ = learner.update(state, minibatch)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
        found.params,
        jax.device_get(state.params),
    )
    # Every token with signal is trained on once, in twice the updates.
    assert metrics["ledger/updates"] == 2 * ROWS // MINIBATCH_ROWS
    signal = constants["signal"]
    assert (signal & likely).any() and (signal & ~likely).any()
    assert metrics["ledger/trained_tokens"] == signal.sum()
    assert metrics["ratio/deviation"] > 0


@pytest.mark.parametrize("below", [0.0, 1.0])
def test_a_phase_without_tokens_changes_nothing(devices, below):
    """Without momentum or weight decay; then all tokens are learnt in the other."""
    mesh, options = one_device(devices), dict(optimizer=sgd(), cut="packed")
    (found, _), metrics = step(mesh, lopti(below=below), **options)
    (expected, _), plain = step(mesh, tiny.method("dapo"), **options)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    assert metrics["ledger/trained_tokens"] == plain["ledger/trained_tokens"]
    assert metrics["ledger/updates"] == plain["ledger/updates"]


@pytest.mark.slow
def test_completions_without_advantages_are_skipped_exactly(devices):
    """The first group has equal rewards. What it adds is 0 in every parameter, and
    its tokens still count in the denominator. 1e-5: sums in another order."""
    mesh, method = one_device(devices), method_of("dapo")
    assert method.silent_at_zero
    whole = dataclasses.replace(method, silent_at_zero=False)
    options = dict(optimizer=sgd(), cut="packed")
    (state, learnt), metrics = step(mesh, method, **options)
    (expected, _), all_metrics = step(mesh, whole, **options)
    assert metrics["batch/skipped_sequences"] >= GROUP
    assert all_metrics["batch/skipped_sequences"] == 0
    signal = learnt.prepared.constants["signal"]
    assert metrics["ledger/trained_tokens"] == signal.sum()
    assert all_metrics["ledger/trained_tokens"] == rollout().completion_mask.sum()
    np.testing.assert_allclose(
        metrics["loss/policy"], all_metrics["loss/policy"], rtol=1e-5
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
        state.params,
        expected.params,
    )


@pytest.mark.parametrize(
    ("method", "beside_rows"),
    [
        unless(name == "grpo", name, beside_rows, suite=beside_rows)
        for name, beside_rows in (
            ("hapo_public", 0),
            ("grpo", 0),
            ("dr_grpo", 0),
            ("dapo", 4),
            ("hapo_public", 4),
        )
    ],
)
def test_every_kind_of_method_gives_its_own_loss(devices, method, beside_rows):
    """In one micro-batch, so that statistics are those of the mini-batch: the loss of
    the first update equals `batch_loss.rows_loss`."""
    mesh, method = one_device(devices), method_of(method)
    reference = tiny.params(seed=1) if method.needs_reference else None
    batch = batch_lib.rows(rollout(), slice(0, MINIBATCH_ROWS))
    second = np.arange(MINIBATCH_ROWS) >= MINIBATCH_ROWS - beside_rows
    batch = batch._replace(beside=second)
    (_, learnt), metrics = step(
        mesh,
        method,
        batch=batch,
        reference_params=reference,
        cut="packed",
        micro_rows=MINIBATCH_ROWS,
        beside_rows=beside_rows,
    )
    trained = learnt.prepared.constants["signal" if method.silent_at_zero else "mask"]
    trained = trained | (batch.completion_mask & second[:, None])
    assert metrics["ledger/trained_tokens"] == trained.sum()
    own = batch.completion_mask & ~second[:, None]
    assert metrics["batch/tokens"] == own.sum()
    logprobs, entropy = tiny.teacher_forced(tiny.model(), batch)
    current = {"logprobs": logprobs, "entropy": entropy}
    numerator, denominator, sums = batch_loss.rows_loss(
        method, current, learnt.prepared.constants, learnt.prepared.method_state
    )
    np.testing.assert_allclose(
        metrics["loss/policy"], numerator / denominator, rtol=1e-4, atol=1e-6
    )
    for name, (total, count) in sums.items():
        np.testing.assert_allclose(
            metrics[name], total / count, rtol=1e-3, atol=1e-4, err_msg=name
        )


@pytest.mark.slow
def test_non_finite_gradients_are_skipped_and_counted(devices):
    mesh = one_device(devices)
    with jax.set_mesh(mesh):
        learner, state = make(mesh, method_of("hapo"))
        before = jax.device_get(state)
        poisoned = rollout()._replace(
            rewards=np.full_like(rollout().rewards, np.inf)
            * np.resize([1, -1], ROWS).astype(np.float32)
        )
        state, _, metrics = learn_lib.learn(learner, state, poisoned, passes=1)
        assert metrics["grad/skipped"] == 2
        assert int(state.skipped) == 2 and int(state.skipped_total) == 2
        jax.tree.map(
            np.testing.assert_array_equal,
            (before.params, before.opt_state),
            jax.device_get((state.params, state.opt_state)),
        )
        state, _, metrics = learn_lib.learn(learner, state, rollout(), passes=1)
        assert metrics["grad/skipped"] == 0
        assert int(state.skipped) == 0 and int(state.skipped_total) == 2


@pytest.mark.slow
def test_a_batch_of_empty_rows_changes_no_parameter(devices):
    mesh = one_device(devices)
    empty = rollout()._replace(completion_mask=np.zeros_like(rollout().completion_mask))
    (state, _), metrics = step(mesh, method_of("hapo"), batch=empty)
    jax.tree.map(
        np.testing.assert_array_equal, state.params, jax.device_get(tiny.params())
    )
    assert metrics["grad/skipped"] == 0
    assert np.isinf(state.method_state["entropy"].std)  # as before the first batch
    # Nothing was trained: what would be a mean of nothing is absent, and not 0.
    assert metrics["learner/updates"] == 0 and metrics["learner/updates_idle"] == 2
    assert not {name for name in metrics if name.startswith(("ratio/", "loss/"))}


@pytest.mark.slow
def test_empty_groups_do_not_dilute_metrics(devices):
    """Dynamic sampling filled half of the batch: the second update has nothing to do.

    The policy that scores is the one that is trained, so every ratio is 1, whatever
    the other update did; clip widths are never below the plain ones.
    """
    mesh = one_device(devices)
    full = batch_lib.rows(rollout(), slice(GROUP, GROUP + MINIBATCH_ROWS))
    half = batch_lib.pad_rows(full, 2 * MINIBATCH_ROWS)
    half = batch_lib.number_groups(half, GROUP)
    metrics = {}
    for method in ("hapo", "grpo"):  # grpo's KL term trains silent completions too
        reference = tiny.params(seed=1) if method == "grpo" else None
        _, metrics[method] = step(
            mesh, method_of(method), batch=half, reference_params=reference
        )
        assert metrics[method]["ratio/mean"] == pytest.approx(1, abs=1e-5)
        assert metrics[method]["clip/width_low"] >= 0.2 - 1e-6
        assert metrics[method]["clip/width_high"] >= 0.2 - 1e-6
        assert metrics[method]["learner/updates"] == 1
        assert metrics[method]["learner/updates_idle"] == 1
        assert metrics[method]["learner/learning_rate"] == pytest.approx(0.5e-2)
    # The same tokens, whatever else is trained on.
    key = "advantages/frac_nonzero"
    assert metrics["hapo"][key] == metrics["grpo"][key]


def test_nan_in_padding_reaches_nothing(devices, expected):
    batch = rollout()
    poison = np.where(batch.completion_mask, batch.record.behavior_logprobs, np.nan)
    result = step(
        one_device(devices),
        method_of("hapo"),
        batch=batch._replace(record=batch.record._replace(behavior_logprobs=poison)),
    )
    (state, _), _ = result
    jax.tree.map(np.testing.assert_array_equal, state.params, expected[0][0].params)


@pytest.mark.slow
def test_reference_kl_pulls_towards_the_reference(devices):
    mesh = one_device(devices)
    grpo = method_of("grpo", kl_strength=1.0)
    reference = tiny.params(seed=1)
    (_, learnt), metrics = step(mesh, grpo, passes=3, reference_params=reference)
    assert np.isfinite(metrics["kl/reference_k3"]) and metrics["kl/reference_k3"] > 0
    assert metrics["batch/skipped_sequences"] == 0  # the KL term needs every token
    tokens = rollout().completion_mask.sum()
    assert metrics["ledger/trained_tokens"] == 3 * tokens  # of three passes
    assert metrics["ledger/updates"] == metrics["learner/updates"] == 6
    # The batch was scored under the same parameters, seed 1.
    np.testing.assert_allclose(
        learnt.rows.reference_logprobs,
        rollout().record.base_logprobs,
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.slow
def test_maximum_likelihood_learns_its_batch(devices):
    mesh = one_device(devices)
    with jax.set_mesh(mesh):
        learner, state = make(
            mesh,
            sft.likelihood({"name": "uniform"}),
            optimizer=adamw(peak=3e-2, warmup=1, weight_decay=0.0),
        )
        zeros = np.zeros_like(rollout().record.entropy)
        old = head.Scores(zeros, zeros)
        learnt, _ = learn_lib.prepare(learner, rollout(), state.method_state, old)
        minibatch, plan = learn_lib.make_minibatch(learner, learnt, 0)
        assert (plan.row >= 0).all()
        losses = []
        for _ in range(40):
            state, tally = learner.update(state, minibatch)
            losses.append(float(tally.numerator / tally.denominator))
    scored = rollout().record.base_logprobs[:MINIBATCH_ROWS]
    assert scored.mean() < 0
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_what_is_frozen_stays_and_the_rest_learns_as_before(devices):
    """Norms are trained alone: their gradients are those of training everything."""
    mesh, method, optimizer = one_device(devices), method_of("hapo"), sgd()
    with jax.set_mesh(mesh):
        learner, whole = make(mesh, method, optimizer=optimizer)
        params = tiny.params()
        trainable, frozen = nnx.split_state(
            params, lambda path, _: "norm" in str(path), ...
        )
        state = state_lib.init_state(trainable, optimizer, method, frozen)
        assert 0 < len(jax.tree.leaves(trainable)) < len(jax.tree.leaves(params))
        layouts = jax.tree.map(lambda x: whole_sharding(mesh), state)
        policy = policy_lib.make(tiny.MODEL, None, "", "float32", mesh)
        part = train_step.make_learner(
            policy.graphdef,
            method,
            optimizer,
            mesh,
            layouts,
            base_temperature=1.0,
            minibatch_rows=MINIBATCH_ROWS,
            recompute_old_logprobs=True,
            layout=learner.layout,
            chunk_tokens=64,
            remat="none",
        )
        before = jax.device_get(state.frozen)
        batch = batch_lib.rows(rollout(), slice(0, MINIBATCH_ROWS))
        state, _, metrics = learn_lib.learn(part, state, batch, passes=1)
        whole, *_ = learn_lib.learn(learner, whole, batch, passes=1)
    assert metrics["grad/norm"] > 0
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.frozen), before)
    expected, _ = nnx.split_state(
        whole.params, lambda path, _: "norm" in str(path), ...
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        jax.device_get(state.trainable),
        jax.device_get(expected),
    )


def whole_sharding(mesh):
    return sharding.replicated(mesh)
