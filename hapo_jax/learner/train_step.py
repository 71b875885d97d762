"""The learner's jitted functions: score a batch, turn rewards into advantages, update.

    Packed ─ score ──► old log-probs and entropies
    Rows ── prepare ─► constants of the method, its state, weights
    Minibatch ─ update ► new TrainState          (once per mini-batch)

Sums of a mini-batch run over its micro-batches in float32 and are divided once, by
the global mini-batch's count, so how the work is cut changes speed and not numbers.
Arrays have room for the worst case and a loop that ends behind the last micro-batch
with a token in it: every function is compiled once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from hapo_jax.algo import batch_loss
from hapo_jax.algo import method as method_lib
from hapo_jax.algo.terms import Rows, Terms
from hapo_jax.learner import head, packing, scoring, value_head
from hapo_jax.learner import optimizer as optimizer_lib
from hapo_jax.learner.state import TrainState, merge
from hapo_jax.model import sharding, transformer
from hapo_jax.system import compile_ahead, target

Array = jax.Array


class Prepared(NamedTuple):
    """What an update needs beside the policy; B rows in mini-batches of b.

    Attributes:
      constants: [B, T] each by name, see `Method.constants`.
      weights: [B, T] float32, of the aggregation; None for a method that is by rows.
      denominators: [B/b] float32, of each mini-batch; 0 if by rows.
      method_state: of this step.
    """

    constants: dict[str, Array]
    weights: Array | None
    denominators: Array
    method_state: Any


class Minibatch(NamedTuple):
    """One update's work. Most methods get what they read target by target; those that
    are by rows get rows, and where each target stands in them.

    Attributes:
      packed: M micro-batches; targets [M, S, N].
      constants: [M, S, N] each, or rows [b, T].
      weights: [M, S, N], or None with rows.
      index: of the targets in the rows, or None without rows.
      denominator: float32 scalar; 0 with rows.
      num_tokens: int32 scalar, completion tokens of the mini-batch, those of
        completions that the placement leaves out too.
    """

    packed: packing.Packed
    constants: dict[str, Array]
    weights: Array | None
    index: packing.Index | None
    denominator: Array
    num_tokens: Array


class Tally(NamedTuple):
    """What an update adds to the metrics of its step; scalars.

    Attributes:
      numerator, denominator: float32, of the loss.
      sums: `area/name` to [2] float32, see `batch_loss.token_loss`.
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
      score: (params, critic or None, Packed) -> head.Scores, [M, S, N].
      prepare: (terms.Rows, method state) -> Prepared.
      update: (TrainState, Minibatch) -> (TrainState, Tally); the state is donated.
      inspect: (current, constants, method state) -> terms.Terms, [B, T].
      watch: `score` with all that the head can tell, for records: compiled where a step
        is recorded whole, so that recording changes nothing of the run.
      layout: how rows are cut.
      width: columns of a chunk of the head.
      remat: see `transformer.REMATS`.
      minibatch_rows: b, completions per update, those beside the batch included.
      beside_rows: of them places for these, the last ones.
      recompute_old_logprobs: by `score`; or what the sampler recorded is taken.
      by_rows, has_critic, silent_at_zero, phases, reads_forks, outputs, old_outputs,
        ratio_of, imitation_weight: see `Method`.
      row_sharding: of every field of `Rows`.
      shardings: of a Minibatch.
    """

    score: Callable[..., head.Scores]
    prepare: Callable[..., Prepared]
    update: Callable[..., tuple[TrainState, Tally]]
    inspect: Callable[..., Terms]
    watch: Callable[..., head.Scores]
    layout: packing.Layout
    width: int
    remat: str
    minibatch_rows: int
    beside_rows: int
    recompute_old_logprobs: bool
    by_rows: bool
    has_critic: bool
    silent_at_zero: bool
    phases: int
    reads_forks: bool
    outputs: frozenset[str]
    old_outputs: frozenset[str]
    ratio_of: str
    imitation_weight: Callable[[Any], Array] | None
    row_sharding: jax.sharding.NamedSharding
    shardings: Minibatch

    @property
    def skips(self) -> bool:
        """Completions without advantages need no pass."""
        return self.silent_at_zero and not self.by_rows

    def num_programs(self) -> int:
        """Compiled programs so far; it must not grow after the first step."""
        jitted = (self.prepare, self.update)
        if self.recompute_old_logprobs:  # or `score` may run first in a later step
            jitted += (self.score,)
        return sum(function._cache_size() for function in jitted)


def make_learner(
    graphdef: nnx.GraphDef,
    method: method_lib.Method,
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
    beside_rows: int = 0,
) -> Learner:
    """Jits the learner's functions.

    Args:
      graphdef: of the policy.
      method: see `algo/method.py`.
      optimizer: with its learning rate.
      mesh: rows are split over its data and fsdp axes.
      state_shardings: of every leaf of the TrainState.
      base_temperature: at which old and current log-probs are taken.
      minibatch_rows: completions per update; divides every batch.
      recompute_old_logprobs: see Learner.
      layout: how rows are cut.
      chunk_tokens: tokens whose logits exist at a time, per device with rows.
      remat: what the backward pass computes again, see `transformer.REMATS`.
      beside_rows: see Learner.
    """
    rows = sharding.batch_sharding(mesh)
    by_row = sharding.batch_sharding(mesh, leading=1)
    whole = sharding.replicated(mesh)
    S = layout.shards
    width = min(chunk_tokens, layout.micro_rows // S * layout.width)
    options = dict(
        branches=layout.share_prompts, base_temperature=base_temperature, width=width
    )
    packed = packing.Packed(
        **dict.fromkeys(packing.Packed._fields, by_row) | {"num_micros": whole}
    )
    by_target = whole if method.by_rows else by_row
    minibatch = Minibatch(
        packed=packed,
        constants=by_target,
        weights=by_target,
        index=by_row,
        denominator=whole,
        num_tokens=whole,
    )

    def jit(function, **options):
        return compile_ahead.Jitted(jax.jit(function, **options))

    def scorer(outputs: frozenset[str]):
        return jit(
            functools.partial(
                _score, graphdef, outputs=outputs, cut_share=method.cut_share, **options
            ),
            in_shardings=(state_shardings.params, state_shardings.critic, packed),
            out_shardings=whole,
            compiler_options=target.training_options(),
        )

    return Learner(
        score=scorer(head.ENTROPY | method.old_outputs | method.outputs),
        prepare=jit(
            functools.partial(prepare, method, minibatch_rows=minibatch_rows),
            in_shardings=(rows, whole),
            out_shardings=whole,
        ),
        update=jit(
            functools.partial(
                _update,
                graphdef,
                method,
                optimizer,
                state_shardings.trainable,
                remat=remat,
                **options,
            ),
            in_shardings=(state_shardings, minibatch),
            out_shardings=(state_shardings, whole),
            donate_argnums=0,
            compiler_options=target.training_options(),
        ),
        inspect=jax.jit(method.terms),
        watch=scorer(head.OUTPUTS),
        layout=layout,
        width=width,
        remat=remat,
        minibatch_rows=minibatch_rows,
        beside_rows=beside_rows,
        recompute_old_logprobs=recompute_old_logprobs,
        by_rows=method.by_rows,
        has_critic=method.has_critic,
        silent_at_zero=method.silent_at_zero,
        phases=method.phases,
        reads_forks=method.reads_forks,
        outputs=method.outputs,
        old_outputs=method.old_outputs,
        ratio_of=method.ratio_of,
        imitation_weight=method.imitation_weight,
        row_sharding=rows,
        shardings=minibatch,
    )


def _score(graphdef, params, critic, packed: packing.Packed, **options) -> head.Scores:
    """Scores all targets: what is wanted of the old policy, and of one to look at."""
    model = nnx.merge(graphdef, params)
    model = nnx.merge(graphdef, transformer.compute_params(params, model.dtype))
    return scoring.score(model, packed, critic=critic, **options)


def prepare(
    method: method_lib.Method, rows: Rows, state, *, minibatch_rows: int
) -> Prepared:
    """The method's state and constants over the whole batch, weights per mini-batch.

    Args:
      method: from `method.make`.
      rows: B of them.
      state: of the method, before this step.
      minibatch_rows: b, divides B.
    """
    state = method.update_state(rows, state)
    constants = method.constants(rows, state)
    counted = constants.get("counted", rows.mask) & rows.mask
    beside = constants.get("beside")
    if beside is not None:
        counted &= ~beside
    shape = counted.shape
    counted, beside = jax.tree.map(
        lambda x: x.reshape(-1, minibatch_rows, shape[1]), (counted, beside)
    )
    if method.by_rows:
        zeros = jnp.zeros(len(counted), jnp.float32)
        return Prepared(constants, None, zeros, state)
    weights, denominators = jax.vmap(
        functools.partial(batch_loss.aggregation, method, state=state)
    )(counted, beside)
    return Prepared(constants, weights.reshape(shape), denominators, state)


def _update(
    graphdef,
    method: method_lib.Method,
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
    model = nnx.merge(graphdef, state.params)
    # Cast once, and not in every micro-batch.
    cast = functools.partial(transformer.compute_params, dtype=model.dtype)
    policy_part, critic = value_head.split(state.trainable)
    trainable, frozen = cast(policy_part), cast(state.frozen)
    through_heads = _by_rows if method.by_rows else _by_token
    options["unused_ids"] = model.config.unused_ids
    through_heads = functools.partial(
        through_heads, method, state.method_state, **options
    )

    def policy(trainable):
        return nnx.merge(graphdef, merge(frozen, trainable))

    def gradients(k):
        """Sums of micro-batch k, its gradients, and that in the unembedding."""
        micro = scoring.micro_batch(batch.packed, k)
        hidden, pull = jax.vjp(
            lambda trainable: scoring.states(
                policy(trainable), micro, branches=branches, remat=remat
            ),
            trainable,
        )
        weight = policy(trainable).unembedding()
        sums, d_hidden, d_weight, d_critic = through_heads(
            hidden, weight, critic, micro, batch, k
        )
        (grads,) = pull(d_hidden)
        return sums, value_head.join(grads, d_critic), d_weight

    def add(k, total):
        total = jax.tree.map(jnp.add, total, gradients(k))
        # Within the loop, so that devices exchange only the share that each keeps.
        return _constrain(total, param_shardings, policy(trainable))

    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, jnp.float32), jax.eval_shape(gradients, 0)
    )
    (numerator, denominator, sums), grads, d_weight = jax.lax.fori_loop(
        0, batch.packed.num_micros, add, zeros
    )
    name = model.unembedding_name
    if name in grads:  # it is trained
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


def _by_token(
    method: method_lib.Method,
    method_state,
    hidden,
    weight,
    critic,
    micro,
    batch: Minibatch,
    k,
    **options,
):
    """The head where a token's loss needs no other token: one pass over the logits."""
    given = _of_micro((batch.constants, batch.weights), k)

    def slopes(scores: head.Scores, given):
        constants, weights = given

        free, fixed = _of_policy(method, scores)

        def value(free):
            current = {**fixed, **free}
            return batch_loss.token_loss(
                method, current, constants, weights, method_state
            )

        (numerator, sums), slope = jax.value_and_grad(value, has_aux=True)(free)
        return (numerator, jnp.float32(0), sums), head.Scores(**slope)

    sums, d_hidden, d_weight = head.gradients(
        slopes,
        hidden,
        weight,
        micro.targets,
        micro.counts,
        given,
        drawn=micro.drawn,
        outputs=method.outputs,
        **options,
    )
    more, d_states, d_critic = _critic_gradients(method, critic, hidden, *given)
    numerator, denominator, sums = sums
    return (
        (numerator, denominator, sums | more),
        d_hidden + d_states,
        d_weight,
        d_critic,
    )


