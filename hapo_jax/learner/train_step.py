"""The learner's jitted functions: score a batch, turn rewards into advantages, update.

    rows ── score ──► old_logprobs, old_entropy
         ── prepare ► advantages, EntropyStats
         ── update ─► new TrainState          (once per mini-batch)

Sums of a mini-batch run over its micro-batches in float32 and are divided once, by
the global mini-batch's count, so how the work is cut changes speed and not numbers.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.algo import objective as objective_lib
from hapo_jax.learner import scoring
from hapo_jax.model import sharding

Array = jax.Array


class TrainState(NamedTuple):
    """What an update changes; all of it is in a checkpoint.

    Attributes:
      params: float32 master parameters, an `nnx.State`.
      opt_state: of optax, sharded like the parameters.
      stats: entropy statistics of the last batch, for its updates and the next rollout.
      skipped: int32 scalar, updates skipped in a row for non-finite gradients.
      skipped_total: int32 scalar, in the whole run.
    """

    params: nnx.State
    opt_state: optax.OptState
    stats: entropy_lib.EntropyStats
    skipped: Array
    skipped_total: Array


class Rows(NamedTuple):
    """Completions as the learner sees them; fields as in `batch.RolloutBatch`.

    Every field has the shape [M, b, ...]: M mini-batches of b rows, b split over
    data and fsdp. So choosing a mini-batch moves nothing between devices.
    `score` and `prepare` fill the fields that start as None.
    """

    prompt_tokens: Array
    prompt_lengths: Array
    completion_tokens: Array
    completion_mask: Array
    behavior_logprobs: Array
    rewards: Array
    group_ids: Array
    old_logprobs: Array | None = None
    old_entropy: Array | None = None
    reference_logprobs: Array | None = None
    advantages: Array | None = None


class Learner(NamedTuple):
    """The jitted functions, with shardings and donation as `make_learner` set them.

    Attributes:
      score: (params, Rows) -> Scores of all rows, [M, b, T].
      prepare: (Rows, EntropyStats) -> (advantages [M, b, T], EntropyStats).
      update: (TrainState, Rows, m) -> (TrainState, metrics), from mini-batch m with
        the state's statistics; the state is donated.
      inspect: (Rows, Scores, EntropyStats) -> TokenTerms, [M·b, T].
      sharding: of every field of `Rows`.
    """

    score: Callable[..., scoring.Scores]
    prepare: Callable[..., tuple[Array, entropy_lib.EntropyStats]]
    update: Callable[..., tuple[TrainState, dict[str, Array]]]
    inspect: Callable[..., objective_lib.TokenTerms]
    sharding: jax.sharding.NamedSharding


def make_learner(
    graphdef: nnx.GraphDef,
    objective: objective_lib.Objective,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    state_shardings: TrainState,
    *,
    base_temperature: float,
    micro_rows: int,
    chunk_tokens: int,
    remat: bool,
) -> Learner:
    """Jits the learner's functions.

    Args:
      graphdef: of the policy.
      objective: the method, see `algo/objective.py`.
      optimizer: of optax.
      mesh: rows are split over its data and fsdp axes.
      state_shardings: of every leaf of the TrainState.
      base_temperature: at which old and current log-probs are taken.
      micro_rows: rows per micro-batch over the whole mesh; divides every batch.
      chunk_tokens: see `scoring.token_scores`.
      remat: recompute layers in the backward pass.
    """
    by_row = sharding.batch_sharding(mesh, leading=1)
    whole = sharding.replicated(mesh)
    score_rows = functools.partial(
        scoring.score_rows, base_temperature=base_temperature, chunk_tokens=chunk_tokens
    )
    score = functools.partial(_score, graphdef, score_rows, micro_rows=micro_rows)
    update = functools.partial(
        _update,
        graphdef,
        objective,
        optimizer,
        functools.partial(
            score_rows,
            with_entropy=objective.needs_current_entropy,
            remat=remat,
        ),
        micro_rows=micro_rows,
    )
    return Learner(
        score=jax.jit(
            score, in_shardings=(state_shardings.params, by_row), out_shardings=by_row
        ),
        prepare=jax.jit(
            functools.partial(_prepare, objective),
            in_shardings=(by_row, whole),
            out_shardings=(by_row, whole),
        ),
        update=jax.jit(
            update,
            in_shardings=(state_shardings, by_row, whole),
            out_shardings=(state_shardings, whole),
            donate_argnums=0,
        ),
        inspect=jax.jit(functools.partial(_inspect, objective)),
        sharding=by_row,
    )


def init_state(
    params: nnx.State, optimizer: optax.GradientTransformation
) -> TrainState:
    """A TrainState at step 0 around given parameters."""
    return TrainState(
        params,
        optimizer.init(params),
        entropy_lib.initial_stats(),
        jnp.int32(0),
        jnp.int32(0),
    )


def place(
    params: nnx.State, optimizer: optax.GradientTransformation, abstract: TrainState
) -> TrainState:
    """`init_state`, laid out as the shardings of `abstract` say; consumes `params`."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    init = jax.jit(
        lambda p: init_state(p, optimizer), out_shardings=shardings, donate_argnums=0
    )
    return init(params)


