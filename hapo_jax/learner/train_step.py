"""The learner's jitted functions: score a batch, turn rewards into advantages, update.

    Packed ─ score ──► old log-probs and entropies
    Rows ── prepare ─► advantages, EntropyStats, weights
    Minibatch ─ update ► new TrainState          (once per mini-batch)

Sums of a mini-batch run over its micro-batches in float32 and are divided once, by
the global mini-batch's count, so how the work is cut changes speed and not numbers.
Arrays have room for the worst case and a loop that ends behind the last micro-batch
with a token in it: every function is compiled once.
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
from hapo_jax.learner import head, packing, scoring
from hapo_jax.learner import optimizer as optimizer_lib
from hapo_jax.learner.state import TrainState
from hapo_jax.model import sharding, target, transformer
from hapo_jax.system import compile_ahead

Array = jax.Array


class Rows(NamedTuple):
    """Completions as `prepare` sees them; fields as in `batch.RolloutBatch`.

    Attributes:
      completion_mask, behavior_logprobs, old_logprobs, old_entropy: [B, T].
      reference_logprobs: [B, T], or None.
      rewards, group_ids: [B].
    """

    completion_mask: Array
    behavior_logprobs: Array
    old_logprobs: Array
    old_entropy: Array
    reference_logprobs: Array | None
    rewards: Array
    group_ids: Array


class Prepared(NamedTuple):
    """What an update needs beside the policy; B rows in mini-batches of b.

    Attributes:
      advantages: [B, T] float32.
      known: [B, T] each; None for an objective that is not token-wise, as is weights.
      weights: [B, T] float32, of the aggregation.
      denominators: [B/b] float32, of each mini-batch; 0 if not token-wise.
      stats: of the batch.
    """

    advantages: Array
    known: objective_lib.Known | None
    weights: Array | None
    denominators: Array
    stats: entropy_lib.EntropyStats


class Minibatch(NamedTuple):
    """One update's work. Token-wise objectives get what they read target by target;
    the others get rows, and where each target stands in them.

    Attributes:
      packed: M micro-batches; targets [M, S, N].
      tokens: [M, S, N] each, or rows [b, T]; without current log-probs and entropies.
      known, weights: [M, S, N], or None with rows.
      index: of the targets in the rows, or None without rows.
      denominator: float32 scalar; 0 with rows.
      num_tokens: int32 scalar, completion tokens of the mini-batch, those of
        completions that the plan leaves out too.
    """

    packed: packing.Packed
    tokens: objective_lib.Tokens
    known: objective_lib.Known | None
    weights: Array | None
    index: packing.Index | None
    denominator: Array
    num_tokens: Array


class Tally(NamedTuple):
    """What an update adds to the metrics of its step; scalars.

    Attributes:
      numerator, denominator: float32, of the loss.
      sums: `area/name` to [2] float32, see `objective.loss`.
      grad_norm: float32, of the whole gradient before clipping.
      finite: bool, loss and gradient were; otherwise the update was skipped.
      trained_tokens: int32, completion tokens that went through the policy.
      learning_rate: float32, of this update.
    """

    numerator: Array
    denominator: Array
    sums: dict[str, Array]
    grad_norm: Array
    finite: Array
    trained_tokens: Array
    learning_rate: Array


class Learner(NamedTuple):
    """The jitted functions, with shardings and donation as `make_learner` set them.

    Attributes:
      score: (params, Packed) -> head.Scores, [M, S, N].
      prepare: (Rows, EntropyStats) -> Prepared.
      update: (TrainState, Minibatch) -> (TrainState, Tally), with the state's
        statistics; the state is donated.
      inspect: (Tokens, EntropyStats) -> TokenTerms, [B, T].
      layout: how rows are cut.
      width: columns of a chunk of the head.
      remat: see `transformer.REMATS`.
      minibatch_rows: b, completions per update.
      recompute_old_logprobs: by `score`; or what the sampler recorded is taken.
      token_wise, skips: see `objective.Objective`; `skips` if completions without
        advantages need no pass.
      row_sharding: of every field of `Rows`.
      shardings: of a Minibatch.
    """

    score: Callable[..., head.Scores]
    prepare: Callable[..., Prepared]
    update: Callable[..., tuple[TrainState, Tally]]
    inspect: Callable[..., objective_lib.TokenTerms]
    layout: packing.Layout
    width: int
    remat: str
    minibatch_rows: int
    recompute_old_logprobs: bool
    token_wise: bool
    skips: bool
    row_sharding: jax.sharding.NamedSharding
    shardings: Minibatch

    def num_programs(self) -> int:
        """Compiled programs so far; it must not grow after the first step."""
        jitted = (self.prepare, self.update)
        if self.recompute_old_logprobs:  # or `score` may run first in a later step
            jitted += (self.score,)
        return sum(function._cache_size() for function in jitted)


def make_learner(
    graphdef: nnx.GraphDef,
    objective: objective_lib.Objective,
    optimizer: optimizer_lib.Optimizer,
    mesh: jax.sharding.Mesh,
    state_shardings: TrainState,
    *,
    base_temperature: float,
    minibatch_rows: int,
    recompute_old_logprobs: bool,
    layout: packing.Layout,
    chunk_tokens: int,
    remat: str,
) -> Learner:
    """Jits the learner's functions.

    Args:
      graphdef: of the policy.
      objective: the method, see `algo/objective.py`.
      optimizer: with its learning rate.
      mesh: rows are split over its data and fsdp axes.
      state_shardings: of every leaf of the TrainState.
      base_temperature: at which old and current log-probs are taken.
      minibatch_rows: completions per update; divides every batch.
      recompute_old_logprobs: see Learner.
      layout: how rows are cut.
      chunk_tokens: tokens whose logits exist at a time, per device with rows.
      remat: what the backward pass computes again, see `transformer.REMATS`.
    """
    rows = sharding.batch_sharding(mesh)
    by_row = sharding.batch_sharding(mesh, leading=1)
    whole = sharding.replicated(mesh)
    S = layout.shards
    width = min(chunk_tokens, layout.micro_rows // S * layout.width)
    options = dict(
        branches=layout.share_prompts, base_temperature=base_temperature, width=width
    )
    packed = packing.Packed(*(by_row,) * (len(packing.Packed._fields) - 1), whole)
    by_target = by_row if objective.token_wise else whole
    minibatch = Minibatch(packed, by_target, by_target, by_target, by_row, whole, whole)

    def jit(function, **options):
        return compile_ahead.Jitted(jax.jit(function, **options))

    return Learner(
        score=jit(
            functools.partial(_score, graphdef, **options),
            in_shardings=(state_shardings.params, packed),
            out_shardings=whole,
            compiler_options=target.training_options(),
        ),
        prepare=jit(
            functools.partial(_prepare, objective, minibatch_rows=minibatch_rows),
            in_shardings=(rows, whole),
            out_shardings=whole,
        ),
        update=jit(
            functools.partial(
                _update,
                graphdef,
                objective,
                optimizer,
                state_shardings.params,
                remat=remat,
                **options,
            ),
            in_shardings=(state_shardings, minibatch),
            out_shardings=(state_shardings, whole),
            donate_argnums=0,
            compiler_options=target.training_options(),
        ),
        inspect=jax.jit(functools.partial(objective_lib.token_terms, objective)),
        layout=layout,
        width=width,
        remat=remat,
        minibatch_rows=minibatch_rows,
        recompute_old_logprobs=recompute_old_logprobs,
        token_wise=objective.token_wise,
        skips=objective.token_wise and objective.zero_advantage_is_silent,
        row_sharding=rows,
        shardings=minibatch,
    )


def _score(graphdef, params, packed: packing.Packed, **options) -> head.Scores:
    """Scores all targets, entropy included."""
    model = nnx.merge(graphdef, params)
    model = nnx.merge(graphdef, transformer.compute_params(params, model.dtype))
    return scoring.score(model, packed, **options)


def _prepare(
    objective, rows: Rows, previous: entropy_lib.EntropyStats, *, minibatch_rows: int
) -> Prepared:
    """Advantages and statistics over the whole batch, weights per mini-batch."""
    mask = rows.completion_mask
    advantages = objective_lib.compute_advantages(
        objective, rows.rewards, mask, rows.group_ids
    )
    stats = objective_lib.fit_stats(objective, rows.old_entropy, mask, previous)
    by_minibatch = mask.reshape(-1, minibatch_rows, mask.shape[1])
    if not objective.token_wise:
        zeros = jnp.zeros(len(by_minibatch), jnp.float32)
        return Prepared(advantages, None, None, zeros, stats)
    weights, denominators = jax.vmap(objective.aggregate)(by_minibatch)
    known = objective_lib.known(objective, tokens(rows, advantages), stats)
    return Prepared(advantages, known, weights.reshape(mask.shape), denominators, stats)


def tokens(rows: Rows, advantages: Array) -> objective_lib.Tokens:
    """The objective's view of rows, without the current policy."""
    return objective_lib.Tokens(
        logprobs=None,
        entropy=None,
        old_logprobs=rows.old_logprobs,
        old_entropy=rows.old_entropy,
        behavior_logprobs=rows.behavior_logprobs,
        reference_logprobs=rows.reference_logprobs,
        advantages=advantages,
        mask=rows.completion_mask,
    )