def _by_rows(
    method: method_lib.Method,
    method_state,
    hidden,
    weight,
    critic,
    micro,
    batch: Minibatch,
    k,
    **options,
):
    """The head where the loss needs rows, or statistics of the micro-batch: scores
    first, then the loss of the rows, then gradients from logits made again."""
    scores = head.scores(
        hidden,
        weight,
        micro.targets,
        micro.counts,
        drawn=micro.drawn,
        outputs=method.outputs,
        **options,
    )
    index = _of_micro(batch.index, k)
    shape = batch.constants["mask"].shape

    def rows(x):
        """[S, N] → [b, T]; padding points behind the last row."""
        return jnp.zeros(shape, x.dtype).at[index.row, index.column].set(x, mode="drop")

    at_hand = rows(jnp.ones(micro.targets.shape, bool))
    constants = {**batch.constants, "mask": at_hand}
    free, fixed = _of_policy(method, scores)

    def value(free):
        current = jax.tree.map(rows, {**fixed, **free})
        numerator, denominator, sums = batch_loss.rows_loss(
            method, current, constants, method_state
        )
        return numerator, (denominator, sums)

    (numerator, (denominator, sums)), slope = jax.value_and_grad(value, has_aux=True)(
        free
    )
    _, d_hidden, d_weight = head.gradients(
        lambda _, slope: ((), head.Scores(**slope)),
        hidden,
        weight,
        micro.targets,
        micro.counts,
        slope,
        drawn=micro.drawn,
        **options,
    )
    weights = None
    if critic is not None:
        current = jax.tree.map(rows, {**fixed, **free})
        weights = batch_loss.row_weights(method, current, constants, method_state)
    more, d_states, d_critic = _critic_gradients(
        method, critic, hidden, constants, weights, rows
    )
    return (
        (numerator, denominator, sums | more),
        d_hidden + d_states,
        d_weight,
        d_critic,
    )