def state_shardings(
    abstract: TrainState, mesh: jax.sharding.Mesh, rules: sharding.Rules
) -> TrainState:
    """Shardings of a TrainState: moments like their parameters, scalars everywhere.

    Args:
      abstract: a TrainState of ShapeDtypeStructs, from `jax.eval_shape(init_state)`.
      mesh, rules: see `sharding.param_shardings`.
    """
    params = sharding.param_shardings(abstract.params, mesh, rules)
    whole = sharding.replicated(mesh)
    # Whatever optax keeps per parameter has the parameters' structure.
    opt_state = jax.tree.map(
        lambda node: params if isinstance(node, nnx.State) else whole,
        abstract.opt_state,
        is_leaf=lambda node: isinstance(node, nnx.State),
    )
    rest = jax.tree.map(lambda _: whole, abstract._replace(params=(), opt_state=()))
    return rest._replace(params=params, opt_state=opt_state)


def _score(graphdef, score_rows, params, rows: Rows, *, micro_rows) -> scoring.Scores:
    """Scores all rows, micro-batch by micro-batch, entropy included."""
    model = nnx.merge(graphdef, params)

    def one(micro: Rows):
        return score_rows(
            model,
            micro.prompt_tokens,
            micro.prompt_lengths,
            micro.completion_tokens,
            micro.completion_mask,
            with_entropy=True,
        )

    def minibatch(rows: Rows):
        scores = jax.lax.map(one, _split(rows, micro_rows))
        return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), scores)

    return jax.lax.map(minibatch, rows)


def _prepare(objective, rows: Rows, previous: entropy_lib.EntropyStats):
    """Advantages [M, b, T] and the statistics, both over the whole batch."""
    shape, rows = rows.completion_mask.shape, _flatten(rows)
    mask = rows.completion_mask
    advantages = objective_lib.compute_advantages(
        objective, rows.rewards, mask, rows.group_ids
    )
    stats = objective_lib.fit_stats(objective, rows.old_entropy, mask, previous)
    return advantages.reshape(shape), stats


def _update(
    graphdef,
    objective,
    optimizer,
    score_rows,
    state: TrainState,
    rows: Rows,
    m: Array,
    *,
    micro_rows: int,
):
    """One optimizer update from mini-batch m."""
    rows = jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, m, keepdims=False), rows
    )

    def numerator(params, micro: Rows):
        scores = score_rows(
            nnx.merge(graphdef, params),
            micro.prompt_tokens,
            micro.prompt_lengths,
            micro.completion_tokens,
            micro.completion_mask,
        )
        numerator, denominator, sums = objective_lib.loss(
            objective, tokens(micro, scores.logprobs, scores.entropy), state.stats
        )
        return numerator, (denominator, sums)

    def accumulate(total, micro: Rows):
        (value, aux), grads = jax.value_and_grad(numerator, has_aux=True)(
            state.params, micro
        )
        return jax.tree.map(jnp.add, total, (value, *aux, grads)), None

    micros = _split(rows, micro_rows)
    shapes = jax.eval_shape(
        lambda m: jax.value_and_grad(numerator, has_aux=True)(state.params, m),
        jax.tree.map(lambda x: x[0], micros),
    )
    (value, aux), grads = shapes
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, jnp.float32), (value, *aux, grads)
    )
    (value, denominator, sums, grads), _ = jax.lax.scan(accumulate, zeros, micros)

    divisor = jnp.where(denominator == 0, 1.0, denominator)
    loss = value / divisor
    grads = jax.tree.map(lambda g: g / divisor, grads)
    grad_norm = optax.tree.norm(grads)
    num_tokens = rows.completion_mask.sum()
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    # A mini-batch of empty rows has nothing to say: not even weight decay applies.
    applies = finite & (num_tokens > 0)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(applies, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
    )
    bad = (~finite).astype(jnp.int32)
    state = TrainState(
        params,
        opt_state,
        state.stats,
        jnp.where(finite, 0, state.skipped + 1),
        state.skipped_total + bad,
    )
    per_token = {k: v / jnp.maximum(num_tokens, 1) for k, v in sums.items()}
    metrics = {"loss/policy": loss, "grad/norm": grad_norm, "grad/skipped": bad}
    return state, metrics | per_token


def tokens(rows: Rows, logprobs: Array, entropy: Array | None) -> objective_lib.Tokens:
    """The objective's view of rows under a policy."""
    return objective_lib.Tokens(
        logprobs=logprobs,
        entropy=entropy,
        old_logprobs=rows.old_logprobs,
        old_entropy=rows.old_entropy,
        behavior_logprobs=rows.behavior_logprobs,
        reference_logprobs=rows.reference_logprobs,
        advantages=rows.advantages,
        mask=rows.completion_mask,
        rewards=rows.rewards,
        group_ids=rows.group_ids,
    )


def _inspect(objective, rows: Rows, scores: scoring.Scores, stats):
    """What the loss would make of each token, for the run folder's records."""
    rows, scores = _flatten(rows), _flatten(scores)
    return objective_lib.token_terms(
        objective, tokens(rows, scores.logprobs, scores.entropy), stats
    )


def _flatten(tree):
    """[M, b, ...] → [M·b, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _split(rows: Rows, micro_rows: int) -> Rows:
    """[b, ...] → [b/micro_rows, micro_rows, ...], consecutive rows together."""
    mesh = jax.sharding.get_abstract_mesh()

    def split(x: Array) -> Array:
        x = x.reshape(-1, micro_rows, *x.shape[1:])
        if mesh.empty:
            return x
        return jax.lax.with_sharding_constraint(
            x, sharding.batch_sharding(mesh, leading=1)
        )

    return jax.tree.map(split, rows)