def _update(
    graphdef,
    objective,
    optimizer,
    param_shardings,
    state: TrainState,
    batch: Minibatch,
    *,
    remat: str,
    branches: bool,
    **options,
):
    """One optimizer update."""
    dtype = nnx.merge(graphdef, state.params).dtype
    # Cast once, and not in every micro-batch.
    params = transformer.compute_params(state.params, dtype)
    through_head = _token_wise if objective.token_wise else _row_wise
    options["unused_ids"] = nnx.merge(graphdef, params).config.unused_ids
    through_head = functools.partial(through_head, objective, state.stats, **options)

    def gradients(k):
        """Sums of micro-batch k, its gradients, and that in the unembedding."""
        micro = scoring.micro_batch(batch.packed, k)
        hidden, pull = jax.vjp(
            lambda params: scoring.states(
                nnx.merge(graphdef, params), micro, branches=branches, remat=remat
            ),
            params,
        )
        weight = nnx.merge(graphdef, params).unembedding()
        sums, d_hidden, d_weight = through_head(hidden, weight, micro, batch, k)
        (grads,) = pull(d_hidden)
        return sums, grads, d_weight

    def add(k, total):
        total = jax.tree.map(jnp.add, total, gradients(k))
        # Within the loop, so that devices exchange only the share that each keeps.
        return _constrain(total, param_shardings, nnx.merge(graphdef, params))

    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, jnp.float32), jax.eval_shape(gradients, 0)
    )
    (numerator, denominator, sums), grads, d_weight = jax.lax.fori_loop(
        0, batch.packed.num_micros, add, zeros
    )
    name = nnx.merge(graphdef, params).unembedding_name
    grads[name] = grads[name].replace(grads[name].get_value() + d_weight)
    return _apply(
        optimizer,
        state,
        numerator,
        denominator + batch.denominator,
        sums,
        grads,
        num_tokens=batch.num_tokens,
        trained_tokens=batch.packed.counts.sum(),
    )