def _critic_gradients(
    method: method_lib.Method, critic, hidden, constants, weights, arrange=lambda x: x
):
    """What a critic adds: its sums, and its loss's gradients in the states and in
    itself; nothing where there is none.

    Args:
      critic: a value head, or None.
      hidden: [S, N, D].
      constants, weights: as `batch_loss.critic_loss` takes them.
      arrange: puts [S, N] in their arrangement.
    """
    if critic is None:
        return {}, jnp.zeros((), hidden.dtype), None

    def loss(critic, hidden):
        values = arrange(value_head.values(critic, hidden))
        return batch_loss.critic_loss(method, values, constants, weights)

    (d_critic, d_hidden), sums = jax.grad(loss, argnums=(0, 1), has_aux=True)(
        critic, hidden
    )
    return sums, d_hidden, d_critic


def _of_micro(tree, k):
    """What of [M, ...] belongs to micro-batch k."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, k, keepdims=False), tree
    )


def _of_policy(method: method_lib.Method, scores: head.Scores) -> tuple[dict, dict]:
    """Scores of the current policy by name: those that the loss has a derivative in,
    and the others."""
    there = {name: x for name, x in scores._asdict().items() if x is not None}
    names = {"logprobs", "entropy"} if method.differentiates_entropy else {"logprobs"}
    free = {name: there.pop(name) for name in names}
    return free, there


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
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    trainable, opt_state = jax.tree.map(
        lambda new, old: jnp.where(applies, new, old),
        (trainable, opt_state),
        (state.trainable, state.opt_state),
    )
    state = state._replace(
        trainable=trainable,
        opt_state=opt_state,
        skipped=jnp.where(finite, 0, state.skipped + 1),
        skipped_total=state.skipped_total + ~finite,
    )
    return state, Tally(
        numerator=numerator,
        denominator=denominator,
        sums=sums,
        grad_norm=grad_norm,
        finite=finite,
        trained_tokens=trained_tokens,
        learning_rate=learning_rate,
    )