def _token_wise(
    objective, stats, hidden, weight, micro, batch: Minibatch, k, **options
):
    """The head where a token's loss needs no other token: one pass over the logits."""
    constants = jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, k, keepdims=False),
        (batch.tokens, batch.known, batch.weights),
    )

    def slopes(scores: head.Scores, constants):
        tokens, known, weights = constants

        def value(logprobs):
            given = tokens._replace(logprobs=logprobs, entropy=scores.entropy)
            return objective_lib.token_loss(objective, given, known, weights, stats)

        (numerator, sums), slope = jax.value_and_grad(value, has_aux=True)(
            scores.logprobs
        )
        return (numerator, jnp.float32(0), sums), slope

    return head.gradients(
        slopes,
        hidden,
        weight,
        micro.targets,
        micro.counts,
        constants,
        with_entropy=objective.needs_current_entropy,
        **options,
    )


def _row_wise(objective, stats, hidden, weight, micro, batch: Minibatch, k, **options):
    """The head where the loss needs rows, or statistics of the micro-batch: scores
    first, then the loss of the rows, then gradients from logits made again."""
    scores = head.scores(
        hidden,
        weight,
        micro.targets,
        micro.counts,
        with_entropy=objective.needs_current_entropy,
        **options,
    )
    index = jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, k, keepdims=False), batch.index
    )
    shape = batch.tokens.mask.shape

    def rows(x):
        """[S, N] → [b, T]; padding points behind the last row."""
        return jnp.zeros(shape, x.dtype).at[index.row, index.column].set(x, mode="drop")

    mask = rows(jnp.ones(micro.targets.shape, bool))
    entropy = None if scores.entropy is None else rows(scores.entropy)

    def value(logprobs):
        tokens = batch.tokens._replace(
            logprobs=rows(logprobs), entropy=entropy, mask=mask
        )
        numerator, denominator, sums = objective_lib.loss(objective, tokens, stats)
        return numerator, (denominator, sums)

    (numerator, aux), slope = jax.value_and_grad(value, has_aux=True)(scores.logprobs)
    _, d_hidden, d_weight = head.gradients(
        lambda _, slope: ((), slope),
        hidden,
        weight,
        micro.targets,
        micro.counts,
        slope,
        with_entropy=False,
        **options,
    )
    return (numerator, *aux), d_hidden, d_weight


def _constrain(total, param_shardings, model: transformer.Transformer):
    """Lays summed gradients out like the parameters, where several devices do."""
    if jax.sharding.get_abstract_mesh().size <= 1:
        return total
    sums, grads, d_weight = total
    of_weight = param_shardings[model.unembedding_name].get_value()
    grads = jax.lax.with_sharding_constraint(grads, param_shardings)
    d_weight = jax.lax.with_sharding_constraint(d_weight, of_weight)
    # The compiler would move it behind the loop, and keep the whole till then.
    return jax.lax.optimization_barrier((sums, grads, d_weight))


def _apply(
    optimizer,
    state: TrainState,
    numerator,
    denominator,
    sums,
    grads,
    *,
    num_tokens,
    trained_tokens,
):
    """The optimizer's step from summed gradients, unless they are not finite."""
    divisor = jnp.where(denominator == 0, 1.0, denominator)
    loss = numerator / divisor
    grads = jax.tree.map(lambda g: g / divisor, grads)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    # A mini-batch of empty rows has nothing to say: not even weight decay applies.
    applies = finite & (num_tokens > 0)

    learning_rate = jnp.float32(optimizer.learning_rate(state.opt_state))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(applies, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
    )
    state = TrainState(
        params,
        opt_state,
        state.stats,
        jnp.where(finite, 0, state.skipped + 1),
        state.skipped_total + ~finite,
    )
    return state, Tally(
        numerator, denominator, sums, grad_norm, finite, trained_tokens, learning_rate
    )
